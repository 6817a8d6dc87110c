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
    value.bytes = changed;
    CAPTURE(value.family);
    CopyDatabase(original.path, path);
    Replace(path + "/data", value);
    const Finding finding = prober.Probe(path);
    CheckFinding(finding, is_unchecked);
    INFO("outcome: ", finding.outcome, ", verify: ", finding.verify);
    const bool is_seen = finding.outcome != "same" || finding.verify != "QUASH_OK";
    if (!is_unchecked) CHECK(is_seen);
    ++(is_seen && finding.outcome != "loss" ? found : unseen);
  }
  CHECK(found > 0);
  MESSAGE(tried, " values changed: ", found, " found, ", unseen,
          " unseen, all of them without a checksum of ours");
}

TEST_SUITE_END();

}  // namespace
}  // namespace fault_test
