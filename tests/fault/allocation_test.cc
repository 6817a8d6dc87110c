// Every allocation of every C entry fails, once or from one on, with caches that are
// empty or full: the call gives QUASH_NOMEM and has changed nothing, or has done all of its work.
#include <doctest/doctest.h>

#include <cstdio>
#include <sstream>
#include <string>
#include <vector>

#include "tests/capi/support.h"
#include "tests/fault/allocation_calls.h"
#include "tests/fault/options.h"

namespace fault_test {
namespace {

using capi_test::Child;
using capi_test::TempDir;

TEST_SUITE_BEGIN("allocation");

struct How {
  bool from_there, cold;
};

TEST_CASE("a failed allocation refuses the call and harms nothing") {
  uint64_t total = 0, failed = 0, refused = 0, completed = 0;
  std::vector<How> ways = {{false, true}, {true, false}};
  if (options().allocations == 0) {
    ways = {{false, true}, {true, true}, {false, false}, {true, false}};
  }
  for (const How how : ways) {  // all calls in one way first: a run may end early
    for (const AllocatingCall& call : AllocatingCalls()) {
      if (!HasTime()) continue;
      CAPTURE(std::string(call.name));
      CAPTURE(how.from_there);
      CAPTURE(how.cold);
      const TempDir dir;
      const std::string directory = dir / "";
      Child child({"allocation", call.name, directory, how.from_there ? "on" : "once",
                   how.cold ? "cold" : "warm", std::to_string(options().allocations),
                   std::to_string(options().per_stack)});
      uint64_t number = 0, allocations = 0;
      const uint64_t failed_before = failed;
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
      if (options().allocations == 0) {
        std::printf("%s, %s, %s: %d of %d allocations failed\n", call.name,
                    how.from_there ? "from one on" : "once", how.cold ? "cold" : "warm",
                    static_cast<int>(failed - failed_before), static_cast<int>(allocations));
      }
    }
  }
  CHECK(refused > 100);
  MESSAGE(total, " allocations in ", AllocatingCalls().size(), " calls, ", failed,
          " failed: ", refused, " calls refused, ", completed, " completed");
}

TEST_SUITE_END();

}  // namespace
}  // namespace fault_test
