// Settings of a run of the fault tests.
#pragma once

#include <cstdint>

namespace fault_test {

struct Options {
  int cycles = 15;            // of killing and reopening
  int images = 150;           // of power cuts, opened
  int flips = 80;             // files with flipped bits, cuts, noise
  int io_failures = 30;       // places tried per kind of file call; 0: all, in every way
  uint64_t allocations = 12;  // tried per call, spread over all it makes; 0: all
  uint64_t per_stack = 0;     // of those that one chain of calls makes; 0: all
  int records = 120;          // stored values changed
  int disks = 1;              // filled
  uint64_t seed = 1;
  int seconds = 0;       // after which no more is begun; 0: no limit
  bool skipped = false;  // set by a test that this machine cannot run
};

Options& options();

// False when options().seconds have passed since the process began, or SIGUSR1 came.
bool HasTime();

}  // namespace fault_test
