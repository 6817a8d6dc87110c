// operator new that fails on demand, for the whole process that links it.
//
// One thread is armed at a time and its allocations are numbered. Those that
// RocksDB makes, directly or in the C++ library on its behalf, are left alone: it
// does not survive an exception thrown through it.
#pragma once

#include <cstdint>
#include <vector>

namespace failing_alloc {

// Arms this thread.
//   first       number of the allocation that fails, from 1; 0: none, they are
//               only counted
//   from_there  all allocations from `first` on fail, not that one alone
void Start(uint64_t first, bool from_there);
void Stop();

uint64_t Allocations();  // since Start()

struct Allocation {
  uint64_t number;  // as for Start()
  uint64_t stack;   // the same for all that are made by the same chain of calls
};
// Those that are not RocksDB's, since Start(0).
std::vector<Allocation> OwnAllocations();
uint64_t Failed();  // since Start()

}  // namespace failing_alloc
