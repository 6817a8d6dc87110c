#include "libquashdb/executor_parallel.h"

#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <new>

namespace quash {
namespace {

const pid_t loading_process = getpid();

Status RunCaught(const std::function<Status(size_t)>& body, size_t i) noexcept {
  try {
    return body(i);
  } catch (const std::bad_alloc&) {
    return Status(QUASH_NOMEM, "out of memory");  // short enough not to allocate
  } catch (...) {
    return Status(QUASH_INTERNAL, "search threw");
  }
}

}  // namespace

size_t ThreadCount(uint32_t threads) {
  // omp_get_num_procs() knows of CPUs taken away since libgomp was loaded, where
  // its threads would spin for each other's core.
  const size_t wanted = threads != 0 ? threads
                                     : static_cast<size_t>(std::min(omp_get_max_threads(),
                                                                    omp_get_num_procs()));
  return std::clamp<size_t>(wanted, 1, 256);
}

Status ParallelFor(size_t n, size_t threads, const std::function<Status(size_t)>& body) {
  threads = std::min(threads, n);
  // libgomp's threads do not survive a fork: a parallel region would wait for
  // them for ever.
  if (threads <= 1 || getpid() != loading_process) {
    for (size_t i = 0; i < n; ++i) {
      if (Status status = RunCaught(body, i); !status.ok()) return status;
    }
    return Status();
  }
  // libgomp ends the threads by which a team is smaller than the one before, and starting
  // one takes longer than many a loop here: a team is kept, some of it idle. Not one that
  // may have to wait for processors, as a loop ends when its whole team has.
  static thread_local size_t team = 0;
  if (team < threads || team > static_cast<size_t>(omp_get_num_procs()) / 2) team = threads;
  Status first_error;
  size_t first_failed = n;
  std::atomic<size_t> next{0};
#pragma omp parallel num_threads(static_cast <int>(team))
  {
    const bool takes_part = static_cast<size_t>(omp_get_thread_num()) < threads;
    for (size_t i; takes_part && (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) {
      Status status = RunCaught(body, i);
      if (status.ok()) continue;
#pragma omp critical(quash_parallel_for)
      {
        if (i < first_failed) {
          first_failed = i;
          first_error = std::move(status);
        }
        next.store(n, std::memory_order_relaxed);
      }
    }
  }
  return first_error;
}

}  // namespace quash
