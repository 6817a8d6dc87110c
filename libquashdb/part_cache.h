// Memory budget of the parts that segments keep resident. Parts that every
// search reads push out those that few read; among equals the first stay, so
// that scans of more than fits keep a stable share resident instead of
// evicting what they need next. Thread-safe.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>

namespace quash {

class PartCache {
 public:
  // Least important first.
  enum class Priority : uint8_t { kRerank, kColumn, kIds, kRest, kPlane2, kPlane1, kList };

  // Where a segment keeps one part. Must be empty, or taken out by Remove(),
  // when destroyed.
  class Slot {
   public:
    std::shared_ptr<const void> Get() const { return data_.load(std::memory_order_acquire); }
    // Has the processor fetch what Get() and its callers read first.
    void Fetch() const {
      // Where the data is, or was, or null: a number, as it may not be read. A
      // shared_ptr's counts lie before what it owns.
      const auto owned = reinterpret_cast<uintptr_t>(hint_.load(std::memory_order_relaxed));
      __builtin_prefetch(reinterpret_cast<const void*>(owned - 1), /*rw=*/1);
      __builtin_prefetch(reinterpret_cast<const void*>(owned));
    }

   private:
    friend class PartCache;
    std::atomic<std::shared_ptr<const void>> data_;
    std::atomic<const void*> hint_{nullptr};
    // Below: under the cache's mutex.
    uint64_t bytes_ = 0;
    Priority priority_ = Priority::kRerank;
    std::list<Slot*>::iterator position_;
  };

  explicit PartCache(uint64_t budget_bytes) : budget_bytes_(budget_bytes) {}

  // Keeps `data` in an empty slot if the budget allows; the caller holds `data`
  // either way.
  void Admit(Slot* slot, std::shared_ptr<const void> data, uint64_t bytes, Priority priority);
  // The same where something smaller may be in the slot; that stays if there is no room.
  void Replace(Slot* slot, std::shared_ptr<const void> data, uint64_t bytes, Priority priority);
  void Remove(Slot* slot);

  uint64_t used_bytes() const { return used_bytes_.load(std::memory_order_relaxed); }
  uint64_t budget_bytes() const { return budget_bytes_; }

 private:
  void Insert(Slot* slot, std::shared_ptr<const void> data, uint64_t bytes, Priority priority);
  bool MakeRoom(uint64_t bytes, Priority priority);
  void Evict(Slot* slot);

  const uint64_t budget_bytes_;
  std::atomic<uint64_t> used_bytes_{0};
  std::mutex mutex_;
  std::array<std::list<Slot*>, 7> resident_;  // by priority, oldest first
};

}  // namespace quash
