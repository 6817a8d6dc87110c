#include "libquashdb/buffer_arena.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/random.h"

namespace quash {
namespace {

struct Block {
  uint8_t* data;
  size_t bytes;
  uint8_t mark;
};

Block Allocate(BufferArena* arena, size_t bytes, uint8_t mark) {
  auto* data = static_cast<uint8_t*>(arena->TryAllocate(bytes));
  REQUIRE(data != nullptr);
  CHECK(reinterpret_cast<uintptr_t>(data) % 64 == 0);
  std::memset(data, mark, bytes);
  return {data, bytes, mark};
}

bool IsWhole(const Block& block) {
  return std::all_of(block.data, block.data + block.bytes,
                     [&](uint8_t byte) { return byte == block.mark; });
}

}  // namespace

TEST_CASE("what an arena gives out does not overlap, and goes back") {
  BufferArena arena(0);
  Random random(1);
  std::vector<Block> blocks;
  for (int step = 0; step < 4000; ++step) {
    if (!blocks.empty() && random.Below(100) < (step < 2000 ? 40 : 70)) {
      const size_t at = random.Below(static_cast<uint32_t>(blocks.size()));
      REQUIRE(IsWhole(blocks[at]));
      arena.Free(blocks[at].data, blocks[at].bytes);
      blocks[at] = blocks.back();
      blocks.pop_back();
    } else {
      const size_t most = random.Below(10) == 0 ? BufferArena::kMostBytes : 40000;
      const size_t bytes = BufferArena::kLeastBytes +
                           random.Below(static_cast<uint32_t>(most - BufferArena::kLeastBytes + 1));
      blocks.push_back(Allocate(&arena, bytes, static_cast<uint8_t>(step)));
    }
  }
  for (const Block& block : blocks) {
    CHECK(IsWhole(block));
    arena.Free(block.data, block.bytes);
  }
  CHECK(arena.num_regions() == 0);
}

TEST_CASE("an arena fills its regions, and what is freed joins its neighbours") {
  BufferArena arena(0);
  constexpr size_t kBytes = 8192, kCount = BufferArena::kRegionBytes / kBytes;
  std::vector<Block> blocks;
  for (size_t i = 0; i < kCount; ++i) blocks.push_back(Allocate(&arena, kBytes, 1));
  CHECK(arena.num_regions() == 1);
  // Two neighbours make room for what is twice as large.
  arena.Free(blocks[10].data, kBytes);
  arena.Free(blocks[11].data, kBytes);
  const Block twice = Allocate(&arena, 2 * kBytes, 2);
  CHECK(twice.data == std::min(blocks[10].data, blocks[11].data));
  CHECK(arena.num_regions() == 1);
  const Block more = Allocate(&arena, kBytes, 3);
  CHECK(arena.num_regions() == 2);
  arena.Free(more.data, kBytes);
  CHECK(arena.num_regions() == 1);
  arena.Free(twice.data, twice.bytes);
  for (size_t i = 0; i < kCount; ++i) {
    if (i != 10 && i != 11) arena.Free(blocks[i].data, kBytes);
  }
  CHECK(arena.num_regions() == 0);
}

TEST_CASE("small and large buffers, and the first ones, are allocated elsewhere") {
  BufferArena arena(30000);
  CHECK(arena.TryAllocate(0) == nullptr);
  CHECK(arena.TryAllocate(BufferArena::kLeastBytes - 1) == nullptr);
  CHECK(arena.TryAllocate(16000) == nullptr);
  arena.FreedOutside(16000);
  CHECK(arena.TryAllocate(16000) == nullptr);
  void* data = arena.TryAllocate(16000);
  CHECK(data != nullptr);
  CHECK(arena.TryAllocate(BufferArena::kMostBytes + 1) == nullptr);
  arena.Free(data, 16000);
  CHECK(arena.num_regions() == 0);
}

}  // namespace quash
