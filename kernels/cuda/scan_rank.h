// The stages after a scan, on the device: of the rows listed for a query, those that
// the search on the CPU would score, their final scores, and the best k. For many
// queries, so that only results come back.
#pragma once

#include "kernels/cuda/scan.h"

namespace quash::cuda {

// The most survivors of a query that are ranked here.
inline constexpr uint32_t kRankWidthMax = 4096;
// The most results.
inline constexpr uint32_t kRankMax = 512;
// Room for rows that tie with the last of the best k.
inline constexpr uint32_t kRankTies = 64;

// One query. Margins are of dots (executor_plan.h, PrefixModel), offset is that of
// internal scores.
struct RankQuery {
  float offset;
  float margin;   // of the scan's estimates
  float margin2;  // of those of two planes
  float lut_step;
  float lut_bias;
  float level_scale;  // of LevelQuery
};

inline constexpr int64_t kNoId = INT64_MIN;

struct RankedRow {
  int64_t id;        // kNoId if the segment's are not on the device
  uint32_t segment;  // in ScanArgs::segments
  uint32_t row;      // of the segment
  float score;
};

// What became of a query. Unless status is 0 its rows are void, and another way of
// searching has to be found.
struct RankSummary {
  enum Status : uint32_t { kDone = 0, kOverfull = 1, kUncovered = 2, kTied = 4 };
  uint32_t status;
  uint32_t survivors;
  uint32_t refined;       // of these, that plane 2 was asked about
  uint32_t refined_kept;  // and that it left
  uint32_t scored;
  uint32_t rows;  // k or, with ties, more: best first, ties by segment and row
};

struct RankArgs {
  ScanArgs scan;      // as launched; its lists and limits
  FinishArgs finish;  // of its members: what scores rows
  const RankQuery* queries;  // [nq]
  uint32_t k;                // 1..kRankMax
  uint32_t width;            // survivors at most, k..kRankWidthMax
  uint32_t first;            // best survivors that are scored in any case, at least k
  // Planes of a two-bit prefix (LevelCodebook). Whether plane 2 may narrow survivors,
  // and when that pays: for 256 rows or more, in so many distinct blocks that
  // blocks * block_cost < rows * row_cost.
  float m;
  float delta;
  bool refines;
  uint32_t block_cost;
  uint32_t row_cost;
  uint32_t* survivors;     // [nq][width][4], 16-byte aligned, scratch
  RankSummary* summaries;  // [nq] out, may be pinned host memory
  RankedRow* rows;         // [nq][k + kRankTies] out, may be pinned host memory
};

const char* LaunchRank(const RankArgs& args, CUstream_st* stream);

}  // namespace quash::cuda
