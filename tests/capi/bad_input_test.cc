// Wrong arguments: each gives its status and says what was wrong, and the
// database is what it was.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <string>

#include "tests/capi/support.h"

namespace capi_test {
namespace {

TEST_SUITE_BEGIN("bad_input");

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

struct Filled {
  explicit Filled(quash_metric metric = QUASH_METRIC_COSINE, quash_id_type id_type = QUASH_ID_INT64,
                  quash_rerank rerank = QUASH_RERANK_F32)
      : db(Open(":memory:")),
        c(Create(db.get(), "c",
                 {.metric = metric, .id_type = id_type, .rerank = rerank,
                  .fields = SampleFields()})) {
    Rows rows = SampleRows(50, 16, 0, 1);
    if (id_type == QUASH_ID_STRING) {
      for (const int64_t id : rows.int_ids) rows.string_ids.push_back("s" + std::to_string(id));
      rows.int_ids.clear();
    }
    REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
  }
  Db db;
  Collection c;
};

// Both kinds of write refuse the rows.
void Refuse(Filled& f, Rows& rows, quash_status status, const std::string& message) {
  const Unchanged unchanged(f.db.get());
  std::vector<int64_t> ids(rows.n, 77);
  int64_t* out = rows.string_ids.empty() ? ids.data() : nullptr;
  CHECK_FAILS(quash_add(f.c.get(), rows.Get(), out), status, message);
  CHECK_FAILS(quash_upsert(f.c.get(), rows.Get()), status, message);
  for (const int64_t id : ids) CHECK(id == 77);
}

TEST_CASE("vectors that are not finite or have no direction") {
  for (const auto metric : {QUASH_METRIC_IP, QUASH_METRIC_COSINE, QUASH_METRIC_L2}) {
    Filled f(metric);
    for (const float bad : {kNan, kInf, -kInf}) {
      Rows rows = SampleRows(20, 16, 1000, 2);
      rows.vectors[13 * 16 + 5] = bad;
      Refuse(f, rows, QUASH_INVALID, "vector 13 has");
      Refuse(f, rows, QUASH_INVALID, "at coordinate 5, expected finite numbers");
      quash_result* result = nullptr;
      CHECK_FAILS(quash_search(f.c.get(), rows.vectors.data(), 20, 3, nullptr, &result),
                  QUASH_INVALID, "query 13 has");
      CHECK(result == nullptr);
    }
    Rows huge = SampleRows(2, 16, 1000, 2);
    huge.vectors[20] = 3e38f;
    Refuse(f, huge, QUASH_INVALID, "vector 1 has norm");
  }
  for (const auto metric : {QUASH_METRIC_IP, QUASH_METRIC_L2}) {
    Filled f(metric, QUASH_ID_INT64, QUASH_RERANK_F16);
    Rows rows = SampleRows(2, 16, 1000, 2);
    rows.vectors[17] = -65505.0f;
    Refuse(f, rows, QUASH_INVALID, "vector 1 has -65505 at coordinate 1, the float16 rerank tier");
  }
  Filled f(QUASH_METRIC_COSINE);
  Rows rows = SampleRows(3, 16, 1000, 2);
  std::fill(rows.vectors.begin() + 32, rows.vectors.end(), 0.0f);
  Refuse(f, rows, QUASH_INVALID, "vector 2 has norm 0: cosine is not defined");
  quash_result* result = nullptr;
  CHECK_FAILS(quash_search(f.c.get(), rows.vectors.data(), 3, 3, nullptr, &result), QUASH_INVALID,
              "query 2 has norm 0");
}

TEST_CASE("ids") {
  Filled f;
  Rows rows = SampleRows(5, 16, 1000, 2);
  rows.int_ids[4] = 1001;
  Refuse(f, rows, QUASH_INVALID, "id 1001 occurs more than once in the batch");
  rows = SampleRows(1, 16, 1000, 2);
  rows.int_ids.clear();
  {
    const Unchanged unchanged(f.db.get());
    CHECK_FAILS(quash_upsert(f.c.get(), rows.Get()), QUASH_MISUSE, "int64 ids");
    rows.string_ids = {"x"};
    CHECK_FAILS(quash_add(f.c.get(), rows.Get(), nullptr), QUASH_MISUSE, "int64 ids");
  }

  Filled s(QUASH_METRIC_COSINE, QUASH_ID_STRING);
  Rows named = SampleRows(2, 16, 0, 3);
  named.int_ids.clear();
  named.string_ids = {"x", "x"};
  Refuse(s, named, QUASH_INVALID, "id 'x' occurs more than once in the batch");
  named.string_ids = {"x", ""};
  Refuse(s, named, QUASH_INVALID, "id 1 is empty");
  named.string_ids = {"x", "\xff"};
  Refuse(s, named, QUASH_INVALID, "id 1 is not valid UTF-8");
  named.string_ids = {std::string(QUASH_ID_BYTES_MAX + 1, 'x'), "y"};
  Refuse(s, named, QUASH_LIMIT, "id 0 is longer than 1024 bytes");
  const char* null_id[] = {"x", nullptr};
  quash_rows raw = *named.Get();
  raw.string_ids = null_id;
  const Unchanged unchanged(s.db.get());
  CHECK_FAILS(quash_add(s.c.get(), &raw, nullptr), QUASH_INVALID, "id 1 is NULL");
  named.string_ids = {"x", "y"};
  int64_t out[2];
  CHECK_FAILS(quash_add(s.c.get(), named.Get(), out), QUASH_MISUSE, "out_ids");
  named.string_ids.clear();
  named.int_ids = {1, 2};
  CHECK_FAILS(quash_upsert(s.c.get(), named.Get()), QUASH_MISUSE, "string ids");
  const int64_t id = 1;
  const quash_ids ids = {1, &id, nullptr};
  quash_result* result = nullptr;
  CHECK_FAILS(quash_get(s.c.get(), &ids, 0, &result), QUASH_MISUSE, "string ids");
  int64_t into[1];
  float scores[1];
  CHECK_FAILS(
      quash_search_into(s.c.get(), named.vectors.data(), 1, 1, nullptr, into, scores, nullptr),
      QUASH_MISUSE, "string ids");
}

TEST_CASE("metadata") {
  Filled f;
  const auto refuse = [&](const std::string& metadata, quash_status status,
                          const std::string& message) {
    CAPTURE(metadata);
    Rows rows = SampleRows(3, 16, 1000, 2);
    rows.metadata[1] = metadata;
    Refuse(f, rows, status, message);
  };
  refuse(R"({"bucket":"x"})", QUASH_TYPE, "row 1: field \"bucket\" is \"x\"");
  refuse(R"({"bucket":1.5})", QUASH_TYPE, "expected a 64-bit integer");
  refuse(R"({"bucket":9223372036854775808})", QUASH_TYPE, "9223372036854775808");
  refuse(R"({"lang":5})", QUASH_TYPE, "expected a string");
  refuse(R"({"price":1e999})", QUASH_TYPE, "expected a finite number");
  refuse(R"({"price":NaN})", QUASH_INVALID, "row 1 is not a valid JSON object");
  refuse(R"({"fresh":1})", QUASH_TYPE, "true or false");
  refuse(R"({"tags":"x"})", QUASH_TYPE, "an array of strings");
  refuse(R"({"tags":["x",1]})", QUASH_TYPE, "an array of strings");
  refuse(R"({"tags":[["x"]]})", QUASH_TYPE, "an array of strings");
  refuse(R"({"sizes":[1.5]})", QUASH_TYPE, "an array of 64-bit integers");
  refuse(R"({"bukket":1})", QUASH_NOT_FOUND, "did you mean \"bucket\"");
  refuse(R"({"bucket":1,"bucket":2})", QUASH_INVALID, "twice");
  refuse(R"([1])", QUASH_INVALID, "expected a JSON object");
  refuse(R"({"bucket":1)", QUASH_INVALID, "byte");
  refuse(R"({} x)", QUASH_INVALID, "byte");
  refuse("", QUASH_INVALID, "byte");
  refuse("{\"lang\":\"\xc3\"}", QUASH_INVALID, "not valid UTF-8");
  refuse(std::string(100000, '['), QUASH_INVALID, "expected a JSON object");
  refuse(R"({"lang":")" + std::string(QUASH_METADATA_BYTES_MAX, 'x') + R"("})", QUASH_LIMIT,
         "metadata of row 1 is longer than 1048576 bytes");
  Rows rows = SampleRows(2, 16, 1000, 2);
  rows.documents = {std::nullopt, "\xe2\x82"};
  Refuse(f, rows, QUASH_INVALID, "document of row 1 is not valid UTF-8");
  rows.documents = {std::nullopt, std::string(QUASH_DOCUMENT_BYTES_MAX + 1, 'x')};
  Refuse(f, rows, QUASH_LIMIT, "document of row 1 is longer than 16777216 bytes");
}

TEST_CASE("sizes beyond the limits") {
  Filled f;
  const Unchanged unchanged(f.db.get());
  const auto vector = RandomVectors(1, 16, 1);
  quash_rows rows;
  quash_rows_init(&rows);
  rows.vectors = vector.data();  // never read: refused by the count
  for (const size_t n : {size_t{QUASH_BATCH_ROWS_MAX} + 1, size_t{1} << 40, SIZE_MAX}) {
    rows.n = n;
    CHECK_FAILS(quash_add(f.c.get(), &rows, nullptr), QUASH_LIMIT, "expected at most 16777216");
  }
  rows.n = QUASH_BATCH_ROWS_MAX;
  CHECK_FAILS(quash_add(f.c.get(), &rows, nullptr), QUASH_LIMIT, "expected at most 268435456");
  quash_result* result = nullptr;
  CHECK_FAILS(quash_search(f.c.get(), vector.data(), 1, 0, nullptr, &result), QUASH_INVALID,
              "k is 0");
  for (const size_t k : {size_t{QUASH_K_MAX} + 1, size_t{1} << 32, SIZE_MAX}) {
    CHECK_FAILS(quash_search(f.c.get(), vector.data(), 1, k, nullptr, &result), QUASH_LIMIT,
                "expected 1 to 16384");
  }
  for (const size_t nq : {size_t{QUASH_BATCH_ROWS_MAX} + 1, SIZE_MAX / 16, SIZE_MAX}) {
    CHECK_FAILS(quash_search(f.c.get(), vector.data(), nq, 10, nullptr, &result), QUASH_LIMIT,
                "queries");
  }
  const int64_t id = 0;
  for (const size_t n : {size_t{QUASH_BATCH_ROWS_MAX} + 1, SIZE_MAX}) {
    const quash_ids ids = {n, &id, nullptr};
    uint64_t deleted = 77;
    uint8_t found = 77;
    CHECK_FAILS(quash_delete(f.c.get(), &ids, &deleted), QUASH_LIMIT, "16777216");
    CHECK_FAILS(quash_contains(f.c.get(), &ids, &found), QUASH_LIMIT, "16777216");
    CHECK_FAILS(quash_get(f.c.get(), &ids, 0, &result), QUASH_LIMIT, "16777216");
    CHECK_FAILS(quash_search_by_id(f.c.get(), &ids, 1, nullptr, &result), QUASH_LIMIT, "16777216");
    CHECK(deleted == 77);
    CHECK(found == 77);
  }
  const int64_t unknown = 12345;
  const quash_ids ids = {1, &unknown, nullptr};
  CHECK_FAILS(quash_search_by_id(f.c.get(), &ids, 1, nullptr, &result), QUASH_NOT_FOUND, "12345");
  quash_iterator* iterator = nullptr;
  REQUIRE_OK(quash_iterate(f.c.get(), nullptr, 0, &iterator));
  const Iterator owned(iterator);
  CHECK_FAILS(quash_iterator_next(iterator, 0, &result), QUASH_INVALID, "max_rows");
  CHECK(result == nullptr);
}

TEST_CASE("search options") {
  Filled f;
  const Collection codes = Create(f.db.get(), "codes", {.bits = 1, .rerank = QUASH_RERANK_NONE});
  const Unchanged unchanged(f.db.get());
  const auto vector = RandomVectors(1, 16, 1);
  quash_search_options options;
  quash_result* result = nullptr;
  const auto refuse = [&](quash_collection* c, quash_status status, const char* message) {
    CHECK_FAILS(quash_search(c, vector.data(), 1, 1, &options, &result), status, message);
    quash_query* query = nullptr;
    CHECK_FAILS(quash_query_prepare(c, &options, &query), status, message);
    CHECK(result == nullptr);
    CHECK(query == nullptr);
    quash_search_options_init(&options);
  };
  quash_search_options_init(&options);
  options.min_score = std::nan("");
  refuse(f.c.get(), QUASH_INVALID, "min_score is NaN");
  options.planes = 3;
  refuse(f.c.get(), QUASH_INVALID, "planes is 3");
  options.planes = 2;
  refuse(codes.get(), QUASH_INVALID, "planes is 2");
  options.include = 8;
  refuse(f.c.get(), QUASH_INVALID, "include");
  for (const double recall : {-0.01, 1.01, std::nan(""), -std::numeric_limits<double>::infinity()}) {
    options.recall = recall;
    refuse(f.c.get(), QUASH_INVALID, "recall is");
  }
  options.exact = 1;
  refuse(codes.get(), QUASH_INVALID, "rerank none");
  options.has_cursor = 1;
  options.cursor_score = kNan;
  refuse(f.c.get(), QUASH_INVALID, "cursor_score is NaN");
  for (const size_t size : {size_t{0}, size_t{7}, sizeof(options) + 1, SIZE_MAX}) {
    options.struct_size = size;
    refuse(f.c.get(), QUASH_INVALID, "quash_search_options.struct_size is");
  }
  Filled s(QUASH_METRIC_IP, QUASH_ID_STRING);
  options.has_cursor = 1;
  refuse(s.c.get(), QUASH_MISUSE, "cursor_string_id");
}

TEST_CASE("struct sizes") {
  Filled f;
  const Unchanged unchanged(f.db.get());
  quash_open_options open;
  quash_open_options_init(&open);
  quash_db* db = nullptr;
  quash_collection_options collection;
  quash_collection_options_init(&collection);
  collection.dim = 3;
  Rows rows = SampleRows(1, 16, 1000, 2);
  quash_rows view = *rows.Get();
  quash_collection_info info{};
  for (const size_t size : {size_t{0}, size_t{7}, size_t{1000}, SIZE_MAX}) {
    open.struct_size = collection.struct_size = view.struct_size = info.struct_size = size;
    CHECK_FAILS(quash_open(":memory:", &open, &db), QUASH_INVALID, "quash_open_options_init()");
    CHECK_FAILS(quash_collection_create(f.db.get(), "x", &collection, nullptr), QUASH_INVALID,
                "quash_collection_options_init()");
    CHECK_FAILS(quash_add(f.c.get(), &view, nullptr), QUASH_INVALID, "quash_rows_init()");
    CHECK_FAILS(quash_collection_stats(f.c.get(), &info), QUASH_INVALID, "quash_collection_info");
  }
  CHECK(db == nullptr);
  open.struct_size = sizeof(open);
  open.mode = static_cast<quash_open_mode>(9);
  CHECK_FAILS(quash_open(":memory:", &open, &db), QUASH_INVALID, "mode is 9");
  open.mode = QUASH_OPEN_CREATE;
  open.durability = static_cast<quash_durability>(-1);
  CHECK_FAILS(quash_open(":memory:", &open, &db), QUASH_INVALID, "durability");
  open.durability = QUASH_DURABILITY_FULL;
  open.memory_budget_bytes = 1000;
  CHECK_FAILS(quash_open(":memory:", &open, &db), QUASH_INVALID, "memory_budget_bytes is 1000");
}

TEST_CASE("collection options and names") {
  Filled f;
  const Unchanged unchanged(f.db.get());
  quash_collection_options options;
  const auto defaults = [&] {
    quash_collection_options_init(&options);
    options.dim = 3;
  };
  const auto refuse = [&](const char* name, quash_status status, const char* message) {
    quash_collection* collection = nullptr;
    CHECK_FAILS(quash_collection_create(f.db.get(), name, &options, &collection), status, message);
    CHECK(collection == nullptr);
    defaults();
  };
  defaults();
  refuse("c", QUASH_EXISTS, "\"c\"");
  refuse("", QUASH_INVALID, "empty");
  refuse("a\nb", QUASH_INVALID, "control character");
  refuse("\xff", QUASH_INVALID, "UTF-8");
  refuse(std::string(256, 'x').c_str(), QUASH_LIMIT, "255");
  options.dim = 0;
  refuse("x", QUASH_INVALID, "dim is 0");
  for (const uint64_t rows : {1, 999}) {
    options.partition_rows = rows;
    refuse("x", QUASH_INVALID, "expected 0 or at least 1000");
  }
  options.dim = QUASH_DIM_MAX + 1;
  refuse("x", QUASH_LIMIT, "dim is 65537");
  options.dim = UINT32_MAX;
  refuse("x", QUASH_LIMIT, "expected 1 to 65536");
  for (const uint32_t bits : {0u, 5u, 8u, 255u}) {
    options.bits = bits;
    refuse("x", QUASH_INVALID, "expected 1 to 4");
  }
  options.metric = static_cast<quash_metric>(3);
  refuse("x", QUASH_INVALID, "metric is 3");
  options.id_type = static_cast<quash_id_type>(2);
  refuse("x", QUASH_INVALID, "id_type is 2");
  options.rerank = static_cast<quash_rerank>(4);
  refuse("x", QUASH_INVALID, "rerank is 4");
  options.rotation = static_cast<quash_rotation>(2);
  refuse("x", QUASH_INVALID, "rotation is 2");
  options.rotation = QUASH_ROTATION_DENSE;
  options.dim = 5000;
  refuse("x", QUASH_LIMIT, "4096");
  options.num_fields = 1;
  refuse("x", QUASH_INVALID, "fields");
  options.num_fields = SIZE_MAX;
  refuse("x", QUASH_LIMIT, "256");
  struct BadField {
    quash_field field;
    quash_status status;
    const char* message;
  };
  const std::string long_name(256, 'x');
  const BadField bad_fields[] = {
      {{nullptr, QUASH_FIELD_INT}, QUASH_INVALID, "NULL"},
      {{"", QUASH_FIELD_INT}, QUASH_INVALID, "field name"},
      {{"1a", QUASH_FIELD_INT}, QUASH_INVALID, "1a"},
      {{"a b", QUASH_FIELD_INT}, QUASH_INVALID, "a b"},
      {{"id", QUASH_FIELD_INT}, QUASH_INVALID, "\"id\""},
      {{"Between", QUASH_FIELD_INT}, QUASH_INVALID, "keyword"},
      {{"x", static_cast<quash_field_type>(6)}, QUASH_INVALID, "type 6"},
      {{long_name.c_str(), QUASH_FIELD_INT}, QUASH_LIMIT, "255"},
  };
  for (const BadField& bad : bad_fields) {
    options.fields = &bad.field;
    options.num_fields = 1;
    refuse("x", bad.status, bad.message);
    CHECK_FAILS(quash_collection_add_field(f.c.get(), &bad.field), bad.status, bad.message);
  }
  const quash_field twice[] = {{"a", QUASH_FIELD_INT}, {"a", QUASH_FIELD_BOOL}};
  options.fields = twice;
  options.num_fields = 2;
  refuse("x", QUASH_INVALID, "twice");
  quash_collection* collection = nullptr;
  CHECK_FAILS(quash_collection_open(f.db.get(), "none", &collection), QUASH_NOT_FOUND, "none");
  CHECK(collection == nullptr);
}

TEST_CASE("paths that are no database") {
  const TempDir dir;
  quash_open_options options;
  quash_open_options_init(&options);
  quash_db* db = nullptr;
  for (const auto mode : {QUASH_OPEN_READWRITE, QUASH_OPEN_READONLY, QUASH_OPEN_FOLLOWER}) {
    options.mode = mode;
    CHECK_FAILS(quash_open((dir / "none.qdb").c_str(), &options, &db), QUASH_NOT_FOUND, "none.qdb");
    CHECK_FALSE(std::filesystem::exists(dir / "none.qdb"));
  }
  options.mode = QUASH_OPEN_CREATE;
  CHECK_FAILS(quash_open((dir / "no/such/a.qdb").c_str(), &options, &db), QUASH_IO, "no/such");
  std::ofstream(dir / "file") << "hello";
  std::filesystem::create_directory(dir / "foreign");
  std::ofstream((dir / "foreign") + "/notes.txt") << "mine";
  for (const auto mode : {QUASH_OPEN_CREATE, QUASH_OPEN_READWRITE, QUASH_OPEN_READONLY}) {
    options.mode = mode;
    CHECK_FAILS(quash_open((dir / "file").c_str(), &options, &db), QUASH_CORRUPT, "file");
    CHECK_FAILS(quash_open((dir / "foreign").c_str(), &options, &db), QUASH_CORRUPT, "foreign");
    // A foreign directory is left alone.
    size_t entries = 0;
    for (const auto& entry : std::filesystem::directory_iterator(dir / "foreign")) {
      entries += !entry.path().empty();
    }
    CHECK(entries == 1);
  }
  CHECK(db == nullptr);
  // A newer format is left as it is.
  REQUIRE_OK(quash_close(Open(dir / "newer.qdb").release()));
  const std::string format = dir / "newer.qdb/quashdb.format";
  std::ofstream(format) << "QuashDB format 999\n";
  for (const auto mode : {QUASH_OPEN_CREATE, QUASH_OPEN_READONLY, QUASH_OPEN_FOLLOWER}) {
    options.mode = mode;
    CHECK_FAILS(quash_open((dir / "newer.qdb").c_str(), &options, &db), QUASH_VERSION, "999");
  }
  std::string kept;
  std::getline(std::ifstream(format), kept);
  CHECK(kept == "QuashDB format 999");
  CHECK_FAILS(quash_restore((dir / "newer.qdb").c_str(), (dir / "copy.qdb").c_str()), QUASH_VERSION,
              "999");
  CHECK_FALSE(std::filesystem::exists(dir / "copy.qdb"));
  // An empty directory may be made into one, as mkdtemp() leaves it.
  std::filesystem::create_directory(dir / "empty");
  options.mode = QUASH_OPEN_CREATE;
  REQUIRE_OK(quash_open((dir / "empty").c_str(), &options, &db));
  CHECK_OK(quash_close(db));
}

TEST_SUITE_END();

}  // namespace
}  // namespace capi_test
