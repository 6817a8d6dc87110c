// Loops over threads that return a Status. The only user of OpenMP here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "libquashdb/status.h"

namespace quash {

// Threads a search may use: `threads`, or OpenMP's default for 0; at most 256.
size_t ThreadCount(uint32_t threads);

// Runs body(i) for i in [0, n) on up to `threads` threads, in any order. After
// a failure the rest is skipped; of several errors that of the lowest i comes
// back. Exceptions become QUASH_NOMEM or QUASH_INTERNAL. On the calling thread
// alone, without OpenMP, if threads or n is 1, and in a forked child.
Status ParallelFor(size_t n, size_t threads, const std::function<Status(size_t)>& body);

}  // namespace quash
