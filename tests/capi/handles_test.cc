// Handles after close, after fork, and null ones.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/capi/support.h"

namespace capi_test {
namespace {

TEST_SUITE_BEGIN("handles");

TEST_CASE("what outlives its database says so and can be freed") {
  const TempDir dir;
  Db db = Open(dir / "a.qdb");
  const Collection c = Create(db.get(), "c", {.fields = SampleFields()});
  Rows rows = SampleRows(1000, 16, 0, 1);
  REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
  quash_query* raw_query = nullptr;
  REQUIRE_OK(quash_query_prepare(c.get(), nullptr, &raw_query));
  const Query query(raw_query);
  quash_iterator* raw_iterator = nullptr;
  REQUIRE_OK(quash_iterate(c.get(), nullptr, QUASH_INCLUDE_METADATA, &raw_iterator));
  const Iterator iterator(raw_iterator);
  quash_result* raw_result = nullptr;
  REQUIRE_OK(quash_iterator_next(raw_iterator, 10, &raw_result));
  const Result result(raw_result);
  CHECK_OK(quash_close(db.release()));

  const int64_t wanted = 3;
  const quash_ids ids = {1, &wanted, nullptr};
  uint64_t count = 77;
  uint8_t found = 77;
  int64_t into_ids = 77;
  float into_scores = 77;
  char* text = nullptr;
  quash_result* none = nullptr;
  quash_iterator* no_iterator = nullptr;
  quash_query* no_query = nullptr;
  quash_collection_info info{};
  info.struct_size = sizeof(info);
  quash_measure_report report{};
  report.struct_size = sizeof(report);
  const quash_field field = {"extra", QUASH_FIELD_INT};
  const float* vector = rows.vectors.data();
  rows.int_ids.clear();
  CHECK_FAILS(quash_add(c.get(), rows.Get(), nullptr), QUASH_MISUSE, "closed");
  CHECK_FAILS(quash_upsert(c.get(), rows.Get()), QUASH_MISUSE, "closed");
  CHECK_FAILS(quash_delete(c.get(), &ids, &count), QUASH_MISUSE, "closed");
  CHECK_FAILS(quash_delete_where(c.get(), "TRUE", &count), QUASH_MISUSE, "closed");
  CHECK_FAILS(quash_count(c.get(), nullptr, &count), QUASH_MISUSE, "closed");
  CHECK_FAILS(quash_get(c.get(), &ids, 0, &none), QUASH_MISUSE, "closed");
  CHECK_FAILS(quash_contains(c.get(), &ids, &found), QUASH_MISUSE, "closed");
  CHECK_FAILS(quash_search(c.get(), vector, 1, 1, nullptr, &none), QUASH_MISUSE, "closed");
  CHECK_FAILS(quash_search_into(c.get(), vector, 1, 1, nullptr, &into_ids, &into_scores, nullptr),
              QUASH_MISUSE, "closed");
  CHECK_FAILS(quash_search_by_id(c.get(), &ids, 1, nullptr, &none), QUASH_MISUSE, "closed");
  CHECK_FAILS(quash_query_prepare(c.get(), nullptr, &no_query), QUASH_MISUSE, "closed");
  CHECK_FAILS(quash_query_run(raw_query, vector, 1, 1, &none), QUASH_MISUSE, "closed");
  CHECK_FAILS(quash_iterate(c.get(), nullptr, 0, &no_iterator), QUASH_MISUSE, "closed");
  CHECK_FAILS(quash_iterator_next(raw_iterator, 10, &none), QUASH_MISUSE, "closed");
  CHECK_FAILS(quash_collection_describe(c.get(), &text), QUASH_MISUSE, "closed");
  CHECK_FAILS(quash_collection_stats(c.get(), &info), QUASH_MISUSE, "closed");
  CHECK_FAILS(quash_collection_add_field(c.get(), &field), QUASH_MISUSE, "closed");
  CHECK_FAILS(quash_measure(c.get(), nullptr, &report), QUASH_MISUSE, "closed");
  CHECK(none == nullptr);
  CHECK(no_query == nullptr);
  CHECK(no_iterator == nullptr);
  CHECK(text == nullptr);
  CHECK(count == 77);
  CHECK(found == 77);
  CHECK(into_ids == 77);
  // Results are the caller's own.
  CHECK(IntIds(raw_result).size() == 10);
  CHECK(Count(OpenCollection(Open(dir / "a.qdb").get(), "c").get()) == 1000);
}

TEST_CASE("closing nothing is no error") { CHECK_OK(quash_close(nullptr)); }

// Runs in the child; the first failure's number, 0 if all were refused.
int UseForked(quash_db* db, quash_collection* c, const quash_rows* rows, quash_query* query) {
  const auto refused = [](quash_status status) {
    return status == QUASH_MISUSE &&
           std::string(quash_errmsg()).find("forked child") != std::string::npos;
  };
  uint64_t count;
  char* text = nullptr;
  quash_result* result = nullptr;
  quash_collection* other = nullptr;
  if (!refused(quash_add(c, rows, nullptr))) return 1;
  if (!refused(quash_count(c, nullptr, &count))) return 2;
  if (!refused(quash_search(c, rows->vectors, 1, 1, nullptr, &result))) return 3;
  if (!refused(quash_query_run(query, rows->vectors, 1, 1, &result))) return 4;
  if (!refused(quash_collection_open(db, "c", &other))) return 5;
  if (!refused(quash_verify(db, &text))) return 6;
  if (!refused(quash_compact(db))) return 7;
  if (!refused(quash_checkpoint(db))) return 8;
  if (!refused(quash_stats(db, &text))) return 9;
  if (!refused(quash_collection_drop(db, "c"))) return 10;
  if (!refused(quash_close(db))) return 11;
  // Freeing all that is left lets go of the parent's database without touching it.
  quash_query_free(query);
  quash_collection_free(c);
  return 0;
}

TEST_CASE("a forked child is refused, and the parent goes on") {
  const TempDir dir;
  const Db db = Open(dir / "a.qdb");
  const Collection c = Create(db.get(), "c", {});
  Rows rows{.n = 100, .vectors = RandomVectors(100, 16, 1)};
  REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
  quash_query* raw_query = nullptr;
  REQUIRE_OK(quash_query_prepare(c.get(), nullptr, &raw_query));
  const Query query(raw_query);
  const std::string before = Dump(db.get());
  const quash_rows* view = rows.Get();
  const pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) {
    alarm(20);  // a hang is a failure too
    _exit(UseForked(db.get(), c.get(), view, raw_query));
  }
  int status = 0;
  REQUIRE(waitpid(pid, &status, 0) == pid);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK((Dump(db.get()) == before));
  CHECK_OK(quash_add(c.get(), rows.Get(), nullptr));
  CHECK_OK(quash_verify(db.get(), nullptr));
}

TEST_CASE("a forked child frees iterators, whatever the parent's threads were doing") {
  const TempDir dir;
  const Db db = Open(dir / "a.qdb");
  const Collection c = Create(db.get(), "c", {});
  Rows rows{.n = 100, .vectors = RandomVectors(100, 16, 1)};
  const quash_rows* view = rows.Get();
  REQUIRE_OK(quash_add(c.get(), view, nullptr));
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      while (!stop) {
        quash_iterator* iterator = nullptr;
        if (quash_iterate(c.get(), nullptr, 0, &iterator) != QUASH_OK) return;
        quash_iterator_free(iterator);
      }
    });
  }
  threads.emplace_back([&] {
    while (!stop && quash_add(c.get(), view, nullptr) == QUASH_OK) {
    }
  });
  int exit_status = 0;
  for (int i = 0; i < 50 && exit_status == 0; ++i) {
    quash_iterator* raw = nullptr;
    REQUIRE_OK(quash_iterate(c.get(), nullptr, 0, &raw));
    const Iterator iterator(raw);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    const pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
      alarm(20);  // a hang is a failure too
      quash_iterator_free(raw);
      _exit(0);
    }
    REQUIRE(waitpid(pid, &exit_status, 0) == pid);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(exit_status == 0);
}

TEST_CASE("null pointers are named") {
  const Db db = Open(":memory:");
  const Collection c = Create(db.get(), "c", {});
  Rows rows{.n = 1, .vectors = RandomVectors(1, 16, 1)};
  REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
  const Unchanged unchanged(db.get());
  quash_db* other_db = nullptr;
  quash_result* result = nullptr;
  quash_collection* other = nullptr;
  char* text = nullptr;
  uint64_t count = 0;
  uint8_t found = 0;
  const int64_t id = 0;
  const quash_ids ids = {1, &id, nullptr};
  const quash_ids no_ids = {1, nullptr, nullptr};
  const float* vector = rows.vectors.data();
  int64_t into_ids = 0;
  float into_scores = 0;
  quash_collection_options options;
  quash_collection_options_init(&options);
  options.dim = 2;

  CHECK_FAILS(quash_open(nullptr, nullptr, &other_db), QUASH_INVALID, "path");
  CHECK_FAILS(quash_open("", nullptr, &other_db), QUASH_INVALID, "path is empty");
  CHECK_FAILS(quash_open(":memory:", nullptr, nullptr), QUASH_INVALID, "out_db");
  CHECK_FAILS(quash_refresh(nullptr), QUASH_INVALID, "db");
  CHECK_FAILS(quash_set_progress(nullptr, nullptr, nullptr), QUASH_INVALID, "db");
  CHECK_FAILS(quash_checkpoint(nullptr), QUASH_INVALID, "db");
  CHECK_FAILS(quash_backup(db.get(), nullptr), QUASH_INVALID, "path");
  CHECK_FAILS(quash_restore(nullptr, "x"), QUASH_INVALID, "backup_path");
  CHECK_FAILS(quash_restore("x", nullptr), QUASH_INVALID, "path");
  CHECK_FAILS(quash_verify(nullptr, &text), QUASH_INVALID, "db");
  CHECK_FAILS(quash_compact(nullptr), QUASH_INVALID, "db");
  CHECK_FAILS(quash_stats(db.get(), nullptr), QUASH_INVALID, "out_json");
  CHECK_FAILS(quash_collection_create(nullptr, "x", &options, &other), QUASH_INVALID, "db");
  CHECK_FAILS(quash_collection_create(db.get(), nullptr, &options, &other), QUASH_INVALID, "name");
  CHECK_FAILS(quash_collection_create(db.get(), "x", nullptr, &other), QUASH_INVALID, "options");
  CHECK_FAILS(quash_collection_open(db.get(), nullptr, &other), QUASH_INVALID, "name");
  CHECK_FAILS(quash_collection_open(db.get(), "c", nullptr), QUASH_INVALID, "out_collection");
  CHECK_FAILS(quash_collection_drop(db.get(), nullptr), QUASH_INVALID, "name");
  CHECK_FAILS(quash_collection_list(db.get(), nullptr), QUASH_INVALID, "out_json");
  CHECK_FAILS(quash_collection_describe(c.get(), nullptr), QUASH_INVALID, "out_json");
  CHECK_FAILS(quash_collection_describe(nullptr, &text), QUASH_INVALID, "collection");
  CHECK_FAILS(quash_collection_stats(c.get(), nullptr), QUASH_INVALID, "out_info");
  CHECK_FAILS(quash_collection_add_field(c.get(), nullptr), QUASH_INVALID, "field");
  CHECK_FAILS(quash_add(c.get(), nullptr, nullptr), QUASH_INVALID, "rows");
  CHECK_FAILS(quash_add(nullptr, rows.Get(), nullptr), QUASH_INVALID, "collection");
  CHECK_FAILS(quash_upsert(c.get(), nullptr), QUASH_INVALID, "rows");
  CHECK_FAILS(quash_delete(c.get(), nullptr, &count), QUASH_INVALID, "ids");
  CHECK_FAILS(quash_delete(c.get(), &no_ids, &count), QUASH_MISUSE, "int_ids");
  CHECK_FAILS(quash_search(c.get(), nullptr, 1, 1, nullptr, &result), QUASH_INVALID, "queries");
  CHECK_FAILS(quash_search(c.get(), vector, 1, 1, nullptr, nullptr), QUASH_INVALID, "out_result");
  CHECK_FAILS(quash_search_into(c.get(), vector, 1, 1, nullptr, nullptr, &into_scores, nullptr),
              QUASH_INVALID, "ids");
  CHECK_FAILS(quash_search_into(c.get(), vector, 1, 1, nullptr, &into_ids, nullptr, nullptr),
              QUASH_INVALID, "scores");
  CHECK_FAILS(quash_search_by_id(c.get(), nullptr, 1, nullptr, &result), QUASH_INVALID, "ids");
  CHECK_FAILS(quash_query_prepare(c.get(), nullptr, nullptr), QUASH_INVALID, "out_query");
  CHECK_FAILS(quash_query_run(nullptr, vector, 1, 1, &result), QUASH_INVALID, "query");
  CHECK_FAILS(quash_query_explain(nullptr, &text), QUASH_INVALID, "query");
  CHECK_FAILS(quash_get(c.get(), nullptr, 0, &result), QUASH_INVALID, "ids");
  CHECK_FAILS(quash_get(c.get(), &ids, 0, nullptr), QUASH_INVALID, "out_result");
  CHECK_FAILS(quash_contains(c.get(), nullptr, &found), QUASH_INVALID, "ids");
  CHECK_FAILS(quash_contains(c.get(), &ids, nullptr), QUASH_INVALID, "found");
  CHECK_FAILS(quash_count(c.get(), nullptr, nullptr), QUASH_INVALID, "out_count");
  CHECK_FAILS(quash_iterate(c.get(), nullptr, 0, nullptr), QUASH_INVALID, "out_iterator");
  CHECK_FAILS(quash_iterator_next(nullptr, 1, &result), QUASH_INVALID, "iterator");
  CHECK(other_db == nullptr);
  CHECK(result == nullptr);
  CHECK(other == nullptr);
  CHECK(text == nullptr);
}

TEST_SUITE_END();

}  // namespace
}  // namespace capi_test
