#include "libquashdb/table_check.h"

#include <doctest/doctest.h>
#include <rocksdb/env.h>
#include <rocksdb/options.h>
#include <rocksdb/sst_file_writer.h>
#include <rocksdb/table.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace {

std::string MakeTable(uint32_t format_version) {
  char folder[] = "/tmp/quashdb-table-XXXXXX";
  REQUIRE(mkdtemp(folder) != nullptr);
  const std::string path = std::string(folder) + "/made.sst";
  rocksdb::BlockBasedTableOptions table;
  table.format_version = format_version;
  rocksdb::Options options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  rocksdb::SstFileWriter writer(rocksdb::EnvOptions(), options);
  REQUIRE(writer.Open(path).ok());
  for (int i = 100; i < 400; ++i) {
    REQUIRE(writer.Put("key" + std::to_string(i), std::string(100, static_cast<char>(i))).ok());
  }
  REQUIRE(writer.Finish().ok());
  std::stringstream bytes;
  bytes << std::ifstream(path, std::ios::binary).rdbuf();
  std::filesystem::remove_all(folder);
  return bytes.str();
}

rocksdb::IOStatus Check(const std::string& file) {
  return quash::CheckTable(
      file.size(), [&](uint64_t offset, size_t n, char*, std::string_view* bytes) {
        *bytes = std::string_view(file).substr(offset, n);
        return rocksdb::IOStatus::OK();
      });
}

}  // namespace

TEST_SUITE("table check") {
  TEST_CASE("a table is sound, and damage to what RocksDB believes unchecked is found") {
    const std::string table = MakeTable(5);
    CHECK(Check(table).ok());
    for (const char* inside : {"leveldb.BytewiseComparator", "rocksdb.properties"}) {
      const size_t at = table.find(inside);
      REQUIRE(at != std::string::npos);
      std::string damaged = table;
      damaged[at + 9] ^= 1;
      CHECK(Check(damaged).IsCorruption());
    }
  }

  TEST_CASE("any byte of the end may be anything") {
    const std::string table = MakeTable(5);
    size_t found = 0;
    for (size_t i = 1; i <= 1000; ++i) {
      for (uint8_t change : {0x01, 0x80, 0xff}) {
        std::string damaged = table;
        damaged[table.size() - i] ^= static_cast<char>(change);
        found += Check(damaged).IsCorruption();
      }
      Check(table.substr(0, table.size() - i));
    }
    CHECK(found > 2500);  // all but the footer's padding, version and magic
    for (size_t n = 0; n < 200; ++n) Check(table.substr(table.size() - n));
  }

  TEST_CASE("other tables are left to RocksDB") {
    CHECK(Check(MakeTable(4)).ok());
    CHECK(Check("").ok());
    CHECK(Check(std::string(1000, 'x')).ok());
  }
}
