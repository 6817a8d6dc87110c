// Every C entry that can fail, as a call to repeat while its allocations fail.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "quashdb.h"

namespace fault_test {

// A database in a directory of its own, which the calls are made on. Ends the
// process, after a line that begins with X, if it cannot be made.
class World {
 public:
  explicit World(const std::string& directory);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  void Reset();  // to what it was at first
  void Reopen();
  std::string Dump() const;

  quash_db* db() const { return db_; }
  quash_collection* numbers() const { return numbers_; }
  quash_collection* names() const { return names_; }
  std::string path(const std::string& name) const { return directory_ + "/" + name; }

 private:
  void Open();
  void Close();

  std::string directory_;
  quash_db* db_ = nullptr;
  quash_collection* numbers_ = nullptr;
  quash_collection* names_ = nullptr;
};

struct AllocatingCall {
  const char* name;
  // Before each attempt, with allocations that work. May be empty.
  std::function<void(World&)> prepare;
  // The call, which gives back what it got. Allocates nothing itself.
  std::function<quash_status(World&)> call;
};

const std::vector<AllocatingCall>& AllocatingCalls();

// Runs `name` with each allocation failing in turn, and says on standard output
//   N number                   before the allocation fails
//   X text                     when a promise is broken
//   T allocations failures refused completed   at the end
struct AllocationRun {
  bool from_there = false;  // all from one on fail instead of one alone
  bool cold = false;        // opened again before each attempt: no cache has anything
  uint64_t limit = 0;       // tries that many allocations, spread over all; 0: all
  uint64_t per_stack = 0;   // of those that the same chain of calls makes; 0: all
};
int FailAllocations(const std::string& name, const std::string& directory,
                    const AllocationRun& run);

}  // namespace fault_test
