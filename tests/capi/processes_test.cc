// Several processes on one database: who may open, what each sees.
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <string>
#include <thread>

#include "tests/capi/support.h"

namespace capi_test {
namespace {

TEST_SUITE_BEGIN("processes");

std::string Prepare(const TempDir& dir) {
  const std::string path = dir / "a.qdb";
  const Db db = Open(path);
  const Collection rows = Create(db.get(), "rows", {.fields = SampleFields()});
  REQUIRE_OK(quash_add(rows.get(), SampleRows(2000, 16, 0, 1).Get(), nullptr));
  return path;
}

quash_status TryOpen(const std::string& path, quash_open_mode mode) {
  quash_open_options options;
  quash_open_options_init(&options);
  options.mode = mode;
  quash_db* db = nullptr;
  const quash_status status = quash_open(path.c_str(), &options, &db);
  if (status == QUASH_OK) REQUIRE_OK(quash_close(db));
  return status;
}

TEST_CASE("a writer keeps everyone but followers out") {
  const TempDir dir;
  const std::string path = Prepare(dir);
  {
    const Db db = Open(path, QUASH_OPEN_READWRITE);
    for (const char* mode : {"readwrite", "readonly"}) {
      Child other({"open", path, mode});
      const std::string line = other.ReadLine();
      CHECK_MESSAGE(line.starts_with("QUASH_BUSY "), line);
      CHECK_MESSAGE(line.find(path) != std::string::npos, line);
      CHECK(other.Wait() == 1);
      CHECK(TryOpen(path, QUASH_OPEN_READWRITE) == QUASH_BUSY);  // nor in this process
      CHECK(TryOpen(path, QUASH_OPEN_READONLY) == QUASH_BUSY);
    }
    Child follower({"open", path, "follower"});
    CHECK(follower.ReadLine() == "QUASH_OK");
    CHECK(follower.Wait() == 0);
    CHECK_OK(quash_verify(db.get(), nullptr));
  }
  Child after({"open", path, "readwrite"});
  CHECK(after.ReadLine() == "QUASH_OK");
  CHECK(after.Wait() == 0);
}

TEST_CASE("a killed writer leaves no lock behind") {
  const TempDir dir;
  const std::string path = Prepare(dir);
  Child writer({"hold", path, "readwrite"});
  REQUIRE(writer.ReadLine() == "QUASH_OK");
  CHECK(TryOpen(path, QUASH_OPEN_READWRITE) == QUASH_BUSY);
  writer.Kill();
  CHECK(TryOpen(path, QUASH_OPEN_READWRITE) == QUASH_OK);
}

TEST_CASE("read-only handles share, in one process and in several") {
  const TempDir dir;
  const std::string path = Prepare(dir);
  const Db first = Open(path, QUASH_OPEN_READONLY);
  const Db second = Open(path, QUASH_OPEN_READONLY);
  Child third({"hold", path, "readonly"});
  REQUIRE(third.ReadLine() == "QUASH_OK");
  CHECK((Dump(first.get()) == Dump(second.get())));
  CHECK(TryOpen(path, QUASH_OPEN_READWRITE) == QUASH_BUSY);
  // Not the process that made it and has closed it.
  CHECK(std::string(quash_errmsg()).find("is open for reading") != std::string::npos);
  CHECK(third.Wait() == 0);
}

// Every write on a handle for reading is refused, with the mode it is open in.
void CheckRefusesWrites(quash_db* db, const char* how) {
  const Collection rows = OpenCollection(db, "rows");
  const Unchanged unchanged(db);
  Rows batch = SampleRows(3, 16, 90000, 2);
  const int64_t id = 1;
  const quash_ids ids = {1, &id, nullptr};
  uint64_t deleted = 77;
  const quash_field field = {"extra", QUASH_FIELD_INT};
  quash_collection_options options;
  quash_collection_options_init(&options);
  options.dim = 3;
  quash_collection* collection = nullptr;
  CHECK_FAILS(quash_add(rows.get(), batch.Get(), nullptr), QUASH_READONLY, how);
  CHECK_FAILS(quash_upsert(rows.get(), batch.Get()), QUASH_READONLY, how);
  CHECK_FAILS(quash_delete(rows.get(), &ids, &deleted), QUASH_READONLY, how);
  CHECK_FAILS(quash_delete_where(rows.get(), "TRUE", &deleted), QUASH_READONLY, how);
  CHECK_FAILS(quash_collection_add_field(rows.get(), &field), QUASH_READONLY, how);
  CHECK_FAILS(quash_collection_create(db, "new", &options, &collection), QUASH_READONLY, how);
  CHECK_FAILS(quash_collection_drop(db, "rows"), QUASH_READONLY, how);
  CHECK_FAILS(quash_compact(db), QUASH_READONLY, how);
  CHECK(deleted == 77);
  CHECK(collection == nullptr);
}

// Names, sizes, times of change and bytes of all files.
std::string Files(const std::string& path) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
    struct stat info;
    REQUIRE(stat(entry.path().c_str(), &info) == 0);
    std::ifstream file(entry.path(), std::ios::binary);
    names.push_back(fmt::format("{} {:o} {} {}.{} ", entry.path().string(), info.st_mode,
                                info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec));
    if (entry.is_regular_file()) {
      names.back().append(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
  }
  std::sort(names.begin(), names.end());
  std::string listing;
  for (const std::string& name : names) listing += name + "\n";
  return listing;
}

TEST_CASE("a read-only handle writes nothing") {
  const TempDir dir;
  const std::string path = Prepare(dir);
  const std::string before = Files(path);
  {
    const Db db = Open(path, QUASH_OPEN_READONLY);
    CheckRefusesWrites(db.get(), "read-only");
    CHECK_OK(quash_verify(db.get(), nullptr));
    CHECK_OK(quash_checkpoint(db.get()));
  }
  CHECK((Files(path) == before));
}

// Someone who may read the files and write nothing, not even a lock file. Root may
// write anywhere, so the child becomes nobody.
TEST_CASE("a directory that may not be written to can be read") {
  namespace fs = std::filesystem;
  const TempDir dir;
  const std::string path = Prepare(dir);
  const auto reading = fs::perms::owner_read | fs::perms::group_read | fs::perms::others_read;
  const auto entering = fs::perms::owner_exec | fs::perms::group_exec | fs::perms::others_exec;
  fs::permissions(fs::path(path).parent_path(), entering, fs::perm_options::add);
  const auto set = [&](fs::perms of_files, fs::perms of_folders) {
    for (const auto& entry : fs::recursive_directory_iterator(path)) {
      fs::permissions(entry.path(), entry.is_directory() ? of_folders : of_files);
    }
    fs::permissions(path, of_folders);
  };
  set(reading, reading | entering);
  const std::string before = Files(path);
  Child child({"nobody", path});
  CHECK(child.ReadLine() == "QUASH_OK");  // open
  CHECK(child.ReadLine() == "QUASH_OK");  // search
  CHECK(child.ReadLine() == "QUASH_OK");  // verify
  const std::string write = child.ReadLine();
  CHECK_MESSAGE(write.starts_with("QUASH_READONLY "), write);
  CHECK(child.ReadLine() == "QUASH_OK");  // close
  const std::string for_writing = child.ReadLine();
  CHECK_MESSAGE((for_writing.starts_with("QUASH_IO ") &&
                 for_writing.find("ermission denied") != std::string::npos),
                for_writing);
  CHECK(child.ReadLine() == "QUASH_OK");  // a follower
  CHECK(child.Wait() == 0);
  CHECK((Files(path) == before));
  set(fs::perms::owner_all, fs::perms::owner_all);  // so that it can be removed
}

// A database that a child writes, opened as follower.
struct Followed {
  Followed() {
    REQUIRE(writer.ReadLine() == "QUASH_OK");
    db = Open(path, QUASH_OPEN_FOLLOWER);
    rows = OpenCollection(db.get(), "rows");
  }

  const TempDir dir;
  const std::string path = Prepare(dir);
  Child writer{{"write", path}};
  Db db;
  Collection rows;
};

TEST_CASE("a follower sees the writer's batches after a refresh, each whole") {
  Followed followed;
  CHECK(Count(followed.rows.get()) == 2000);
  const auto tell = [&](const std::string& command) {
    followed.writer.Write(command);
    REQUIRE(followed.writer.ReadLine() == "QUASH_OK");
  };
  tell("add 500 10000 3");
  CHECK(Count(followed.rows.get()) == 2000);
  REQUIRE_OK(quash_refresh(followed.db.get()));
  CHECK(Count(followed.rows.get()) == 2500);
  CHECK(Count(followed.rows.get(), "id >= 10000 AND fresh = TRUE") == 250);

  tell("delete id < 1000");
  tell("field note");
  tell("add 3000 20000 4");
  tell("compact");
  REQUIRE_OK(quash_refresh(followed.db.get()));
  CHECK(Count(followed.rows.get()) == 4500);
  CHECK(Count(followed.rows.get(), "note IS NULL") == 4500);
  CHECK(Count(followed.rows.get(), "id < 1000") == 0);
  const auto vectors = RandomVectors(3000, 16, 4);
  int64_t id = 0;
  float score = 0;
  REQUIRE_OK(quash_search_into(followed.rows.get(), vectors.data() + 123 * 16, 1, 1, nullptr, &id,
                               &score, nullptr));
  CHECK(id == 20123);

  CheckRefusesWrites(followed.db.get(), "as follower");
  // Many batches with refreshes in between: only ever whole ones.
  for (int batch = 0; batch < 30; ++batch) {
    followed.writer.Write(fmt::format("add 100 {} {}", 100000 + 100 * batch, batch));
    REQUIRE_OK(quash_refresh(followed.db.get()));
    CHECK(Count(followed.rows.get()) % 100 == 0);
    REQUIRE(followed.writer.ReadLine() == "QUASH_OK");
  }
  REQUIRE_OK(quash_refresh(followed.db.get()));
  CHECK(Count(followed.rows.get()) == 7500);
  CHECK(followed.writer.Wait() == 0);
  // The writer has gone: what it left is still there.
  REQUIRE_OK(quash_refresh(followed.db.get()));
  CHECK(Count(followed.rows.get()) == 7500);
}

TEST_CASE("a follower's threads refresh and read at once, and none goes back") {
  Followed followed;
  std::atomic<bool> stop{false};
  std::atomic<int> fell_back{0};
  std::mutex mutex;
  std::string failures;
  const auto check = [&](quash_status status) {
    if (status == QUASH_OK) return;
    const std::lock_guard lock(mutex);
    failures += fmt::format("{}\n", quash_errmsg());
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      uint64_t newest = 0;
      while (!stop) {
        uint64_t count = 0;
        check(quash_refresh(followed.db.get()));
        check(quash_count(followed.rows.get(), nullptr, &count));
        fell_back += count < newest;
        newest = count;
      }
    });
  }
  threads.emplace_back([&] {
    while (!stop) {
      char* text = nullptr;
      check(quash_stats(followed.db.get(), &text));
      quash_free(text);
      check(quash_verify(followed.db.get(), nullptr));
    }
  });
  for (int batch = 0; batch < 60; ++batch) {
    followed.writer.Write(fmt::format("add 10 {} {}", 100000 + 10 * batch, batch));
    REQUIRE(followed.writer.ReadLine() == "QUASH_OK");
    followed.writer.Write(batch % 10 == 9 ? "compact" : "checkpoint");  // replaces tables
    REQUIRE(followed.writer.ReadLine() == "QUASH_OK");
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(failures == "");
  CHECK(fell_back == 0);
  CHECK(followed.writer.Wait() == 0);
}

TEST_CASE("a follower outlives its writer and follows the next one") {
  const TempDir dir;
  const std::string path = Prepare(dir);
  const Db follower = Open(path, QUASH_OPEN_FOLLOWER);
  const Collection rows = OpenCollection(follower.get(), "rows");
  for (int64_t first : {10000, 20000, 30000}) {
    Child writer({"write", path});
    REQUIRE(writer.ReadLine() == "QUASH_OK");
    writer.Write(fmt::format("add 10 {} 5", first));
    REQUIRE(writer.ReadLine() == "QUASH_OK");
    writer.Kill();
    REQUIRE_OK(quash_refresh(follower.get()));
    CHECK(Count(rows.get(), fmt::format("id >= {}", first).c_str()) == 10);
  }
}

TEST_SUITE_END();

}  // namespace
}  // namespace capi_test
