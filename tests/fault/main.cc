// Runs the fault tests. --cycles, --images, --flips, --records, --io-failures,
// --allocations, --per-stack and --disks N make them longer than in ctest (options.h), --seed S
// repeats a run, --seconds N ends it early and well, with the counts it has reached,
// as SIGUSR1 does.
// Databases are made in memory (/dev/shm) unless TMPDIR says where: a killed process
// loses what it had not written, wherever files are, and what a power cut loses is
// worked out from the calls themselves.
#define DOCTEST_CONFIG_IMPLEMENT
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "tests/capi/support.h"
#include "tests/fault/options.h"

namespace fault_test {

Options& options() {
  static Options options;
  return options;
}

namespace {
volatile std::sig_atomic_t asked_to_end = 0;
}

bool HasTime() {
  if (asked_to_end != 0) return false;
  using Clock = std::chrono::steady_clock;
  static const Clock::time_point start = Clock::now();
  const int seconds = options().seconds;
  return seconds == 0 || Clock::now() - start < std::chrono::seconds(seconds);
}

namespace {

void WorkInMemory() {
  constexpr const char* kMemory = "/dev/shm";
  std::error_code error;
  const auto space = std::filesystem::space(kMemory, error);
  if (error || space.available < uint64_t{1} << 30 || access(kMemory, W_OK) != 0) return;
  setenv("TMPDIR", kMemory, /*overwrite=*/0);
}

}  // namespace
}  // namespace fault_test

int main(int argc, char** argv) {
  if (const auto exit_code = capi_test::RunChildRole(argc, argv)) return *exit_code;
  fault_test::WorkInMemory();
  capi_test::StartForkServer(capi_test::RunChildRole);
  fault_test::Options& options = fault_test::options();
  for (int i = 1; i + 1 < argc; ++i) {
    const std::string name = argv[i];
    const uint64_t value = std::strtoull(argv[i + 1], nullptr, 10);
    if (name == "--cycles") options.cycles = static_cast<int>(value);
    if (name == "--images") options.images = static_cast<int>(value);
    if (name == "--flips") options.flips = static_cast<int>(value);
    if (name == "--io-failures") options.io_failures = static_cast<int>(value);
    if (name == "--allocations") options.allocations = value;
    if (name == "--per-stack") options.per_stack = value;
    if (name == "--records") options.records = static_cast<int>(value);
    if (name == "--disks") options.disks = static_cast<int>(value);
    if (name == "--seed") options.seed = value;
    if (name == "--seconds") options.seconds = static_cast<int>(value);
  }
  (void)fault_test::HasTime();  // the clock starts
  struct sigaction action = {};
  action.sa_handler = [](int) { fault_test::asked_to_end = 1; };
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, nullptr);
  const int result = doctest::Context(argc, argv).run();
  constexpr int kSkipped = 77;  // to ctest
  return result == 0 && options.skipped ? kSkipped : result;
}
