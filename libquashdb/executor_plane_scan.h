// Stage 1: one or two bit planes of every matching row, or its whole code.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "libquashdb/executor_candidates.h"
#include "libquashdb/executor_rows.h"

namespace quash {

// Queries that share a pass over memory: a chunk of blocks stays in L2 while
// all of them are scanned, kPlaneSumsMaxQueries at a time.
inline constexpr size_t kTileQueries = 8;

// Scans blocks of `ranges` for every query and pushes survivors to its set.
//   queries, sets  [nq], prepared and reset
//   bytes          added to: bytes of codes and scales read, once per pass
// Safe on several threads with different sets.
Status ScanPlanes(const Snapshot& snapshot, const MatchingRows& matching,
                  std::span<const BlockRange> ranges, std::span<const PreparedQuery> queries,
                  size_t planes, std::span<CandidateSet> sets, uint64_t* bytes);

}  // namespace quash
