// Memory of pages and its budget. Thread-safe.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

namespace quash::kv {

// What sequences hold, against the budget.
class MemoryBudget {
 public:
  explicit MemoryBudget(uint64_t limit) : limit_(limit) {}  // 0: none

  bool Reserve(uint64_t bytes) {
    const uint64_t before = used_.fetch_add(bytes, std::memory_order_relaxed);
    if (limit_ == 0 || before + bytes <= limit_) return true;
    Release(bytes);
    return false;
  }
  void Release(uint64_t bytes) { used_.fetch_sub(bytes, std::memory_order_relaxed); }
  uint64_t used() const { return used_.load(std::memory_order_relaxed); }
  uint64_t limit() const { return limit_; }

 private:
  const uint64_t limit_;
  std::atomic<uint64_t> used_{0};
};

// A sealed page: written once, then shared between sequences as a constant.
class Page {
 public:
  static constexpr size_t kSlack = 64;  // readable past the end, for whole-vector loads

  explicit Page(size_t bytes)
      : bytes_(bytes),
        data_(static_cast<uint8_t*>(::operator new (bytes + kSlack, std::align_val_t{64}))) {
    std::fill_n(data_, bytes + kSlack, uint8_t{0});
  }
  ~Page() {
    ::operator delete (data_, std::align_val_t{64});
    if (budget_ != nullptr) budget_->Release(bytes_);
  }
  Page(const Page&) = delete;
  Page& operator=(const Page&) = delete;

  // From now on the page gives its bytes, reserved before, back when it goes.
  void HandBytesTo(std::shared_ptr<MemoryBudget> budget) { budget_ = std::move(budget); }

  uint8_t* data() { return data_; }
  const uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<MemoryBudget> budget_;
  size_t bytes_;
  uint8_t* data_;
};

}  // namespace quash::kv
