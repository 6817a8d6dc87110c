// Every write, sync, read, open and rename fails once, or from one on: each call
// of the library succeeds or says what failed, what it acknowledged is there
// after reopening, and nothing else is.
#include "tests/fault/failing_io.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <numeric>
#include <random>

#include "tests/capi/support.h"
#include "tests/fault/options.h"
#include "tests/fault/workload.h"

namespace fault_test {
namespace {

namespace fs = std::filesystem;
using capi_test::Child;
using capi_test::Db;
using capi_test::TempDir;
using failing_io::Failure;
using failing_io::Files;
using failing_io::Kind;

constexpr const char* kKindNames[failing_io::kNumKinds] = {"write", "sync",   "read",
                                                           "open",  "create", "rename"};
constexpr const char* kFileNames[failing_io::kNumFiles] = {"any file", "log",     "table",
                                                           "manifest", "CURRENT", "own file"};
constexpr const char* kErrorNames[failing_io::kNumErrors] = {"EIO", "ENOSPC", "short"};

// What the child said of itself.
struct Run {
  std::vector<int64_t> acknowledged;
  std::vector<int64_t> failed;  // since the last one acknowledged
  bool has_collections = false;
  int errors = 0;
  uint64_t calls = 0, failures = 0;
};

// An error names what was refused and has a code for it.
void CheckOutcome(const std::string& text, Run* run) {
  if (text.starts_with("QUASH_OK ")) return;
  ++run->errors;
  const bool has_code = text.starts_with("QUASH_IO ") || text.starts_with("QUASH_CORRUPT ") ||
                        text.starts_with("QUASH_FULL ");
  CHECK_MESSAGE((has_code && text.size() > strlen("QUASH_CORRUPT ") + 10), text);
}

// A child on a directory of its own. RocksDB sleeps for a second after some
// failures, so many run at once; what they print fits in the pipe.
struct Runner {
  Failure failure;
  std::string path;
  std::unique_ptr<Child> child;
};

std::unique_ptr<Child> StartChild(const std::string& path, uint64_t seed, int64_t first,
                                  int64_t last, const Failure& failure) {
  return std::make_unique<Child>(
      std::vector<std::string>{"failing-io", path, std::to_string(seed), std::to_string(first),
                               std::to_string(last), std::to_string(static_cast<int>(failure.kind)),
                               std::to_string(static_cast<int>(failure.files)),
                               std::to_string(static_cast<int>(failure.error)),
                               std::to_string(failure.first), failure.from_there ? "on" : "once"});
}

Run FinishChild(Child& child) {
  Run run;
  for (std::string line = child.ReadLine(); !line.empty(); line = child.ReadLine()) {
    INFO(line);
    const std::string text = line.substr(2);
    switch (line[0]) {
      case 'A':
        run.acknowledged.push_back(std::stoll(text));
        run.failed.clear();
        break;
      case 'F':
        run.failed.push_back(std::stoll(text));
        CheckOutcome(text.substr(text.find(' ') + 1), &run);
        break;
      case 'C':
        run.has_collections = text.starts_with("QUASH_OK ");
        [[fallthrough]];
      case 'O':
      case 'R':
      case 'S':
      case 'V':
      case 'Z':
        CheckOutcome(text, &run);
        break;
      case 'T':
        run.calls = std::stoull(text);
        run.failures = std::stoull(text.substr(text.find(' ')));
        break;
      default:
        CHECK_MESSAGE(line[0] == 'B', line);
    }
  }
  const int exit_code = child.Wait();
  CHECK_MESSAGE(exit_code == 0, "the process ended with ", exit_code);
  if (run.failures == 0) CHECK(run.errors == 0);
  return run;
}

// Opened again with a disk that works, the database holds what was acknowledged
// and at most one whole batch of those that failed, and takes writes.
void CheckReopened(const std::string& path, uint64_t seed, Model model, const Run& run) {
  const Db db = capi_test::Open(path, QUASH_OPEN_READWRITE);
  Collections collections;
  REQUIRE_OK(OpenCollections(db.get(), &collections));
  for (const int64_t number : run.acknowledged) model.Apply(MakeBatch(seed, number));
  Model stored;
  std::string wrong;
  REQUIRE_OK(ReadModel(collections, seed, &stored, &wrong));
  CHECK_MESSAGE(wrong.empty(), wrong);
  const bool is_expected =
      stored == model || std::any_of(run.failed.begin(), run.failed.end(), [&](int64_t number) {
        Model with_one = model;
        with_one.Apply(MakeBatch(seed, number));
        return stored == with_one;
      });
  CHECK_MESSAGE(is_expected, Difference(stored, model));
  char* text = nullptr;
  const quash_status verified = quash_verify(db.get(), &text);
  const std::string report = capi_test::TakeText(text);
  CHECK_MESSAGE(verified == QUASH_OK, report);
  CHECK_OK(Apply(db.get(), collections, seed, {Batch::Kind::kUpsert, 0, {123456789}, 0}));
  FreeCollections(collections);
}

// Syncs below `directory` cost nothing while it lives.
class FastSyncs {
 public:
  explicit FastSyncs(const std::string& directory) {
    failing_io::Start(directory.c_str(), {.kind = Kind::kSync});
  }
  ~FastSyncs() { failing_io::Stop(); }
};

// What fails, of `calls` of a kind: a sample of them that has the first and the
// last, each in one way; or, with limit 0, every one in every way.
std::vector<Failure> Failures(Kind kind, Files files, uint64_t calls, size_t limit,
                              std::mt19937_64* random) {
  std::vector<Failure> failures;
  if (limit == 0) {
    for (uint64_t place = 1; place <= calls; ++place) {
      for (int error = 0; error < failing_io::kNumErrors; ++error) {
        const bool has_short = kind == Kind::kWrite || kind == Kind::kRead;
        if (static_cast<failing_io::Error>(error) == failing_io::Error::kShort && !has_short) {
          continue;
        }
        for (const bool from_there : {false, true}) {
          failures.push_back(
              {kind, files, static_cast<failing_io::Error>(error), place, from_there});
        }
      }
    }
    return failures;
  }
  std::vector<uint64_t> places(calls);
  std::iota(places.begin(), places.end(), 1);
  if (places.size() > limit) {
    std::shuffle(places.begin() + 1, places.end() - 1, *random);
    std::swap(places[1], places.back());
    places.resize(std::max<size_t>(limit, 2));
  }
  for (const uint64_t place : places) {
    const auto error = static_cast<failing_io::Error>((*random)() % failing_io::kNumErrors);
    failures.push_back({kind, files, error, place, (*random)() % 2 == 0});
  }
  return failures;
}

// Runs one child per failure on a copy of `original`, and checks what each says
// and leaves.
//   check  called with the child's report and directory
template <typename Check>
void RunAll(const TempDir& dir, const std::string& original, uint64_t seed, int64_t first,
            int64_t last, const std::vector<Failure>& failures, Check&& check) {
  constexpr size_t kAtOnce = 16;
  for (size_t begin = 0; begin < failures.size() && (begin == 0 || HasTime()); begin += kAtOnce) {
    std::vector<Runner> runners;
    for (size_t i = begin; i < std::min(begin + kAtOnce, failures.size()); ++i) {
      const std::string path = dir / fmt::format("{}.qdb", i - begin);
      fs::remove_all(path);
      fs::copy(original, path, fs::copy_options::recursive);
      runners.push_back({failures[i], path, StartChild(path, seed, first, last, failures[i])});
    }
    for (Runner& runner : runners) {
      CAPTURE(seed);
      CAPTURE(std::string(kKindNames[static_cast<int>(runner.failure.kind)]));
      CAPTURE(std::string(kFileNames[static_cast<int>(runner.failure.files)]));
      CAPTURE(std::string(kErrorNames[static_cast<int>(runner.failure.error)]));
      CAPTURE(runner.failure.first);
      CAPTURE(runner.failure.from_there);
      check(FinishChild(*runner.child), runner.path);
    }
  }
}

// How many calls of a kind there are when none fails.
uint64_t CountCalls(const TempDir& dir, const std::string& original, uint64_t seed, int64_t first,
                    int64_t last, Kind kind, Files files) {
  uint64_t calls = 0;
  RunAll(dir, original, seed, first, last, {{.kind = kind, .files = files}},
         [&](const Run& run, const std::string&) { calls = run.calls; });
  return calls;
}

TEST_SUITE_BEGIN("failing_io");

TEST_CASE("a failing disk loses nothing that was acknowledged") {
  const uint64_t seed = options().seed;
  constexpr int64_t kFirst = 25, kLast = 45;
  const TempDir dir;
  const FastSyncs fast(fs::path(dir / "x").parent_path());
  const std::string original = dir / "original.qdb";
  Model model;
  {
    const Db db = capi_test::Open(original);
    REQUIRE_OK(CreateCollections(db.get()));
    Collections collections;
    REQUIRE_OK(OpenCollections(db.get(), &collections));
    for (int64_t number = 0; number < kFirst; ++number) {
      REQUIRE_OK(Apply(db.get(), collections, seed, MakeBatch(seed, number)));
      model.Apply(MakeBatch(seed, number));
    }
    FreeCollections(collections);
  }
  std::mt19937_64 random(seed);
  const auto limit = static_cast<size_t>(options().io_failures);
  for (int i = 0; i < failing_io::kNumKinds && HasTime(); ++i) {
    const Kind kind = static_cast<Kind>(i);
    // All together, or in a full run by what they are.
    std::vector<Files> files = {Files::kAny};
    if (limit == 0) {
      files = {Files::kLog, Files::kTable, Files::kManifest, Files::kCurrent, Files::kOwn};
    }
    int with_errors = 0;
    for (const Files of : files) {
      const uint64_t calls = CountCalls(dir, original, seed, kFirst, kLast, kind, of);
      if (of == Files::kAny) CHECK(calls > 5);
      int runs = 0, with_failures = 0, errors_here = 0;
      RunAll(dir, original, seed, kFirst, kLast, Failures(kind, of, calls, limit, &random),
             [&](const Run& run, const std::string& path) {
               ++runs;
               with_failures += run.failures > 0;
               errors_here += run.errors > 0;
               CheckReopened(path, seed, model, run);
             });
      with_errors += errors_here;
      MESSAGE(std::string(kKindNames[i]), " of ", std::string(kFileNames[static_cast<int>(of)]),
              ": ", calls, " calls, ", runs, " runs, ", with_failures, " with failures, ",
              errors_here, " with errors");
    }
    if (HasTime()) CHECK(with_errors > 0);
  }
}

TEST_CASE("a database whose creation failed can be created again") {
  const uint64_t seed = options().seed;
  const TempDir dir;
  const FastSyncs fast(fs::path(dir / "x").parent_path());
  const std::string empty = dir / "empty";
  fs::create_directory(empty);
  std::mt19937_64 random(seed);
  for (int i = 0; i < failing_io::kNumKinds && HasTime(); ++i) {
    const Kind kind = static_cast<Kind>(i);
    const uint64_t calls = CountCalls(dir, empty, seed, 0, -1, kind, Files::kAny);
    CHECK(calls > 3);
    // Half as many, since there are fewer calls; but none is not all.
    const auto limit = static_cast<size_t>((options().io_failures + 1) / 2);
    RunAll(dir, empty, seed, 0, -1, Failures(kind, Files::kAny, calls, limit, &random),
           [&](const Run& run, const std::string& path) {
             const Db db = capi_test::Open(path);
             if (run.has_collections) {
               Collections collections;
               CHECK_OK(OpenCollections(db.get(), &collections));
               FreeCollections(collections);
             }
             CHECK_OK(quash_verify(db.get(), nullptr));
           });
  }
}

TEST_SUITE_END();

}  // namespace
}  // namespace fault_test
