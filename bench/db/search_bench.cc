// Speed and recall of the search over codes in memory, without storage.
//
//   search_bench                       50,000 x 384 clustered vectors
//   QUASH_BENCH_DATA=<dir> search_bench  base.npy and queries.npy of that folder
//                                      ([n, dim] little-endian float16 or float32)
//
// Counters: recall@k against the exact tier, survivors and reranked rows per
// query. Times are per call; items/s are queries per second.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "libquashdb/executor.h"
#include "tests/libquashdb/memory_collection.h"

namespace quash {
namespace {

struct Matrix {
  size_t n = 0;
  size_t dim = 0;
  std::vector<float> values;
};

// NumPy format 1.0, C order.
Matrix ReadNpy(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  const auto fail = [&](const char* what) { return std::runtime_error(path + ": " + what); };
  if (bytes.size() < 10 || bytes.compare(0, 8, "\x93NUMPY\x01\0", 8) != 0) {
    throw fail("expected a NumPy 1.0 file");
  }
  const size_t header_bytes = static_cast<uint8_t>(bytes[8]) + 256 * static_cast<uint8_t>(bytes[9]);
  const std::string header = bytes.substr(10, header_bytes);
  Matrix matrix;
  const size_t shape = header.find("'shape': (");
  if (shape == std::string::npos ||
      std::sscanf(header.c_str() + shape, "'shape': (%zu, %zu)", &matrix.n, &matrix.dim) != 2) {
    throw fail("expected two dimensions");
  }
  const bool is_half = header.find("'<f2'") != std::string::npos;
  const size_t count = matrix.n * matrix.dim;
  if (bytes.size() < 10 + header_bytes + count * (is_half ? 2 : 4)) throw fail("truncated");
  matrix.values.resize(count);
  const char* data = bytes.data() + 10 + header_bytes;
  if (is_half) {
    std::vector<uint16_t> half(count);
    std::memcpy(half.data(), data, count * 2);
    Kernels().f16_to_f32(half.data(), count, matrix.values.data());
  } else {
    std::memcpy(matrix.values.data(), data, count * 4);
  }
  return matrix;
}

struct Data {
  Matrix base, queries;
};

const Data& GetData() {
  static const Data data = [] {
    Data loaded;
    if (const char* folder = std::getenv("QUASH_BENCH_DATA")) {
      loaded.base = ReadNpy(std::string(folder) + "/base.npy");
      loaded.queries = ReadNpy(std::string(folder) + "/queries.npy");
    } else {
      loaded.base = {50000, 384, RandomVectors(50000, 384, 2000, 1, 1.0f)};
      loaded.queries = {500, 384, RandomVectors(500, 384, 2000, 2, 1.0f)};
    }
    return loaded;
  }();
  return data;
}

// Collections and truths are built once per setting.
const Snapshot& GetSnapshot(uint32_t bits, quash_rerank rerank) {
  static std::map<std::pair<uint32_t, quash_rerank>, std::unique_ptr<MemoryCollection>> built;
  static std::map<std::pair<uint32_t, quash_rerank>, Snapshot> snapshots;
  auto& collection = built[{bits, rerank}];
  if (!collection) {
    const Data& data = GetData();
    CollectionSpec spec;
    spec.name = "bench";
    spec.dim = static_cast<uint32_t>(data.base.dim);
    spec.bits = bits;
    spec.rerank = rerank;
    collection = std::make_unique<MemoryCollection>(spec, 16384);
    collection->Add(data.base.values.data(), data.base.n);
    snapshots[{bits, rerank}] = collection->GetSnapshot();
  }
  return snapshots[{bits, rerank}];
}

std::vector<std::vector<Hit>> RunSearch(const Snapshot& snapshot, const float* queries, size_t nq,
                                        const SearchPlan& plan, SearchStats* stats) {
  std::vector<std::vector<Hit>> hits;
  if (const Status status = Search(snapshot, queries, nq, plan, &hits, stats); !status.ok()) {
    throw std::runtime_error(status.message());
  }
  return hits;
}

// Scores the k-th exact hit of each query reaches, from the float32 tier.
const std::vector<std::vector<Hit>>& GetTruth(size_t k) {
  static std::map<size_t, std::vector<std::vector<Hit>>> truths;
  auto& truth = truths[k];
  if (truth.empty()) {
    SearchPlan plan;
    plan.k = k;
    plan.exact = true;
    const Data& data = GetData();
    truth = RunSearch(GetSnapshot(4, QUASH_RERANK_F32), data.queries.values.data(), data.queries.n,
                      plan, nullptr);
  }
  return truth;
}

double Recall(const std::vector<std::vector<Hit>>& hits, size_t k) {
  size_t found = 0, wanted = 0;
  const auto& truth = GetTruth(k);
  for (size_t q = 0; q < hits.size(); ++q) {
    wanted += truth[q].size();
    for (const Hit& hit : hits[q]) {
      for (const Hit& good : truth[q]) {
        found += hit.segment == good.segment && hit.row == good.row;
      }
    }
  }
  return static_cast<double>(found) / static_cast<double>(wanted);
}

//   bits, rerank, k, candidates (0: adaptive), queries per call, threads
void BM_Search(benchmark::State& state) {
  const Snapshot& snapshot = GetSnapshot(state.range(0), quash_rerank(state.range(1)));
  SearchPlan plan;
  plan.k = state.range(2);
  plan.widths.candidates = state.range(3);
  plan.threads = state.range(5);
  const Matrix& queries = GetData().queries;
  const size_t nq = std::min<size_t>(state.range(4), queries.n);
  SearchStats stats;
  size_t at = 0;
  for (auto _ : state) {
    if (at + nq > queries.n) at = 0;
    benchmark::DoNotOptimize(
        RunSearch(snapshot, queries.values.data() + at * queries.dim, nq, plan, nullptr));
    at += nq;
  }
  const auto hits = RunSearch(snapshot, queries.values.data(), queries.n, plan, &stats);
  state.SetItemsProcessed(state.iterations() * nq);
  state.counters["recall"] = Recall(hits, plan.k);
  state.counters["survivors"] = stats.widths.candidates;
  state.counters["reranked"] = stats.widths.rerank_candidates;
}

BENCHMARK(BM_Search)
    ->ArgNames({"bits", "rerank", "k", "candidates", "nq", "threads"})
    ->Args({4, QUASH_RERANK_F16, 10, 0, 1, 1})
    ->Args({4, QUASH_RERANK_F16, 10, 50, 1, 1})
    ->Args({4, QUASH_RERANK_F16, 10, 100, 1, 1})
    ->Args({4, QUASH_RERANK_F16, 10, 0, 500, 1})
    ->Args({4, QUASH_RERANK_F16, 10, 0, 1, 2})
    ->Args({4, QUASH_RERANK_F16, 10, 0, 500, 2})
    ->Args({4, QUASH_RERANK_F16, 100, 0, 1, 1})
    ->Args({4, QUASH_RERANK_F16, 1000, 0, 1, 1})
    ->Args({4, QUASH_RERANK_F32, 10, 0, 1, 1})
    ->Args({4, QUASH_RERANK_INT8, 10, 0, 1, 1})
    ->Args({1, QUASH_RERANK_F16, 10, 0, 1, 1})
    ->Args({4, QUASH_RERANK_NONE, 10, 0, 1, 1})
    ->Args({3, QUASH_RERANK_NONE, 10, 0, 1, 1})
    ->Args({2, QUASH_RERANK_NONE, 10, 0, 1, 1})
    ->Args({1, QUASH_RERANK_NONE, 10, 0, 1, 1})
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime();

void BM_Exact(benchmark::State& state) {
  const Snapshot& snapshot = GetSnapshot(4, QUASH_RERANK_F16);
  SearchPlan plan;
  plan.exact = true;
  plan.threads = state.range(1);
  const Matrix& queries = GetData().queries;
  const size_t nq = std::min<size_t>(state.range(0), queries.n);
  for (auto _ : state) {
    benchmark::DoNotOptimize(RunSearch(snapshot, queries.values.data(), nq, plan, nullptr));
  }
  state.SetItemsProcessed(state.iterations() * nq);
}
BENCHMARK(BM_Exact)
    ->ArgNames({"nq", "threads"})
    ->Args({1, 1})
    ->Args({64, 1})
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime();

}  // namespace
}  // namespace quash

BENCHMARK_MAIN();
