#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "quashdb.hpp"

using quashdb::Collection;
using quashdb::CollectionOptions;
using quashdb::Database;
using quashdb::Error;
using quashdb::Ids;
using quashdb::Result;
using quashdb::Rows;
using quashdb::SearchOptions;
using quashdb::Span;

std::string VersionFromSecondUnit();

namespace {

constexpr std::size_t kDim = 4;

// Row i is at distance i from the origin along axis i % kDim.
std::vector<float> MakeVectors(std::size_t n) {
  std::vector<float> vectors(n * kDim);
  for (std::size_t i = 0; i < n; ++i) vectors[i * kDim + i % kDim] = static_cast<float>(i + 1);
  return vectors;
}

CollectionOptions L2Options() {
  CollectionOptions options(kDim);
  options.metric = QUASH_METRIC_L2;
  options.rerank = QUASH_RERANK_F32;
  return options;
}

template <typename Function>
quash_status StatusOf(Function&& function) {
  try {
    function();
  } catch (const Error& error) {
    CHECK(std::string(error.what()) != "");
    return error.status();
  }
  return QUASH_OK;
}

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "quashXXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  std::string operator/(const char* name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

}  // namespace

static_assert(std::is_nothrow_move_constructible_v<Database>);
static_assert(std::is_nothrow_move_assignable_v<Collection>);
static_assert(std::is_nothrow_move_constructible_v<Result>);
static_assert(!std::is_copy_constructible_v<Database>);
static_assert(!std::is_copy_constructible_v<Result>);
static_assert(std::is_convertible_v<std::vector<float>&, Span<const float>>);
static_assert(std::is_convertible_v<const std::vector<float>&, Span<const float>>);
static_assert(!std::is_convertible_v<const std::vector<float>&, Span<float>>);
static_assert(!std::is_convertible_v<std::vector<double>&, Span<const float>>);

TEST_CASE("the header may be in several translation units") {
  CHECK(VersionFromSecondUnit() == QUASH_VERSION_STRING);
  CHECK(quashdb::Isa() != "");
}

TEST_CASE("rows written come back") {
  Database db = Database::Open(":memory:");
  CollectionOptions options = L2Options();
  options.fields = {{"year", QUASH_FIELD_INT}, {"tags", QUASH_FIELD_STRING_LIST}};
  Collection points = db.CreateCollection("points", options);
  CHECK(points.dim() == kDim);

  const std::vector<float> vectors = MakeVectors(3);
  const std::vector<std::int64_t> ids = {7, 8, 9};
  const std::vector<std::string> metadata = {R"({"year": 2020})", "", R"({"tags": ["a"]})"};
  const std::vector<std::string> documents = {"seven", "eight", ""};
  Rows rows;
  rows.int_ids = ids;
  rows.vectors = vectors;
  rows.metadata = metadata;
  rows.documents = documents;
  points.Add(rows);
  CHECK(StatusOf([&] { points.Add(rows); }) == QUASH_EXISTS);
  CHECK(points.Count() == 3);
  CHECK(points.Contains({7, 100}) == std::vector<bool>{true, false});

  const Result got = points.Get(
      {9, 7, 100}, QUASH_INCLUDE_METADATA | QUASH_INCLUDE_DOCUMENTS | QUASH_INCLUDE_VECTORS);
  REQUIRE(got.size() == 2);
  CHECK(got.int_ids()[0] == 9);
  CHECK(got.int_ids()[1] == 7);
  CHECK(got.scores().empty());
  CHECK_FALSE(got.document(0).has_value());
  CHECK(*got.document(1) == "seven");
  CHECK(got.metadata(1)->find("2020") != std::string_view::npos);
  const Span<const float> ninth = got.vector(0);
  CHECK(std::vector<float>(ninth.begin(), ninth.end()) == std::vector<float>{0, 0, 3, 0});

  points.AddField("lang", QUASH_FIELD_STRING);
  CHECK(points.Describe().find("lang") != std::string::npos);
  CHECK(points.Count("year = 2020") == 1);
  CHECK(points.Count("lang IS NULL") == 3);

  points.Upsert(rows);
  CHECK(points.Count() == 3);
  CHECK(points.Delete({7, 7000}) == 1);
  CHECK(points.DeleteWhere("tags CONTAINS 'a'") == 1);
  CHECK(points.Stats().rows == 1);
}

TEST_CASE("string ids") {
  Database db = Database::Open(":memory:");
  CollectionOptions options = L2Options();
  options.id_type = QUASH_ID_STRING;
  Collection points = db.CreateCollection("points", options);
  const std::vector<float> vectors = MakeVectors(2);
  const std::vector<std::string> ids = {"first", "second"};
  Rows rows;
  rows.string_ids = ids;
  rows.vectors = vectors;
  points.Add(rows);
  const Result found = points.Search(Span<const float>(vectors).subspan(0, kDim), 1);
  REQUIRE(found.size() == 1);
  CHECK(found.string_id(0) == "first");
  CHECK(found.string_id(1) == "");
  CHECK(found.int_ids().empty());
  const Result by_id = points.SearchById(Span<const std::string>(ids), 1);
  REQUIRE(by_id.num_queries() == 2);
  CHECK(by_id.string_id(1) == "second");
  CHECK(StatusOf([&] { points.Get({1}); }) == QUASH_MISUSE);
  const std::vector<std::string> with_nul = {std::string("a\0b", 3)};
  CHECK(StatusOf([&] { points.Get(Span<const std::string>(with_nul)); }) == QUASH_INVALID);
}

TEST_CASE("search, paging and prepared queries agree") {
  Database db = Database::Open(":memory:");
  Collection points = db.CreateCollection("points", L2Options());
  const std::vector<float> vectors = MakeVectors(100);
  const std::vector<std::int64_t> ids = points.Add(vectors);
  REQUIRE(ids.size() == 100);
  const Span<const float> query = Span<const float>(vectors).subspan(40 * kDim, kDim);

  SearchOptions exact;
  exact.exact = true;
  const Result all = points.Search(query, 10, exact);
  REQUIRE(all.size() == 10);
  CHECK(all.int_ids()[0] == ids[40]);
  CHECK(all.scores()[0] == doctest::Approx(0.0));

  SearchOptions behind = exact;
  behind.after_int = {{all.scores()[4], all.int_ids()[4]}};
  const Result page = points.Search(query, 5, behind);
  REQUIRE(page.size() == 5);
  for (std::size_t row = 0; row < 5; ++row) {
    CHECK(page.int_ids()[row] == all.int_ids()[row + 5]);
  }

  std::vector<std::int64_t> found(200);
  std::vector<float> scores(200);
  points.SearchInto(query, 200, found, scores, exact);
  for (std::size_t row = 0; row < 10; ++row) CHECK(found[row] == all.int_ids()[row]);
  CHECK(found[199] == -1);
  CHECK(std::isnan(scores[199]));
  CHECK(StatusOf([&] { points.SearchInto(query, 10, found, scores); }) == QUASH_INVALID);

  quashdb::Query prepared = points.Prepare(exact);
  CHECK(StatusOf([&] { prepared.Explain(); }) == QUASH_MISUSE);
  const Result again = prepared.Run(query, 10);
  for (std::size_t row = 0; row < 10; ++row) CHECK(again.int_ids()[row] == all.int_ids()[row]);
  CHECK(prepared.Explain().find("stages") != std::string::npos);

  quashdb::MeasureOptions options;
  options.sample = 20;
  const quash_measure_report report = points.Measure(options);
  CHECK(report.queries == 20);
  CHECK(report.recall > 0.5);
}

TEST_CASE("iteration sees one snapshot") {
  Database db = Database::Open(":memory:");
  Collection points = db.CreateCollection("points", L2Options());
  const std::vector<float> vectors = MakeVectors(10);
  points.Add(vectors);
  quashdb::Iterator rows = points.Iterate();
  CHECK(points.DeleteWhere("TRUE") == 10);
  std::size_t n = 0;
  for (Result batch = rows.Next(4); batch.size() > 0; batch = rows.Next(4)) n += batch.size();
  CHECK(n == 10);
}

TEST_CASE("wrong input is an Error with its status") {
  Database db = Database::Open(":memory:");
  Collection points = db.CreateCollection("points", L2Options());
  const float nan[kDim] = {0, NAN, 0, 0};
  const float three[3] = {};
  CHECK(StatusOf([&] { points.Add(nan); }) == QUASH_INVALID);
  CHECK(StatusOf([&] { points.Add(three); }) == QUASH_INVALID);
  CHECK(StatusOf([&] { points.Search(nan, 1); }) == QUASH_INVALID);
  CHECK(StatusOf([&] { points.Search(three, 1); }) == QUASH_INVALID);
  const float query[kDim] = {};
  CHECK(StatusOf([&] { points.Search(query, 0); }) == QUASH_INVALID);
  CHECK(StatusOf([&] { points.Search(query, QUASH_K_MAX + 1); }) == QUASH_LIMIT);
  CHECK(StatusOf([&] { points.SearchById({5}, 1); }) == QUASH_NOT_FOUND);
  CHECK(StatusOf([&] { db.OpenCollection("none"); }) == QUASH_NOT_FOUND);
  CHECK(StatusOf([&] { db.OpenCollection(std::string("a\0b", 3)); }) == QUASH_INVALID);
  CHECK(StatusOf([&] { db.CreateCollection("points", L2Options()); }) == QUASH_EXISTS);
  CHECK(StatusOf([&] { db.CreateCollection("none", CollectionOptions(0)); }) == QUASH_INVALID);
  try {
    points.Count("nothing = 1");
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.offset() >= 0);
  }
  const std::vector<std::int64_t> ids = {1, 2};
  Rows rows;
  rows.int_ids = ids;
  rows.vectors = query;
  CHECK(StatusOf([&] { points.Add(rows); }) == QUASH_INVALID);
}

TEST_CASE("files: durability, backup, restore, verify, progress") {
  const TemporaryDirectory directory;
  {
    Database db = Database::Open(directory / "db");
    Collection points = db.GetOrCreateCollection("points", L2Options());
    const std::vector<float> vectors = MakeVectors(50);
    points.Add(vectors);
    db.Checkpoint();
    db.Backup(directory / "copy");
    CHECK(StatusOf([&] { db.Backup(directory / "copy"); }) == QUASH_EXISTS);

    std::uint64_t calls = 0;
    db.SetProgress([&](std::uint64_t, std::uint64_t) { return ++calls > 0; });
    CHECK(db.Verify().find("\"ok\"") != std::string::npos);
    if (calls > 0) {
      db.SetProgress([](std::uint64_t, std::uint64_t) { return false; });
      CHECK(StatusOf([&] { db.Verify(); }) == QUASH_CANCELLED);
      db.SetProgress([](std::uint64_t, std::uint64_t) -> bool { throw 42; });
      CHECK_THROWS_AS(db.Verify(), int);
    }
    db.SetProgress(nullptr);
    db.Compact();
    db.Refresh();
    CHECK(db.Stats().find("points") != std::string::npos);
    CHECK(db.ListCollections() == "[\"points\"]");
    db.Close();
    CHECK(StatusOf([&] { points.Count(); }) == QUASH_MISUSE);
    CHECK(StatusOf([&] { db.Stats(); }) == QUASH_INVALID);
  }
  Database::Restore(directory / "copy", directory / "restored");
  quashdb::OpenOptions options;
  options.mode = QUASH_OPEN_READONLY;
  Database db = Database::Open(directory / "restored", options);
  Collection points = db.OpenCollection("points");
  CHECK(points.Count() == 50);
  const float vector[kDim] = {1, 2, 3, 4};
  CHECK(StatusOf([&] { points.Add(vector); }) == QUASH_READONLY);
  CHECK(StatusOf([&] { db.DropCollection("points"); }) == QUASH_READONLY);
}

TEST_CASE("objects move") {
  Database first = Database::Open(":memory:");
  Collection points = first.CreateCollection("points", L2Options());
  Database second = std::move(first);
  CHECK(StatusOf([&] { first.Stats(); }) == QUASH_INVALID);  // NOLINT: documented
  points = second.CreateCollection("others", L2Options());
  const std::vector<float> vectors = MakeVectors(5);
  points.Add(vectors);
  Result found = points.Search(Span<const float>(vectors).subspan(0, kDim), 2);
  const Span<const std::int64_t> ids = found.int_ids();
  const Result moved = std::move(found);
  CHECK(moved.int_ids().data() == ids.data());
  CHECK(found.size() == 0);  // NOLINT: documented
  second = Database::Open(":memory:");
  CHECK(StatusOf([&] { points.Count(); }) == QUASH_MISUSE);
}

TEST_CASE("threads share a collection") {
  Database db = Database::Open(":memory:");
  Collection points = db.CreateCollection("points", L2Options());
  const std::vector<float> vectors = MakeVectors(64);
  points.Add(vectors);
  std::vector<std::thread> threads;
  std::vector<std::size_t> wrong(4);
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        try {
          wrong[t] +=
              points.Search(Span<const float>(vectors).subspan(t * kDim, kDim), 3).size() != 3;
          if (t == 0) points.Add(Span<const float>(vectors).subspan(0, kDim));
        } catch (const Error&) {
          ++wrong[t];
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::size_t count : wrong) CHECK(count == 0);
  CHECK(points.Count() == 114);
}
