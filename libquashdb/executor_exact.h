// Searches that score every matching row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "libquashdb/executor.h"
#include "libquashdb/executor_progress.h"
#include "libquashdb/executor_rows.h"

namespace quash {

// Scores all matching rows from the rerank tier, block by block.
//   queries   [nq, dim]
//   progress  told of queries as they are done, asked now and then in between
//   hits      out, [nq]
//   bytes     out: read per pass over the tier
Status SearchExact(const Snapshot& snapshot, const MatchingRows& matching, const float* queries,
                   size_t nq, const SearchPlan& plan, size_t threads, QueryProgress* progress,
                   std::vector<std::vector<Hit>>* hits, uint64_t* bytes);

// Scores the few matching rows one by one, from the rerank tier or else from
// their whole codes. Arguments as above.
Status SearchDirectly(const Snapshot& snapshot, const MatchingRows& matching, const float* queries,
                      size_t nq, const SearchPlan& plan, size_t threads, QueryProgress* progress,
                      std::vector<std::vector<Hit>>* hits, uint64_t* bytes);

// Bytes that scoring one row to its final score reads.
uint64_t FinalRowBytes(const Snapshot& snapshot);

}  // namespace quash
