// A partition index under changes: writes, deletes, compaction, other handles,
// copies, drops and many threads.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <limits>
#include <random>
#include <set>
#include <system_error>
#include <thread>

#include "tests/capi/partition_support.h"

namespace capi_test {
namespace {

TEST_SUITE_BEGIN("partition_changes");

constexpr quash_metric kMetric = QUASH_METRIC_COSINE;

void Add(quash_collection* c, size_t n, int64_t first_id, uint64_t seed, Stored* stored) {
  Rows rows = ClusteredRows(n, first_id, seed);
  REQUIRE_OK(quash_add(c, rows.Get(), nullptr));
  Store(rows, stored);
}

void DeleteIds(quash_collection* c, const std::vector<int64_t>& ids, Stored* stored) {
  const quash_ids list = {ids.size(), ids.data(), nullptr};
  uint64_t deleted = 0;
  REQUIRE_OK(quash_delete(c, &list, &deleted));
  CHECK(deleted == ids.size());
  for (const int64_t id : ids) stored->erase(id);
}

void CheckSearches(quash_collection* c, const Stored& stored, double least = 0.94) {
  const auto queries = ClusteredVectors(40, 77);
  CHECK(CheckedRecall(c, kMetric, stored, queries, 10) >= least);
}

uint64_t DiskBytes(const std::string& path) {
  uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
    std::error_code gone;  // RocksDB removes files meanwhile
    const uint64_t size = entry.is_regular_file(gone) ? entry.file_size(gone) : 0;
    if (!gone) bytes += size;
  }
  return bytes;
}

// Each row is its own nearest.
void CheckFound(quash_collection* c, const Stored& stored, int64_t first_id, int64_t end_id,
                const quash_search_options* options = nullptr) {
  size_t missed = 0;
  for (auto row = stored.lower_bound(first_id); row != stored.lower_bound(end_id); ++row) {
    missed += IntIds(Search(c, row->second, 1, options).get()) != std::vector{row->first};
  }
  CHECK(missed == 0);
}

TEST_CASE("results stay right while rows come, change, go and are compacted") {
  const TempDir dir;
  Db db = Open(dir / "a.qdb");
  Collection c = CreatePartitioned(db.get(), "c", {});
  Stored stored;
  Add(c.get(), 5000, 0, 1, &stored);
  REQUIRE_OK(quash_compact(db.get()));
  REQUIRE(Stats(c.get()).lists > 0);
  CheckSearches(c.get(), stored);

  // Rows outside of the index are found, however few lists are probed.
  Add(c.get(), 300, 10000, 2, &stored);
  quash_search_options one = SearchOptions();
  one.nprobe = 1;
  CheckFound(c.get(), stored, 10000, 10300, &one);
  CheckSearches(c.get(), stored);

  // The best rows of every query go.
  const auto queries = ClusteredVectors(40, 77);
  const Result best = Search(c.get(), queries, 5, nullptr);
  std::set<int64_t> gone;
  for (size_t q = 0; q < 40; ++q) {
    for (const int64_t id : IntIds(best.get(), q)) gone.insert(id);
  }
  DeleteIds(c.get(), std::vector<int64_t>(gone.begin(), gone.end()), &stored);
  CheckSearches(c.get(), stored);

  // Replaced rows are found where they are now, and not where they were.
  Rows moved = ClusteredRows(500, 1000, 3);
  REQUIRE_OK(quash_upsert(c.get(), moved.Get()));
  Store(moved, &stored);
  CheckFound(c.get(), stored, 1000, 1500, &one);
  CheckSearches(c.get(), stored);

  REQUIRE_OK(quash_compact(db.get()));
  const quash_collection_info compacted = Stats(c.get());
  CHECK(compacted.indexed_rows >= stored.size());
  CheckSearches(c.get(), stored);
  CHECK_OK(quash_verify(db.get(), nullptr));

  for (const auto mode : {QUASH_OPEN_READWRITE, QUASH_OPEN_READONLY}) {
    c.reset();
    db.reset();
    db = Open(dir / "a.qdb", mode);
    c = OpenCollection(db.get(), "c");
    CHECK(Stats(c.get()).lists == compacted.lists);
    CHECK(Explain(c.get(), queries.data()).at("mode") == "partitions");
    CheckSearches(c.get(), stored);
  }
  CHECK_OK(quash_verify(db.get(), nullptr));
}

TEST_CASE("a collection that shrinks, moves away and grows again") {
  const Db db = Open(":memory:");
  const Collection c = CreatePartitioned(db.get(), "c", {});
  Stored stored;
  Add(c.get(), 4000, 0, 1, &stored);
  REQUIRE_OK(quash_compact(db.get()));
  const uint64_t lists = Stats(c.get()).lists;
  REQUIRE(lists > 0);
  // Far fewer rows.
  uint64_t deleted = 0;
  REQUIRE_OK(quash_delete_where(c.get(), "bucket >= 50", &deleted));
  std::erase_if(stored, [](const auto& row) { return row.first % 1000 >= 50; });
  REQUIRE(stored.size() == 200);
  CheckSearches(c.get(), stored);
  REQUIRE_OK(quash_compact(db.get()));
  CheckSearches(c.get(), stored);
  // None at all.
  REQUIRE_OK(quash_delete_where(c.get(), "TRUE", &deleted));
  stored.clear();
  CheckSearches(c.get(), stored);
  REQUIRE_OK(quash_compact(db.get()));
  // Others, elsewhere and more.
  for (int64_t batch = 0; batch < 8; ++batch) {
    Rows rows = ClusteredRows(1500, 100000 + 1500 * batch, 50 + batch);
    for (float& x : rows.vectors) x = 3 - x;
    REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
    Store(rows, &stored);
    if (batch % 3 == 2) REQUIRE_OK(quash_compact(db.get()));
  }
  REQUIRE_OK(quash_compact(db.get()));
  const quash_collection_info info = Stats(c.get());
  CHECK(info.lists > 0);
  CHECK(info.indexed_rows >= 12000);
  auto queries = ClusteredVectors(40, 77);
  for (float& x : queries) x = 3 - x;
  CHECK(CheckedRecall(c.get(), kMetric, stored, queries, 10) >= 0.94);
  CHECK_OK(quash_verify(db.get(), nullptr));
}

TEST_CASE("the index is made in the background, without a call") {
  const Db db = Open(":memory:");
  const Collection c = CreatePartitioned(db.get(), "c", {});
  Stored stored;
  Add(c.get(), 9000, 0, 1, &stored);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (Stats(c.get()).lists == 0 && std::chrono::steady_clock::now() < deadline) {
    CheckSearches(c.get(), stored);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  CHECK(Stats(c.get()).lists > 0);
  CheckSearches(c.get(), stored);
}

template <typename Condition>
bool Becomes(const Condition& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return true;
}

TEST_CASE("what was replaced leaves lists, segments and the disk once nothing is written") {
  const TempDir dir;
  const std::string path = dir / "a.qdb";
  Db db = Open(path);
  Collection c = CreatePartitioned(db.get(), "c", {});
  Stored stored;
  Add(c.get(), 6000, 0, 1, &stored);
  REQUIRE_OK(quash_compact(db.get()));
  // Small families are not worth compacting.
  const uint64_t most_bytes = DiskBytes(path) * 115 / 100 + (1 << 20);
  std::mt19937_64 random(5);
  for (int64_t batch = 0; batch < 60; ++batch) {  // each row four times over
    Rows rows = ClusteredRows(400, static_cast<int64_t>(random() % 5600), 100 + batch);
    REQUIRE_OK(quash_upsert(c.get(), rows.Get()));
    Store(rows, &stored);
  }
  const auto settled = [&] {
    const quash_collection_info info = Stats(c.get());
    return info.dead_rows * 16 <= info.rows && info.indexed_rows * 15 <= info.rows * 16 &&
           DiskBytes(path) <= most_bytes;
  };
  Becomes(settled);  // what did not is told below
  const quash_collection_info info = Stats(c.get());
  CHECK(info.rows == 6000);
  CHECK(info.dead_rows * 16 <= info.rows);
  CHECK(info.indexed_rows * 15 <= info.rows * 16);
  CHECK(DiskBytes(path) <= most_bytes);
  CheckSearches(c.get(), stored);
  CHECK_OK(quash_verify(db.get(), nullptr));
}

TEST_CASE("the tail's rows are put into lists once nothing is written") {
  const TempDir dir;
  Db db = Open(dir / "a.qdb");
  Collection c = CreatePartitioned(db.get(), "c", {});
  Stored stored;
  Add(c.get(), 5000, 0, 1, &stored);
  REQUIRE_OK(quash_compact(db.get()));
  REQUIRE(Stats(c.get()).tail_rows == 0);
  Add(c.get(), 600, 10000, 2, &stored);
  REQUIRE(Becomes([&] { return Stats(c.get()).indexed_rows == 5600; }));
  CHECK(Stats(c.get()).tail_rows == 600);
  const auto queries = ClusteredVectors(1, 77);
  const nlohmann::json explained = Explain(c.get(), queries.data());
  for (const nlohmann::json& stage : explained.at("stages")) {
    CHECK(stage.at("name") != "plane scan");  // of rows in no list
  }
  CheckFound(c.get(), stored, 10000, 10600);
  CheckSearches(c.get(), stored);

  // The tail changes under the lists: rows go, are replaced, are joined by others.
  std::vector<int64_t> gone;
  for (int64_t id = 10000; id < 10600; id += 3) gone.push_back(id);
  DeleteIds(c.get(), gone, &stored);
  Rows moved = ClusteredRows(100, 10100, 3);
  REQUIRE_OK(quash_upsert(c.get(), moved.Get()));
  Store(moved, &stored);
  for (int64_t i = 0; i < 20; ++i) Add(c.get(), 5, 11000 + 5 * i, 40 + i, &stored);
  CheckFound(c.get(), stored, 10000, 12000);
  CheckSearches(c.get(), stored);
  CHECK_OK(quash_verify(db.get(), nullptr));

  for (const auto mode : {QUASH_OPEN_READONLY, QUASH_OPEN_READWRITE}) {
    c.reset();
    db.reset();
    db = Open(dir / "a.qdb", mode);
    c = OpenCollection(db.get(), "c");
    CheckFound(c.get(), stored, 10000, 12000);
    CheckSearches(c.get(), stored);
  }
  // It is sealed with rows that are in no list.
  Add(c.get(), 4000, 20000, 4, &stored);
  CHECK(Stats(c.get()).tail_rows < 600);
  CheckFound(c.get(), stored, 10000, 12000);
  CheckSearches(c.get(), stored);
  // Half a segment is sealed at rest.
  Add(c.get(), 1800, 30000, 6, &stored);
  REQUIRE(Becomes([&] { return Stats(c.get()).tail_rows == 0; }));
  CheckFound(c.get(), stored, 10000, 12000);
  CheckSearches(c.get(), stored);
  REQUIRE_OK(quash_compact(db.get()));
  CheckSearches(c.get(), stored);
  CHECK_OK(quash_verify(db.get(), nullptr));
}

TEST_CASE("rows that were written anew are found as those of a fresh load, bit for bit") {
  const TempDir dir;
  Db db = Open(dir / "a.qdb");
  Collection c = CreatePartitioned(db.get(), "c", {});
  Stored stored;
  Add(c.get(), 12000, 0, 1, &stored);
  std::mt19937_64 random(9);
  const auto random_ids = [&](size_t n) {
    std::vector<int64_t> ids;
    for (const auto& row : stored) ids.push_back(row.first);
    std::shuffle(ids.begin(), ids.end(), random);
    ids.resize(n);
    return ids;
  };
  for (int64_t batch = 0; batch < 30; ++batch) {
    DeleteIds(c.get(), random_ids(400), &stored);
    Add(c.get(), 400, 20000 + 400 * batch, 100 + batch, &stored);
    Rows moved = ClusteredRows(400, 0, 200 + batch);
    moved.int_ids = random_ids(400);
    REQUIRE_OK(quash_upsert(c.get(), moved.Get()));
    Store(moved, &stored);
  }
  Collection fresh = CreatePartitioned(db.get(), "fresh", {});
  for (auto row = stored.begin(); row != stored.end();) {
    Rows rows = ClusteredRows(1000, 0, 7);
    for (size_t i = 0; i < 1000; ++i, ++row) {
      rows.int_ids[i] = row->first;
      std::copy(row->second.begin(), row->second.end(), &rows.vectors[i * kPartitionDim]);
    }
    REQUIRE_OK(quash_add(fresh.get(), rows.Get(), nullptr));
  }
  const auto queries = ClusteredVectors(50, 77);
  const auto check_equal = [&] {
    REQUIRE(Stats(c.get()).lists > 0);
    for (const bool exact : {false, true}) {
      quash_search_options of_churned = SearchOptions(), of_fresh = SearchOptions();
      of_churned.exact = of_fresh.exact = exact;
      if (!exact) {  // all lists, as which rows they hold differs
        of_churned.nprobe = static_cast<uint32_t>(Stats(c.get()).lists);
        of_fresh.nprobe = static_cast<uint32_t>(Stats(fresh.get()).lists);
      }
      const Result a = Search(c.get(), queries, 10, &of_churned);
      const Result b = Search(fresh.get(), queries, 10, &of_fresh);
      for (size_t q = 0; q < 50; ++q) {
        CHECK(IntIds(a.get(), q) == IntIds(b.get(), q));
        CHECK(Scores(a.get(), q) == Scores(b.get(), q));
      }
    }
  };
  REQUIRE(Becomes([&] {
    return Stats(fresh.get()).lists > 0 && Stats(c.get()).indexed_rows >= stored.size();
  }));
  check_equal();
  REQUIRE_OK(quash_compact(db.get()));
  check_equal();
  c.reset();
  fresh.reset();
  db.reset();
  db = Open(dir / "a.qdb", QUASH_OPEN_READONLY);
  c = OpenCollection(db.get(), "c");
  fresh = OpenCollection(db.get(), "fresh");
  check_equal();
}

TEST_CASE("what was replaced leaves the disk also where there are no lists") {
  const TempDir dir;
  const std::string path = dir / "a.qdb";
  Db db = Open(path);
  Collection c = CreatePartitioned(db.get(), "c", {.partition_rows = UINT64_MAX});
  Stored stored;
  Add(c.get(), 6000, 0, 1, &stored);
  REQUIRE_OK(quash_compact(db.get()));
  const uint64_t most_bytes = DiskBytes(path) * 115 / 100 + (1 << 20);
  for (int64_t batch = 0; batch < 60; ++batch) {
    Rows rows = ClusteredRows(400, 93 * batch, 100 + batch);
    REQUIRE_OK(quash_upsert(c.get(), rows.Get()));
    Store(rows, &stored);
  }
  CHECK(Becomes([&] {
    return DiskBytes(path) <= most_bytes && Stats(c.get()).dead_rows * 16 <= 6000;
  }));
  CHECK(Stats(c.get()).lists == 0);
  CHECK(Stats(c.get()).rows == 6000);
  CheckSearches(c.get(), stored);
  CHECK_OK(quash_verify(db.get(), nullptr));
}

TEST_CASE("a progress callback runs on the calling thread, also while lists are made") {
  struct Calls {
    std::thread::id caller = std::this_thread::get_id();
    int calls = 0, last = std::numeric_limits<int>::max();
    std::atomic<int> elsewhere{0};
  };
  const auto callback = [](void* data, uint64_t, uint64_t) {
    auto& calls = *static_cast<Calls*>(data);
    if (std::this_thread::get_id() != calls.caller) return ++calls.elsewhere, 0;
    return ++calls.calls > calls.last ? 1 : 0;
  };
  quash_open_options options;
  quash_open_options_init(&options);
  options.threads = 4;
  quash_db* raw = nullptr;
  REQUIRE_OK(quash_open(":memory:", &options, &raw));
  const Db db(raw);
  const Collection c = CreatePartitioned(db.get(), "c", {});
  Rows rows = ClusteredRows(20'000, 0, 1);
  REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
  Calls cancelled;
  cancelled.last = 3;
  REQUIRE_OK(quash_set_progress(db.get(), callback, &cancelled));
  CHECK(quash_compact(db.get()) == QUASH_CANCELLED);
  CHECK(cancelled.calls == cancelled.last + 1);
  Calls calls;
  REQUIRE_OK(quash_set_progress(db.get(), callback, &calls));
  REQUIRE_OK(quash_compact(db.get()));
  REQUIRE_OK(quash_set_progress(db.get(), nullptr, nullptr));
  CHECK(Stats(c.get()).indexed_rows == 20'000);
  CHECK(calls.calls > 0);
  CHECK(cancelled.elsewhere + calls.elsewhere == 0);
}

TEST_CASE("a snapshot held by an iterator is not touched by maintenance") {
  const Db db = Open(":memory:");
  const Collection c = CreatePartitioned(db.get(), "c", {});
  Stored stored;
  Add(c.get(), 5000, 0, 1, &stored);
  quash_iterator* raw = nullptr;
  REQUIRE_OK(quash_iterate(c.get(), nullptr, QUASH_INCLUDE_VECTORS, &raw));
  const Iterator iterator(raw);
  REQUIRE_OK(quash_compact(db.get()));
  DeleteIds(c.get(), {0, 1, 2, 3, 4999}, &stored);
  Add(c.get(), 3000, 20000, 2, &stored);
  REQUIRE_OK(quash_compact(db.get()));
  int64_t next = 0;
  while (true) {
    quash_result* page = nullptr;
    REQUIRE_OK(quash_iterator_next(raw, 512, &page));
    const Result owned(page);
    const auto ids = IntIds(page);
    if (ids.empty()) break;
    for (const int64_t id : ids) REQUIRE(id == next++);
  }
  CHECK(next == 5000);
}

TEST_CASE("a backup has the index, and a restored database goes on with it") {
  const TempDir dir;
  const Db db = Open(dir / "a.qdb");
  const Collection c = CreatePartitioned(db.get(), "c", {});
  Stored stored;
  Add(c.get(), 5000, 0, 1, &stored);
  REQUIRE_OK(quash_compact(db.get()));
  const uint64_t lists = Stats(c.get()).lists;
  REQUIRE(lists > 0);
  REQUIRE_OK(quash_backup(db.get(), (dir / "backup.qdb").c_str()));
  Stored later = stored;
  Add(c.get(), 1000, 50000, 2, &later);
  REQUIRE_OK(quash_restore((dir / "backup.qdb").c_str(), (dir / "b.qdb").c_str()));
  const Db restored = Open(dir / "b.qdb");
  const Collection copy = OpenCollection(restored.get(), "c");
  CHECK(Stats(copy.get()).lists == lists);
  CheckSearches(copy.get(), stored);
  CHECK_OK(quash_verify(restored.get(), nullptr));
  Add(copy.get(), 3000, 60000, 3, &stored);
  REQUIRE_OK(quash_compact(restored.get()));
  CHECK(Stats(copy.get()).indexed_rows >= 8000);
  CheckSearches(copy.get(), stored);
  CheckSearches(c.get(), later);
}

TEST_CASE("a follower takes in the writer's lists") {
  const TempDir dir;
  const std::string path = dir / "a.qdb";
  {
    const Db db = Open(path);
    quash_collection_options options;
    quash_collection_options_init(&options);
    options.dim = 16;  // of the writer's role
    options.partition_rows = 1000;
    const std::vector<quash_field> fields = SampleFields();
    options.fields = fields.data();
    options.num_fields = fields.size();
    REQUIRE_OK(quash_collection_create(db.get(), "rows", &options, nullptr));
  }
  Child writer({"write", path});
  REQUIRE(writer.ReadLine() == "QUASH_OK");
  const Db follower = Open(path, QUASH_OPEN_FOLLOWER);
  const Collection rows = OpenCollection(follower.get(), "rows");
  uint64_t live = 0;
  for (int64_t round = 0; round < 3; ++round) {
    writer.Write(fmt::format("add 4000 {} {}", 10000 * round, round));
    REQUIRE(writer.ReadLine() == "QUASH_OK");
    writer.Write("compact");
    REQUIRE(writer.ReadLine() == "QUASH_OK");
    REQUIRE_OK(quash_refresh(follower.get()));
    live += 4000;
    const quash_collection_info info = Stats(rows.get());
    CHECK(info.lists > 0);
    CHECK(info.indexed_rows == live);
    const auto vectors = RandomVectors(4000, 16, round);
    size_t found = 0;
    for (size_t i = 0; i < 200; ++i) {
      int64_t id = -1;
      float score = 0;
      REQUIRE_OK(quash_search_into(rows.get(), vectors.data() + 16 * i, 1, 1, nullptr, &id,
                                   &score, nullptr));
      found += id == 10000 * round + static_cast<int64_t>(i);
    }
    CHECK(found >= 195);
  }
  CHECK(writer.Wait() == 0);
}

TEST_CASE("collections are dropped and databases closed in the middle of maintenance") {
  const TempDir dir;
  std::mt19937 random(3);
  for (int round = 0; round < 6; ++round) {
    Db db = Open(dir / "a.qdb");
    Collection c = CreatePartitioned(db.get(), "c", {});
    Stored stored;
    Add(c.get(), 4500, 0, 1, &stored);
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 40));
    if (round % 2 == 0) {
      REQUIRE_OK(quash_collection_drop(db.get(), "c"));
      c = CreatePartitioned(db.get(), "c", {});
      Stored others;
      Add(c.get(), 2000, 9000, 2, &others);
      CheckSearches(c.get(), others);
      CHECK_OK(quash_verify(db.get(), nullptr));
    } else {
      c.reset();
      CHECK_OK(quash_close(db.release()));
      db = Open(dir / "a.qdb");
      c = OpenCollection(db.get(), "c");
      CheckSearches(c.get(), stored);
      CHECK_OK(quash_verify(db.get(), nullptr));
    }
    REQUIRE_OK(quash_collection_drop(db.get(), "c"));
  }
}

TEST_CASE("readers on many threads see whole states while lists split and merge") {
  const Db db = Open(":memory:");
  const Collection c = CreatePartitioned(db.get(), "c", {});
  // Rows 0 to 2999 stay as they are and must be found by their own vector.
  const Rows kept = ClusteredRows(3000, 0, 1);
  {
    Rows rows = kept;
    REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
  }
  REQUIRE_OK(quash_compact(db.get()));
  std::atomic<bool> stop = false;
  std::atomic<size_t> searches = 0, missed = 0, wrong = 0, failed = 0;
  const auto read = [&](uint64_t seed) {
    std::mt19937_64 random(seed);
    while (!stop) {
      const size_t row = random() % kept.n;
      quash_search_options options;
      quash_search_options_init(&options);
      options.threads = 1;
      quash_result* raw = nullptr;
      if (quash_search(c.get(), kept.vectors.data() + row * kPartitionDim, 1, 10, &options,
                       &raw) != QUASH_OK) {
        ++failed;
        continue;
      }
      const Result result(raw);
      const int64_t* ids = quash_result_int_ids(raw);
      const float* scores = quash_result_scores(raw);
      const size_t n = quash_result_offsets(raw)[1];
      ++searches;
      wrong += n != 10;
      missed += n == 0 || ids[0] != static_cast<int64_t>(row);
      for (size_t i = 1; i < n; ++i) {
        wrong += scores[i] > scores[i - 1] || std::count(ids, ids + n, ids[i]) != 1;
      }
    }
  };
  std::vector<std::thread> readers;
  for (uint64_t i = 0; i < 3; ++i) readers.emplace_back(read, i);
  for (int64_t round = 0; round < 6; ++round) {
    Rows rows = ClusteredRows(2500, 10000, 100 + round);  // replaced every round
    REQUIRE_OK(quash_upsert(c.get(), rows.Get()));
    if (round % 2 == 1) {
      uint64_t deleted = 0;
      REQUIRE_OK(quash_delete_where(c.get(), "id >= 10000 AND bucket < 700", &deleted));
      CHECK(deleted == 1900);
    }
    REQUIRE_OK(quash_compact(db.get()));
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  CHECK(searches > 0);
  CHECK(failed == 0);
  CHECK(wrong == 0);
  CHECK(missed <= searches / 50);
  MESSAGE(searches.load(), " searches, ", missed.load(), " missed a row");
  CHECK_OK(quash_verify(db.get(), nullptr));
}

TEST_SUITE_END();

}  // namespace
}  // namespace capi_test
