// Searches of a partitioned collection.
#include <algorithm>
#include <thread>
#include <utility>

#include "tests/capi/partition_support.h"

namespace capi_test {
namespace {

TEST_SUITE_BEGIN("partition");

constexpr size_t kRows = 6000;
constexpr size_t kQueries = 60;

struct Fixture {
  explicit Fixture(const PartitionSettings& settings = {})
      : metric(settings.metric),
        db(Open(":memory:")),
        c(CreatePartitioned(db.get(), "c", settings)),
        queries(ClusteredVectors(kQueries, 77)) {
    const Rows rows = ClusteredRows(kRows, 0, 1);
    Rows given = rows;
    REQUIRE_OK(quash_add(c.get(), given.Get(), nullptr));
    Store(rows, &stored);
    REQUIRE_OK(quash_compact(db.get()));
  }
  double Recall(const quash_search_options& options, bool (*matches)(int64_t) = nullptr) const {
    return CheckedRecall(c.get(), metric, stored, queries, 10, &options, matches);
  }

  quash_metric metric;
  Db db;
  Collection c;
  std::vector<float> queries;
  Stored stored;
};

TEST_CASE("an index is made of the rows once there are enough") {
  const Db db = Open(":memory:");
  const Collection c = CreatePartitioned(db.get(), "c", {.partition_rows = 2000});
  const auto queries = ClusteredVectors(1, 5);
  REQUIRE_OK(quash_add(c.get(), ClusteredRows(1999, 0, 1).Get(), nullptr));
  REQUIRE_OK(quash_compact(db.get()));
  CHECK(Stats(c.get()).lists == 0);
  CHECK(Explain(c.get(), queries.data()).at("mode") == "staged");
  REQUIRE_OK(quash_add(c.get(), ClusteredRows(2000, 5000, 2).Get(), nullptr));
  REQUIRE_OK(quash_compact(db.get()));

  const quash_collection_info info = Stats(c.get());
  CHECK(info.lists >= 2);
  CHECK(info.indexed_rows == 3999);
  CHECK(info.list_bytes > 3999 * (kPartitionDim / 8 + sizeof(float) + sizeof(uint64_t)));
  char* text = nullptr;
  REQUIRE_OK(quash_stats(db.get(), &text));
  const nlohmann::json of_collection = TakeJson(text).at("collections").at(0);
  CHECK(of_collection.at("lists") == info.lists);
  CHECK(of_collection.at("indexed_rows") == info.indexed_rows);
  CHECK(of_collection.at("list_bytes") == info.list_bytes);

  const nlohmann::json explain = Explain(c.get(), queries.data());
  CHECK(explain.at("mode") == "partitions");
  CHECK(explain.at("lists") == info.lists);
  const uint64_t nprobe = explain.at("nprobe");
  CHECK(nprobe >= 1);
  CHECK(nprobe < info.lists);
  CHECK(explain.at("recall_target") == doctest::Approx(0.99));
  CHECK(explain.at("indexed_rows") == info.indexed_rows);
  CHECK(explain.at("recall_at_nprobe") >= 0.98);
  CHECK(explain.at("recall_at_nprobe") <= 1);
  bool probed = false;
  for (const nlohmann::json& stage : explain.at("stages")) {
    if (stage.at("name") != "probe") continue;
    probed = true;
    CHECK(stage.at("rows_in") < 3999);
    CHECK(stage.at("rows_out") <= stage.at("rows_in"));
    CHECK(stage.at("bytes") > 0);
  }
  CHECK(probed);

  quash_search_options options = SearchOptions();
  options.nprobe = 3;
  const nlohmann::json three = Explain(c.get(), queries.data(), &options);
  CHECK(three.at("nprobe") == 3);
  CHECK(three.at("recall_target").is_null());
  options.nprobe = UINT32_MAX;
  CHECK(Explain(c.get(), queries.data(), &options).at("nprobe") == info.lists);
  CHECK_OK(quash_verify(db.get(), nullptr));
}

TEST_CASE("no index where it is not wanted") {
  const Db db = Open(":memory:");
  const Collection c = CreatePartitioned(db.get(), "c", {.partition_rows = UINT64_MAX});
  REQUIRE_OK(quash_add(c.get(), ClusteredRows(5000, 0, 1).Get(), nullptr));
  REQUIRE_OK(quash_compact(db.get()));
  CHECK(Stats(c.get()).lists == 0);
  CHECK(Explain(c.get(), ClusteredVectors(1, 5).data()).at("mode") == "staged");
}

TEST_CASE("applying a measurement keeps the curve of an index made meanwhile") {
  const Db db = Open(":memory:");
  const Collection c = CreatePartitioned(db.get(), "c", {.partition_rows = 5000});
  REQUIRE_OK(quash_add(c.get(), ClusteredRows(3000, 0, 1).Get(), nullptr));
  struct Context {
    quash_db* db;
    quash_collection* c;
    bool made = false;
  } context{db.get(), c.get()};
  const auto make_index = [](void* user_data, uint64_t, uint64_t) {
    auto& [db, c, made] = *static_cast<Context*>(user_data);
    if (std::exchange(made, true)) return 0;
    std::thread([db = db, c = c] {  // on this one nothing may be written
      CHECK_OK(quash_set_progress(db, nullptr, nullptr));
      CHECK_OK(quash_add(c, ClusteredRows(3000, 5000, 2).Get(), nullptr));
      CHECK_OK(quash_compact(db));
    }).join();
    return 0;
  };
  REQUIRE_OK(quash_set_progress(db.get(), make_index, &context));
  quash_measure_options options;
  quash_measure_options_init(&options);
  options.sample = 10;
  options.apply = 1;
  quash_measure_report report{};
  report.struct_size = sizeof(report);
  REQUIRE_OK(quash_measure(c.get(), &options, &report));
  CHECK(context.made);
  CHECK(Stats(c.get()).lists > 0);
  CHECK_FALSE(Explain(c.get(), ClusteredVectors(1, 5).data()).at("recall_at_nprobe").is_null());
}

TEST_CASE("recall follows the target, with every metric") {
  for (const auto metric : {QUASH_METRIC_IP, QUASH_METRIC_COSINE, QUASH_METRIC_L2}) {
    CAPTURE(metric);
    const Fixture f({.metric = metric});
    quash_search_options options = SearchOptions();
    uint64_t least = 1;
    for (const double target : {0.7, 0.9, 0.95, 0.99}) {
      CAPTURE(target);
      options.recall = target;
      const nlohmann::json explain = Explain(f.c.get(), f.queries.data(), &options);
      CHECK(explain.at("mode") == "partitions");
      CHECK(explain.at("nprobe") >= least);
      least = explain.at("nprobe");
      // The curve is of a sample of rows, these are others.
      CHECK(f.Recall(options) >= target - 0.05);
    }
    CHECK(f.Recall(SearchOptions()) >= 0.94);
    options.recall = 1;
    CHECK(Explain(f.c.get(), f.queries.data(), &options).at("mode") == "staged");
    CHECK(f.Recall(options) >= 0.99);
    options.recall = 0;
    options.nprobe = UINT32_MAX;
    CHECK(f.Recall(options) >= 0.99);
  }
}

TEST_CASE("codes alone are probed too") {
  const Fixture f({.rerank = QUASH_RERANK_NONE});
  CHECK(Stats(f.c.get()).lists > 0);
  CHECK(Explain(f.c.get(), f.queries.data()).at("mode") == "partitions");
  const auto ids = [&](double recall) {
    quash_search_options options = SearchOptions();
    options.recall = recall;
    const Result result = Search(f.c.get(), f.queries, 10, &options);
    std::vector<std::vector<int64_t>> lists;
    for (size_t q = 0; q < kQueries; ++q) lists.push_back(IntIds(result.get(), q));
    return lists;
  };
  const auto all = ids(1), probed = ids(0);
  size_t found = 0;
  for (size_t q = 0; q < kQueries; ++q) {
    REQUIRE(probed[q].size() == 10);
    for (const int64_t id : probed[q]) found += std::count(all[q].begin(), all[q].end(), id);
  }
  CHECK(found >= 0.94 * 10 * kQueries);
}

TEST_CASE("filters give min(k, matching rows) at every selectivity") {
  const Fixture f;
  struct Case {
    const char* filter;
    bool (*matches)(int64_t);
  };
  const Case cases[] = {
      {"fresh = TRUE", [](int64_t id) { return id % 2 == 0; }},
      {"lang = 'fr'", [](int64_t id) { return id % 5 == 2; }},
      {"bucket < 40", [](int64_t id) { return id % 1000 < 40; }},
      {"bucket = 7", [](int64_t id) { return id % 1000 == 7; }},
      {"id = 4711", [](int64_t id) { return id == 4711; }},
      {"FALSE", [](int64_t) { return false; }},
  };
  for (const Case& one : cases) {
    CAPTURE(one.filter);
    quash_search_options options = SearchOptions();
    options.filter = one.filter;
    CHECK(f.Recall(options, one.matches) >= 0.9);
    options.nprobe = 1;  // few lists still fill the result
    f.Recall(options, one.matches);
  }
}

TEST_CASE("more results than the probed lists hold are filled up from others") {
  const Fixture f;
  quash_search_options options = SearchOptions();
  options.nprobe = 1;
  for (const size_t k : {100, 3000, 16384}) {
    CAPTURE(k);
    const std::vector<float> few(f.queries.begin(), f.queries.begin() + 3 * kPartitionDim);
    CheckedRecall(f.c.get(), f.metric, f.stored, few, k, &options);
  }
}

TEST_CASE("exact, range and paged searches are complete") {
  for (const auto metric : {QUASH_METRIC_COSINE, QUASH_METRIC_L2}) {
    CAPTURE(metric);
    const Fixture f({.metric = metric});
    quash_search_options options = SearchOptions();
    options.exact = 1;
    options.nprobe = 1;
    CHECK(f.Recall(options) >= 0.999);
    const Result exact = Search(f.c.get(), f.queries, 300, &options);

    options = SearchOptions();
    options.recall = 0.5;
    for (size_t q = 0; q < 10; ++q) {
      const std::vector<float> query(f.queries.begin() + q * kPartitionDim,
                                     f.queries.begin() + (q + 1) * kPartitionDim);
      const auto truth = IntIds(exact.get(), q);
      const auto scores = Scores(exact.get(), q);
      quash_search_options range = options;
      range.min_score = scores[199];
      CHECK(IntIds(Search(f.c.get(), query, 1000, &range).get()).size() >= 200);
      CHECK(Explain(f.c.get(), query.data(), &range).at("mode") != "partitions");

      quash_search_options page = options;
      page.has_cursor = 1;
      page.cursor_score = scores[99];
      page.cursor_int_id = truth[99];
      const auto next = IntIds(Search(f.c.get(), query, 20, &page).get());
      size_t expected = 0;
      for (size_t i = 0; i < 20; ++i) {
        expected += std::count(truth.begin() + 100, truth.begin() + 125, next[i]);
      }
      CHECK(expected >= 19);
    }
  }
}

TEST_CASE("results do not depend on threads or on the queries beside") {
  const Fixture f;
  const auto run = [&](uint32_t threads, size_t share, double recall) {
    quash_search_options options = SearchOptions();
    options.threads = threads;
    options.recall = recall;
    std::vector<std::vector<int64_t>> ids;
    std::vector<std::vector<float>> scores;
    for (size_t first = 0; first < kQueries; first += share) {
      const std::vector<float> some(
          f.queries.begin() + static_cast<long>(first * kPartitionDim),
          f.queries.begin() + static_cast<long>((first + share) * kPartitionDim));
      const Result result = Search(f.c.get(), some, 10, &options);
      for (size_t q = 0; q < share; ++q) {
        ids.push_back(IntIds(result.get(), q));
        scores.push_back(Scores(result.get(), q));
      }
    }
    return std::pair(ids, scores);
  };
  for (const double recall : {0.6, 0.99}) {
    const auto expected = run(1, kQueries, recall);
    for (const uint32_t threads : {1u, 2u, 3u, 8u}) {
      CAPTURE(threads);
      for (const size_t share : {size_t{1}, size_t{20}, kQueries}) {
        CHECK((run(threads, share, recall) == expected));
      }
    }
  }
}

TEST_CASE("measuring finds lists and widths for a target, and keeps them") {
  const TempDir dir;
  Db db = Open(dir / "a.qdb");
  Collection c = CreatePartitioned(db.get(), "c", {});
  REQUIRE_OK(quash_add(c.get(), ClusteredRows(kRows, 0, 1).Get(), nullptr));
  REQUIRE_OK(quash_compact(db.get()));
  const auto query = ClusteredVectors(1, 5);
  quash_measure_options options;
  quash_measure_options_init(&options);
  options.sample = 60;
  quash_measure_report report{};
  report.struct_size = sizeof(report);
  REQUIRE_OK(quash_measure(c.get(), &options, &report));
  CHECK(report.nprobe >= 1);
  CHECK(report.recall >= 0.95);
  const uint32_t by_default = report.nprobe;

  options.target_recall = 0.8;
  REQUIRE_OK(quash_measure(c.get(), &options, &report));
  CHECK(report.recall >= 0.8);
  CHECK(report.nprobe >= 1);
  CHECK(report.nprobe < by_default);
  CHECK(Explain(c.get(), query.data()).at("recall_target") == doctest::Approx(0.99));
  options.apply = 1;
  REQUIRE_OK(quash_measure(c.get(), &options, &report));
  const auto check_kept = [&] {
    const nlohmann::json kept = Explain(c.get(), query.data());
    CAPTURE(kept.dump());
    CHECK(kept.at("mode") == "partitions");
    CHECK(kept.at("recall_target") < 0.99);
    CHECK(kept.at("nprobe") == report.nprobe);
    CHECK(kept.at("recall_at_nprobe") >= 0.8);
    CHECK(kept.at("measured_recall") == doctest::Approx(report.recall));
  };
  check_kept();
  c.reset();
  db.reset();
  db = Open(dir / "a.qdb");
  c = OpenCollection(db.get(), "c");
  check_kept();

  // What no number of lists is sure to give is found over every row.
  options.target_recall = 1;
  REQUIRE_OK(quash_measure(c.get(), &options, &report));
  CHECK(report.recall == 1);
  const nlohmann::json every = Explain(c.get(), query.data());
  CHECK((report.nprobe == 0) == (every.at("mode") == "staged"));
}

TEST_SUITE_END();

}  // namespace
}  // namespace capi_test
