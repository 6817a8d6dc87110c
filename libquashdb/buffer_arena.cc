#include "libquashdb/buffer_arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <iterator>

namespace quash {
namespace {

constexpr size_t kNone = SIZE_MAX;
constexpr size_t kSmallBytes = size_t{4} << 20;

// Sanitizers are to see the bounds of every buffer.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kIsUsed = false;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr bool kIsUsed = false;
#else
constexpr bool kIsUsed = true;
#endif
#else
constexpr bool kIsUsed = true;
#endif

// A region at a multiple of its size; null if there is no memory.
uint8_t* MapRegion() {
  constexpr size_t kBytes = BufferArena::kRegionBytes;
  void* mapped = mmap(nullptr, 2 * kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                      -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* begin = static_cast<uint8_t*>(mapped);
  const size_t before = (kBytes - reinterpret_cast<uintptr_t>(begin) % kBytes) % kBytes;
  if (before != 0) munmap(begin, before);
  munmap(begin + before + kBytes, kBytes - before);
  madvise(begin + before, kBytes, MADV_HUGEPAGE);  // as far as the system has them
  return begin + before;
}

}  // namespace

BufferArena& BufferArena::Get() {
  static auto* arena = new BufferArena(kIsUsed ? kSmallBytes : SIZE_MAX);
  return *arena;
}

BufferArena::~BufferArena() {
  for (const auto& [base, region] : regions_) munmap(base, kRegionBytes);
}

void* BufferArena::TryAllocate(size_t bytes) {
  if (bytes < kLeastBytes || bytes > kMostBytes ||
      outside_bytes_.load(std::memory_order_relaxed) + bytes <= small_bytes_) {
    outside_bytes_.fetch_add(bytes);
    return nullptr;
  }
  const size_t units = (bytes + kUnit - 1) / kUnit;
  const std::lock_guard lock(mutex_);
  for (auto& [base, region] : regions_) {
    if (region.longest < units || region.free_units < units) continue;
    if (void* data = AllocateIn(base, &region, units); data != nullptr) return data;
  }
  auto node = std::map<uint8_t*, Region>();  // allocated before there is something to lose
  node.try_emplace(nullptr);
  uint8_t* base = MapRegion();
  if (base == nullptr) {
    outside_bytes_.fetch_add(bytes);
    return nullptr;
  }
  auto handle = node.extract(node.begin());
  handle.key() = base;
  const auto at = regions_.insert(std::move(handle)).position;
  return AllocateIn(base, &at->second, units);
}

void* BufferArena::AllocateIn(uint8_t* base, Region* region, size_t units) {
  size_t first = FindRun(*region, region->hint, units);
  if (first == kNone) first = FindRun(*region, 0, units);
  if (first == kNone) {
    region->longest = units - 1;
    return nullptr;
  }
  Mark(region, first, units, true);
  region->free_units -= units;
  region->hint = (first + units) / 64 % kWords;
  return base + first * kUnit;
}

void BufferArena::Free(void* data, size_t bytes) noexcept {
  const size_t units = (bytes + kUnit - 1) / kUnit;
  const std::lock_guard lock(mutex_);
  const auto at = std::prev(regions_.upper_bound(static_cast<uint8_t*>(data)));
  Region& region = at->second;
  Mark(&region, static_cast<size_t>(static_cast<uint8_t*>(data) - at->first) / kUnit, units, false);
  region.free_units += units;
  region.longest = region.free_units;
  if (region.free_units == kWords * 64) {
    munmap(at->first, kRegionBytes);
    regions_.erase(at);
  }
}

size_t BufferArena::num_regions() const {
  const std::lock_guard lock(mutex_);
  return regions_.size();
}

size_t BufferArena::FindRun(const Region& region, size_t from_word, size_t units) {
  size_t run = 0;
  for (size_t word = from_word; word < kWords; ++word) {
    const uint64_t used = region.used[word];
    if (used == 0) {
      run += 64;
      if (run >= units) return (word + 1) * 64 - run;
      continue;
    }
    // Free units below the first used one continue the run; then runs between used ones.
    for (unsigned bit = 0; bit < 64;) {
      const uint64_t rest = used >> bit;
      const unsigned free_bits = rest == 0 ? 64 - bit : std::countr_zero(rest);
      run += free_bits;
      if (run >= units) return word * 64 + bit + free_bits - run;
      bit += free_bits;
      if (bit >= 64) break;
      run = 0;
      bit += std::countr_one(used >> bit);
    }
  }
  return kNone;
}

void BufferArena::Mark(Region* region, size_t first, size_t units, bool is_used) {
  for (size_t unit = first; unit < first + units;) {
    const size_t bit = unit % 64, count = std::min(64 - bit, first + units - unit);
    const uint64_t mask = (count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1) << bit;
    uint64_t& word = region->used[unit / 64];
    word = is_used ? word | mask : word & ~mask;
    unit += count;
  }
}

}  // namespace quash
