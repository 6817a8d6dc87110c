// Measures the recall of the search against the exact tier, and finds the smallest
// widths and the fewest lists that reach a target.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "libquashdb/progress.h"
#include "libquashdb/snapshot.h"
#include "libquashdb/status.h"

namespace quash {

struct MeasureRequest {
  size_t sample = 200;             // stored rows used as queries if `queries` is null
  const float* queries = nullptr;  // [nq, dim] float32, checked by the caller
  size_t nq = 0;
  size_t k = 10;
  double target_recall = 0;  // in (0, 1]: search for widths; 0: measure what is in force
  uint64_t seed = 0;         // of the sample
  uint32_t threads = 0;      // as in SearchPlan
};

struct MeasureReport {
  double recall = 0;      // mean share of the exact top k found
  double recall_low = 0;  // lower end of its 95 % interval over queries
  double exact_us = 0;    // median per query
  double search_us = 0;   // median per query
  size_t queries = 0;
  uint64_t nprobe = 0;    // lists probed, mean; 0: every row was looked at
  // Widths measured or found. Where the search adapts them to each query,
  // the medians of what it used.
  SearchWidths widths;
  // What to keep as the collection's default: what was found for a target, else
  // what is in force, either way with measured_k and measured_recall. For a target
  // a partitioned collection's has the recall target of its lists, and the curve that
  // was measured; where none was it is empty, and the collection's stays.
  SearchWidths keep;
};

// A row counts as found if its score reaches the k-th exact score, so rows that
// tie are interchangeable. A sampled row is left out of its own results.
// `progress`, may be empty: (searches done, expected) -> true to stop, called on
// this thread; then QUASH_CANCELLED. QUASH_INVALID with rerank none or without
// rows.
Status Measure(const Snapshot& snapshot, const MeasureRequest& request, const Progress& progress,
               MeasureReport* report);

// Recall by probed lists, with adaptive widths: 1, 2, 4, ... lists, in smaller
// steps between recall 0.8 and 0.999, up to recall 0.9995 or all lists.
// Against a search of every row, not the exact tier, which would all be read. Of the
// request target_recall plays no role. QUASH_UNSUPPORTED if searches of the
// snapshot probe no lists, else as Measure().
Status MeasureRecallCurve(const Snapshot& snapshot, const MeasureRequest& request,
                          const Progress& progress, std::vector<RecallPoint>* curve);

}  // namespace quash
