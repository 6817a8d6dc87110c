#include "kvcache/parallel.h"

#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <new>

namespace quash::kv {
namespace {

const pid_t loading_process = getpid();

using Body = std::function<Status(size_t, size_t)>;

Status RunCaught(const Body& body, size_t i, size_t thread) noexcept {
  try {
    return body(i, thread);
  } catch (const std::bad_alloc&) {
    return Status(QUASH_KV_NOMEM, "out of memory");  // short enough not to allocate
  } catch (...) {
    return Status(QUASH_KV_INTERNAL, "a task threw");
  }
}

}  // namespace

size_t ThreadCount(uint32_t threads) {
  // omp_get_num_procs() knows of CPUs taken away since libgomp was loaded, where
  // its threads would spin for each other's core.
  const size_t wanted =
      threads != 0 ? threads
                   : static_cast<size_t>(std::min(omp_get_max_threads(), omp_get_num_procs()));
  return std::clamp<size_t>(wanted, 1, 256);
}

bool MayStartThreads() { return getpid() == loading_process; }

Status ParallelFor(size_t n, size_t threads, const Body& body) {
  threads = std::min(threads, n);
  if (threads <= 1 || !MayStartThreads()) {
    for (size_t i = 0; i < n; ++i) {
      if (Status status = RunCaught(body, i, 0); !status.ok()) return status;
    }
    return Status();
  }
  Status first_error;
  size_t first_failed = n;
  std::atomic<bool> failed{false};
#pragma omp parallel for schedule(dynamic, 1) num_threads(static_cast <int>(threads))
  for (size_t i = 0; i < n; ++i) {
    if (failed.load(std::memory_order_relaxed)) continue;
    Status status = RunCaught(body, i, static_cast<size_t>(omp_get_thread_num()));
    if (status.ok()) continue;
#pragma omp critical(quash_kv_parallel_for)
    {
      if (i < first_failed) {
        first_failed = i;
        first_error = std::move(status);
      }
      failed.store(true, std::memory_order_relaxed);
    }
  }
  return first_error;
}

}  // namespace quash::kv
