// Opening, closing, statistics, checkpoint, backup, restore, verify, compact.
#include <sys/stat.h>

#include <fstream>

#include "tests/capi/support.h"

extern "C" size_t capi_c99_functions(void);
extern "C" int capi_c99_session(void);

namespace capi_test {
namespace {

TEST_SUITE_BEGIN("database");

TEST_CASE("the header works from strict C99") {
  CHECK(capi_c99_functions() == 57);
  CHECK(capi_c99_session() == 0);
}

TEST_CASE("version, instruction set, status names") {
  CHECK(std::string(quash_version()) == QUASH_VERSION_STRING);
  const std::string isa = quash_isa();
  CHECK((isa == "scalar" || isa == "avx2" || isa == "avx512" || isa == "avx512vbmi" ||
         isa == "neon"));
  CHECK(std::string(quash_status_name(QUASH_OK)) == "QUASH_OK");
  CHECK(std::string(quash_status_name(QUASH_INTERNAL)) == "QUASH_INTERNAL");
  CHECK(std::string(quash_status_name(static_cast<quash_status>(99))) == "QUASH_UNKNOWN");
  quash_free(nullptr);
}

TEST_CASE("a distance is lower for a better row") {
  CHECK(quash_distance(QUASH_METRIC_IP, 2.0f) == -2.0f);
  CHECK(quash_distance(QUASH_METRIC_COSINE, 0.75f) == 0.25f);
  CHECK(quash_distance(QUASH_METRIC_L2, -9.0f) == 9.0f);
}

TEST_CASE("init functions set sizes and documented defaults") {
  quash_open_options open;
  quash_open_options_init(&open);
  CHECK(open.struct_size == sizeof(open));
  CHECK(open.mode == QUASH_OPEN_CREATE);
  CHECK(open.durability == QUASH_DURABILITY_FULL);
  quash_collection_options collection;
  quash_collection_options_init(&collection);
  CHECK(collection.metric == QUASH_METRIC_COSINE);
  CHECK(collection.bits == 4);
  CHECK(collection.rerank == QUASH_RERANK_F16);
  CHECK(collection.seed == 42);
  quash_measure_options measure;
  quash_measure_options_init(&measure);
  CHECK(measure.sample == 200);
  CHECK(measure.k == 10);
  quash_open_options_init(nullptr);
  quash_collection_options_init(nullptr);
  quash_rows_init(nullptr);
  quash_search_options_init(nullptr);
  quash_measure_options_init(nullptr);
}

TEST_CASE("rows survive closing and reopening in either durability") {
  for (const auto durability : {QUASH_DURABILITY_FULL, QUASH_DURABILITY_NORMAL}) {
    const TempDir dir;
    std::string before;
    {
      const Db db = Open(dir / "a.qdb", QUASH_OPEN_CREATE, durability);
      const Collection rows = Create(db.get(), "rows", {.fields = SampleFields()});
      REQUIRE_OK(quash_add(rows.get(), SampleRows(3000, 16, 0, 1).Get(), nullptr));
      REQUIRE_OK(quash_delete_where(rows.get(), "bucket < 100", nullptr));
      before = Dump(db.get());
    }
    CHECK((Dump(Open(dir / "a.qdb", QUASH_OPEN_READWRITE, durability).get()) == before));
    CHECK((Dump(Open(dir / "a.qdb", QUASH_OPEN_READONLY).get()) == before));
  }
}

TEST_CASE("the directory is private to its owner") {
  const TempDir dir;
  const Db db = Open(dir / "a.qdb");
  struct stat info;
  REQUIRE(stat((dir / "a.qdb").c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0700);
}

TEST_CASE("opening and closing leaves no files behind") {
  const TempDir dir;
  const std::string path = dir / "a.qdb";
  const auto files = [&] {
    const auto entries = std::filesystem::recursive_directory_iterator(path);
    return std::distance(begin(entries), end(entries));
  };
  (void)Create(Open(path).get(), "c", {});
  (void)Open(path);
  const auto before = files();
  for (int i = 0; i < 10; ++i) {
    (void)Open(path, QUASH_OPEN_READWRITE);
    (void)Open(path, QUASH_OPEN_READONLY);
    (void)Open(path, QUASH_OPEN_FOLLOWER);
  }
  CHECK(files() <= before);
}

TEST_CASE("a database in memory is private and goes with its handle") {
  const Db first = Open(":memory:");
  const Db second = Open(":memory:");
  const Collection rows = Create(first.get(), "rows", {});
  char* text = nullptr;
  REQUIRE_OK(quash_collection_list(second.get(), &text));
  CHECK(TakeJson(text).empty());
  CHECK_FALSE(std::filesystem::exists(":memory:"));
}

TEST_CASE("stats give a JSON object of the database") {
  const TempDir dir;
  const Db db = Open(dir / "a.qdb");
  const Collection rows = Create(db.get(), "rows", {.fields = SampleFields()});
  REQUIRE_OK(quash_add(rows.get(), SampleRows(10, 16, 0, 1).Get(), nullptr));
  char* text = nullptr;
  REQUIRE_OK(quash_stats(db.get(), &text));
  const nlohmann::json stats = TakeJson(text);
  CHECK(stats.is_object());
  CHECK(stats.at("path").get<std::string>().find("a.qdb") != std::string::npos);
  REQUIRE(stats.at("collections").size() == 1);
  CHECK(stats.at("collections")[0].at("name") == "rows");
}

TEST_CASE("a checkpoint and a refresh change nothing that is read") {
  const TempDir dir;
  const Db db = Open(dir / "a.qdb");
  const Collection rows = Create(db.get(), "rows", {.fields = SampleFields()});
  REQUIRE_OK(quash_add(rows.get(), SampleRows(500, 16, 0, 1).Get(), nullptr));
  const Unchanged unchanged(db.get());
  CHECK_OK(quash_checkpoint(db.get()));
  CHECK_OK(quash_refresh(db.get()));
}

TEST_CASE("a backup is a database, and a restored one is the same") {
  const TempDir dir;
  const Db db = Open(dir / "a.qdb");
  const Collection rows = Create(db.get(), "rows", {.fields = SampleFields()});
  const Collection names = Create(db.get(), "names", {.dim = 3, .id_type = QUASH_ID_STRING});
  REQUIRE_OK(quash_add(rows.get(), SampleRows(2500, 16, 0, 1).Get(), nullptr));
  Rows named{.n = 2, .vectors = RandomVectors(2, 3, 5), .string_ids = {"a", "b c"}};
  REQUIRE_OK(quash_add(names.get(), named.Get(), nullptr));
  REQUIRE_OK(quash_delete_where(rows.get(), "id < 50", nullptr));
  const std::string before = Dump(db.get());

  REQUIRE_OK(quash_backup(db.get(), (dir / "copy.qdb").c_str()));
  // What is written afterwards is not in the copy.
  REQUIRE_OK(quash_delete_where(rows.get(), "id < 1000", nullptr));
  CHECK((Dump(Open(dir / "copy.qdb", QUASH_OPEN_READONLY).get()) == before));
  REQUIRE_OK(quash_restore((dir / "copy.qdb").c_str(), (dir / "restored.qdb").c_str()));
  const Db restored = Open(dir / "restored.qdb", QUASH_OPEN_READWRITE);
  CHECK((Dump(restored.get()) == before));
  CHECK_OK(quash_verify(restored.get(), nullptr));

  CHECK_FAILS(quash_backup(db.get(), (dir / "copy.qdb").c_str()), QUASH_EXISTS, "copy.qdb");
  CHECK_FAILS(quash_restore((dir / "copy.qdb").c_str(), (dir / "restored.qdb").c_str()),
              QUASH_EXISTS, "restored.qdb");
  CHECK_FAILS(quash_restore((dir / "none.qdb").c_str(), (dir / "new.qdb").c_str()), QUASH_NOT_FOUND,
              "none.qdb");
  CHECK_FALSE(std::filesystem::exists(dir / "new.qdb"));
  CHECK((Dump(restored.get()) == before));

  // A path may end as shells complete it.
  CHECK_FAILS(quash_backup(db.get(), (dir / "copy.qdb/").c_str()), QUASH_EXISTS, "copy.qdb");
  REQUIRE_OK(quash_backup(db.get(), (dir / "other.qdb//").c_str()));
  REQUIRE_OK(quash_restore((dir / "copy.qdb/").c_str(), (dir / "new.qdb/").c_str()));
  CHECK((Dump(Open(dir / "new.qdb", QUASH_OPEN_READONLY).get()) == before));
  CHECK((Dump(Open(dir / "other.qdb", QUASH_OPEN_READONLY).get()) == Dump(db.get())));
  CHECK_FAILS(quash_backup(db.get(), ":memory:"), QUASH_INVALID, ":memory:");
  CHECK_FAILS(quash_restore((dir / "copy.qdb").c_str(), ":memory:"), QUASH_INVALID, ":memory:");
}

TEST_CASE("verify reports what it read") {
  const TempDir dir;
  const Db db = Open(dir / "a.qdb");
  const Collection rows = Create(db.get(), "rows", {.fields = SampleFields()});
  REQUIRE_OK(quash_add(rows.get(), SampleRows(3000, 16, 0, 1).Get(), nullptr));
  REQUIRE_OK(quash_delete_where(rows.get(), "bucket < 10", nullptr));
  char* text = nullptr;
  REQUIRE_OK(quash_verify(db.get(), &text));
  const nlohmann::json report = TakeJson(text);
  CHECK(report.at("ok") == true);
  CHECK(report.at("collections") == 1);
  CHECK(report.at("rows") == 2970);
  CHECK(report.at("bytes").get<uint64_t>() > 0);
  CHECK(report.at("problems").empty());
}

TEST_CASE("compacting gives back dead rows and keeps what is read") {
  const TempDir dir;
  const Db db = Open(dir / "a.qdb");
  const Collection rows = Create(db.get(), "rows", {.fields = SampleFields()});
  for (int64_t first = 0; first < 6000; first += 1500) {
    REQUIRE_OK(quash_add(rows.get(), SampleRows(1500, 16, first, 9 + first).Get(), nullptr));
  }
  REQUIRE_OK(quash_delete_where(rows.get(), "fresh = TRUE", nullptr));
  const auto dump_rows = [&] {
    quash_iterator* iterator = nullptr;
    REQUIRE_OK(quash_iterate(rows.get(), nullptr, QUASH_INCLUDE_VECTORS, &iterator));
    const Iterator owned(iterator);
    quash_result* all = nullptr;
    REQUIRE_OK(quash_iterator_next(iterator, 100000, &all));
    const Result result(all);
    const float* vectors = quash_result_vectors(all);
    const auto ids = IntIds(all);
    return std::pair(ids, std::vector<float>(vectors, vectors + ids.size() * 16));
  };
  const auto before = dump_rows();
  REQUIRE(before.first.size() == 3000);
  REQUIRE_OK(quash_compact(db.get()));
  CHECK(dump_rows() == before);
  quash_collection_info info{};
  info.struct_size = sizeof(info);
  REQUIRE_OK(quash_collection_stats(rows.get(), &info));
  CHECK(info.rows == 3000);
  CHECK(info.dead_rows == 0);
  CHECK(info.tail_rows == 0);
  CHECK_OK(quash_verify(db.get(), nullptr));
}

TEST_CASE("a progress callback is called and can cancel") {
  const TempDir dir;
  const Db db = Open(dir / "a.qdb");
  const Collection rows = Create(db.get(), "rows", {.fields = SampleFields()});
  REQUIRE_OK(quash_add(rows.get(), SampleRows(4000, 16, 0, 1).Get(), nullptr));
  struct Calls {
    int calls = 0;
    int cancel_at = 0;
  } calls;
  const auto count = [](void* user_data, uint64_t done, uint64_t total) {
    auto* seen = static_cast<Calls*>(user_data);
    CHECK((total == 0 || done <= total));
    return ++seen->calls == seen->cancel_at ? 1 : 0;
  };
  REQUIRE_OK(quash_set_progress(db.get(), count, &calls));
  CHECK_OK(quash_verify(db.get(), nullptr));
  CHECK(calls.calls > 0);
  {
    const Unchanged unchanged(db.get());
    calls = {.calls = 0, .cancel_at = 1};
    CHECK_FAILS(quash_delete_where(rows.get(), "bucket < 500", nullptr), QUASH_CANCELLED,
                "cancelled");
    calls = {.calls = 0, .cancel_at = 1};
    CHECK_FAILS(quash_backup(db.get(), (dir / "copy.qdb").c_str()), QUASH_CANCELLED, "cancelled");
    CHECK_FALSE(std::filesystem::exists(dir / "copy.qdb"));
    calls = {.calls = 0, .cancel_at = 1};
    CHECK_FAILS(quash_verify(db.get(), nullptr), QUASH_CANCELLED, "cancelled");
    quash_measure_report report{};
    report.struct_size = sizeof(report);
    calls = {.calls = 0, .cancel_at = 3};
    CHECK_FAILS(quash_measure(rows.get(), nullptr, &report), QUASH_CANCELLED, "cancelled");
  }
  REQUIRE_OK(quash_set_progress(db.get(), nullptr, nullptr));
  calls = {};
  CHECK_OK(quash_verify(db.get(), nullptr));
  CHECK(calls.calls == 0);
}

TEST_CASE("a progress callback may read, and neither write nor close") {
  const Db db = Open(":memory:");
  const Db other = Open(":memory:");
  const Collection rows = Create(db.get(), "rows", {.fields = SampleFields()});
  const Collection others = Create(other.get(), "rows", {.fields = SampleFields()});
  REQUIRE_OK(quash_add(rows.get(), SampleRows(4000, 16, 0, 1).Get(), nullptr));
  struct Context {
    quash_db* db;
    quash_collection* rows;
    quash_collection* others;
    int calls = 0;
  } context{db.get(), rows.get(), others.get()};
  const auto callback = [](void* user_data, uint64_t, uint64_t) {
    auto& [db, rows, others, calls] = *static_cast<Context*>(user_data);
    const int64_t id = 1;
    const quash_ids ids = {1, &id, nullptr};
    const quash_field field = {"extra", QUASH_FIELD_INT};
    quash_collection_options options;
    quash_collection_options_init(&options);
    options.dim = 3;
    quash_measure_options measure;
    quash_measure_options_init(&measure);
    measure.apply = 1;
    quash_measure_report report{};
    report.struct_size = sizeof(report);
    const char* refused = "progress callback";
    CHECK_FAILS(quash_add(rows, SampleRows(1, 16, 9000, 2).Get(), nullptr), QUASH_MISUSE, refused);
    CHECK_FAILS(quash_upsert(rows, SampleRows(1, 16, 9000, 2).Get()), QUASH_MISUSE, refused);
    CHECK_FAILS(quash_delete(rows, &ids, nullptr), QUASH_MISUSE, refused);
    CHECK_FAILS(quash_delete_where(rows, "TRUE", nullptr), QUASH_MISUSE, refused);
    CHECK_FAILS(quash_collection_add_field(rows, &field), QUASH_MISUSE, refused);
    CHECK_FAILS(quash_collection_create(db, "x", &options, nullptr), QUASH_MISUSE, refused);
    CHECK_FAILS(quash_collection_drop(db, "rows"), QUASH_MISUSE, refused);
    CHECK_FAILS(quash_measure(rows, &measure, &report), QUASH_MISUSE, refused);
    CHECK_FAILS(quash_checkpoint(db), QUASH_MISUSE, refused);
    CHECK_FAILS(quash_compact(db), QUASH_MISUSE, refused);
    CHECK_FAILS(quash_backup(db, "x"), QUASH_MISUSE, refused);
    CHECK_FAILS(quash_close(db), QUASH_MISUSE, refused);
    CHECK(Count(rows) > 0);
    CHECK_OK(quash_upsert(others, SampleRows(1, 16, 1, 2).Get()));
    ++calls;
    return 0;
  };
  REQUIRE_OK(quash_set_progress(db.get(), callback, &context));
  CHECK_OK(quash_delete_where(rows.get(), "bucket < 100", nullptr));
  CHECK_OK(quash_compact(db.get()));
  CHECK(context.calls >= 2);
  REQUIRE_OK(quash_set_progress(db.get(), nullptr, nullptr));
  CHECK_OK(quash_add(rows.get(), SampleRows(1, 16, 9000, 2).Get(), nullptr));
}

TEST_CASE("long searches report progress, can be cancelled, and a callback may search") {
  const Db db = Open(":memory:");
  const Collection rows =
      Create(db.get(), "rows", {.dim = 64, .rerank = QUASH_RERANK_F32, .fields = SampleFields()});
  REQUIRE_OK(quash_add(rows.get(), SampleRows(20000, 64, 0, 1).Get(), nullptr));
  const auto queries = RandomVectors(40000, 64, 3);
  struct Context {
    quash_collection* rows;
    const float* queries;
    bool cancels = false;
    int calls = 0;
    uint64_t last = 0, total = 0;
  } context{rows.get(), queries.data()};
  const auto callback = [](void* user_data, uint64_t done, uint64_t total) {
    auto& [rows, queries, cancels, calls, last, expected] = *static_cast<Context*>(user_data);
    CHECK(done >= last);
    CHECK(done <= total);
    CHECK(total == expected);
    last = done;
    quash_result* result = nullptr;
    CHECK_OK(quash_search(rows, queries, 20, 5, nullptr, &result));
    quash_result_free(result);
    ++calls;
    return cancels ? 1 : 0;
  };
  REQUIRE_OK(quash_set_progress(db.get(), callback, &context));
  quash_search_options options;
  quash_search_options_init(&options);
  const auto search = [&](uint64_t nq, bool cancels, std::vector<int64_t>* ids) {
    context.cancels = cancels;
    context.calls = 0;
    context.last = 0;
    context.total = nq;
    ids->assign(nq * 3, -7);
    std::vector<float> scores(nq * 3);
    return quash_search_into(rows.get(), queries.data(), nq, 3, &options, ids->data(),
                             scores.data(), nullptr);
  };
  for (const uint32_t threads : {1u, 2u}) {
    options.threads = threads;
    for (const bool exact : {true, false}) {
      CAPTURE(exact);
      options.exact = exact;
      // As many queries as take far longer than the 50 ms between calls.
      size_t nq = 1000;
      std::vector<int64_t> ids, again;
      do {
        nq *= 2;
        CHECK_OK(search(nq, false, &ids));
      } while (context.calls < 3 && nq < 32000);
      CHECK(context.calls > 0);
      CHECK_FAILS(search(nq, true, &again), QUASH_CANCELLED, "search was cancelled");
      CHECK(context.calls == 1);
      CHECK(again == std::vector<int64_t>(nq * 3, -7));
      quash_query* query = nullptr;
      REQUIRE_OK(quash_query_prepare(rows.get(), &options, &query));
      quash_result* result = nullptr;
      context.last = 0;
      CHECK_FAILS(quash_query_run(query, queries.data(), nq, 3, &result), QUASH_CANCELLED,
                  "search was cancelled");
      quash_query_free(query);
      REQUIRE_OK(quash_set_progress(db.get(), nullptr, nullptr));
      CHECK_OK(search(nq, true, &again));
      CHECK(context.calls == 0);
      CHECK(again == ids);
      REQUIRE_OK(quash_set_progress(db.get(), callback, &context));
    }
  }
}

TEST_CASE("a memory budget bounds memory and changes no result") {
  const TempDir dir;
  const auto queries = RandomVectors(20, 64, 3);
  const auto search = [&](quash_collection* rows) {
    quash_result* result = nullptr;
    REQUIRE_OK(quash_search(rows, queries.data(), 20, 10, nullptr, &result));
    const Result owned(result);
    std::vector<std::pair<std::vector<int64_t>, std::vector<float>>> found;
    for (size_t q = 0; q < 20; ++q) found.emplace_back(IntIds(result, q), Scores(result, q));
    return found;
  };
  {
    const Db db = Open(dir / "a.qdb");
    const Collection rows = Create(db.get(), "rows", {.dim = 64});
    for (int part = 0; part < 4; ++part) {
      Rows batch{.n = 10000, .vectors = RandomVectors(10000, 64, part)};
      REQUIRE_OK(quash_add(rows.get(), batch.Get(), nullptr));
    }
  }
  const Db free = Open(dir / "a.qdb", QUASH_OPEN_READONLY);
  const auto expected = search(OpenCollection(free.get(), "rows").get());
  quash_open_options options;
  quash_open_options_init(&options);
  options.mode = QUASH_OPEN_READONLY;
  options.memory_budget_bytes = 64 << 20;
  quash_db* raw = nullptr;
  REQUIRE_OK(quash_open((dir / "a.qdb").c_str(), &options, &raw));
  const Db bounded(raw);
  const Collection rows = OpenCollection(raw, "rows");
  CHECK(search(rows.get()) == expected);
  CHECK(search(rows.get()) == expected);
  quash_collection_info info{};
  info.struct_size = sizeof(info);
  REQUIRE_OK(quash_collection_stats(rows.get(), &info));
  CHECK(info.resident_bytes <= 64 << 20);
}

TEST_SUITE_END();

}  // namespace
}  // namespace capi_test
