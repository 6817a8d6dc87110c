// Databases written by earlier builds give the rows and the results that they
// gave then, to the last bit of every score.
//
//   golden_test                 opens format<N>/ and compares
//   golden_test --make DIR      writes such a folder with this build: once for
//                               each version of the format, never again
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/capi/support.h"

namespace golden_test {
namespace {

namespace fs = std::filesystem;
using capi_test::Collection;
using capi_test::Db;
using capi_test::Result;
using capi_test::Rows;

constexpr uint32_t kDim = 40;  // of no particular multiple

struct Member {
  const char* name;
  quash_metric metric;
  quash_id_type id_type;
  uint32_t bits;
  quash_rerank rerank;
  quash_rotation rotation;
};
constexpr Member kMembers[] = {
    {"a", QUASH_METRIC_COSINE, QUASH_ID_INT64, 4, QUASH_RERANK_F16, QUASH_ROTATION_HADAMARD},
    {"b", QUASH_METRIC_L2, QUASH_ID_STRING, 2, QUASH_RERANK_INT8, QUASH_ROTATION_HADAMARD},
    {"c", QUASH_METRIC_IP, QUASH_ID_INT64, 3, QUASH_RERANK_NONE, QUASH_ROTATION_DENSE},
    {"d", QUASH_METRIC_L2, QUASH_ID_INT64, 1, QUASH_RERANK_F32, QUASH_ROTATION_DENSE},
};

// Multiples of 2^-15 in [-1, 1): equal on every platform.
std::vector<float> Vectors(size_t n, uint64_t seed) {
  std::vector<float> values(n * kDim);
  uint64_t state = seed;
  for (float& value : values) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    value = static_cast<float>(static_cast<int64_t>(state >> 48) - 32768) / 32768;
  }
  return values;
}

Rows MakeRows(const Member& member, size_t n, int64_t first_id) {
  Rows rows = capi_test::SampleRows(n, kDim, first_id, /*seed=*/1);
  rows.vectors = Vectors(n, static_cast<uint64_t>(first_id) + 1);
  if (member.id_type == QUASH_ID_STRING) {
    for (const int64_t id : rows.int_ids) rows.string_ids.push_back(fmt::format("row {}", id));
    rows.int_ids.clear();
  }
  return rows;
}

void Make(const std::string& path) {
  Db db = capi_test::Open(path);
  for (const Member& member : kMembers) {
    const Collection collection =
        capi_test::Create(db.get(), member.name,
                          {.dim = kDim, .metric = member.metric, .id_type = member.id_type,
                           .bits = member.bits, .rerank = member.rerank,
                           .rotation = member.rotation, .fields = capi_test::SampleFields()});
    Rows rows = MakeRows(member, 150, 0);
    REQUIRE_OK(quash_add(collection.get(), rows.Get(), nullptr));
  }
  REQUIRE_OK(quash_compact(db.get()));  // seals the tails
  for (const Member& member : kMembers) {
    const Collection collection = capi_test::OpenCollection(db.get(), member.name);
    uint64_t deleted = 0;
    REQUIRE_OK(quash_delete_where(collection.get(), "price = 0.75", &deleted));
    REQUIRE(deleted > 0);  // a live bitmap
    const quash_field late = {"late", QUASH_FIELD_INT};
    REQUIRE_OK(quash_collection_add_field(collection.get(), &late));
    Rows rows = MakeRows(member, 20, 140);  // replaces 140..149, adds a tail
    REQUIRE_OK(quash_upsert(collection.get(), rows.Get()));
  }
  REQUIRE_OK(quash_close(db.release()));
}

// Ids and the bits of scores, of two kinds of search.
std::string SearchAll(quash_db* db) {
  constexpr size_t kQueries = 5;
  constexpr size_t kHits = 8;
  const std::vector<float> queries = Vectors(kQueries, 99);
  std::string text;
  for (const Member& member : kMembers) {
    const Collection collection = capi_test::OpenCollection(db, member.name);
    for (const char* filter : {"", "lang IN ('en', 'de') OR price > 1"}) {
      quash_search_options options;
      quash_search_options_init(&options);
      if (*filter != '\0') options.filter = filter;
      options.exact = *filter != '\0' && member.rerank != QUASH_RERANK_NONE;
      quash_result* result = nullptr;
      REQUIRE_OK(quash_search(collection.get(), queries.data(), kQueries, kHits, &options,
                              &result));
      const Result owned(result);
      size_t row = 0;
      for (size_t q = 0; q < kQueries; ++q) {
        text += fmt::format("{} {} \"{}\"", member.name, q, filter);
        const std::vector<float> scores = capi_test::Scores(result, q);
        for (size_t i = 0; i < scores.size(); ++i, ++row) {
          uint32_t bits = 0;
          std::memcpy(&bits, &scores[i], sizeof(bits));
          const std::string id = member.id_type == QUASH_ID_STRING
                                     ? quash_result_string_id(result, row)
                                     : fmt::format("{}", capi_test::IntIds(result, q)[i]);
          text += fmt::format(" {}:{:08x}", id, bits);
        }
        text += '\n';
      }
    }
  }
  return text;
}

std::string ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE_MESSAGE(file.good(), path.string(), " cannot be read");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void WriteFile(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  REQUIRE_MESSAGE(file.good(), path.string(), " cannot be written");
}

TEST_CASE("databases of every format version") {
  for (const fs::path folder : {fs::path(GOLDEN_DIR) / "format1"}) {
    INFO(folder.string());
    const capi_test::TempDir dir;
    const std::string path = dir / "golden";
    fs::copy(folder / "database", path, fs::copy_options::recursive);
    const std::string dump = ReadFile(folder / "dump.txt");
    const std::string searches = ReadFile(folder / "searches.txt");
    for (const auto mode : {QUASH_OPEN_READONLY, QUASH_OPEN_FOLLOWER, QUASH_OPEN_READWRITE}) {
      CAPTURE(mode);
      const Db db = capi_test::Open(path, mode);
      CHECK(capi_test::Dump(db.get()) == dump);
      CHECK(SearchAll(db.get()) == searches);
      char* report = nullptr;
      REQUIRE_OK(quash_verify(db.get(), &report));
      CHECK(capi_test::TakeJson(report)["problems"].empty());
    }
    // Rewritten by this build, it is still the same.
    const Db db = capi_test::Open(path, QUASH_OPEN_READWRITE);
    REQUIRE_OK(quash_compact(db.get()));
    CHECK(capi_test::Dump(db.get()) == dump);
    CHECK(SearchAll(db.get()) == searches);
  }
}

TEST_CASE("the same rows written by this build") {
  const capi_test::TempDir dir;
  Make(dir / "made");
  const Db db = capi_test::Open(dir / "made", QUASH_OPEN_READWRITE);
  CHECK(SearchAll(db.get()) == ReadFile(fs::path(GOLDEN_DIR) / "format1/searches.txt"));
}

void MakeFolder(const fs::path& folder) {
  fs::create_directories(folder);
  Make((folder / "database").string());
  const Db db = capi_test::Open((folder / "database").string(), QUASH_OPEN_READONLY);
  WriteFile(folder / "dump.txt", capi_test::Dump(db.get()));
  WriteFile(folder / "searches.txt", SearchAll(db.get()));
}

std::string folder_to_make;

TEST_CASE("make" * doctest::skip()) { MakeFolder(folder_to_make); }

}  // namespace
}  // namespace golden_test

int main(int argc, char** argv) {
  doctest::Context context;
  if (argc == 3 && std::strcmp(argv[1], "--make") == 0) {
    golden_test::folder_to_make = argv[2];
    context.setOption("test-case", "make");
    context.setOption("no-skip", true);
  } else {
    context.applyCommandLine(argc, argv);
  }
  return context.run();
}
