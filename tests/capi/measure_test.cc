// quash_measure().
#include <limits>

#include "tests/capi/support.h"

namespace capi_test {
namespace {

TEST_SUITE_BEGIN("measure");

constexpr size_t kDim = 32;

Collection Filled(quash_db* db, quash_rerank rerank = QUASH_RERANK_F32) {
  Collection c = Create(db, "c", {.dim = kDim, .rerank = rerank});
  Rows rows{.n = 4000, .vectors = RandomVectors(4000, kDim, 1)};
  REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
  return c;
}

quash_measure_options Options() {
  quash_measure_options options;
  quash_measure_options_init(&options);
  return options;
}

quash_measure_report Measure(quash_collection* c, const quash_measure_options* options) {
  quash_measure_report report{};
  report.struct_size = sizeof(report);
  REQUIRE_OK(quash_measure(c, options, &report));
  return report;
}

TEST_CASE("a measurement of stored rows or of given queries") {
  const Db db = Open(":memory:");
  const Collection c = Filled(db.get());
  const quash_measure_report report = Measure(c.get(), nullptr);
  CHECK(report.struct_size == sizeof(report));
  CHECK(report.queries == 200);
  CHECK(report.recall > 0.9);
  CHECK(report.recall <= 1);
  CHECK(report.recall_low <= report.recall);
  CHECK(report.recall_low > report.recall - 0.1);
  CHECK(report.exact_us > 0);
  CHECK(report.search_us > 0);
  CHECK(report.candidates > 0);
  CHECK((report.planes == 1 || report.planes == 2));
  CHECK(report.nprobe == 0);  // too few rows for an index

  // A caller of an older header gets the part it knows.
  quash_measure_report older{};
  older.struct_size = offsetof(quash_measure_report, nprobe);
  older.nprobe = 123;
  REQUIRE_OK(quash_measure(c.get(), nullptr, &older));
  CHECK(older.recall == report.recall);
  CHECK(older.nprobe == 123);

  quash_measure_options options = Options();
  options.sample = 20;
  options.seed = 7;
  const quash_measure_report sampled = Measure(c.get(), &options);
  CHECK(sampled.queries == 20);
  CHECK(sampled.recall == Measure(c.get(), &options).recall);  // the same sample
  const auto queries = RandomVectors(30, kDim, 5);
  options.queries = queries.data();
  options.nq = 30;
  options.k = 1;
  CHECK(Measure(c.get(), &options).queries == 30);
}

TEST_CASE("widths found for a target are kept when asked, and shown by EXPLAIN") {
  const TempDir dir;
  Db db = Open(dir / "a.qdb");
  Collection c = Filled(db.get());
  quash_measure_options options = Options();
  options.target_recall = 0.95;
  options.sample = 50;
  const quash_measure_report found = Measure(c.get(), &options);
  CHECK(found.recall >= 0.95);
  const auto explain = [&] {
    quash_query* query = nullptr;
    REQUIRE_OK(quash_query_prepare(c.get(), nullptr, &query));
    const Query owned(query);
    const auto vector = RandomVectors(1, kDim, 3);
    quash_result* result = nullptr;
    REQUIRE_OK(quash_query_run(query, vector.data(), 1, 10, &result));
    quash_result_free(result);
    char* json = nullptr;
    REQUIRE_OK(quash_query_explain(query, &json));
    return TakeJson(json);
  };
  CHECK(explain().at("measured_recall").is_null());
  options.apply = 1;
  const quash_measure_report applied = Measure(c.get(), &options);
  CHECK(applied.candidates == found.candidates);
  const auto check_kept = [&] {
    const nlohmann::json kept = explain();
    CHECK(kept.at("measured_recall") == doctest::Approx(applied.recall));
    CHECK(kept.at("candidates") == applied.candidates);
  };
  check_kept();
  c.reset();
  db.reset();
  db = Open(dir / "a.qdb", QUASH_OPEN_READONLY);
  c = OpenCollection(db.get(), "c");
  check_kept();
  quash_measure_report report{};
  report.struct_size = sizeof(report);
  CHECK_FAILS(quash_measure(c.get(), &options, &report), QUASH_READONLY, "apply");
  options.apply = 0;
  CHECK_OK(quash_measure(c.get(), &options, &report));
}

TEST_CASE("what cannot be measured is refused and the report left alone") {
  const Db db = Open(":memory:");
  const Collection c = Filled(db.get());
  const Unchanged unchanged(db.get());
  quash_measure_report report{};
  report.struct_size = sizeof(report);
  report.recall = 7;
  const auto refuse = [&](const quash_measure_options& options, quash_status status,
                          const char* message) {
    CHECK_FAILS(quash_measure(c.get(), &options, &report), status, message);
    CHECK(report.recall == 7);
  };
  quash_measure_options options = Options();
  options.apply = 1;
  options.k = 0;
  refuse(options, QUASH_INVALID, "k is 0");
  options.k = QUASH_K_MAX + 1;
  refuse(options, QUASH_LIMIT, "k is 16385");
  options.k = SIZE_MAX;
  refuse(options, QUASH_LIMIT, "expected 1 to 16384");
  options = Options();
  options.sample = 0;
  refuse(options, QUASH_INVALID, "sample is 0");
  options.sample = SIZE_MAX;
  refuse(options, QUASH_LIMIT, "sample");
  options = Options();
  for (const double target : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()}) {
    options.target_recall = target;
    refuse(options, QUASH_INVALID, "target_recall");
  }
  options = Options();
  options.nq = 3;
  refuse(options, QUASH_INVALID, "queries is NULL");
  auto queries = RandomVectors(2, kDim, 5);
  options.queries = queries.data();
  options.nq = 0;
  refuse(options, QUASH_INVALID, "nq is 0");
  options.nq = SIZE_MAX;
  refuse(options, QUASH_LIMIT, "nq");
  options.nq = 2;
  queries[kDim + 3] = std::numeric_limits<float>::infinity();
  refuse(options, QUASH_INVALID, "query 1 has inf at coordinate 3");
  options.struct_size = 3;
  refuse(options, QUASH_INVALID, "struct_size is 3");
  CHECK_FAILS(quash_measure(c.get(), nullptr, nullptr), QUASH_INVALID, "out_report");
  CHECK_FAILS(quash_measure(nullptr, nullptr, &report), QUASH_INVALID, "collection");
  report.struct_size = 0;
  CHECK_FAILS(quash_measure(c.get(), nullptr, &report), QUASH_INVALID, "quash_measure_report");
  report.struct_size = sizeof(report);

  quash_collection* raw = nullptr;
  quash_collection_options empty;
  quash_collection_options_init(&empty);
  empty.dim = kDim;
  const Db other = Open(":memory:");
  REQUIRE_OK(quash_collection_create(other.get(), "empty", &empty, &raw));
  const Collection no_rows(raw);
  CHECK_FAILS(quash_measure(raw, nullptr, &report), QUASH_INVALID, "empty");
  const Collection no_tier = Filled(other.get(), QUASH_RERANK_NONE);
  CHECK_FAILS(quash_measure(no_tier.get(), nullptr, &report), QUASH_INVALID, "rerank none");
}

TEST_SUITE_END();

}  // namespace
}  // namespace capi_test
