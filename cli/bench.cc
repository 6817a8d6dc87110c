#include "cli/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <unordered_set>

#include "cli/interrupt.h"
#include "cli/matrix.h"
#include "cli/result_rows.h"
#include "cli/schema.h"
#include "cli/text.h"

namespace quash::cli {
namespace {

using Clock = std::chrono::steady_clock;

double MicrosecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

struct Queries {
  std::vector<float> vectors;  // [n, dim]
  size_t n = 0;
};

Queries FromFile(const std::string& path, const Schema& schema, size_t count) {
  const std::unique_ptr<MatrixReader> file = OpenMatrix(path);
  if (file->dim() != schema.dim) {
    throw Error(fmt::format("{} has vectors of {} coordinates; the collection's have {}", path,
                            file->dim(), schema.dim));
  }
  Queries queries;
  queries.n = std::min<uint64_t>(count, file->rows());
  queries.vectors.resize(queries.n * schema.dim);
  file->Read(0, queries.n, queries.vectors.data());
  return queries;
}

// Stored rows spread evenly over the collection.
Queries FromRows(quash_collection* collection, const Schema& schema, size_t count) {
  Queries queries;
  const uint64_t wanted = std::min<uint64_t>(count, schema.rows);
  quash_iterator* raw = nullptr;
  Check(quash_iterate(collection, nullptr, QUASH_INCLUDE_VECTORS, &raw));
  const RowIterator iterator(raw);
  uint64_t seen = 0;
  while (queries.n < wanted) {
    ThrowIfInterrupted();
    quash_result* page = nullptr;
    Check(quash_iterator_next(iterator.get(), 1024, &page));
    const Result result(page);
    const size_t rows = quash_result_offsets(page)[1];
    if (rows == 0) break;
    for (size_t row = 0; row < rows && queries.n < wanted; ++row, ++seen) {
      if (seen * wanted / schema.rows < queries.n) continue;
      const float* vector = quash_result_vectors(page) + row * schema.dim;
      queries.vectors.insert(queries.vectors.end(), vector, vector + schema.dim);
      ++queries.n;
    }
  }
  return queries;
}

Result Search(quash_collection* collection, const Queries& queries, size_t first, size_t n,
              uint32_t dim, size_t k, const quash_search_options& options) {
  quash_result* raw = nullptr;
  Check(quash_search(collection, queries.vectors.data() + first * dim, n, k, &options, &raw));
  return Result(raw);
}

// Mean share of the exact results that were found.
double Recall(const quash_result* found, const quash_result* exact, size_t nq) {
  double sum = 0;
  for (size_t query = 0; query < nq; ++query) {
    const size_t* offsets = quash_result_offsets(found);
    std::unordered_set<std::string> ids;
    for (size_t row = offsets[query]; row < offsets[query + 1]; ++row) {
      ids.insert(RowId(found, row).dump());
    }
    const size_t* exact_offsets = quash_result_offsets(exact);
    const size_t wanted = exact_offsets[query + 1] - exact_offsets[query];
    size_t hits = 0;
    for (size_t row = exact_offsets[query]; row < exact_offsets[query + 1]; ++row) {
      hits += ids.count(RowId(exact, row).dump());
    }
    sum += wanted == 0 ? 1.0 : static_cast<double>(hits) / static_cast<double>(wanted);
  }
  return sum / static_cast<double>(nq);
}

Cell Fixed(double value, int decimals) {
  return {Cell::Kind::kNumber, fmt::format("{:.{}f}", value, decimals)};
}

}  // namespace

void Measure(Session& session, const MeasureOptions& options) {
  const Collection collection = session.OpenCollection(session.CollectionOrOnly(options.collection));
  const Schema schema = DescribeCollection(collection.get());
  quash_measure_options measure;
  quash_measure_options_init(&measure);
  measure.k = options.k;
  measure.sample = options.sample;
  measure.target_recall = options.target;
  measure.apply = options.apply ? 1 : 0;
  Queries queries;
  if (!options.queries.empty()) {
    queries = FromFile(options.queries, schema, options.sample);
    measure.queries = queries.vectors.data();
    measure.nq = queries.n;
  }
  quash_measure_report report = {};
  report.struct_size = sizeof(report);
  {
    const WithProgress progress(session, "measuring");
    Check(quash_measure(collection.get(), &measure, &report));
  }
  session.Print({"recall", "recall low", "search us", "exact us", "nprobe", "candidates", "rerank",
                 "planes", "queries"},
                {{Fixed(report.recall, 4), Fixed(report.recall_low, 4), Fixed(report.search_us, 1),
                  Fixed(report.exact_us, 1), Cell::Count(report.nprobe),
                  Cell::Count(report.candidates),
                  Cell::Count(report.rerank_candidates), Cell::Count(report.planes),
                  Cell::Count(report.queries)}});
  if (options.target > 0 && report.recall < options.target) {
    throw Error(fmt::format("recall {:.4f} is the highest found; {} was not reached", report.recall,
                            options.target));
  }
  if (options.apply) session.Remark("this is now the collection's default");
}

void Bench(Session& session, const BenchOptions& options) {
  const Collection collection = session.OpenCollection(session.CollectionOrOnly(options.collection));
  const Schema schema = DescribeCollection(collection.get());
  if (schema.rows == 0) throw Error(fmt::format("{} is empty", QuoteName(schema.name)));
  const Queries queries = options.queries.empty()
                              ? FromRows(collection.get(), schema, options.count)
                              : FromFile(options.queries, schema, options.count);
  if (queries.n == 0) throw Error("no queries");
  if (!options.filter.empty()) {
    uint64_t matching = 0;
    Check(quash_count(collection.get(), options.filter.c_str(), &matching));
    if (matching == 0) throw Error("no row matches the filter");
  }
  quash_search_options search;
  quash_search_options_init(&search);
  search.recall = options.recall;
  search.nprobe = options.nprobe;
  search.candidates = options.candidates;
  search.rerank_candidates = options.rerank_candidates;
  search.planes = options.planes;
  if (!options.filter.empty()) search.filter = options.filter.c_str();
  quash_search_options one_thread = search;
  one_thread.threads = 1;

  std::optional<ProgressBar> bar(std::in_place, "benchmarking", "queries",
                                 session.settings.progress);
  Search(collection.get(), queries, 0, 1, schema.dim, options.k, one_thread);  // warms up
  std::vector<double> latencies_us;
  for (size_t i = 0; i < queries.n; ++i) {
    ThrowIfInterrupted();
    const Clock::time_point start = Clock::now();
    Search(collection.get(), queries, i, 1, schema.dim, options.k, one_thread);
    latencies_us.push_back(MicrosecondsSince(start));
    bar->Update(i, queries.n);
  }
  std::sort(latencies_us.begin(), latencies_us.end());
  const auto percentile = [&](double p) {
    return latencies_us[static_cast<size_t>(p * static_cast<double>(latencies_us.size() - 1))];
  };
  const Clock::time_point start = Clock::now();
  const Result found =
      Search(collection.get(), queries, 0, queries.n, schema.dim, options.k, search);
  const double batch_us = MicrosecondsSince(start);

  Cell recall = Cell::Null();
  if (schema.rerank != "none") {
    quash_search_options exact = search;
    exact.exact = 1;
    constexpr size_t kExactQueries = 1000;  // exact search is the slow part
    const size_t n = std::min(queries.n, kExactQueries);
    const Result truth = Search(collection.get(), queries, 0, n, schema.dim, options.k, exact);
    recall = Fixed(Recall(found.get(), truth.get(), n), 4);
  }
  const double n = static_cast<double>(queries.n);
  bar.reset();  // its line is free again
  session.Print(
      {fmt::format("recall@{}", options.k), "p50 us", "p95 us", "p99 us", "batch us/query",
       "batch qps", "queries"},
      {{recall, Fixed(percentile(0.50), 1), Fixed(percentile(0.95), 1), Fixed(percentile(0.99), 1),
        Fixed(batch_us / n, 1), Fixed(n / batch_us * 1e6, 0), Cell::Count(queries.n)}});
}

}  // namespace quash::cli
