// Creating, opening, dropping and describing collections; adding fields.
#include "tests/capi/support.h"

namespace capi_test {
namespace {

TEST_SUITE_BEGIN("collection");

std::vector<std::string> List(quash_db* db) {
  char* text = nullptr;
  REQUIRE_OK(quash_collection_list(db, &text));
  return TakeJson(text).get<std::vector<std::string>>();
}

nlohmann::json Describe(quash_collection* collection) {
  char* text = nullptr;
  REQUIRE_OK(quash_collection_describe(collection, &text));
  return TakeJson(text);
}

TEST_CASE("collections are listed in byte order, created, dropped and made again") {
  const TempDir dir;
  Db db = Open(dir / "a.qdb");
  CHECK(List(db.get()).empty());
  const Collection b = Create(db.get(), "b", {});
  const Collection z = Create(db.get(), "Z", {});
  const Collection u = Create(db.get(), "größe 東", {.dim = 3});
  CHECK(List(db.get()) == std::vector<std::string>{"Z", "b", "größe 東"});
  CHECK_FAILS(quash_collection_drop(db.get(), "none"), QUASH_NOT_FOUND, "none");

  Rows rows{.n = 5, .vectors = RandomVectors(5, 16, 1)};
  REQUIRE_OK(quash_add(b.get(), rows.Get(), nullptr));
  REQUIRE_OK(quash_collection_drop(db.get(), "b"));
  CHECK(List(db.get()) == std::vector<std::string>{"Z", "größe 東"});
  uint64_t count = 7;
  CHECK_FAILS(quash_count(b.get(), nullptr, &count), QUASH_NOT_FOUND, "b");
  CHECK_FAILS(quash_add(b.get(), rows.Get(), nullptr), QUASH_NOT_FOUND, "b");
  CHECK(count == 7);

  // The new one has nothing of the old, nor do handles of the old reach it.
  const Collection again = Create(db.get(), "b", {.dim = 8});
  CHECK(Count(again.get()) == 0);
  CHECK_FAILS(quash_count(b.get(), nullptr, &count), QUASH_NOT_FOUND, "b");
  db.reset();
  db = Open(dir / "a.qdb");
  CHECK(List(db.get()) == std::vector<std::string>{"Z", "b", "größe 東"});
  CHECK(Describe(OpenCollection(db.get(), "b").get()).at("dim") == 8);
}

TEST_CASE("describe gives every setting by its name") {
  const Db db = Open(":memory:");
  const Collection c = Create(db.get(), "c",
                              {.dim = 20,
                               .metric = QUASH_METRIC_L2,
                               .id_type = QUASH_ID_STRING,
                               .bits = 2,
                               .rerank = QUASH_RERANK_INT8,
                               .rotation = QUASH_ROTATION_DENSE,
                               .fields = SampleFields()});
  const nlohmann::json description = Describe(c.get());
  CHECK(description.at("name") == "c");
  CHECK(description.at("dim") == 20);
  CHECK(description.at("metric") == "l2");
  CHECK(description.at("id_type") == "string");
  CHECK(description.at("bits") == 2);
  CHECK(description.at("rerank") == "int8");
  CHECK(description.at("rotation") == "dense");
  CHECK(description.at("seed") == 42);
  CHECK(description.at("rows") == 0);
  REQUIRE(description.at("fields").size() == 6);
  CHECK(description["fields"][0] == nlohmann::json{{"name", "bucket"}, {"type", "int"}});
  CHECK(description["fields"][4] == nlohmann::json{{"name", "tags"}, {"type", "string[]"}});
  CHECK(description["fields"][5] == nlohmann::json{{"name", "sizes"}, {"type", "int[]"}});
}

TEST_CASE("partition_rows is kept; callers of an older header get the default") {
  const TempDir dir;
  Db db = Open(dir / "a.qdb");
  quash_collection_options options;
  quash_collection_options_init(&options);
  options.dim = 4;
  const auto create = [&](const char* name, uint64_t partition_rows, size_t struct_size) {
    options.partition_rows = partition_rows;
    options.struct_size = struct_size;
    REQUIRE_OK(quash_collection_create(db.get(), name, &options, nullptr));
  };
  create("default", 0, sizeof(options));
  create("least", 1000, sizeof(options));
  create("large", UINT64_MAX - 1, sizeof(options));
  create("never", UINT64_MAX, sizeof(options));
  create("older", 5, offsetof(quash_collection_options, partition_rows));
  const auto check = [&] {
    const auto stored = [&](const char* name) {
      return Describe(OpenCollection(db.get(), name).get()).at("partition_rows");
    };
    CHECK(stored("default") == 100000);
    CHECK(stored("least") == 1000);
    CHECK(stored("large") == UINT64_MAX - 1);
    CHECK(stored("never").is_null());
    CHECK(stored("older") == 100000);
  };
  check();
  db.reset();
  db = Open(dir / "a.qdb");
  check();
}

TEST_CASE("statistics follow the rows") {
  const TempDir dir;
  const Db db = Open(dir / "a.qdb");
  const Collection c = Create(db.get(), "c", {.rerank = QUASH_RERANK_F16});
  const auto stats = [&] {
    quash_collection_info info{};
    info.struct_size = sizeof(info);
    REQUIRE_OK(quash_collection_stats(c.get(), &info));
    return info;
  };
  const quash_collection_info empty = stats();
  CHECK(empty.dim == 16);
  CHECK(empty.bits == 4);
  CHECK(empty.metric == QUASH_METRIC_COSINE);
  CHECK(empty.rerank == QUASH_RERANK_F16);
  CHECK(empty.rows == 0);
  Rows rows{.n = 5000, .vectors = RandomVectors(5000, 16, 1)};
  REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
  const quash_collection_info full = stats();
  CHECK(full.rows == 5000);
  CHECK(full.dead_rows == 0);
  CHECK(full.generation > empty.generation);
  CHECK(full.lists == 0);  // fewer rows than partition_rows
  CHECK(full.indexed_rows == 0);
  CHECK(full.list_bytes == 0);
  REQUIRE_OK(quash_compact(db.get()));
  const quash_collection_info sealed = stats();
  CHECK(sealed.segments >= 1);
  CHECK(sealed.tail_rows == 0);
  CHECK(sealed.code_bytes >= 5000 * 16 / 2);
  CHECK(sealed.rerank_bytes >= 5000 * 16 * 2);
  CHECK(sealed.hot_bytes >= 5000 * 16 / 8);
  CHECK(sealed.hot_bytes < sealed.code_bytes);

  // A caller of an older header gets the part it knows.
  quash_collection_info older{};
  older.struct_size = offsetof(quash_collection_info, dead_rows);
  older.dead_rows = 123;
  REQUIRE_OK(quash_collection_stats(c.get(), &older));
  CHECK(older.rows == 5000);
  CHECK(older.dead_rows == 123);
}

TEST_CASE("an added field is null in old rows and set in new ones") {
  const TempDir dir;
  Db db = Open(dir / "a.qdb");
  Collection c = Create(db.get(), "c", {.fields = SampleFields()});
  const Collection other_handle = OpenCollection(db.get(), "c");
  REQUIRE_OK(quash_add(c.get(), SampleRows(3000, 16, 0, 1).Get(), nullptr));
  REQUIRE_OK(quash_compact(db.get()));                                         // sealed rows
  REQUIRE_OK(quash_add(c.get(), SampleRows(10, 16, 3000, 2).Get(), nullptr));  // and a tail

  const quash_field field = {"grade", QUASH_FIELD_STRING};
  REQUIRE_OK(quash_collection_add_field(c.get(), &field));
  CHECK_FAILS(quash_collection_add_field(c.get(), &field), QUASH_INVALID, "grade");
  CHECK(Count(other_handle.get(), "grade IS NULL") == 3010);
  CHECK(Count(c.get(), "grade = 'a' OR NOT grade = 'a'") == 0);  // unknown
  Rows graded{.n = 2,
              .vectors = RandomVectors(2, 16, 3),
              .int_ids = {9000, 9001},
              .metadata = {R"({"grade":"a","bucket":5})", R"({"grade":null})"}};
  REQUIRE_OK(quash_add(c.get(), graded.Get(), nullptr));
  // An old row gets it by being replaced.
  Rows replaced{.n = 1,
                .vectors = RandomVectors(1, 16, 4),
                .int_ids = {17},
                .metadata = {R"({"grade":"b"})"}};
  REQUIRE_OK(quash_upsert(c.get(), replaced.Get()));
  const auto check = [&] {
    CHECK(Count(c.get(), "grade = 'a'") == 1);
    CHECK(Count(c.get(), "grade = 'b' AND id = 17") == 1);
    CHECK(Count(c.get(), "grade IS NULL") == 3010);
    CHECK(Count(c.get(), "bucket = 5") == 5);
    const int64_t wanted[] = {3, 9000};
    const quash_ids ids = {2, wanted, nullptr};
    quash_result* result = nullptr;
    REQUIRE_OK(quash_get(c.get(), &ids, QUASH_INCLUDE_METADATA, &result));
    const Result owned(result);
    const auto old_row = nlohmann::json::parse(quash_result_metadata(result, 0));
    CHECK(old_row.value("grade", nlohmann::json(nullptr)).is_null());
    CHECK(old_row.at("bucket") == 3);
    CHECK(nlohmann::json::parse(quash_result_metadata(result, 1)).at("grade") == "a");
  };
  check();
  REQUIRE_OK(quash_compact(db.get()));
  check();
  c.reset();
  db.reset();
  db = Open(dir / "a.qdb");
  c = OpenCollection(db.get(), "c");
  check();
  CHECK_OK(quash_verify(db.get(), nullptr));
}

TEST_SUITE_END();

}  // namespace
}  // namespace capi_test
