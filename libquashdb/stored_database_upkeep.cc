// The thread that keeps partition indexes and takes what is deleted off the disk.
#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "libquashdb/stored_database.h"

namespace quash {
namespace {

constexpr std::chrono::seconds kQuietTime{2};
// Of stored values: deleted ones for one that is not.
constexpr double kMostDeadWhileWriting = 0.5;
constexpr double kMostDeadWhenQuiet = 0.05;
constexpr uint64_t kQuietWriteBuffers = 1u << 20;  // not flushed then
// Logs are let grow to a quarter of what the files hold, and to so much in any case.
constexpr uint64_t kLeastLog = 32u << 20;

}  // namespace

void StoredDatabase::WakeUpkeep() noexcept {
  const std::lock_guard lock(upkeep_mutex_);
  if (upkeep_stop_) return;
  upkeep_due_ = true;
  if (upkeep_thread_.joinable()) {
    upkeep_wake_.notify_one();
    return;
  }
  try {
    upkeep_thread_ = std::thread([this] { UpkeepLoop(); });
  } catch (...) {
    // Searches stay right without it; the next write tries again.
  }
}

void StoredDatabase::UpkeepLoop() {
  const auto stop = [this] { return upkeep_stop_.load(std::memory_order_relaxed); };
  bool has_leftovers = false;
  std::unique_lock lock(upkeep_mutex_);
  while (!upkeep_stop_) {
    // What searches would hardly feel waits until nothing is written for a while.
    const auto called = [this] { return upkeep_stop_ || upkeep_due_; };
    bool finish = false;
    if (!has_leftovers) {
      upkeep_wake_.wait(lock, called);
    } else {
      finish = !upkeep_wake_.wait_for(lock, kQuietTime, called);
    }
    has_leftovers = !finish;
    upkeep_due_ = false;
    lock.unlock();
    try {
      std::vector<std::shared_ptr<StoredCollection>> collections;
      {
        const std::lock_guard collections_lock(collections_mutex_);
        for (const auto& [name, collection] : collections_) collections.push_back(collection);
      }
      // What fails is tried again after the next write.
      for (const auto& collection : collections) {
        if (finish) (void)collection->RewriteWhenQuiet(stop);
        for (bool idle = false; !idle && !stop();) {
          if (!collection->KeepPartitions(1, finish, stop, &idle).ok()) break;
        }
      }
      (void)ReclaimSpace(finish);
    } catch (...) {
    }
    lock.lock();
  }
}

// Deleted values leave the disk in time, and soon once nothing is written.
Status StoredDatabase::ReclaimSpace(bool finish) {
  if ((finish && store_->unflushed_bytes() > kQuietWriteBuffers) ||
      store_->logged_bytes() > std::max(kLeastLog, store_->disk_bytes() / 4)) {
    QUASH_RETURN_IF_ERROR(store_->FlushAll());
  }
  return store_->Reclaim(
      finish ? kMostDeadWhenQuiet : kMostDeadWhileWriting,
      [this](uint64_t bytes) {
        return directory_->CheckSpace(2 * bytes + store_->unflushed_bytes()).ok();
      },
      &upkeep_stop_);
}

void StoredDatabase::StopUpkeep() {
  {
    const std::lock_guard lock(upkeep_mutex_);
    upkeep_stop_ = true;
    upkeep_wake_.notify_one();
  }
  if (upkeep_thread_.joinable()) upkeep_thread_.join();
}

}  // namespace quash
