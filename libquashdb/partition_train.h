// Clustering for the partition index: k-means (Lloyd) over a sample of rows, and
// two-means of one list.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "libquashdb/partition_centroids.h"
#include "libquashdb/snapshot.h"
#include "libquashdb/status.h"

namespace quash {

// Asked now and then by long work; true: stop, with QUASH_CANCELLED.
using StopRequested = std::function<bool()>;

// Rows per list that searches want at this size: a quarter of its square root, so
// that looking through centroids and through lists cost about the same.
size_t RowsPerList(uint64_t rows);

// Nearest centroid of each row.
//   rows   RowIndex
//   lists  [rows.size()] out
Status AssignRows(const Snapshot& snapshot, const Centroids& centroids,
                  std::span<const uint64_t> rows, size_t threads, const StopRequested& stop,
                  uint32_t* lists);

// The same among a few centroids, where it is known which come into question.
//   choices  at least one
Status AssignAmong(const Snapshot& snapshot, const Centroids& centroids,
                   std::span<const uint64_t> rows, std::span<const uint32_t> choices,
                   uint32_t* lists);

// Centroids of `num_lists` clusters of about equal size.
//   centroids  [num_lists, dim] out
Status TrainCentroids(const Snapshot& snapshot, size_t num_lists, size_t threads,
                      const StopRequested& stop, std::vector<float>* centroids);

// Splits vectors in two of about equal size.
//   vectors    [n, dim], n >= 2
//   centroids  [2, dim] out
void TwoMeans(bool is_l2, const float* vectors, size_t n, size_t dim, float* centroids);

}  // namespace quash
