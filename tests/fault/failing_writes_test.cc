// Writes that the operating system refuses: an error, nothing acknowledged is
// lost, reading goes on.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <random>

#include "tests/capi/support.h"
#include "tests/fault/options.h"
#include "tests/fault/workload.h"

namespace fault_test {
namespace {

using capi_test::Child;
using capi_test::Db;
using capi_test::TempDir;

TEST_SUITE_BEGIN("failing_writes");

// A limit on file sizes makes write() fail with EFBIG part-way, wherever
// RocksDB happens to be.
TEST_CASE("after a failed write the handle refuses writes, reads, and loses nothing") {
  for (const uint64_t limit : {20'000, 100'000, 400'000, 1'500'000}) {
    CAPTURE(limit);
    const TempDir dir;
    const std::string path = dir / "a.qdb";
    REQUIRE_OK(CreateCollections(capi_test::Open(path).get()));
    Child child(
        {"limited-write", path, std::to_string(options().seed), "0", std::to_string(limit)});
    Model model;
    int64_t begun = -1, acknowledged = -1;
    std::string failure, second_write, reading, closing;
    for (std::string line = child.ReadLine(); !line.empty(); line = child.ReadLine()) {
      switch (line[0]) {
        case 'B':
          begun = std::stoll(line.substr(2));
          break;
        case 'A':
          acknowledged = std::stoll(line.substr(2));
          model.Apply(MakeBatch(options().seed, acknowledged));
          break;
        case 'F':
          failure = line;
          break;
        case 'W':
          second_write = line;
          break;
        case 'R':
          reading = line;
          break;
        case 'C':
          closing = line;
          break;
        default:
          FAIL("unexpected: ", line);
      }
    }
    const int exit_code = child.Wait();
    CHECK_MESSAGE(exit_code == 0, "the process ended with ", exit_code);
    CHECK_MESSAGE((failure.starts_with("F QUASH_IO ") || failure.starts_with("F QUASH_FULL ")),
                  failure);
    CHECK_MESSAGE(
        (second_write.starts_with("W QUASH_IO ") || second_write.starts_with("W QUASH_FULL ")),
        second_write);
    CHECK_MESSAGE(reading == "R QUASH_OK ", reading);
    // With durability normal, what was acknowledged before may now never become durable.
    const bool has_rows = !model.numbers.empty() || !model.names.empty();
    CHECK_MESSAGE((closing.starts_with("C QUASH_IO ") || closing.starts_with("C QUASH_FULL ") ||
                   (closing == "C QUASH_OK " && !has_rows)),
                  closing);

    const Db db = capi_test::Open(path, QUASH_OPEN_READWRITE);
    Collections collections;
    REQUIRE_OK(OpenCollections(db.get(), &collections));
    const auto counts = [&] {
      return std::pair(capi_test::Count(collections.numbers), capi_test::Count(collections.names));
    };
    Model with_last = model;
    with_last.Apply(MakeBatch(options().seed, begun));
    const auto stored = counts();
    CHECK((stored == std::pair(model.numbers.size(), model.names.size()) ||
           stored == std::pair(with_last.numbers.size(), with_last.names.size())));
    CHECK_OK(quash_verify(db.get(), nullptr));
    CHECK_OK(Apply(db.get(), collections, options().seed, {Batch::Kind::kAdd, 0, {123456789}, 0}));
    FreeCollections(collections);
  }
}

TEST_CASE("too few file descriptors give an error, not a crash") {
  const TempDir dir;
  const std::string path = dir / "a.qdb";
  REQUIRE_OK(CreateCollections(capi_test::Open(path).get()));
  rlimit before;
  REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
  for (const rlim_t limit : {4, 8, 12, 16}) {
    CAPTURE(limit);
    const rlimit few = {limit, before.rlim_max};
    REQUIRE(setrlimit(RLIMIT_NOFILE, &few) == 0);
    quash_db* db = nullptr;
    const quash_status status = quash_open(path.c_str(), nullptr, &db);
    const std::string message = status == QUASH_OK ? "" : quash_errmsg();
    if (status == QUASH_OK) (void)quash_close(db);
    REQUIRE(setrlimit(RLIMIT_NOFILE, &before) == 0);
    CHECK_MESSAGE((status == QUASH_OK || status == QUASH_IO),
                  std::string(quash_status_name(status)), " ", message);
    CHECK((status == QUASH_OK || !message.empty()));
  }
  const Db db = capi_test::Open(path);
  CHECK_OK(quash_verify(db.get(), nullptr));
}

TEST_SUITE_END();

TEST_SUITE_BEGIN("full_disk");

// A small tmpfs, if this user may mount one. Writes stop while 64 MiB are free.
class SmallDisk {
 public:
  SmallDisk(const std::string& path, int megabytes) : path_(path) {
    std::filesystem::create_directory(path);
    const std::string size = fmt::format("size={}m", megabytes);
    mounted_ = mount("tmpfs", path.c_str(), "tmpfs", 0, size.c_str()) == 0;
  }
  ~SmallDisk() {
    if (mounted_) umount2(path_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }

 private:
  std::string path_;
  bool mounted_ = false;
};

// Returns false if this user may not mount a disk.
bool FillDisk(uint64_t seed) {
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  const TempDir dir;
  // The first is as large as batches of all sizes take.
  const SmallDisk disk(dir / "disk", seed == 1 ? 320 : 160 + static_cast<int>(random() % 160));
  const size_t batch_rows = seed == 1 ? 500 : 1 + random() % 3000;
  const auto durability =
      seed == 1 || random() % 2 == 0 ? QUASH_DURABILITY_FULL : QUASH_DURABILITY_NORMAL;
  if (!disk.mounted()) {
    return false;
  }
  const std::string path = dir / "disk/a.qdb", ballast = dir / "disk/ballast";
  std::ofstream(ballast) << std::string(64 << 20, 'x');
  uint64_t acknowledged = 0;
  {
    const Db db = capi_test::Open(path, QUASH_OPEN_CREATE, durability);
    const auto c = capi_test::Create(db.get(), "c", {.dim = 256});
    capi_test::Rows rows{.n = batch_rows, .vectors = capi_test::RandomVectors(batch_rows, 256, 1)};
    quash_status status = QUASH_OK;
    while (status == QUASH_OK) {
      status = quash_add(c.get(), rows.Get(), nullptr);
      if (status == QUASH_OK) acknowledged += rows.n;
    }
    CHECK_MESSAGE((status == QUASH_FULL || status == QUASH_IO),
                  std::string(quash_status_name(status)), " ", std::string(quash_errmsg()));
    CHECK(acknowledged > batch_rows);
    // Refused again, reading goes on, deleting the ballast is enough for FULL.
    CHECK(quash_add(c.get(), rows.Get(), nullptr) == status);
    CHECK(capi_test::Count(c.get()) == acknowledged);
    int64_t id = 0;
    float score = 0;
    CHECK_OK(quash_search_into(c.get(), rows.vectors.data(), 1, 1, nullptr, &id, &score, nullptr));
    CHECK(score == doctest::Approx(1).epsilon(1e-4));
    CHECK_OK(quash_verify(db.get(), nullptr));
    if (status == QUASH_FULL) {
      std::filesystem::remove(ballast);
      REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
      acknowledged += rows.n;
    }
  }
  std::filesystem::remove(ballast);
  const Db db = capi_test::Open(path, QUASH_OPEN_READWRITE);
  const auto c = capi_test::OpenCollection(db.get(), "c");
  CHECK(capi_test::Count(c.get()) == acknowledged);
  capi_test::Rows rows{.n = 5, .vectors = capi_test::RandomVectors(5, 256, 2)};
  CHECK_OK(quash_add(c.get(), rows.Get(), nullptr));
  CHECK_OK(quash_verify(db.get(), nullptr));
  return true;
}

TEST_CASE("a full disk stops writing and nothing else") {
  int disks = 0;
  for (; disks < options().disks && HasTime(); ++disks) {
    if (FillDisk(options().seed + static_cast<uint64_t>(disks))) continue;
    MESSAGE("mounting a tmpfs is not allowed here: skipped");
    options().skipped = true;
    return;
  }
  MESSAGE(disks, " disks filled");
}

TEST_SUITE_END();

}  // namespace
}  // namespace fault_test
