// Every allocation of every C entry fails, once or from one on: the call gives
// QUASH_NOMEM and has changed nothing, or has done all of its work.
#include <doctest/doctest.h>

#include <sstream>

#include "tests/capi/support.h"
#include "tests/fault/allocation_calls.h"
#include "tests/fault/options.h"

namespace fault_test {
namespace {

using capi_test::Child;
using capi_test::TempDir;

TEST_SUITE_BEGIN("allocation");

TEST_CASE("a failed allocation refuses the call and harms nothing") {
  uint64_t total = 0, failed = 0, refused = 0, completed = 0;
  for (const AllocatingCall& call : AllocatingCalls()) {
    for (const bool from_there : {false, true}) {
      if (!HasTime()) continue;
      CAPTURE(std::string(call.name));
      CAPTURE(from_there);
      const TempDir dir;
      const std::string directory = dir / "";
      Child child({"allocation", call.name, directory, from_there ? "on" : "once",
                   std::to_string(options().allocations)});
      uint64_t number = 0, allocations = 0;
      int problems = 0;
      for (std::string line = child.ReadLine(); !line.empty(); line = child.ReadLine()) {
        std::istringstream text(line.substr(1));
        if (line[0] == 'N') text >> number;
        if (line[0] == 'X' && ++problems <= 3) FAIL_CHECK(line);
        if (line[0] == 'T') {
          uint64_t of_call[3] = {};
          text >> allocations >> of_call[0] >> of_call[1] >> of_call[2];
          total += allocations;
          failed += of_call[0];
          refused += of_call[1];
          completed += of_call[2];
        }
      }
      CAPTURE(number);
      CAPTURE(problems);
      const int exit_code = child.Wait();
      CHECK_MESSAGE(exit_code == 0, "the process ended with ", exit_code);
      CHECK(problems == 0);
    }
  }
  CHECK(refused > 100);
  MESSAGE(total, " allocations in ", AllocatingCalls().size(), " calls, ", failed,
          " failed: ", refused, " calls refused, ", completed, " completed");
}

TEST_SUITE_END();

}  // namespace
}  // namespace fault_test
