// Searches end to end against brute force in double.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "tests/capi/support.h"

namespace capi_test {
namespace {

TEST_SUITE_BEGIN("search");

constexpr size_t kRows = 6000;
constexpr size_t kDim = 48;
constexpr size_t kQueries = 25;

struct Neighbor {
  int64_t id;
  double score;
};

// Rows 0 .. kRows - 1 in sealed segments and a tail, queries, brute force.
struct Fixture {
  explicit Fixture(quash_metric metric, quash_rerank rerank = QUASH_RERANK_F32, uint32_t bits = 4)
      : metric(metric),
        db(Open(":memory:")),
        c(Create(db.get(), "c",
                 {.dim = kDim,
                  .metric = metric,
                  .bits = bits,
                  .rerank = rerank,
                  .fields = SampleFields()})),
        rows(SampleRows(kRows, kDim, 0, 11)),
        queries(RandomVectors(kQueries, kDim, 12)) {
    // Clustered, as embeddings are: without neighbours there is no recall.
    const auto centers = RandomVectors(60, kDim, 13);
    for (size_t i = 0; i < kRows * kDim; ++i) {
      rows.vectors[i] = 0.5f * rows.vectors[i] + centers[i / kDim % 60 * kDim + i % kDim];
    }
    for (size_t i = 0; i < kQueries * kDim; ++i) {
      queries[i] = 0.4f * queries[i] + centers[i / kDim * 2 * kDim + i % kDim];
    }
    REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
  }

  template <typename Predicate>
  std::vector<Neighbor> Truth(size_t q, size_t k, Predicate matches) const {
    std::vector<Neighbor> all;
    for (size_t i = 0; i < kRows; ++i) {
      if (!matches(static_cast<int64_t>(i))) continue;
      all.push_back({static_cast<int64_t>(i), ExactScore(metric, queries.data() + q * kDim,
                                                         rows.vectors.data() + i * kDim, kDim)});
    }
    std::sort(all.begin(), all.end(), [](const Neighbor& a, const Neighbor& b) {
      return a.score != b.score ? a.score > b.score : a.id < b.id;
    });
    if (all.size() > k) all.resize(k);
    return all;
  }

  quash_metric metric;
  Db db;
  Collection c;
  Rows rows;
  std::vector<float> queries;
};

constexpr auto kAll = [](int64_t) { return true; };

Result Search(quash_collection* c, const float* queries, size_t nq, size_t k,
              const quash_search_options* options = nullptr) {
  quash_result* result = nullptr;
  REQUIRE_OK(quash_search(c, queries, nq, k, options, &result));
  return Result(result);
}

// Share of the truth found; the scores must be those of the ids, in order.
double Recall(const Fixture& f, const quash_result* result, size_t q,
              const std::vector<Neighbor>& truth, double tolerance) {
  const auto ids = IntIds(result, q);
  const auto scores = Scores(result, q);
  CHECK(ids.size() == truth.size());
  CHECK(std::set<int64_t>(ids.begin(), ids.end()).size() == ids.size());
  std::set<int64_t> wanted;
  for (const Neighbor& neighbor : truth) wanted.insert(neighbor.id);
  size_t found = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    found += wanted.count(ids[i]);
    const double exact = ExactScore(f.metric, f.queries.data() + q * kDim,
                                    f.rows.vectors.data() + ids[i] * kDim, kDim);
    CHECK(scores[i] == doctest::Approx(exact).epsilon(tolerance));
    if (i > 0) {
      CHECK((scores[i - 1] > scores[i] || (scores[i - 1] == scores[i] && ids[i - 1] < ids[i])));
    }
  }
  return truth.empty() ? 1 : static_cast<double>(found) / truth.size();
}

TEST_CASE("every metric finds the exact neighbours with their scores") {
  for (const auto metric : {QUASH_METRIC_IP, QUASH_METRIC_COSINE, QUASH_METRIC_L2}) {
    for (const auto rerank : {QUASH_RERANK_F32, QUASH_RERANK_F16, QUASH_RERANK_INT8}) {
      CAPTURE(metric);
      CAPTURE(rerank);
      const Fixture f(metric, rerank);
      const Result staged = Search(f.c.get(), f.queries.data(), kQueries, 10);
      quash_search_options options;
      quash_search_options_init(&options);
      options.exact = 1;
      const Result exact = Search(f.c.get(), f.queries.data(), kQueries, 10, &options);
      REQUIRE(quash_result_num_queries(staged.get()) == kQueries);
      double staged_recall = 0, exact_recall = 0;
      const double tolerance = rerank == QUASH_RERANK_F32   ? 1e-4
                               : rerank == QUASH_RERANK_F16 ? 3e-3
                                                            : 3e-2;
      for (size_t q = 0; q < kQueries; ++q) {
        const auto truth = f.Truth(q, 10, kAll);
        staged_recall += Recall(f, staged.get(), q, truth, tolerance) / kQueries;
        exact_recall += Recall(f, exact.get(), q, truth, tolerance) / kQueries;
      }
      CHECK(staged_recall >= (rerank == QUASH_RERANK_INT8 ? 0.9 : 0.97));
      CHECK(exact_recall >= (rerank == QUASH_RERANK_INT8  ? 0.92
                             : rerank == QUASH_RERANK_F16 ? 0.99
                                                          : 1.0));
    }
  }
}

TEST_CASE("codes alone find most neighbours, more bits more of them") {
  double before = 0.2;
  for (uint32_t bits = 1; bits <= 4; ++bits) {
    CAPTURE(bits);
    const Fixture f(QUASH_METRIC_COSINE, QUASH_RERANK_NONE, bits);
    const Result result = Search(f.c.get(), f.queries.data(), kQueries, 10);
    double recall = 0;
    for (size_t q = 0; q < kQueries; ++q) {
      const auto ids = IntIds(result.get(), q);
      REQUIRE(ids.size() == 10);
      for (const Neighbor& neighbor : f.Truth(q, 10, kAll)) {
        recall += std::count(ids.begin(), ids.end(), neighbor.id) / (10.0 * kQueries);
      }
    }
    CHECK(recall > before);
    before = recall;
  }
  CHECK(before > 0.8);
}

TEST_CASE("a filtered search gives min(k, matches) at every selectivity") {
  const Fixture f(QUASH_METRIC_COSINE);
  quash_search_options options;
  quash_search_options_init(&options);
  for (const int64_t matching : {0, 1, 3, 9, 10, 11, 60, 600, 3000, 5999, 6000}) {
    CAPTURE(matching);
    const std::string filter = fmt::format("id >= {}", kRows - matching);
    options.filter = filter.c_str();
    const Result result = Search(f.c.get(), f.queries.data(), kQueries, 10, &options);
    double recall = 0;
    for (size_t q = 0; q < kQueries; ++q) {
      const auto truth =
          f.Truth(q, 10, [&](int64_t id) { return id >= static_cast<int64_t>(kRows) - matching; });
      REQUIRE(truth.size() == std::min<size_t>(10, matching));
      recall += Recall(f, result.get(), q, truth, 1e-4) / kQueries;
    }
    CHECK(recall >= 0.95);
  }
}

TEST_CASE("pages by cursor join to the whole list") {
  for (const bool exact : {true, false}) {
    CAPTURE(exact);
    const Fixture f(QUASH_METRIC_L2);
    quash_search_options options;
    quash_search_options_init(&options);
    options.exact = exact;
    options.filter = "fresh = TRUE";
    const auto fresh = [](int64_t id) { return id % 2 == 0; };
    const auto truth = f.Truth(0, 100, fresh);
    std::vector<int64_t> ids;
    std::vector<float> scores;
    for (int page = 0; page < 10; ++page) {
      const Result result = Search(f.c.get(), f.queries.data(), 1, 10, &options);
      const auto page_ids = IntIds(result.get());
      const auto page_scores = Scores(result.get());
      REQUIRE(page_ids.size() == 10);
      ids.insert(ids.end(), page_ids.begin(), page_ids.end());
      scores.insert(scores.end(), page_scores.begin(), page_scores.end());
      options.has_cursor = 1;
      options.cursor_score = page_scores.back();
      options.cursor_int_id = page_ids.back();
    }
    CHECK(std::set<int64_t>(ids.begin(), ids.end()).size() == 100);
    CHECK(std::is_sorted(scores.rbegin(), scores.rend()));
    size_t found = 0;
    for (const Neighbor& neighbor : truth) {
      found += std::count(ids.begin(), ids.end(), neighbor.id);
    }
    CHECK(found >= (exact ? 100 : 95));
  }
}

TEST_CASE("rows of equal score come by ascending id, also across pages") {
  const Db db = Open(":memory:");
  const Collection c = Create(db.get(), "c", {.dim = 8});
  Rows rows{.n = 40, .vectors = {}, .int_ids = {}};
  const auto vector = RandomVectors(1, 8, 1);
  for (int64_t i = 0; i < 40; ++i) {
    rows.vectors.insert(rows.vectors.end(), vector.begin(), vector.end());
    rows.int_ids.push_back((i * 17) % 40);
  }
  REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
  quash_search_options options;
  quash_search_options_init(&options);
  std::vector<int64_t> ids;
  for (;;) {
    const Result result = Search(c.get(), vector.data(), 1, 7, &options);
    const auto page = IntIds(result.get());
    if (page.empty()) break;
    ids.insert(ids.end(), page.begin(), page.end());
    options.has_cursor = 1;
    options.cursor_score = Scores(result.get()).back();
    options.cursor_int_id = page.back();
  }
  std::vector<int64_t> expected(40);
  for (int64_t i = 0; i < 40; ++i) expected[i] = i;
  CHECK(ids == expected);
}

TEST_CASE("a range search gives the rows from min_score on") {
  for (const auto metric : {QUASH_METRIC_IP, QUASH_METRIC_COSINE, QUASH_METRIC_L2}) {
    CAPTURE(metric);
    const Fixture f(metric);
    const auto truth = f.Truth(0, kRows, kAll);
    quash_search_options options;
    quash_search_options_init(&options);
    options.exact = 1;
    for (const size_t wanted : {0, 1, 30, 99}) {
      const double above = wanted == 0 ? truth[0].score + 1 : truth[wanted - 1].score;
      options.min_score = (above + truth[wanted].score) / 2;
      if (wanted == 0) options.min_score = truth[0].score + 1;
      const Result result = Search(f.c.get(), f.queries.data(), 1, 1000, &options);
      CHECK(IntIds(result.get()).size() == wanted);
      const Result bounded = Search(f.c.get(), f.queries.data(), 1, 5, &options);
      CHECK(IntIds(bounded.get()).size() == std::min<size_t>(5, wanted));
    }
    options.exact = 0;
    options.min_score = truth[60].score;
    const Result staged = Search(f.c.get(), f.queries.data(), 1, 1000, &options);
    const auto scores = Scores(staged.get());
    CHECK(scores.size() >= 58);
    for (const float score : scores) CHECK(score >= truth[60].score - 1e-3);
  }
}

TEST_CASE("k beyond the rows gives all of them, none if there are none") {
  const Db db = Open(":memory:");
  const Collection c = Create(db.get(), "c", {});
  const auto query = RandomVectors(2, 16, 1);
  CHECK(IntIds(Search(c.get(), query.data(), 2, 5).get(), 1).empty());
  Rows rows{.n = 7, .vectors = RandomVectors(7, 16, 2)};
  REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
  CHECK(IntIds(Search(c.get(), query.data(), 1, QUASH_K_MAX).get()).size() == 7);
  CHECK(quash_result_num_queries(Search(c.get(), nullptr, 0, 5).get()) == 0);
}

TEST_CASE("every dimension, one coordinate included") {
  for (const uint32_t dim : {1u, 2u, 3u, 7u, 31u, 33u, 100u, 384u, 1000u}) {
    for (const auto rotation : {QUASH_ROTATION_HADAMARD, QUASH_ROTATION_DENSE}) {
      if (rotation == QUASH_ROTATION_DENSE && dim > 384) continue;
      CAPTURE(dim);
      CAPTURE(rotation);
      const Db db = Open(":memory:");
      const Collection c =
          Create(db.get(), "c", {.dim = dim, .metric = QUASH_METRIC_L2, .rotation = rotation});
      Rows rows{.n = 300, .vectors = RandomVectors(300, dim, dim)};
      for (int64_t i = 0; i < 300; ++i) rows.int_ids.push_back(i);
      REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
      // Each row is its own nearest neighbour.
      size_t found = 0;
      const Result result = Search(c.get(), rows.vectors.data(), 300, 1);
      for (size_t q = 0; q < 300; ++q) {
        const auto ids = IntIds(result.get(), q);
        REQUIRE(ids.size() == 1);
        found += ids[0] == static_cast<int64_t>(q);
      }
      CHECK(found >= 297);
    }
  }
}

TEST_CASE("large norms and one-hot vectors") {
  for (const auto metric : {QUASH_METRIC_IP, QUASH_METRIC_COSINE, QUASH_METRIC_L2}) {
    CAPTURE(metric);
    const Db db = Open(":memory:");
    const Collection c = Create(db.get(), "c", {.dim = 64, .metric = metric});
    Rows rows{.n = 64, .vectors = std::vector<float>(64 * 64)};
    for (int64_t i = 0; i < 64; ++i) {
      rows.vectors[i * 64 + i] = 1e6f;
      rows.int_ids.push_back(i);
    }
    REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
    const Result result = Search(c.get(), rows.vectors.data(), 64, 1);
    for (int64_t q = 0; q < 64; ++q) {
      CHECK(IntIds(result.get(), q) == std::vector<int64_t>{q});
      CHECK(std::isfinite(Scores(result.get(), q)[0]));
    }
  }
}

TEST_CASE("a zero vector is a row like others with ip and l2") {
  for (const auto metric : {QUASH_METRIC_IP, QUASH_METRIC_L2}) {
    const Db db = Open(":memory:");
    const Collection c = Create(db.get(), "c", {.dim = 4, .metric = metric});
    Rows rows{.n = 2, .vectors = {0, 0, 0, 0, 1, 2, 3, 4}, .int_ids = {1, 2}};
    REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
    const float zero[4] = {};
    const Result result = Search(c.get(), zero, 1, 2);
    CHECK(IntIds(result.get()) == std::vector<int64_t>{1, 2});
    CHECK(Scores(result.get()) == std::vector<float>{0, metric == QUASH_METRIC_IP ? 0.0f : -30.0f});
  }
}

TEST_SUITE_END();

}  // namespace
}  // namespace capi_test
