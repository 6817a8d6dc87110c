#include "tests/fault/failing_alloc.h"

#include <execinfo.h>
#include <link.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <new>
#include <optional>

namespace failing_alloc {
namespace {

struct Range {
  uintptr_t begin = 0, end = 0;
};

// Where the code of RocksDB lies.
Range FindRocksDb() {
  Range range;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {
        if (std::strstr(info->dlpi_name, "librocksdb") == nullptr) return 0;
        auto& found = *static_cast<Range*>(out);
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& header = info->dlpi_phdr[i];
          if (header.p_type != PT_LOAD || (header.p_flags & PF_X) == 0) continue;
          found.begin = info->dlpi_addr + header.p_vaddr;
          found.end = found.begin + header.p_memsz;
        }
        return 1;
      },
      &range);
  return range;
}

thread_local bool armed = false;
uint64_t first_failing = 0;
bool fails_from_there = false;
uint64_t allocations = 0;
uint64_t failures = 0;
Allocation own[1 << 20];  // no vector, which would allocate
size_t num_own = 0;

// Its place in the program, or none if it is RocksDB's.
std::optional<uint64_t> OwnStack() {
  static const Range rocksdb = FindRocksDb();
  void* frames[100];
  const int n = backtrace(frames, static_cast<int>(std::size(frames)));
  uint64_t stack = 14695981039346656037u;  // FNV-1a, by frames
  for (int i = 0; i < n; ++i) {
    const auto address = reinterpret_cast<uintptr_t>(frames[i]);
    if (address >= rocksdb.begin && address < rocksdb.end) return std::nullopt;
    stack = (stack ^ address) * 1099511628211u;
  }
  return stack;
}

bool Fails() {
  if (!armed) return false;
  const uint64_t number = ++allocations;
  if (first_failing > 0 && number < first_failing) return false;
  if (first_failing > 0 && number > first_failing && !fails_from_there) return false;
  armed = false;  // backtrace() may allocate when it is first called
  const std::optional<uint64_t> stack = OwnStack();
  armed = true;
  if (first_failing == 0) {
    if (stack && num_own < std::size(own)) own[num_own++] = {number, *stack};
    return false;
  }
  failures += stack.has_value();
  return stack.has_value();
}

void* Allocate(size_t size, size_t alignment) {
  if (Fails()) return nullptr;
  size = std::max<size_t>(size, 1);
  if (alignment <= alignof(std::max_align_t)) return std::malloc(size);
  return std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

void* AllocateOrThrow(size_t size, size_t alignment = 1) {
  void* memory = Allocate(size, alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void Start(uint64_t first, bool from_there) {
  first_failing = first;
  fails_from_there = from_there;
  allocations = 0;
  failures = 0;
  num_own = 0;
  armed = true;
}

void Stop() { armed = false; }

uint64_t Allocations() { return allocations; }
uint64_t Failed() { return failures; }
std::vector<Allocation> OwnAllocations() { return {own, own + num_own}; }

}  // namespace failing_alloc

using failing_alloc::Allocate;
using failing_alloc::AllocateOrThrow;

void* operator new(size_t size) { return AllocateOrThrow(size); }
void* operator new[](size_t size) { return AllocateOrThrow(size); }
void* operator new(size_t size, std::align_val_t alignment) {
  return AllocateOrThrow(size, static_cast<size_t>(alignment));
}
void* operator new[](size_t size, std::align_val_t alignment) {
  return AllocateOrThrow(size, static_cast<size_t>(alignment));
}
void* operator new(size_t size, const std::nothrow_t&) noexcept { return Allocate(size, 1); }
void* operator new[](size_t size, const std::nothrow_t&) noexcept { return Allocate(size, 1); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
