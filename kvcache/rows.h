// Work over rows of plain arrays in OpenMP threads, and argument checks, for the
// functions of quash_quantizer.h.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "kvcache/error.h"
#include "kvcache/parallel.h"

namespace quash {

inline constexpr uint32_t kMaxQuantizerDim = 65536;
inline constexpr size_t kChunkRows = 32;  // rows that a thread takes at a time

// Calls work(begin, end, scratch) for chunks of 0..n-1 in parallel; scratch has
// `floats` floats of its own for each thread. `work` must not throw.
template <typename Work>
void ForRows(size_t n, size_t floats, const Work& work) {
  if (n == 0) return;
  const size_t chunks = (n + kChunkRows - 1) / kChunkRows;
  const auto most = kv::MayStartThreads() ? static_cast<size_t>(omp_get_max_threads()) : 1;
  const int threads = static_cast<int>(std::min(chunks, most));
  const size_t stride = (floats + 15) / 16 * 16;  // threads do not share cache lines
  const auto scratch = std::make_unique_for_overwrite<float[]>(stride * threads + 1);
  const auto run = [&](size_t chunk, int thread) {
    work(chunk * kChunkRows, std::min(n, (chunk + 1) * kChunkRows),
         scratch.get() + stride * thread);
  };
  if (threads == 1) {
    for (size_t chunk = 0; chunk < chunks; ++chunk) run(chunk, 0);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (size_t chunk = 0; chunk < chunks; ++chunk) run(chunk, omp_get_thread_num());
}

}  // namespace quash

// The status to return if `condition` does not hold, kept as this thread's error.
#define QUASH_KV_REQUIRE(condition, ...)                                       \
  do {                                                                         \
    if (!(condition)) return ::quash::SetError(QUASH_KV_INVALID, __VA_ARGS__); \
  } while (0)
#define QUASH_KV_REQUIRE_POINTER(pointer) \
  QUASH_KV_REQUIRE((pointer) != nullptr, #pointer " is NULL, expected a pointer")
// Arrays of n rows may be NULL if there are none.
#define QUASH_KV_REQUIRE_ROWS(pointer)             \
  QUASH_KV_REQUIRE((pointer) != nullptr || n == 0, \
                   #pointer " is NULL, expected a pointer to {} rows", n)
#define QUASH_KV_RETURN_IF_ERROR(expression)      \
  do {                                            \
    const quash_kv_status status_ = (expression); \
    if (status_ != QUASH_KV_OK) return status_;   \
  } while (0)
