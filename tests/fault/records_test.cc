// Stored values changed under RocksDB, which gives them right checksums of its own:
// what QuashDB's checksums cover is found out; of the rest none ends the process.
#include <doctest/doctest.h>
#include <rocksdb/db.h>

#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/capi/support.h"
#include "tests/fault/options.h"
#include "tests/fault/probe.h"

namespace fault_test {
namespace {

using capi_test::TempDir;

// DESIGN.md: metadata, documents, ids and bare counters have RocksDB's checksums
// alone.
bool IsUnchecked(const std::string& family, const std::string& value) {
  static const std::set<std::string> families = {"docs", "ids", "meta_index"};
  return families.contains(family) || value.size() == sizeof(uint64_t);
}

struct Database {
  explicit Database(const std::string& path) {
    rocksdb::Options options;
    std::vector<std::string> names;
    REQUIRE(rocksdb::DB::ListColumnFamilies(options, path, &names).ok());
    std::vector<rocksdb::ColumnFamilyDescriptor> families;
    for (const std::string& name : names) families.emplace_back(name, options);
    rocksdb::DB* opened = nullptr;
    options.info_log_level = rocksdb::FATAL_LEVEL;
    options.max_file_opening_threads = 1;
    options.allow_fallocate = false;  // of 64 MiB for one value
    REQUIRE(rocksdb::DB::Open(options, path, families, &handles, &opened).ok());
    db.reset(opened);
  }
  ~Database() {
    for (rocksdb::ColumnFamilyHandle* handle : handles) db->DestroyColumnFamilyHandle(handle);
  }
  std::unique_ptr<rocksdb::DB> db;
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
};

struct Value {
  std::string family, key, bytes;
};

// A partition index whose head or centroids cannot be read is left out when its
// collection is loaded, and the writer makes it anew from the rows, perhaps before
// anyone has asked. Lists are read by searches and by verification; a damaged one
// stays, and is found.
bool IsRemade(const Value& value) {
  constexpr size_t kKindAt = 5;  // FORMAT.md, "Parts"
  constexpr char kCentroids = 10;
  if (value.family == "lists") return value.bytes.at(kKindAt) == kCentroids;
  return value.family == "catalog" && value.key.size() == 5 && value.key[4] == 'p';
}

std::vector<Value> ReadValues(const std::string& path) {
  const Database database(path);
  std::vector<Value> values;
  for (rocksdb::ColumnFamilyHandle* handle : database.handles) {
    const std::unique_ptr<rocksdb::Iterator> it(
        database.db->NewIterator(rocksdb::ReadOptions(), handle));
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      values.push_back({handle->GetName(), it->key().ToString(), it->value().ToString()});
    }
    REQUIRE(it->status().ok());
  }
  return values;
}

void Replace(const std::string& path, const Value& value) {
  const Database database(path);
  for (rocksdb::ColumnFamilyHandle* handle : database.handles) {
    if (handle->GetName() != value.family) continue;
    REQUIRE(database.db->Put(rocksdb::WriteOptions(), handle, value.key, value.bytes).ok());
  }
}

// A bit, a cut, bytes added, noise, or another value of the family.
std::string Changed(const std::vector<Value>& values, const Value& value, std::mt19937_64& random) {
  std::string bytes = value.bytes;
  switch (random() % 6) {
    case 0:
      bytes.resize(random() % (bytes.size() + 1));
      break;
    case 1:
      bytes += std::string(1 + random() % 80, static_cast<char>(random()));
      break;
    case 2:
      for (char& c : bytes) c = static_cast<char>(random());
      break;
    case 3: {
      std::vector<const Value*> others;
      for (const Value& other : values) {
        if (other.family == value.family) others.push_back(&other);
      }
      bytes = others[random() % others.size()]->bytes;
      break;
    }
    default:
      if (!bytes.empty()) bytes[random() % bytes.size()] ^= static_cast<char>(1 << random() % 8);
  }
  return bytes;
}

TEST_SUITE_BEGIN("records");

TEST_CASE("changed values are found out or do no harm") {
  const TempDir dir;
  const Original original(dir);
  Prober prober(original.dump);
  const std::string path = dir / "changed.qdb";
  const std::vector<Value> values = ReadValues(original.path + "/data");
  std::map<std::string, std::vector<const Value*>> by_family;
  for (const Value& value : values) by_family[value.family].push_back(&value);
  REQUIRE(by_family.size() >= 8);
  int found = 0, unseen = 0, tried = 0;
  for (int record = 0; record < options().records && HasTime(); ++record) {
    const uint64_t seed = options().seed + static_cast<uint64_t>(record);
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    auto family = by_family.begin();
    std::advance(family, random() % by_family.size());
    Value value = *family->second[random() % family->second.size()];
    const std::string changed = Changed(values, value, random);
    if (changed == value.bytes) continue;
    ++tried;
    const bool is_unchecked = IsUnchecked(value.family, value.bytes);
    const bool is_remade = IsRemade(value);
    value.bytes = changed;
    CAPTURE(value.family);
    CopyDatabase(original.path, path);
    Replace(path + "/data", value);
    const Finding finding = prober.Probe(path);
    CheckFinding(finding, is_unchecked);
    INFO("outcome: ", finding.outcome, ", verify: ", finding.verify);
    const bool is_seen = finding.outcome != "same" || finding.verify != "QUASH_OK";
    if (!is_unchecked && !is_remade) CHECK(is_seen);
    ++(is_seen && finding.outcome != "loss" ? found : unseen);
  }
  CHECK(found > 0);
  MESSAGE(tried, " values changed: ", found, " found, ", unseen,
          " unseen, all of them without a checksum of ours, or of an index made anew");
}

TEST_CASE("opening does not look for every collection that a damaged count speaks of") {
  const TempDir dir;
  const Original original(dir);
  const std::string count("\0\0\0\0\xff\xff\xff\xff", 8);
  Replace(original.path + "/data", {"catalog", std::string("\0\0\0\0next", 8), count});
  CHECK(Prober(original.dump).Probe(original.path).outcome == "same");
}

TEST_CASE("a collection that is too damaged to be opened can be dropped") {
  const TempDir dir;
  const std::string path = dir / "a.qdb";
  {
    const capi_test::Db db = capi_test::Open(path);
    for (const char* name : {"bad", "good"}) {
      const capi_test::Collection c = capi_test::Create(db.get(), name, {});
      capi_test::Rows rows{.n = 100, .vectors = capi_test::RandomVectors(100, 16, 1)};
      REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
    }
  }
  Replace(path + "/data", {"catalog", std::string("\0\0\0\1s", 5), "noise"});  // its state
  for (int round = 0; round < 2; ++round) {
    const capi_test::Db db = capi_test::Open(path);
    if (round == 0) {
      quash_collection* bad = nullptr;
      CHECK_FAILS(quash_collection_open(db.get(), "bad", &bad), QUASH_CORRUPT, "damaged");
      CHECK_FAILS(quash_verify(db.get(), nullptr), QUASH_CORRUPT, "damaged");
      CHECK_OK(quash_collection_drop(db.get(), "bad"));
    }
    CHECK_FAILS(quash_collection_drop(db.get(), "bad"), QUASH_NOT_FOUND, "bad");
    CHECK(capi_test::Count(capi_test::OpenCollection(db.get(), "good").get()) == 100);
    CHECK_OK(quash_verify(db.get(), nullptr));
  }
}

void Remove(const std::string& path, const Value& value) {
  const Database database(path);
  for (rocksdb::ColumnFamilyHandle* handle : database.handles) {
    if (handle->GetName() != value.family) continue;
    REQUIRE(database.db->Delete(rocksdb::WriteOptions(), handle, value.key).ok());
  }
}

// Of every row, through every list.
quash_status SearchAll(const std::string& path) {
  const capi_test::Db db = capi_test::Open(path, QUASH_OPEN_READONLY);
  quash_collection* raw = nullptr;
  const quash_status opened = quash_collection_open(db.get(), "c", &raw);
  if (opened != QUASH_OK) return opened;
  const capi_test::Collection collection(raw);
  quash_search_options options;
  quash_search_options_init(&options);
  options.nprobe = UINT32_MAX;
  quash_result* result = nullptr;
  const quash_status searched =
      quash_search(raw, capi_test::RandomVectors(1, 16, 9).data(), 1, 10, &options, &result);
  quash_result_free(result);
  return searched;
}

TEST_CASE("lists and centroids that are changed or gone are found out") {
  const TempDir dir;
  const std::string original = dir / "original.qdb", path = dir / "changed.qdb";
  {
    const capi_test::Db db = capi_test::Open(original);
    quash_collection_options options;
    quash_collection_options_init(&options);
    options.dim = 16;
    options.partition_rows = 1000;
    quash_collection* raw = nullptr;
    REQUIRE_OK(quash_collection_create(db.get(), "c", &options, &raw));
    const capi_test::Collection collection(raw);
    capi_test::Rows rows{.n = 2000, .vectors = capi_test::RandomVectors(2000, 16, 1)};
    REQUIRE_OK(quash_add(raw, rows.Get(), nullptr));
    REQUIRE_OK(quash_compact(db.get()));
  }
  REQUIRE(SearchAll(original) == QUASH_OK);
  std::vector<Value> lists;
  for (Value& value : ReadValues(original + "/data")) {
    if (value.family == "lists") lists.push_back(std::move(value));
  }
  REQUIRE(lists.size() > 10);
  std::mt19937_64 random(5);
  int refused = 0;
  // Some of the first values and the last few: lists, and centroids.
  for (size_t i = 0; i < lists.size(); i += i + 6 < lists.size() ? 5 : 1) {
    for (int change = 0; change < 3; ++change) {
      CAPTURE(i);
      CAPTURE(change);
      CopyDatabase(original, path);
      Value value = lists[i];
      if (change == 0) {
        Remove(path + "/data", value);
      } else if (change == 1) {
        value.bytes[random() % value.bytes.size()] ^= static_cast<char>(1 << random() % 8);
        Replace(path + "/data", value);
      } else {
        value.bytes = lists[(i + 1) % lists.size()].bytes;
        Replace(path + "/data", value);
      }
      // Without its centroids the index is left out.
      const quash_status searched = SearchAll(path);
      CHECK((searched == QUASH_CORRUPT || searched == QUASH_OK));
      refused += searched == QUASH_CORRUPT;
      {
        const capi_test::Db db = capi_test::Open(path, QUASH_OPEN_READONLY);
        CHECK(quash_verify(db.get(), nullptr) == QUASH_CORRUPT);
      }
      {
        const capi_test::Db db = capi_test::Open(path);
        CHECK(quash_compact(db.get()) == QUASH_OK);
        CHECK(quash_verify(db.get(), nullptr) == QUASH_OK);
        const capi_test::Collection c = capi_test::OpenCollection(db.get(), "c");
        quash_collection_info info{};
        info.struct_size = sizeof(info);
        REQUIRE_OK(quash_collection_stats(c.get(), &info));
        CHECK(info.lists > 0);
        CHECK(info.indexed_rows == 2000);
      }
      CHECK(SearchAll(path) == QUASH_OK);
    }
  }
  CHECK(refused > 0);
}

TEST_SUITE_END();

}  // namespace
}  // namespace fault_test
