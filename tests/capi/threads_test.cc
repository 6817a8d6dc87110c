// Readers beside a writer: whole batches only, never an error.
#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/capi/support.h"

namespace capi_test {
namespace {

TEST_SUITE_BEGIN("threads");

constexpr size_t kDim = 16;
constexpr int64_t kBatch = 64;
constexpr int64_t kBatches = 150;

// Failures are counted, not checked: doctest's REQUIRE must not throw here.
struct Failures {
  std::atomic<int> count{0};
  void Expect(bool ok) { count += !ok; }
};

// Every batch gives the same bucket to all rows, and the next one replaces it:
// a reader must find one bucket in all kBatch rows.
Rows Epoch(int64_t epoch) {
  Rows rows = SampleRows(kBatch, kDim, 0, epoch);
  for (std::string& metadata : rows.metadata) metadata = fmt::format(R"({{"bucket":{}}})", epoch);
  return rows;
}

void ReadWhileWriting(quash_collection* c, const std::atomic<bool>& stop, uint64_t seed,
                      Failures* failures) {
  const auto query = RandomVectors(1, kDim, seed);
  quash_search_options options;
  quash_search_options_init(&options);
  options.include = QUASH_INCLUDE_METADATA;
  options.threads = 1;
  int64_t newest = 0;
  while (!stop) {
    quash_result* raw = nullptr;
    if (quash_search(c, query.data(), 1, kBatch + 1, &options, &raw) != QUASH_OK) {
      failures->Expect(false);
      return;
    }
    const Result result(raw);
    const size_t rows = quash_result_offsets(raw)[1];
    failures->Expect(rows == kBatch);
    const std::string first = quash_result_metadata(raw, 0);
    for (size_t row = 1; row < rows; ++row) {
      failures->Expect(quash_result_metadata(raw, row) == first);
    }
    const int64_t epoch = nlohmann::json::parse(first).at("bucket");
    failures->Expect(epoch >= newest);  // time does not run backwards
    newest = epoch;
    uint64_t count = 0;
    failures->Expect(quash_count(c, nullptr, &count) == QUASH_OK && count == kBatch);
  }
}

TEST_CASE("readers see whole batches in order while a writer replaces all rows") {
  const TempDir dir;
  const Db db = Open(dir / "a.qdb");
  const Collection c = Create(db.get(), "c", {.dim = kDim, .fields = SampleFields()});
  REQUIRE_OK(quash_add(c.get(), Epoch(0).Get(), nullptr));
  std::atomic<bool> stop{false};
  Failures failures;
  std::vector<std::thread> readers;
  for (uint64_t reader = 0; reader < 4; ++reader) {
    readers.emplace_back([&, reader] { ReadWhileWriting(c.get(), stop, reader, &failures); });
  }
  std::thread maintenance([&] {
    while (!stop) {
      failures.Expect(quash_compact(db.get()) == QUASH_OK);
      failures.Expect(quash_checkpoint(db.get()) == QUASH_OK);
      char* text = nullptr;
      failures.Expect(quash_stats(db.get(), &text) == QUASH_OK);
      quash_free(text);
    }
  });
  quash_status status = QUASH_OK;
  for (int64_t epoch = 1; epoch <= kBatches && status == QUASH_OK; ++epoch) {
    status = quash_upsert(c.get(), Epoch(epoch).Get());
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  maintenance.join();
  CHECK_OK(status);
  CHECK(failures.count == 0);
  CHECK(Count(c.get(), fmt::format("bucket = {}", kBatches).c_str()) == kBatch);
  CHECK_OK(quash_verify(db.get(), nullptr));
}

TEST_CASE("writers on several threads lose nothing") {
  const TempDir dir;
  const Db db = Open(dir / "a.qdb");
  const Collection c = Create(db.get(), "c", {.dim = kDim, .fields = SampleFields()});
  Failures failures;
  std::vector<std::thread> writers;
  for (int64_t writer = 0; writer < 4; ++writer) {
    writers.emplace_back([&, writer] {
      for (int64_t batch = 0; batch < 25; ++batch) {
        Rows rows = SampleRows(20, kDim, writer * 100000 + batch * 20, batch);
        failures.Expect(quash_add(c.get(), rows.Get(), nullptr) == QUASH_OK);
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  CHECK(failures.count == 0);
  CHECK(Count(c.get()) == 4 * 25 * 20);
  CHECK_OK(quash_verify(db.get(), nullptr));
}

TEST_CASE("fields added on several threads stay within the limit") {
  const TempDir dir;
  Db db = Open(dir / "a.qdb");
  std::vector<std::string> names;
  for (uint32_t i = 0; i < QUASH_FIELDS_MAX - 1; ++i) names.push_back(fmt::format("f{}", i));
  Settings settings{.dim = kDim};
  for (const std::string& name : names) settings.fields.push_back({name.c_str(), QUASH_FIELD_INT});
  const Collection c = Create(db.get(), "c", settings);
  REQUIRE_OK(quash_add(c.get(), Rows{.n = 1, .vectors = RandomVectors(1, kDim, 1)}.Get(), nullptr));
  std::atomic<bool> held{false};
  std::atomic<int> added{0};
  Failures failures;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      const std::string name = fmt::format("late{}", i);
      const quash_field field = {name.c_str(), QUASH_FIELD_INT};
      while (!held) std::this_thread::yield();
      const quash_status status = quash_collection_add_field(c.get(), &field);
      added += status == QUASH_OK;
      failures.Expect(status == QUASH_OK || status == QUASH_LIMIT);
    });
  }
  // Deleting holds the writer lock until all of them wait for it.
  const auto hold = [](void* user_data, uint64_t, uint64_t) {
    *static_cast<std::atomic<bool>*>(user_data) = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    return 0;
  };
  REQUIRE_OK(quash_set_progress(db.get(), hold, &held));
  CHECK_OK(quash_delete_where(c.get(), "FALSE", nullptr));
  for (std::thread& thread : threads) thread.join();
  CHECK(added == 1);
  CHECK(failures.count == 0);
  REQUIRE_OK(quash_close(db.release()));
  db = Open(dir / "a.qdb");
  const auto described = [&] {
    char* text = nullptr;
    REQUIRE_OK(quash_collection_describe(OpenCollection(db.get(), "c").get(), &text));
    return TakeJson(text);
  };
  CHECK(described().at("fields").size() == QUASH_FIELDS_MAX);
}

TEST_CASE("messages belong to their thread") {
  const Db db = Open(":memory:");
  const Collection c = Create(db.get(), "c", {});
  uint64_t count = 0;
  CHECK(quash_count(c.get(), "nonsense", &count) != QUASH_OK);
  const std::string mine = quash_errmsg();
  std::string others;
  std::thread([&] {
    others = quash_errmsg();
    (void)quash_open("", nullptr, nullptr);
  }).join();
  CHECK(others.empty());
  CHECK(quash_errmsg() == mine);
}

TEST_CASE("close waits for calls in flight") {
  const TempDir dir;
  for (int round = 0; round < 5; ++round) {
    Db db = Open(dir / fmt::format("{}.qdb", round));
    const Collection c = Create(db.get(), "c", {.dim = kDim, .fields = SampleFields()});
    REQUIRE_OK(quash_add(c.get(), SampleRows(2000, kDim, 0, 1).Get(), nullptr));
    Failures failures;
    std::atomic<int> started{0};
    std::vector<std::thread> readers;
    for (int reader = 0; reader < 3; ++reader) {
      readers.emplace_back([&] {
        const auto query = RandomVectors(1, kDim, 1);
        int64_t ids[10];
        float scores[10];
        quash_status status = QUASH_OK;
        while (status == QUASH_OK) {
          status = quash_search_into(c.get(), query.data(), 1, 10, nullptr, ids, scores, nullptr);
          ++started;
        }
        failures.Expect(status == QUASH_MISUSE);
      });
    }
    while (started < 20) std::this_thread::yield();
    CHECK_OK(quash_close(db.release()));
    for (std::thread& reader : readers) reader.join();
    CHECK(failures.count == 0);
  }
}

TEST_CASE("close is not held off by threads that keep calling") {
  using Clock = std::chrono::steady_clock;
  Db db = Open(":memory:");
  const Collection c = Create(db.get(), "c", {.dim = kDim, .fields = SampleFields()});
  REQUIRE_OK(quash_add(c.get(), SampleRows(2000, kDim, 0, 1).Get(), nullptr));
  const Clock::time_point end = Clock::now() + std::chrono::seconds(10);
  std::atomic<int> calling{0};
  std::atomic<bool> gave_up{false};
  std::vector<std::thread> readers;
  for (int reader = 0; reader < 8; ++reader) {
    readers.emplace_back([&] {
      const auto query = RandomVectors(1, kDim, 1);
      int64_t ids[10];
      float scores[10];
      ++calling;
      while (quash_search_into(c.get(), query.data(), 1, 10, nullptr, ids, scores, nullptr) ==
             QUASH_OK) {
        if (Clock::now() > end) {
          gave_up = true;
          return;
        }
      }
    });
  }
  while (calling < 8) std::this_thread::yield();
  CHECK_OK(quash_close(db.release()));
  CHECK(!gave_up);
  for (std::thread& reader : readers) reader.join();
}

TEST_SUITE_END();

}  // namespace
}  // namespace capi_test
