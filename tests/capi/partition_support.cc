#include "tests/capi/partition_support.h"

#include <algorithm>
#include <random>
#include <set>

namespace capi_test {

std::vector<float> ClusteredVectors(size_t n, uint64_t seed) {
  constexpr size_t kCenters = 60;
  const std::vector<float> centers = RandomVectors(kCenters, kPartitionDim, 999);
  std::vector<float> vectors = RandomVectors(n, kPartitionDim, seed);
  std::mt19937_64 random(seed + 1);
  for (size_t i = 0; i < n; ++i) {
    const float* center = centers.data() + random() % kCenters * kPartitionDim;
    for (size_t j = 0; j < kPartitionDim; ++j) {
      float& x = vectors[i * kPartitionDim + j];
      x = center[j] + 0.4f * x;
    }
  }
  return vectors;
}

Collection CreatePartitioned(quash_db* db, const char* name, const PartitionSettings& settings) {
  quash_collection_options options;
  quash_collection_options_init(&options);
  options.dim = kPartitionDim;
  options.metric = settings.metric;
  options.rerank = settings.rerank;
  options.id_type = settings.id_type;
  options.partition_rows = settings.partition_rows;
  const std::vector<quash_field> fields = SampleFields();
  options.fields = fields.data();
  options.num_fields = fields.size();
  quash_collection* collection = nullptr;
  REQUIRE_OK(quash_collection_create(db, name, &options, &collection));
  return Collection(collection);
}

Rows ClusteredRows(size_t n, int64_t first_id, uint64_t seed) {
  Rows rows = SampleRows(n, 1, first_id, seed);
  rows.vectors = ClusteredVectors(n, seed);
  return rows;
}

quash_collection_info Stats(quash_collection* collection) {
  quash_collection_info info{};
  info.struct_size = sizeof(info);
  REQUIRE_OK(quash_collection_stats(collection, &info));
  return info;
}

quash_search_options SearchOptions() {
  quash_search_options options;
  quash_search_options_init(&options);
  return options;
}

nlohmann::json Explain(quash_collection* collection, const float* query,
                       const quash_search_options* options) {
  quash_query* raw = nullptr;
  REQUIRE_OK(quash_query_prepare(collection, options, &raw));
  const Query prepared(raw);
  quash_result* result = nullptr;
  REQUIRE_OK(quash_query_run(raw, query, 1, 10, &result));
  quash_result_free(result);
  char* json = nullptr;
  REQUIRE_OK(quash_query_explain(raw, &json));
  return TakeJson(json);
}

Result Search(quash_collection* collection, const std::vector<float>& queries, size_t k,
              const quash_search_options* options) {
  quash_result* result = nullptr;
  REQUIRE_OK(quash_search(collection, queries.data(), queries.size() / kPartitionDim, k, options,
                          &result));
  return Result(result);
}

void Store(const Rows& rows, Stored* stored) {
  for (size_t i = 0; i < rows.n; ++i) {
    const float* vector = rows.vectors.data() + i * kPartitionDim;
    (*stored)[rows.int_ids[i]].assign(vector, vector + kPartitionDim);
  }
}

double CheckedRecall(quash_collection* collection, quash_metric metric, const Stored& stored,
                     const std::vector<float>& queries, size_t k,
                     const quash_search_options* options, bool (*matches)(int64_t)) {
  const Result result = Search(collection, queries, k, options);
  const size_t nq = queries.size() / kPartitionDim;
  double recall = 0;
  size_t wrong = 0;
  for (size_t q = 0; q < nq; ++q) {
    const float* query = queries.data() + q * kPartitionDim;
    std::vector<std::pair<double, int64_t>> truth;
    for (const auto& [id, vector] : stored) {
      if (matches != nullptr && !matches(id)) continue;
      truth.emplace_back(-ExactScore(metric, query, vector.data(), kPartitionDim), id);
    }
    const size_t wanted = std::min(k, truth.size());
    std::partial_sort(truth.begin(), truth.begin() + static_cast<long>(wanted), truth.end());
    truth.resize(wanted);
    const auto ids = IntIds(result.get(), q);
    const auto scores = Scores(result.get(), q);
    wrong += ids.size() != wanted;
    wrong += std::set<int64_t>(ids.begin(), ids.end()).size() != ids.size();
    const std::set<int64_t> found(ids.begin(), ids.end());
    for (size_t i = 0; i < ids.size(); ++i) {
      const auto row = stored.find(ids[i]);
      wrong += row == stored.end() || (matches != nullptr && !matches(ids[i]));
      if (row == stored.end()) continue;
      const double exact = ExactScore(metric, query, row->second.data(), kPartitionDim);
      wrong += std::abs(scores[i] - exact) > 1e-3 * (1 + std::abs(exact));
      wrong += i > 0 && scores[i] > scores[i - 1];
    }
    size_t hits = 0;
    for (const auto& [score, id] : truth) hits += found.count(id);
    recall += wanted == 0 ? 1 : static_cast<double>(hits) / wanted;
  }
  CHECK(wrong == 0);
  return recall / nq;
}

}  // namespace capi_test
