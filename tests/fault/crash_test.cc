// A child writes batches and says which returned OK; it is killed at a random
// moment; then every acknowledged batch must be there, the one in flight whole
// or absent, and everything consistent.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <random>

#include "tests/capi/support.h"
#include "tests/fault/options.h"
#include "tests/fault/workload.h"

namespace fault_test {
namespace {

using capi_test::Child;
using capi_test::Db;
using capi_test::TempDir;

// The ten nearest of the model, by brute force, are those of exact search; the
// staged search finds a stored row at its own vector.
void CheckSearches(quash_collection* numbers, uint64_t seed, const RowOrigins& model,
                   std::mt19937_64& random) {
  quash_search_options options;
  quash_search_options_init(&options);
  const auto query = VectorOf(seed, {-1, static_cast<int64_t>(random() % 1000)});
  std::vector<std::pair<double, int64_t>> truth;
  for (const auto& [id, origin] : model) {
    truth.emplace_back(
        -capi_test::ExactScore(QUASH_METRIC_L2, query.data(), VectorOf(seed, origin).data(), kDim),
        id);
  }
  const size_t k = std::min<size_t>(10, truth.size());
  std::partial_sort(truth.begin(), truth.begin() + k, truth.end());
  std::vector<int64_t> ids(10);
  std::vector<float> scores(10);
  uint32_t count = 0;
  options.exact = 1;
  REQUIRE_OK(
      quash_search_into(numbers, query.data(), 1, 10, &options, ids.data(), scores.data(), &count));
  REQUIRE(count == k);
  for (size_t i = 0; i < k; ++i) CHECK(ids[i] == truth[i].second);
  options = SearchOfLists();
  for (int trial = 0; trial < 5 && !model.empty(); ++trial) {
    const auto row = std::next(model.begin(), random() % model.size());
    const auto vector = VectorOf(seed, row->second);
    REQUIRE_OK(quash_search_into(numbers, vector.data(), 1, 1, &options, ids.data(), scores.data(),
                                 &count));
    CHECK(ids[0] == row->first);
    CHECK(scores[0] == doctest::Approx(0).epsilon(1e-4));
    const std::string filter = fmt::format("batch = {}", row->second.batch);
    const auto expected = std::count_if(model.begin(), model.end(), [&](const auto& other) {
      return other.second.batch == row->second.batch;
    });
    CHECK(capi_test::Count(numbers, filter.c_str()) == static_cast<uint64_t>(expected));
  }
}

Model ReadStored(const Collections& collections, uint64_t seed) {
  Model model;
  std::string wrong;
  REQUIRE_OK(ReadModel(collections, seed, &model, &wrong));
  REQUIRE_MESSAGE(wrong.empty(), wrong);
  return model;
}

// What the child reported before it was killed.
struct Report {
  int64_t acknowledged = -1;
  int64_t begun = -1;
};

void TakeLine(const std::string& line, Report* report) {
  REQUIRE_MESSAGE(line[0] != 'E', "the writer failed: ", line);
  const int64_t number = std::stoll(line.substr(2));
  (line[0] == 'A' ? report->acknowledged : report->begun) = number;
}

Report WriteAndKill(const std::string& path, uint64_t seed, int64_t next, std::mt19937_64& random) {
  const bool full = random() % 2 == 0;
  Child child(
      {"crash-write", path, std::to_string(seed), std::to_string(next), full ? "full" : "normal"});
  Report report;
  if (random() % 4 == 0) {
    usleep(random() % 60000);  // while it opens, often
  } else {
    const uint64_t batches = random() % 24;
    for (uint64_t i = 0; i < 2 * batches; ++i) {
      const std::string line = child.ReadLine();
      REQUIRE_FALSE(line.empty());
      TakeLine(line, &report);
    }
    usleep(random() % 4000);
  }
  child.Kill();
  for (std::string line = child.ReadLine(); !line.empty(); line = child.ReadLine()) {
    TakeLine(line, &report);
  }
  return report;
}

// The model after what is in the database: with or without the batch in flight.
Model Settle(const Model& stored, Model model, uint64_t seed, const Report& report) {
  if (report.begun > report.acknowledged && stored != model) {
    model.Apply(MakeBatch(seed, report.begun));
  }
  REQUIRE_MESSAGE(stored == model, Difference(stored, model));
  return model;
}

// A database that is killed `cycles` times; returns its batches.
int64_t KillAndReopen(uint64_t seed, int cycles) {
  std::mt19937_64 random(seed);
  const TempDir dir;
  const std::string path = dir / "a.qdb";
  REQUIRE_OK(CreateCollections(capi_test::Open(path).get()));
  Model model;
  int64_t next = 0;
  for (int cycle = 0; cycle < cycles; ++cycle) {
    CAPTURE(seed);
    CAPTURE(cycle);
    const Report report = WriteAndKill(path, seed, next, random);
    CAPTURE(report.acknowledged);
    CAPTURE(report.begun);
    for (; next <= report.acknowledged; ++next) model.Apply(MakeBatch(seed, next));
    next = std::max(next, report.begun + 1);

    // A reader that may not write has to recover as well.
    if (random() % 4 == 0) {
      const Db db = capi_test::Open(path, QUASH_OPEN_READONLY);
      Collections collections;
      REQUIRE_OK(OpenCollections(db.get(), &collections));
      Settle(ReadStored(collections, seed), model, seed, report);
      FreeCollections(collections);
    }
    const Db db = capi_test::Open(path, QUASH_OPEN_READWRITE);
    Collections collections;
    REQUIRE_OK(OpenCollections(db.get(), &collections));
    model = Settle(ReadStored(collections, seed), model, seed, report);
    CHECK(capi_test::Count(collections.numbers) == model.numbers.size());
    CHECK(capi_test::Count(collections.names) == model.names.size());
    CheckSearches(collections.numbers, seed, model.numbers, random);
    char* text = nullptr;
    const quash_status verified = quash_verify(db.get(), &text);
    const std::string verify_report = capi_test::TakeText(text);
    CHECK_MESSAGE(verified == QUASH_OK, verify_report);
    FreeCollections(collections);
  }
  return next;
}

TEST_SUITE_BEGIN("crash");

// Database i takes everything from seed + i: --seed S --cycles 10 repeats one, but
// for the moments at which it is killed. Rows pile up, and with them what a cycle
// takes to check.
TEST_CASE("a killed writer loses nothing that it acknowledged") {
  constexpr int kCyclesOfDatabase = 10;
  int64_t batches = 0;
  uint64_t seed = options().seed;
  int kills = 0;
  while (kills < options().cycles && HasTime()) {
    const int cycles = std::min(options().cycles - kills, kCyclesOfDatabase);
    batches += KillAndReopen(seed++, cycles);
    kills += cycles;
  }
  MESSAGE(kills, " kills, ", batches, " batches");
}

TEST_SUITE_END();

}  // namespace
}  // namespace fault_test
