// A thread that searches while another writes, and how long its searches took.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "quashdb.h"

namespace quash::bench {

// Microseconds.
struct Latencies {
  size_t searches = 0;
  double p50 = 0, p99 = 0, max = 0;
  // Of the worst search: neither running nor waiting for a core, that is, for
  // a lock or the disk. What other processes do to the machine is not in it.
  double max_blocked = 0;
};

// How long all of the process stood still (stopped, or its group frozen): what a thread
// that only sleeps was late by, beyond waiting for a core.
class StandStill {
 public:
  StandStill();
  ~StandStill();
  StandStill(const StandStill&) = delete;
  // Microseconds so far.
  double Total() const { return total_us_; }

 private:
  void Run();

  std::atomic<bool> stop_{false};
  std::atomic<double> total_us_{0};
  std::thread thread_;
};

class Reader {
 public:
  //   queries  [nq, dim]; asked in turn, k results, one thread
  Reader(quash_collection* collection, std::vector<float> queries, uint32_t dim, size_t k);
  ~Reader();
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  // Those since the last call. Throws what the reader met, if it met an error.
  Latencies Take();

 private:
  void Run();

  quash_collection* const collection_;
  const std::vector<float> queries_;
  const uint32_t dim_;
  const size_t k_;
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::vector<double> wall_us_;
  double max_blocked_us_ = 0;
  std::string error_;
  StandStill stand_still_;
  std::thread thread_;
};

}  // namespace quash::bench
