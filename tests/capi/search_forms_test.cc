// The other forms of searching: into buffers, by id, prepared; includes; and
// what they share with quash_search().
#include <algorithm>
#include <cmath>

#include "tests/capi/support.h"

namespace capi_test {
namespace {

TEST_SUITE_BEGIN("search");

constexpr size_t kDim = 24;

struct Filled {
  Filled()
      : db(Open(":memory:")), c(Create(db.get(), "c", {.dim = kDim, .fields = SampleFields()})) {
    rows = SampleRows(4000, kDim, 0, 5);
    REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
  }
  Db db;
  Collection c;
  Rows rows;
};

TEST_CASE("search_into gives what search gives, padded") {
  const Filled f;
  const auto queries = RandomVectors(9, kDim, 6);
  quash_search_options options;
  quash_search_options_init(&options);
  options.filter = "bucket < 2";  // 8 rows
  quash_result* raw = nullptr;
  REQUIRE_OK(quash_search(f.c.get(), queries.data(), 9, 12, &options, &raw));
  const Result result(raw);
  std::vector<int64_t> ids(9 * 12, 77);
  std::vector<float> scores(9 * 12, 77);
  std::vector<uint32_t> counts(9, 77);
  REQUIRE_OK(quash_search_into(f.c.get(), queries.data(), 9, 12, &options, ids.data(),
                               scores.data(), counts.data()));
  for (size_t q = 0; q < 9; ++q) {
    REQUIRE(counts[q] == 8);
    CHECK(std::vector(ids.begin() + q * 12, ids.begin() + q * 12 + 8) == IntIds(raw, q));
    CHECK(std::vector(scores.begin() + q * 12, scores.begin() + q * 12 + 8) == Scores(raw, q));
    for (size_t i = 8; i < 12; ++i) {
      CHECK(ids[q * 12 + i] == -1);
      CHECK(std::isnan(scores[q * 12 + i]));
    }
  }
  CHECK_OK(quash_search_into(f.c.get(), queries.data(), 9, 12, nullptr, ids.data(), scores.data(),
                             nullptr));
}

TEST_CASE("nprobe plays no role without an index; older callers have no such options") {
  const Filled f;
  const auto query = RandomVectors(1, kDim, 6);
  quash_search_options options;
  quash_search_options_init(&options);
  const auto ids = [&] {
    quash_result* raw = nullptr;
    REQUIRE_OK(quash_search(f.c.get(), query.data(), 1, 10, &options, &raw));
    return IntIds(Result(raw).get());
  };
  const std::vector<int64_t> expected = ids();
  options.recall = 1;
  for (const uint32_t nprobe : {0u, 1u, UINT32_MAX}) {
    options.nprobe = nprobe;
    CHECK(ids() == expected);
  }
  options.recall = 55;  // refused if it were read
  options.struct_size = offsetof(quash_search_options, nprobe);
  CHECK(ids() == expected);
}

TEST_CASE("a batch of queries gives what each alone gives, on any number of threads") {
  const Filled f;
  const auto queries = RandomVectors(40, kDim, 6);
  quash_search_options options;
  quash_search_options_init(&options);
  quash_result* raw = nullptr;
  REQUIRE_OK(quash_search(f.c.get(), queries.data(), 40, 10, nullptr, &raw));
  const Result batch(raw);
  for (const uint32_t threads : {1u, 2u, 5u}) {
    CAPTURE(threads);
    options.threads = threads;
    for (size_t q = 0; q < 40; ++q) {
      REQUIRE_OK(quash_search(f.c.get(), queries.data() + q * kDim, 1, 10, &options, &raw));
      const Result alone(raw);
      CHECK(IntIds(raw) == IntIds(batch.get(), q));
      CHECK(Scores(raw) == Scores(batch.get(), q));
    }
  }
}

TEST_CASE("long results of a batch, filled by several threads, are those of each query") {
  const Filled f;
  constexpr size_t kQueries = 7, kK = 3000;  // not as many to each thread
  const auto queries = RandomVectors(kQueries, kDim, 6);
  quash_search_options options;
  quash_search_options_init(&options);
  options.threads = 3;
  options.include = QUASH_INCLUDE_VECTORS | QUASH_INCLUDE_METADATA;
  quash_result* raw = nullptr;
  REQUIRE_OK(quash_search(f.c.get(), queries.data(), kQueries, kK, &options, &raw));
  const Result batch(raw);
  const size_t* offsets = quash_result_offsets(batch.get());
  options.threads = 1;
  for (size_t q = 0; q < kQueries; ++q) {
    CAPTURE(q);
    REQUIRE_OK(quash_search(f.c.get(), queries.data() + q * kDim, 1, kK, &options, &raw));
    const Result alone(raw);
    REQUIRE(offsets[q + 1] - offsets[q] == kK);
    CHECK(IntIds(raw) == IntIds(batch.get(), q));
    CHECK(Scores(raw) == Scores(batch.get(), q));
    const float* of_batch = quash_result_vectors(batch.get()) + offsets[q] * kDim;
    CHECK(std::equal(of_batch, of_batch + kK * kDim, quash_result_vectors(raw)));
    for (const size_t row : {size_t{0}, kK / 2, kK - 1}) {
      CHECK(std::string(quash_result_metadata(batch.get(), offsets[q] + row)) ==
            quash_result_metadata(raw, row));
    }
  }
}

TEST_CASE("the same search is the same every time and after compaction") {
  const Filled f;
  const auto query = RandomVectors(1, kDim, 6);
  const auto search = [&] {
    quash_result* raw = nullptr;
    REQUIRE_OK(quash_search(f.c.get(), query.data(), 1, 20, nullptr, &raw));
    const Result result(raw);
    return std::pair(IntIds(raw), Scores(raw));
  };
  const auto first = search();
  for (int i = 0; i < 5; ++i) CHECK(search() == first);
  REQUIRE_OK(quash_compact(f.db.get()));
  CHECK(search().first.front() == first.first.front());
}

TEST_CASE("results carry what was asked to be included") {
  Filled f;
  const auto queries = RandomVectors(3, kDim, 6);
  quash_search_options options;
  quash_search_options_init(&options);
  options.include = QUASH_INCLUDE_METADATA | QUASH_INCLUDE_DOCUMENTS | QUASH_INCLUDE_VECTORS;
  quash_result* raw = nullptr;
  REQUIRE_OK(quash_search(f.c.get(), queries.data(), 3, 10, &options, &raw));
  const Result result(raw);
  const size_t* offsets = quash_result_offsets(raw);
  REQUIRE(offsets[3] == 30);
  const int64_t* ids = quash_result_int_ids(raw);
  for (size_t row = 0; row < 30; ++row) {
    const int64_t id = ids[row];
    CHECK(nlohmann::json::parse(quash_result_metadata(raw, row)).at("bucket") == id % 1000);
    const char* document = quash_result_document(raw, row);
    REQUIRE((document != nullptr) == (id % 2 == 0));
    if (document != nullptr) CHECK(std::string(document) == "document " + std::to_string(id));
    // Of the direction given: cosine leaves lengths open.
    CHECK(ExactScore(QUASH_METRIC_COSINE, quash_result_vectors(raw) + row * kDim,
                     f.rows.vectors.data() + id * kDim, kDim) == doctest::Approx(1).epsilon(1e-5));
  }
}

TEST_CASE("search by id uses the stored vector and finds the row itself") {
  const Filled f;
  const int64_t wanted[] = {17, 3999};
  const quash_ids ids = {2, wanted, nullptr};
  quash_result* raw = nullptr;
  REQUIRE_OK(quash_search_by_id(f.c.get(), &ids, 5, nullptr, &raw));
  const Result by_id(raw);
  REQUIRE(quash_result_num_queries(raw) == 2);
  REQUIRE_OK(quash_get(f.c.get(), &ids, QUASH_INCLUDE_VECTORS, &raw));
  const Result stored(raw);
  REQUIRE_OK(quash_search(f.c.get(), quash_result_vectors(raw), 2, 5, nullptr, &raw));
  const Result by_vector(raw);
  for (size_t q = 0; q < 2; ++q) {
    CHECK(IntIds(by_id.get(), q).at(0) == wanted[q]);
    CHECK(Scores(by_id.get(), q)[0] == doctest::Approx(1).epsilon(1e-5));
    CHECK(IntIds(by_id.get(), q) == IntIds(by_vector.get(), q));
    CHECK(Scores(by_id.get(), q) == Scores(by_vector.get(), q));
  }
}

TEST_CASE("a prepared query runs often, sees new rows and explains itself") {
  const Filled f;
  quash_search_options options;
  quash_search_options_init(&options);
  const std::string filter = "lang = 'de' AND bucket < 500";
  options.include = QUASH_INCLUDE_METADATA;
  std::string text = filter;  // copied by the library: overwritten below
  options.filter = text.c_str();
  quash_query* raw_query = nullptr;
  REQUIRE_OK(quash_query_prepare(f.c.get(), &options, &raw_query));
  const Query query(raw_query);
  text.assign(text.size(), '?');
  options.filter = nullptr;

  char* json = nullptr;
  CHECK_FAILS(quash_query_explain(raw_query, &json), QUASH_MISUSE, "quash_query_run");
  const auto vectors = RandomVectors(2, kDim, 8);
  quash_result* raw = nullptr;
  REQUIRE_OK(quash_query_run(raw_query, vectors.data(), 2, 7, &raw));
  const Result first(raw);
  REQUIRE(quash_result_offsets(raw)[2] == 14);
  for (size_t row = 0; row < 14; ++row) {
    CHECK(nlohmann::json::parse(quash_result_metadata(raw, row)).at("lang") == "de");
  }

  REQUIRE_OK(quash_query_explain(raw_query, &json));
  const nlohmann::json explain = TakeJson(json);
  CHECK(explain.at("device") == "cpu");
  CHECK(explain.at("kernel") == quash_isa());
  CHECK(explain.at("filter") == filter);
  CHECK(explain.at("rows") == 4000);
  CHECK(explain.at("matching_rows") == 400);
  CHECK(explain.at("selectivity") == doctest::Approx(0.1));
  CHECK(explain.at("measured_recall").is_null());
  CHECK(explain.at("lists") == 0);
  CHECK(explain.at("nprobe") == 0);
  CHECK(explain.at("indexed_rows") == 0);
  CHECK(explain.at("recall_target").is_null());
  CHECK(explain.at("recall_at_nprobe").is_null());
  CHECK(explain.at("elapsed_us").get<double>() > 0);
  CHECK(explain.at("bytes_read").get<uint64_t>() > 0);
  const std::string mode = explain.at("mode");
  CHECK((mode == "staged" || mode == "direct"));
  REQUIRE_FALSE(explain.at("stages").empty());
  uint64_t bytes = 0;
  for (const auto& stage : explain["stages"]) {
    CHECK(stage.at("rows_out").get<uint64_t>() <= stage.at("rows_in").get<uint64_t>());
    bytes += stage.at("bytes").get<uint64_t>();
  }
  CHECK(bytes == explain.at("bytes_read").get<uint64_t>());

  // A row made to be nearest is found by the next run.
  Rows nearest{.n = 1,
               .vectors = {vectors.begin(), vectors.begin() + kDim},
               .int_ids = {100000},
               .metadata = {R"({"lang":"de","bucket":1})"}};
  REQUIRE_OK(quash_add(f.c.get(), nearest.Get(), nullptr));
  REQUIRE_OK(quash_query_run(raw_query, vectors.data(), 1, 7, &raw));
  const Result second(raw);
  CHECK(IntIds(raw)[0] == 100000);

  options.exact = 1;
  REQUIRE_OK(quash_query_prepare(f.c.get(), &options, &raw_query));
  const Query exact(raw_query);
  REQUIRE_OK(quash_query_run(raw_query, vectors.data(), 1, 7, &raw));
  const Result third(raw);
  REQUIRE_OK(quash_query_explain(raw_query, &json));
  const nlohmann::json exact_explain = TakeJson(json);
  CHECK(exact_explain.at("mode") == "exact");
  CHECK(exact_explain.at("filter").is_null());
}

TEST_CASE("a query prepared before a collection is dropped says so") {
  Filled f;
  quash_query* raw_query = nullptr;
  REQUIRE_OK(quash_query_prepare(f.c.get(), nullptr, &raw_query));
  const Query query(raw_query);
  REQUIRE_OK(quash_collection_drop(f.db.get(), "c"));
  const auto vector = RandomVectors(1, kDim, 8);
  quash_result* raw = nullptr;
  CHECK_FAILS(quash_query_run(raw_query, vector.data(), 1, 7, &raw), QUASH_NOT_FOUND, "c");
  CHECK(raw == nullptr);
}

TEST_CASE("wider stages never lose against narrow ones") {
  const Filled f;
  const auto queries = RandomVectors(30, kDim, 21);
  quash_search_options options;
  quash_search_options_init(&options);
  options.exact = 1;
  quash_result* raw = nullptr;
  REQUIRE_OK(quash_search(f.c.get(), queries.data(), 30, 10, &options, &raw));
  const Result truth(raw);
  options.exact = 0;
  options.planes = 2;
  double before = 0;
  for (const uint32_t width : {10u, 40u, 400u, 4000u}) {
    options.candidates = options.rerank_candidates = width;
    REQUIRE_OK(quash_search(f.c.get(), queries.data(), 30, 10, &options, &raw));
    const Result result(raw);
    double found = 0;
    for (size_t q = 0; q < 30; ++q) {
      const auto wanted = IntIds(truth.get(), q);
      for (const int64_t id : IntIds(raw, q)) found += std::count(wanted.begin(), wanted.end(), id);
    }
    CAPTURE(width);
    CHECK(found >= before);
    before = found;
  }
  CHECK(before == 300);  // every row was reranked
}

TEST_SUITE_END();

}  // namespace
}  // namespace capi_test
