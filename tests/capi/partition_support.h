// A partitioned collection of clustered vectors and the truth about it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/capi/support.h"

namespace capi_test {

inline constexpr size_t kPartitionDim = 24;

// [n, kPartitionDim] around 60 centres that are the same for every seed.
std::vector<float> ClusteredVectors(size_t n, uint64_t seed);

struct PartitionSettings {
  quash_metric metric = QUASH_METRIC_COSINE;
  quash_rerank rerank = QUASH_RERANK_F32;
  uint64_t partition_rows = 1000;
  quash_id_type id_type = QUASH_ID_INT64;
};

// With the fields of SampleFields().
Collection CreatePartitioned(quash_db* db, const char* name, const PartitionSettings& settings);

// Rows first_id .. first_id + n - 1 as SampleRows(), of ClusteredVectors(n, seed).
Rows ClusteredRows(size_t n, int64_t first_id, uint64_t seed);

quash_collection_info Stats(quash_collection* collection);

// EXPLAIN of one search for ten rows.
nlohmann::json Explain(quash_collection* collection, const float* query,
                       const quash_search_options* options = nullptr);

quash_search_options SearchOptions();

Result Search(quash_collection* collection, const std::vector<float>& queries, size_t k,
              const quash_search_options* options = nullptr);

// What is stored, by id; kept in step by the test.
using Stored = std::map<int64_t, std::vector<float>>;
void Store(const Rows& rows, Stored* stored);

// Mean share of the best k of `stored` that a search of every query finds. Checks
// that results are whole: min(k, matching) rows, stored, matching, in order, none
// twice, with their exact scores.
//   matches  of an id; null: every row
double CheckedRecall(quash_collection* collection, quash_metric metric, const Stored& stored,
                     const std::vector<float>& queries, size_t k,
                     const quash_search_options* options = nullptr,
                     bool (*matches)(int64_t) = nullptr);

}  // namespace capi_test
