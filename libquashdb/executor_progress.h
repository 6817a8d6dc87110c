// What a search of many queries tells the caller, and whether it is to stop.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

#include "libquashdb/executor.h"
#include "libquashdb/status.h"

namespace quash {

class QueryProgress {
 public:
  // For the thread that the callback of `plan` is called on; the plan lives as long.
  QueryProgress(const SearchPlan& plan, uint64_t queries)
      : callback_(plan.progress), queries_(queries), next_(Clock::now() + kInterval) {}

  // `queries` more are done. QUASH_CANCELLED once the callback has asked to stop. From any
  // thread; the callback is called now and then, where its thread holds nothing that
  // another search on it would use.
  Status Add(uint64_t queries);

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kInterval{50};

  const Progress& callback_;
  const uint64_t queries_;
  const std::thread::id thread_ = std::this_thread::get_id();
  Clock::time_point next_;  // of that thread
  std::atomic<uint64_t> done_{0};
  std::atomic<bool> is_cancelled_{false};
};

}  // namespace quash
