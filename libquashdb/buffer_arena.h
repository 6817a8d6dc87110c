// Memory of parts, in regions that the kernel may map as huge pages. A search reads rows
// from all over the rerank tier; with pages of 4 KiB each costs a walk of the page tables
// besides its cache misses, which took as long as these.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

namespace quash {

// Thread-safe. Regions of 2 MiB, given out in runs of 64 bytes, a bit each, so that what is
// freed joins its neighbours.
class BufferArena {
 public:
  static constexpr size_t kRegionBytes = size_t{2} << 20;
  // Less comes and goes, as rows of the tier do that are read one by one, and leaves holes.
  static constexpr size_t kLeastBytes = 8 << 10;
  static constexpr size_t kMostBytes = kRegionBytes / 4;

  // The one of this process; never destroyed.
  static BufferArena& Get();

  //   small_bytes  given out by other means before the first region, which costs its size
  //                at once
  explicit BufferArena(size_t small_bytes) : small_bytes_(small_bytes) {}
  ~BufferArena();
  BufferArena(const BufferArena&) = delete;

  // 64-byte aligned; null where the caller is to allocate by other means.
  void* TryAllocate(size_t bytes);
  // What TryAllocate() gave.
  void Free(void* data, size_t bytes) noexcept;
  // The caller frees what it had allocated after a null.
  void FreedOutside(size_t bytes) noexcept { outside_bytes_.fetch_sub(bytes); }

  size_t num_regions() const;

 private:
  static constexpr size_t kUnit = 64;
  static constexpr size_t kWords = kRegionBytes / kUnit / 64;

  struct Region {
    std::array<uint64_t, kWords> used{};  // bit i of word w: unit 64 w + i
    size_t free_units = kWords * 64;
    size_t longest = kWords * 64;  // no free run is longer
    size_t hint = 0;               // word to look from
  };
  // First of `units` free units from a word on; kNone if there is no such run.
  static size_t FindRun(const Region& region, size_t from_word, size_t units);
  static void Mark(Region* region, size_t first, size_t units, bool is_used);
  void* AllocateIn(uint8_t* base, Region* region, size_t units);

  const size_t small_bytes_;
  std::atomic<size_t> outside_bytes_{0};
  mutable std::mutex mutex_;
  std::map<uint8_t*, Region> regions_;  // by address
};

}  // namespace quash
