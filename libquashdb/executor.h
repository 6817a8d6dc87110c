// Runs a search over one snapshot: plane scan, full-code score, rerank, top k.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "libquashdb/filter.h"
#include "libquashdb/progress.h"
#include "libquashdb/snapshot.h"
#include "libquashdb/status.h"

namespace quash {

struct SearchPlan {
  size_t k = 10;
  bool exact = false;
  std::shared_ptr<const Filter> filter;  // null: every row
  double min_score = -std::numeric_limits<double>::infinity();
  SearchWidths widths;   // zeros: chosen
  uint32_t nprobe = 0;   // lists probed; 0: chosen for `recall`
  double recall = 0;     // wanted of a partitioned collection; 0: RecallTarget(), 1: every row
  uint32_t threads = 0;  // 0: OpenMP's default
  bool has_cursor = false;
  float cursor_score = 0;
  Id cursor_id;
  Progress progress;  // of queries; QUASH_CANCELLED if it asks to stop
};

inline constexpr double kDefaultRecall = 0.99;

// Share of the best k that a search of a partitioned collection is to find.
inline double RecallTarget(const Snapshot& snapshot, const SearchPlan& plan) {
  if (plan.recall > 0) return plan.recall;
  return snapshot.widths.recall_target > 0 ? snapshot.widths.recall_target : kDefaultRecall;
}

struct Hit {
  static constexpr int64_t kUnread = std::numeric_limits<int64_t>::min();
  float score;
  uint32_t segment;  // index in snapshot.segments
  uint32_t row;
  int64_t id = kUnread;  // of INT64 ids, if it came with the score; kUnread: read it
};

struct StageStats {
  std::string name;  // "probe", "plane scan", "refine", "full code", "rerank", "exact"
  uint64_t rows_in = 0;
  uint64_t rows_out = 0;
  uint64_t bytes = 0;
};

struct SearchStats {
  std::vector<StageStats> stages;
  std::string mode;  // "partitions", "staged", "direct" (few matches) or "exact"
  uint64_t rows = 0;
  uint64_t matching_rows = 0;
  double elapsed_us = 0;
  SearchWidths widths;       // as used, means over queries
  uint64_t lists = 0;        // of the partition index; 0: it was not used
  uint64_t nprobe = 0;       // lists probed, mean over queries
  uint64_t gpu_queries = 0;  // whose planes a GPU scanned
  std::string gpu_note;      // why it did not those of others
};

// Best rows of each query, best first, ties by ascending id.
//   queries  [nq, dim] float32, finite, checked by the caller
//   hits     out, [nq] lists of at most k
//   stats    may be null
Status Search(const Snapshot& snapshot, const float* queries, size_t nq, const SearchPlan& plan,
              std::vector<std::vector<Hit>>* hits, SearchStats* stats);

}  // namespace quash
