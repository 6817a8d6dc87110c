// Settings of a run of the fault tests.
#pragma once

#include <cstdint>

namespace fault_test {

struct Options {
  int cycles = 15;            // of killing and reopening
  int images = 150;           // of power cuts, opened
  int flips = 4;              // random bits flipped per file
  int io_failures = 30;       // places tried per kind of file call; 0: all, in every way
  uint64_t allocations = 12;  // tried per call, spread over all it makes; 0: all
  int records = 120;          // stored values changed
  int disks = 1;              // filled
  uint64_t seed = 1;
  bool skipped = false;  // set by a test that this machine cannot run
};

Options& options();

}  // namespace fault_test
