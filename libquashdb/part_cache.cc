#include "libquashdb/part_cache.h"

#include <algorithm>
#include <utility>

namespace quash {

void PartCache::Admit(Slot* slot, std::shared_ptr<const void> data, uint64_t bytes,
                      Priority priority) {
  const std::lock_guard lock(mutex_);
  if (slot->data_.load(std::memory_order_relaxed) != nullptr) return;
  if (MakeRoom(bytes, priority)) Insert(slot, std::move(data), bytes, priority);
}

void PartCache::Replace(Slot* slot, std::shared_ptr<const void> data, uint64_t bytes,
                        Priority priority) {
  const std::lock_guard lock(mutex_);
  const bool is_empty = slot->data_.load(std::memory_order_relaxed) == nullptr;
  const uint64_t before = is_empty ? 0 : slot->bytes_;
  if (!MakeRoom(bytes - std::min(bytes, before), priority)) return;
  if (!is_empty) Evict(slot);
  Insert(slot, std::move(data), bytes, priority);
}

void PartCache::Insert(Slot* slot, std::shared_ptr<const void> data, uint64_t bytes,
                       Priority priority) {
  auto& list = resident_[static_cast<size_t>(priority)];
  slot->bytes_ = bytes;
  slot->priority_ = priority;
  slot->position_ = list.insert(list.end(), slot);
  slot->hint_.store(data.get(), std::memory_order_relaxed);
  slot->data_.store(std::move(data), std::memory_order_release);
  used_bytes_.fetch_add(bytes, std::memory_order_relaxed);
}

void PartCache::Remove(Slot* slot) {
  const std::lock_guard lock(mutex_);
  if (slot->data_.load(std::memory_order_relaxed) != nullptr) Evict(slot);
}

bool PartCache::MakeRoom(uint64_t bytes, Priority priority) {
  uint64_t free_bytes = budget_bytes_ - used_bytes();
  if (free_bytes >= bytes) return true;
  // Look before evicting: a part that does not fit even so must cost nothing.
  for (size_t p = 0; p < static_cast<size_t>(priority) && free_bytes < bytes; ++p) {
    for (const Slot* slot : resident_[p]) free_bytes += slot->bytes_;
  }
  if (free_bytes < bytes) return false;
  for (size_t p = 0; p < static_cast<size_t>(priority); ++p) {
    while (!resident_[p].empty() && budget_bytes_ - used_bytes() < bytes) {
      Evict(resident_[p].front());
    }
  }
  return true;
}

void PartCache::Evict(Slot* slot) {
  resident_[static_cast<size_t>(slot->priority_)].erase(slot->position_);
  used_bytes_.fetch_sub(slot->bytes_, std::memory_order_relaxed);
  slot->hint_.store(nullptr, std::memory_order_relaxed);
  slot->data_.store(nullptr, std::memory_order_release);
}

}  // namespace quash
