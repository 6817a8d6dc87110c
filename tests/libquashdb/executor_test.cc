// The search against brute force.
#include "libquashdb/executor.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "libquashdb/row_reader.h"
#include "tests/libquashdb/memory_collection.h"

namespace quash {
namespace {

struct Scored {
  double score;
  size_t row;
};

// Score as quashdb.h defines it, of vectors as stored by the tier.
double TrueScore(const MemoryCollection& rows, const Snapshot& snapshot, const float* query,
                 size_t row) {
  const size_t dim = rows.spec().dim;
  std::vector<float> x(dim);
  const size_t per_segment = snapshot.segments[0].segment->rows();
  REQUIRE(ReadVector(snapshot, static_cast<uint32_t>(row / per_segment),
                     static_cast<uint32_t>(row % per_segment), x.data())
              .ok());
  double dot = 0, norm = 0, distance = 0;
  for (size_t j = 0; j < dim; ++j) {
    dot += double{query[j]} * x[j];
    norm += double{query[j]} * query[j];
    distance += (double{query[j]} - x[j]) * (double{query[j]} - x[j]);
  }
  switch (rows.spec().metric) {
    case QUASH_METRIC_IP:
      return dot;
    case QUASH_METRIC_COSINE:
      return norm > 0 ? dot / std::sqrt(norm) : 0;
    default:
      return -distance;
  }
}

std::vector<Scored> BruteForce(const MemoryCollection& rows, const Snapshot& snapshot,
                               const float* query) {
  std::vector<Scored> scored;
  for (size_t row = 0; row < rows.size(); ++row) {
    if (rows.IsLive(row)) scored.push_back({TrueScore(rows, snapshot, query, row), row});
  }
  std::sort(scored.begin(), scored.end(), [&](const Scored& a, const Scored& b) {
    return a.score != b.score ? a.score > b.score : rows.id(a.row) < rows.id(b.row);
  });
  return scored;
}

double Tolerance(const std::vector<Scored>& truth) {
  double largest = 1;
  for (const Scored& s : truth) largest = std::max(largest, std::fabs(s.score));
  return 1e-5 * largest;
}

// Order, distinctness and true scores; every hit live.
void CheckHits(const MemoryCollection& rows, const Snapshot& snapshot, const float* query,
               const std::vector<Hit>& hits, double tolerance, bool scores_are_true) {
  std::set<size_t> seen;
  for (size_t i = 0; i < hits.size(); ++i) {
    const size_t row = rows.RowOfHit(hits[i].segment, hits[i].row);
    CHECK(rows.IsLive(row));
    CHECK(seen.insert(row).second);
    if (scores_are_true) {
      CHECK(std::fabs(hits[i].score - TrueScore(rows, snapshot, query, row)) < tolerance);
    }
    if (i == 0) continue;
    const size_t before = rows.RowOfHit(hits[i - 1].segment, hits[i - 1].row);
    const bool in_order = hits[i - 1].score > hits[i].score ||
                          (hits[i - 1].score == hits[i].score && rows.id(before) < rows.id(row));
    CHECK(in_order);
  }
}

// Share of the hits that reach the k-th true score.
double Recall(const std::vector<Scored>& truth, const MemoryCollection& rows,
              const std::vector<Hit>& hits, size_t k, double tolerance) {
  k = std::min(k, truth.size());
  if (k == 0) return 1;
  std::set<size_t> good;
  for (const Scored& s : truth) {
    if (s.score >= truth[k - 1].score - tolerance) good.insert(s.row);
  }
  size_t found = 0;
  for (const Hit& hit : hits) found += good.count(rows.RowOfHit(hit.segment, hit.row));
  return static_cast<double>(std::min(found, k)) / k;
}

std::vector<std::vector<Hit>> MustSearch(const Snapshot& snapshot,
                                         const std::vector<float>& queries, const SearchPlan& plan,
                                         SearchStats* stats = nullptr) {
  std::vector<std::vector<Hit>> hits;
  const size_t nq = queries.size() / snapshot.spec->dim;
  const Status status = Search(snapshot, queries.data(), nq, plan, &hits, stats);
  INFO(status.message());
  REQUIRE(status.ok());
  REQUIRE(hits.size() == nq);
  return hits;
}

bool Same(const std::vector<Hit>& a, const std::vector<Hit>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Hit& x, const Hit& y) {
    return x.score == y.score && x.segment == y.segment && x.row == y.row;
  });
}

CollectionSpec Spec(uint32_t dim, quash_metric metric, uint32_t bits, quash_rerank rerank) {
  CollectionSpec spec;
  spec.name = "test";
  spec.dim = dim;
  spec.metric = metric;
  spec.bits = bits;
  spec.rerank = rerank;
  return spec;
}

constexpr quash_metric kMetrics[] = {QUASH_METRIC_IP, QUASH_METRIC_COSINE, QUASH_METRIC_L2};
constexpr quash_rerank kTiers[] = {QUASH_RERANK_INT8, QUASH_RERANK_F16, QUASH_RERANK_F32};

}  // namespace

TEST_CASE("exact search equals brute force") {
  for (quash_metric metric : kMetrics) {
    for (quash_rerank tier : kTiers) {
      for (uint32_t dim : {1u, 3u, 64u, 100u, 384u}) {
        CAPTURE(metric);
        CAPTURE(tier);
        CAPTURE(dim);
        MemoryCollection rows(Spec(dim, metric, 4, tier), 70);
        rows.Add(RandomVectors(300, dim, 5, 1).data(), 300);
        for (size_t row = 0; row < 300; row += 7) rows.Delete(row);
        const Snapshot snapshot = rows.GetSnapshot();
        const std::vector<float> queries = RandomVectors(3, dim, 5, 2);
        SearchPlan plan;
        plan.exact = true;
        for (size_t k : {1u, 10u, 1000u}) {
          plan.k = k;
          const auto hits = MustSearch(snapshot, queries, plan);
          for (size_t q = 0; q < hits.size(); ++q) {
            const float* query = queries.data() + q * dim;
            const auto truth = BruteForce(rows, snapshot, query);
            const double tolerance = Tolerance(truth);
            REQUIRE(hits[q].size() == std::min(k, truth.size()));
            CheckHits(rows, snapshot, query, hits[q], tolerance, true);
            for (size_t i = 0; i < hits[q].size(); ++i) {
              CHECK(std::fabs(hits[q][i].score - truth[i].score) < tolerance);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("staged search finds what brute force finds") {
  constexpr size_t kRows = 3000, kQueries = 8;
  for (quash_metric metric : kMetrics) {
    for (uint32_t dim : {1u, 3u, 64u, 100u, 384u}) {
      for (size_t centers : {0u, 20u}) {
        const std::vector<float> vectors = RandomVectors(kRows, dim, centers, 3);
        const std::vector<float> queries = RandomVectors(kQueries, dim, centers, 4);
        for (uint32_t bits = 1; bits <= 4; ++bits) {
          const quash_rerank tier = kTiers[(bits + dim) % 3];
          CAPTURE(metric);
          CAPTURE(dim);
          CAPTURE(centers);
          CAPTURE(bits);
          MemoryCollection rows(Spec(dim, metric, bits, tier), 1024);
          rows.Add(vectors.data(), kRows);
          rows.Delete(17);
          const Snapshot snapshot = rows.GetSnapshot();
          for (uint32_t planes : {0u, 2u, QUASH_PLANES_ALL}) {
            SearchPlan plan;
            plan.widths.planes = planes;
            SearchStats stats;
            const auto hits = MustSearch(snapshot, queries, plan, &stats);
            CHECK(stats.mode == "staged");
            double recall = 0;
            for (size_t q = 0; q < kQueries; ++q) {
              const float* query = queries.data() + q * dim;
              const auto truth = BruteForce(rows, snapshot, query);
              REQUIRE(hits[q].size() == 10);
              CheckHits(rows, snapshot, query, hits[q], Tolerance(truth), true);
              recall += Recall(truth, rows, hits[q], 10, Tolerance(truth)) / kQueries;
            }
            CHECK(recall >= 0.95);
          }
        }
      }
    }
  }
}

TEST_CASE("without a rerank tier the codes rank nearly as all rows scored by them") {
  constexpr size_t kRows = 3000, kQueries = 10;
  for (quash_metric metric : kMetrics) {
    for (uint32_t dim : {3u, 64u, 384u}) {
      const std::vector<float> vectors = RandomVectors(kRows, dim, 20, 5);
      const std::vector<float> queries = RandomVectors(kQueries, dim, 20, 6);
      for (uint32_t bits = 1; bits <= 4; ++bits) {
        CAPTURE(metric);
        CAPTURE(dim);
        CAPTURE(bits);
        MemoryCollection rows(Spec(dim, metric, bits, QUASH_RERANK_NONE), 1024);
        rows.Add(vectors.data(), kRows);
        const Snapshot snapshot = rows.GetSnapshot();
        const auto hits = MustSearch(snapshot, queries, {});
        SearchPlan all;
        all.widths.candidates = kRows;
        const auto best = MustSearch(snapshot, queries, all);
        size_t found = 0;
        for (size_t q = 0; q < kQueries; ++q) {
          REQUIRE(hits[q].size() == 10);
          CheckHits(rows, snapshot, queries.data() + q * dim, hits[q], 0, false);
          for (const Hit& hit : hits[q]) found += hit.score >= best[q].back().score;
        }
        CHECK(found >= 97 * kQueries / 10);
        // A scan of whole codes ranks as all rows scored by them do.
        SearchPlan whole;
        whole.widths.planes = QUASH_PLANES_ALL;
        const auto scanned = MustSearch(snapshot, queries, whole);
        for (size_t q = 0; q < kQueries; ++q) {
          REQUIRE(scanned[q].size() == best[q].size());
          for (size_t i = 0; i < best[q].size(); ++i) {
            CHECK(scanned[q][i].score == best[q][i].score);
            CHECK(scanned[q][i].segment == best[q][i].segment);
            CHECK(scanned[q][i].row == best[q][i].row);
          }
        }
        // Decoded vectors are those of the codes, shorter by 1 - MSE.
        const Hit& top = hits[0][0];
        const double decoded =
            TrueScore(rows, snapshot, queries.data(), rows.RowOfHit(top.segment, top.row));
        if (metric != QUASH_METRIC_L2) {
          const double shorter = 1 - GetCodebook(dim, bits).MseCost();
          CHECK(std::fabs(decoded - shorter * top.score) < 0.02 * std::fabs(top.score));
        }
        std::vector<std::vector<Hit>> unused;
        SearchPlan exact;
        exact.exact = true;
        CHECK(Search(snapshot, queries.data(), 1, exact, &unused, nullptr).code() == QUASH_INVALID);
      }
    }
  }
}

TEST_CASE("results do not depend on threads, batch or segments") {
  // Enough bytes for four threads on the blocks of one query.
  constexpr size_t kRows = 20000;
  constexpr uint32_t kDim = 512;
  const std::vector<float> vectors = RandomVectors(kRows, kDim, 0, 7);
  const std::vector<float> queries = RandomVectors(17, kDim, 0, 8);
  for (quash_metric metric : kMetrics) {
    const quash_rerank tier = metric == QUASH_METRIC_IP ? QUASH_RERANK_NONE : QUASH_RERANK_F16;
    CAPTURE(metric);
    MemoryCollection rows(Spec(kDim, metric, 4, tier), 1500);
    rows.Add(vectors.data(), kRows);
    MemoryCollection whole(Spec(kDim, metric, 4, tier), kRows);
    whole.Add(vectors.data(), kRows);
    const Snapshot snapshot = rows.GetSnapshot();
    for (uint32_t candidates : {0u, 100u}) {
      for (size_t k : {20u, 700u}) {
        SearchPlan plan;
        plan.k = k;
        plan.widths.candidates = candidates;
        plan.threads = 1;
        const auto expected = MustSearch(snapshot, queries, plan);
        const auto one_segment = MustSearch(whole.GetSnapshot(), queries, plan);
        for (size_t q = 0; q < expected.size(); ++q) {
          REQUIRE(expected[q].size() == one_segment[q].size());
          for (size_t i = 0; i < expected[q].size(); ++i) {
            CHECK(expected[q][i].score == one_segment[q][i].score);
            CHECK(rows.RowOfHit(expected[q][i].segment, expected[q][i].row) ==
                  one_segment[q][i].row);
          }
        }
        for (uint32_t threads : {2u, 3u, 8u}) {
          plan.threads = threads;
          const auto hits = MustSearch(snapshot, queries, plan);
          for (size_t q = 0; q < hits.size(); ++q) CHECK(Same(hits[q], expected[q]));
        }
        for (size_t q = 0; q < 4; ++q) {
          const std::vector<float> one(queries.begin() + q * kDim,
                                       queries.begin() + (q + 1) * kDim);
          for (uint32_t threads : {1u, 2u, 4u}) {
            plan.threads = threads;
            CHECK(Same(MustSearch(snapshot, one, plan)[0], expected[q]));
          }
        }
      }
    }
  }
}

TEST_CASE("identical vectors come back by ascending id") {
  constexpr uint32_t kDim = 16;
  for (bool strings : {false, true}) {
    CollectionSpec spec = Spec(kDim, QUASH_METRIC_COSINE, 4, QUASH_RERANK_F16);
    spec.id_type = strings ? QUASH_ID_STRING : QUASH_ID_INT64;
    MemoryCollection rows(spec, 100);
    std::vector<float> vectors;
    std::vector<Id> ids;
    const std::vector<float> one = RandomVectors(1, kDim, 0, 9);
    for (int64_t r = 0; r < 1000; ++r) {
      vectors.insert(vectors.end(), one.begin(), one.end());
      const int64_t shuffled = r * 7919 % 1000;
      ids.push_back(strings ? Id("row" + std::to_string(1000 + shuffled)) : Id(shuffled));
    }
    rows.Add(vectors.data(), 1000, ids);
    const Snapshot snapshot = rows.GetSnapshot();
    SearchPlan plan;
    plan.k = 25;
    for (bool exact : {false, true}) {
      plan.exact = exact;
      const auto hits = MustSearch(snapshot, one, plan)[0];
      REQUIRE(hits.size() == 25);
      CheckHits(rows, snapshot, one.data(), hits, 1e-3, true);
      if (!exact) continue;
      for (int64_t i = 0; i < 25; ++i) {  // the lowest ids of all
        const Id expected = strings ? Id("row" + std::to_string(1000 + i)) : Id(i);
        CHECK(rows.id(rows.RowOfHit(hits[i].segment, hits[i].row)) == expected);
      }
    }
  }
}

TEST_CASE("a filtered search returns min(k, matches) at every selectivity") {
  constexpr size_t kRows = 20000;
  constexpr uint32_t kDim = 32;
  CollectionSpec spec = Spec(kDim, QUASH_METRIC_IP, 4, QUASH_RERANK_F32);
  spec.fields = {{"n", QUASH_FIELD_INT}};
  MemoryCollection rows(spec, 4096);
  std::vector<Value> column;
  for (size_t r = 0; r < kRows; ++r) column.emplace_back(static_cast<int64_t>(r * 7919 % kRows));
  rows.Add(RandomVectors(kRows, kDim, 30, 10).data(), kRows, {}, {column});
  const Snapshot snapshot = rows.GetSnapshot();
  const std::vector<float> query = RandomVectors(1, kDim, 30, 11);
  const auto truth = BruteForce(rows, snapshot, query.data());
  for (size_t matches : {0u, 1u, 20u, 200u, 10000u, 20000u}) {
    SearchPlan plan;
    REQUIRE(Filter::Parse("n < " + std::to_string(matches), spec, &plan.filter).ok());
    std::vector<Scored> matching;
    for (const Scored& s : truth) {
      if (s.row * 7919 % kRows < matches) matching.push_back(s);
    }
    for (size_t k : {1u, 10u, 500u}) {
      CAPTURE(matches);
      CAPTURE(k);
      plan.k = k;
      SearchStats stats;
      const auto hits = MustSearch(snapshot, query, plan, &stats)[0];
      CHECK(stats.matching_rows == matches);
      REQUIRE(hits.size() == std::min(k, matches));
      CheckHits(rows, snapshot, query.data(), hits, Tolerance(truth), true);
      for (const Hit& hit : hits) {
        CHECK(rows.RowOfHit(hit.segment, hit.row) * 7919 % kRows < matches);
      }
      const double recall = Recall(matching, rows, hits, k, Tolerance(truth));
      CHECK(recall >= (stats.mode == "direct" ? 1.0 : 0.9));
      plan.exact = true;
      CHECK(Recall(matching, rows, MustSearch(snapshot, query, plan)[0], k, Tolerance(truth)) ==
            1.0);
      plan.exact = false;
    }
  }
}

TEST_CASE("empty collections, deleted rows and k beyond the rows") {
  MemoryCollection rows(Spec(8, QUASH_METRIC_L2, 2, QUASH_RERANK_F16), 64);
  const std::vector<float> query = RandomVectors(1, 8, 0, 12);
  SearchPlan plan;
  for (bool exact : {false, true}) {
    plan.exact = exact;
    CHECK(MustSearch(rows.GetSnapshot(), query, plan)[0].empty());
  }
  rows.Add(RandomVectors(100, 8, 0, 13).data(), 100);
  for (size_t row = 0; row < 97; ++row) rows.Delete(row);
  for (bool exact : {false, true}) {
    plan.exact = exact;
    CHECK(MustSearch(rows.GetSnapshot(), query, plan)[0].size() == 3);
  }
  for (size_t row = 97; row < 100; ++row) rows.Delete(row);
  CHECK(MustSearch(rows.GetSnapshot(), query, plan)[0].empty());
  CHECK(MustSearch(rows.GetSnapshot(), {}, plan).empty());
}

TEST_CASE("range search returns every row at or above min_score") {
  constexpr size_t kRows = 5000;
  for (quash_metric metric : kMetrics) {
    for (uint32_t dim : {3u, 100u}) {
      MemoryCollection rows(Spec(dim, metric, 4, QUASH_RERANK_F32), 1024);
      rows.Add(RandomVectors(kRows, dim, 20, 14).data(), kRows);
      const Snapshot snapshot = rows.GetSnapshot();
      const std::vector<float> query = RandomVectors(1, dim, 20, 15);
      const auto truth = BruteForce(rows, snapshot, query.data());
      for (size_t within : {0u, 1u, 37u, 900u}) {
        CAPTURE(metric);
        CAPTURE(dim);
        CAPTURE(within);
        SearchPlan plan;
        plan.k = 1000;
        // Halfway between neighbours, away from float rounding.
        plan.min_score =
            within == 0 ? truth[0].score + 1 : (truth[within - 1].score + truth[within].score) / 2;
        const double gap = within == 0 ? 1 : truth[within - 1].score - truth[within].score;
        if (gap < 2 * Tolerance(truth)) continue;
        for (uint32_t candidates : {0u, 50u}) {
          plan.widths.candidates = candidates;
          const auto hits = MustSearch(snapshot, query, plan)[0];
          CHECK(hits.size() == within);
          CheckHits(rows, snapshot, query.data(), hits, Tolerance(truth), true);
        }
        plan.k = 10;
        CHECK(MustSearch(snapshot, query, plan)[0].size() == std::min<size_t>(within, 10));
      }
    }
  }
}

TEST_CASE("paging gives the sequence of one large search") {
  constexpr size_t kRows = 4000;
  constexpr uint32_t kDim = 48;
  for (quash_metric metric : kMetrics) {
    for (bool exact : {true, false}) {
      CAPTURE(metric);
      CAPTURE(exact);
      MemoryCollection rows(Spec(kDim, metric, 4, QUASH_RERANK_F16), 1000);
      std::vector<float> vectors = RandomVectors(kRows, kDim, 10, 16);
      // Ties across page borders: runs of identical rows.
      for (size_t r = 1; r < kRows; ++r) {
        if (r % 3 != 0) {
          std::copy_n(vectors.begin() + (r - 1) * kDim, kDim, vectors.begin() + r * kDim);
        }
      }
      std::vector<Id> ids;
      for (size_t r = 0; r < kRows; ++r) ids.emplace_back(static_cast<int64_t>(r * 7919 % kRows));
      rows.Add(vectors.data(), kRows, ids);
      const Snapshot snapshot = rows.GetSnapshot();
      const std::vector<float> query = RandomVectors(1, kDim, 10, 17);
      SearchPlan plan;
      plan.exact = exact;
      plan.k = 400;
      const auto expected = MustSearch(snapshot, query, plan)[0];
      std::vector<Hit> paged;
      plan.k = 16;
      while (paged.size() < 400) {
        const auto page = MustSearch(snapshot, query, plan)[0];
        REQUIRE(page.size() == 16);
        paged.insert(paged.end(), page.begin(), page.end());
        plan.has_cursor = true;
        plan.cursor_score = page.back().score;
        plan.cursor_id = rows.id(rows.RowOfHit(page.back().segment, page.back().row));
      }
      CheckHits(rows, snapshot, query.data(), paged, 1e-2, false);
      if (exact) {
        CHECK(Same(paged, expected));
      } else {
        std::set<size_t> found;
        for (const Hit& hit : paged) found.insert(rows.RowOfHit(hit.segment, hit.row));
        size_t common = 0;
        for (const Hit& hit : expected) common += found.count(rows.RowOfHit(hit.segment, hit.row));
        CHECK(common >= 380);
      }
    }
  }
}

TEST_CASE("paging reaches the last row") {
  MemoryCollection rows(Spec(24, QUASH_METRIC_COSINE, 2, QUASH_RERANK_INT8), 500);
  rows.Add(RandomVectors(1500, 24, 3, 18).data(), 1500);
  const Snapshot snapshot = rows.GetSnapshot();
  const std::vector<float> query = RandomVectors(1, 24, 3, 19);
  SearchPlan plan;
  plan.k = 100;
  std::set<size_t> seen;
  for (size_t page = 0; page < 20; ++page) {
    const auto hits = MustSearch(snapshot, query, plan)[0];
    for (const Hit& hit : hits) CHECK(seen.insert(rows.RowOfHit(hit.segment, hit.row)).second);
    if (hits.size() < plan.k) break;
    plan.has_cursor = true;
    plan.cursor_score = hits.back().score;
    plan.cursor_id = rows.id(rows.RowOfHit(hits.back().segment, hits.back().row));
  }
  CHECK(seen.size() >= 1450);
}

TEST_CASE("pages are full until the rows after the cursor run out") {
  constexpr int64_t kRows = 1000;
  const std::vector<float> one = RandomVectors(1, 40, 0, 24);
  for (quash_metric metric : kMetrics) {
    for (const auto& widths : {std::pair(0u, 0u), {32u, 0u}, {400u, 20u}}) {
      const unsigned candidates = widths.first, reranked = widths.second;
      CAPTURE(metric);
      CAPTURE(candidates);
      MemoryCollection rows(Spec(40, metric, 3, QUASH_RERANK_F16), 300);
      std::vector<float> vectors;
      std::vector<Id> ids;
      for (int64_t r = 0; r < kRows; ++r) {
        vectors.insert(vectors.end(), one.begin(), one.end());
        ids.emplace_back(r * 7919 % kRows);
      }
      rows.Add(vectors.data(), kRows, ids);
      const Snapshot snapshot = rows.GetSnapshot();
      SearchPlan plan;
      plan.k = 16;
      plan.widths.candidates = candidates;
      plan.widths.rerank_candidates = reranked;
      Id last = int64_t{-1};
      for (int page = 0; page < 100; ++page) {
        const auto hits = MustSearch(snapshot, one, plan)[0];
        for (const Hit& hit : hits) {
          const Id& id = rows.id(rows.RowOfHit(hit.segment, hit.row));
          CHECK(last < id);
          last = id;
        }
        if (hits.size() < plan.k) break;
        plan.has_cursor = true;
        plan.cursor_score = hits.back().score;
        plan.cursor_id = last;
      }
      CHECK(last == Id(kRows - 1));
    }
  }
}

TEST_CASE("fixed widths bound the stages") {
  MemoryCollection rows(Spec(64, QUASH_METRIC_COSINE, 4, QUASH_RERANK_F16), 2048);
  rows.Add(RandomVectors(6000, 64, 0, 20).data(), 6000);
  Snapshot snapshot = rows.GetSnapshot();
  const std::vector<float> query = RandomVectors(1, 64, 0, 21);
  SearchPlan plan;
  plan.widths.candidates = 200;
  plan.widths.rerank_candidates = 50;
  SearchStats stats;
  MustSearch(snapshot, query, plan, &stats);
  REQUIRE(stats.stages.size() == 3);
  CHECK(stats.stages[0].name == "plane scan");
  CHECK(stats.stages[0].rows_in == 6000);
  CHECK(stats.stages[0].rows_out == 200);
  CHECK(stats.stages[1].name == "full code");
  CHECK(stats.stages[1].rows_out == 50);
  CHECK(stats.stages[2].name == "rerank");
  CHECK(stats.stages[2].rows_out == 10);
  CHECK(stats.stages[2].bytes == 50 * 64 * 2);
  // Kept widths apply where the plan has none, in proportion to k.
  snapshot.widths.candidates = 64;
  snapshot.widths.measured_k = 10;
  MustSearch(snapshot, query, {}, &stats);
  CHECK(stats.stages[0].rows_out == 64);
  plan = SearchPlan();
  plan.k = 40;
  MustSearch(snapshot, query, plan, &stats);
  CHECK(stats.stages[0].rows_out == 256);
}

TEST_CASE("errors of a segment come back") {
  MemoryCollection rows(Spec(512, QUASH_METRIC_IP, 4, QUASH_RERANK_NONE), 1000);
  rows.Add(RandomVectors(20000, 512, 0, 22).data(), 20000);
  const Snapshot snapshot = rows.GetSnapshot();
  const std::vector<float> queries = RandomVectors(5, 512, 0, 23);
  rows.segment(13).FailAfter(0);
  for (uint32_t threads : {1u, 4u}) {
    for (size_t nq : {1u, 5u}) {
      SearchPlan plan;
      plan.threads = threads;
      std::vector<std::vector<Hit>> hits;
      const Status status = Search(snapshot, queries.data(), nq, plan, &hits, nullptr);
      CHECK(status.code() == QUASH_IO);
      CHECK(status.message() == "read refused");
    }
  }
}

}  // namespace quash
