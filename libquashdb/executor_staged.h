// The staged search: plane scan, survivors refined and scored, best k.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "libquashdb/executor.h"
#include "libquashdb/executor_rows.h"

namespace quash {

// Rows and bytes of every stage, summed over queries; stages not run stay 0.
struct StagedCounts {
  StageStats plane_scan, refine, full_code, final;
  void Add(const StagedCounts& other);
};

// Answers nq queries with shared passes over the planes.
//   queries  [nq, dim], nq <= kTileQueries
//   threads  for block ranges of this tile
//   hits     out, [nq]
//   counts   added to
Status SearchStagedTile(const Snapshot& snapshot, const MatchingRows& matching,
                        const float* queries, size_t nq, const SearchPlan& plan, size_t threads,
                        std::vector<Hit>* hits, StagedCounts* counts);

}  // namespace quash
