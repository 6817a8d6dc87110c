// The staged search: plane scan, survivors refined and scored, best k.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "libquashdb/executor.h"
#include "libquashdb/executor_probe.h"
#include "libquashdb/executor_rows.h"

namespace quash {

// Rows and bytes of every stage, summed over queries; stages not run stay 0.
struct StagedCounts {
  StageStats probe, plane_scan, refine, full_code, final;
  uint64_t probed_lists = 0;
  uint64_t gpu_queries = 0;  // scanned on the GPU
  std::string gpu_note;      // why others were not
  void Add(const StagedCounts& other);
};

// Queries of one tile at most.
inline constexpr size_t kMaxTileQueries = 128;

// What the queries of a call share.
struct StagedSearch {
  const Snapshot& snapshot;
  const MatchingRows& matching;
  const Probe& probe;  // which rows are reached through lists
  const SearchPlan& plan;
};

// Answers nq queries with shared passes over the planes.
//   queries  [nq, dim], nq <= kMaxTileQueries
//   threads  for block ranges of this tile
//   hits     out, [nq]
//   counts   added to
Status SearchStagedTile(const StagedSearch& search, const float* queries, size_t nq,
                        size_t threads, std::vector<Hit>* hits, StagedCounts* counts);

}  // namespace quash
