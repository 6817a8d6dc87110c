// Loops over threads that return a Status. The only user of OpenMP here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "kvcache/status.h"

namespace quash::kv {

// Threads a call may use: `threads`, or one per core for 0; at most 256.
size_t ThreadCount(uint32_t threads);

// Whether a parallel region may start here. Not in a forked child: libgomp's threads do
// not survive the fork, and a region would wait for them for ever.
bool MayStartThreads();

// Runs body(i, thread) for i in [0, n) in any order on up to `threads` threads,
// `thread` being below `threads`. After a failure the rest is skipped; of several
// errors that of the lowest i comes back. Exceptions become QUASH_KV_NOMEM or
// QUASH_KV_INTERNAL. On the calling thread alone, without OpenMP, if threads or n
// is 1, and in a forked child.
Status ParallelFor(size_t n, size_t threads,
                   const std::function<Status(size_t i, size_t thread)>& body);

}  // namespace quash::kv
