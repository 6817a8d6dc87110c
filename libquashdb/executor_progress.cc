#include "libquashdb/executor_progress.h"

namespace quash {

Status QueryProgress::Add(uint64_t queries) {
  if (!callback_) return Status();
  const uint64_t done = done_.fetch_add(queries, std::memory_order_relaxed) + queries;
  if (std::this_thread::get_id() == thread_ && !is_cancelled_.load(std::memory_order_relaxed)) {
    if (const auto now = Clock::now(); now >= next_) {
      if (callback_(done, queries_)) is_cancelled_.store(true, std::memory_order_relaxed);
      next_ = Clock::now() + kInterval;
    }
  }
  if (!is_cancelled_.load(std::memory_order_relaxed)) return Status();
  return Error(QUASH_CANCELLED, "the search was cancelled");
}

}  // namespace quash
