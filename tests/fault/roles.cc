// What the fault tests run in another process:
//   crash-write PATH SEED FIRST full|normal   batches from FIRST on for ever,
//       each between the lines "B number" and "A number"
//   limited-write PATH SEED FIRST BYTES       the same with files limited to
//       BYTES; at the first failure what the handle then does
//   failing-io PATH SEED FIRST LAST KIND FILES ERROR CALL once|on   opens, writes the batches
//       FIRST to LAST, reads and closes while file calls of a kind fail from the
//       CALL-th on (failing_io.h); FIRST 0: creates the database first
//   allocation CALL DIRECTORY once|on cold|warm LIMIT PER_STACK    allocation_calls.h
//   probe DUMP                                for each line of input, a path: opens
//       the database, reads everything, compares with the text in the file DUMP,
//       and prints what came of it
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>

#include "tests/capi/support.h"
#include "tests/fault/allocation_calls.h"
#include "tests/fault/failing_io.h"
#include "tests/fault/workload.h"

namespace capi_test {
namespace {

using fault_test::Batch;
using fault_test::Collections;
using fault_test::Model;

// RocksDB's messages may have several lines.
void Say(std::string line) {
  std::replace(line.begin(), line.end(), '\n', ' ');
  std::puts(line.c_str());
  std::fflush(stdout);
}

std::string Outcome(quash_status status) {
  return fmt::format("{} {}", quash_status_name(status), status == QUASH_OK ? "" : quash_errmsg());
}

quash_status OpenPath(const char* path, quash_open_mode mode, quash_durability durability,
                      quash_db** db) {
  quash_open_options options;
  quash_open_options_init(&options);
  options.mode = mode;
  options.durability = durability;
  return quash_open(path, &options, db);
}

int Write(char** argv, bool limited) {
  const uint64_t seed = std::stoull(argv[4]);
  const int64_t first = std::stoll(argv[5]);
  const bool full = std::string(argv[6]) == "full";
  quash_db* db = nullptr;
  Collections collections;
  quash_status status = OpenPath(argv[3], QUASH_OPEN_READWRITE,
                                 full ? QUASH_DURABILITY_FULL : QUASH_DURABILITY_NORMAL, &db);
  if (status == QUASH_OK) status = fault_test::OpenCollections(db, &collections);
  if (status != QUASH_OK) {
    Say("E open " + Outcome(status));
    return 1;
  }
  if (limited) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {std::stoull(argv[6]), RLIM_INFINITY};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  for (int64_t number = first;; ++number) {
    const Batch batch = fault_test::MakeBatch(seed, number);
    Say(fmt::format("B {}", number));
    status = fault_test::Apply(db, collections, seed, batch);
    if (status != QUASH_OK) break;
    Say(fmt::format("A {}", number));
  }
  if (!limited) {
    Say("E " + Outcome(status));
    return 1;
  }
  Say("F " + Outcome(status));
  // The next write is refused too; reading goes on.
  Batch again;
  again.kind = Batch::Kind::kAdd;
  again.number = 1;
  again.ids = {-1};
  Say("W " + Outcome(fault_test::Apply(db, collections, seed, again)));
  std::string dump;
  Say("R " + Outcome(TryDump(db, &dump)));
  fault_test::FreeCollections(collections);
  Say("C " + Outcome(quash_close(db)));
  return 0;
}

// A row is found at its own vector.
quash_status FindRows(quash_collection* numbers, uint64_t seed, const Model& model, bool* right) {
  *right = true;
  const quash_search_options options = fault_test::SearchOfLists();
  size_t i = 0;
  for (const auto& [id, origin] : model.numbers) {
    if (i++ % 97 != 0) continue;
    const auto vector = fault_test::VectorOf(seed, origin);
    int64_t found = 0;
    float score = 0;
    const quash_status status =
        quash_search_into(numbers, vector.data(), 1, 1, &options, &found, &score, nullptr);
    if (status != QUASH_OK) return status;
    *right &= found == id && score > -1e-4f;
  }
  return QUASH_OK;
}

// Prints a line per step, "letter STATUS message": O open, C collections, B, A
// and F number: batch begun, acknowledged, failed; R read, S search, V verify,
// Z close; X: contents that should not be; T: calls of the kind and failures.
int WriteUnderFailingIo(char** argv) {
  const char* path = argv[3];
  const uint64_t seed = std::stoull(argv[4]);
  const int64_t first = std::stoll(argv[5]), last = std::stoll(argv[6]);
  failing_io::Failure failure;
  failure.kind = static_cast<failing_io::Kind>(std::stoi(argv[7]));
  failure.files = static_cast<failing_io::Files>(std::stoi(argv[8]));
  failure.error = static_cast<failing_io::Error>(std::stoi(argv[9]));
  failure.first = std::stoull(argv[10]);
  failure.from_there = std::string(argv[11]) == "on";
  Model model;
  for (int64_t number = 0; number < first; ++number) {
    model.Apply(fault_test::MakeBatch(seed, number));
  }
  failing_io::Start(path, failure);
  quash_db* db = nullptr;
  quash_status status = OpenPath(path, first == 0 ? QUASH_OPEN_CREATE : QUASH_OPEN_READWRITE,
                                 QUASH_DURABILITY_FULL, &db);
  Say("O " + Outcome(status));
  if (status == QUASH_OK) {
    Collections collections;
    if (first == 0) status = fault_test::CreateCollections(db);
    if (status == QUASH_OK) status = fault_test::OpenCollections(db, &collections);
    Say("C " + Outcome(status));
    if (status == QUASH_OK) {
      for (int64_t number = first; number <= last; ++number) {
        const Batch batch = fault_test::MakeBatch(seed, number);
        Say(fmt::format("B {}", number));
        status = fault_test::Apply(db, collections, seed, batch);
        if (status == QUASH_OK) {
          model.Apply(batch);
          Say(fmt::format("A {}", number));
        } else {
          Say(fmt::format("F {} {}", number, Outcome(status)));
        }
      }
      Model stored;
      std::string wrong;
      status = fault_test::ReadModel(collections, seed, &stored, &wrong);
      Say("R " + Outcome(status));
      if (status == QUASH_OK) wrong += fault_test::Difference(stored, model);
      if (!wrong.empty()) Say("X " + wrong);
      bool right = false;
      status = FindRows(collections.numbers, seed, model, &right);
      Say("S " + Outcome(status));
      if (status == QUASH_OK && !right) Say("X a search did not find a row at its own vector");
      Say("V " + Outcome(quash_verify(db, nullptr)));
    }
    fault_test::FreeCollections(collections);
    Say("Z " + Outcome(quash_close(db)));
  }
  failing_io::Stop();
  Say(fmt::format("T {} {}", failing_io::Calls(), failing_io::Failed()));
  return 0;
}

// "same", "refused STATUS message" at open, "failed STATUS message" in reading,
// or "loss": other contents without an error; then "|verify STATUS".
std::string Probe(const std::string& path, const std::string& expected) {
  quash_db* db = nullptr;
  const quash_status opened =
      OpenPath(path.c_str(), QUASH_OPEN_READWRITE, QUASH_DURABILITY_NORMAL, &db);
  if (opened != QUASH_OK) return "refused " + Outcome(opened);
  std::string dump;
  const quash_status read = TryDump(db, &dump, Vectors::kBytes);
  const std::string line = read != QUASH_OK   ? "failed " + Outcome(read)
                           : dump == expected ? "same"
                                              : "loss";
  // Searches of damaged data may fail, but not end the process.
  quash_collection* numbers = nullptr;
  if (quash_collection_open(db, "numbers", &numbers) == QUASH_OK) {
    const auto query = fault_test::VectorOf(1, {0, 0});
    const quash_search_options options = fault_test::SearchOfLists();
    quash_result* result = nullptr;
    if (quash_search(numbers, query.data(), 1, 10, &options, &result) == QUASH_OK) {
      quash_result_free(result);
    }
    quash_collection_free(numbers);
  }
  char* report = nullptr;
  const quash_status verified = quash_verify(db, &report);
  quash_free(report);
  (void)quash_close(db);
  return fmt::format("{}|verify {}", line, quash_status_name(verified));
}

int ProbeAll(const char* dump) {
  std::ifstream file(dump);
  const std::string expected((std::istreambuf_iterator<char>(file)),
                             std::istreambuf_iterator<char>());
  std::string path;
  while (std::getline(std::cin, path)) Say(Probe(path, expected));
  return 0;
}

}  // namespace

std::optional<int> RunChildRole(int argc, char** argv) {
  if (argc < 4 || std::string(argv[1]) != "--child") return std::nullopt;
  const std::string role = argv[2];
  if (role == "crash-write" && argc == 7) return Write(argv, /*limited=*/false);
  if (role == "limited-write" && argc == 7) return Write(argv, /*limited=*/true);
  if (role == "failing-io" && argc == 12) return WriteUnderFailingIo(argv);
  if (role == "probe" && argc == 4) return ProbeAll(argv[3]);
  if (role == "allocation" && argc == 9) {
    return fault_test::FailAllocations(argv[3], argv[4],
                                       {.from_there = std::string(argv[5]) == "on",
                                        .cold = std::string(argv[6]) == "cold",
                                        .limit = std::stoull(argv[7]),
                                        .per_stack = std::stoull(argv[8])});
  }
  return 2;
}

}  // namespace capi_test
