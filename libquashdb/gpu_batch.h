// Many queries whose search runs on the GPU from the scan to the best k.
#pragma once

#include <cstddef>
#include <vector>

#include "libquashdb/executor_progress.h"
#include "libquashdb/executor_rows.h"
#include "libquashdb/executor_staged.h"

namespace quash {

// Answers those of nq queries that it can, in passes of which one is prepared while
// another is on the device. It takes searches of at least a few queries, with adaptive
// widths and no bounds on scores, of rows that GPUs hold with all that scores them; several
// scan each its own, and take turns at ranking the rows that all have found.
// Results are those of SearchStagedTile(), as the steps are.
//   queries   [nq, dim]
//   threads   for what the host does
//   progress  told of queries as they are answered
//   hits      out, [nq], of the queries that are answered
//   counts    added to
//   open      out: the queries that are not, ascending
Status SearchBatchOnGpu(const Snapshot& snapshot, const MatchingRows& matching,
                        const float* queries, size_t nq, const SearchPlan& plan, size_t threads,
                        QueryProgress* progress, std::vector<Hit>* hits, StagedCounts* counts,
                        std::vector<size_t>* open);

}  // namespace quash
