#include "libquashdb/tier_block.h"

#include <doctest/doctest.h>

#include <cstring>
#include <vector>

#include "kernels/layout.h"
#include "libquashdb/part_cache.h"

namespace quash {
namespace {

constexpr size_t kRowBytes = 10;
constexpr TierBlock::Shape kShape = {.row_bytes = kRowBytes, .has_scales = true};

std::vector<uint8_t> RowBytes(size_t row) {
  std::vector<uint8_t> bytes(kRowBytes);
  for (size_t i = 0; i < kRowBytes; ++i) bytes[i] = static_cast<uint8_t>(7 * row + i);
  return bytes;
}
float ScaleOf(size_t row) { return 0.5f * static_cast<float>(row) + 1; }

void CheckRow(const TierBlock& block, size_t row) {
  float scale = 0;
  const void* data = block.Row(row, &scale);
  REQUIRE(data != nullptr);
  CHECK(std::memcmp(data, RowBytes(row).data(), kRowBytes) == 0);
  CHECK(scale == ScaleOf(row));
}

// As stored: rows, then scales.
BufferRef WholePart() {
  PartBuilder builder(AlignUp(kBlockRows * kRowBytes) + AlignUp(kBlockRows * sizeof(float)));
  auto* rows = builder.Next<uint8_t>(kBlockRows * kRowBytes);
  auto* scales = builder.Next<float>(kBlockRows);
  for (size_t row = 0; row < kBlockRows; ++row) {
    std::memcpy(rows + row * kRowBytes, RowBytes(row).data(), kRowBytes);
    scales[row] = ScaleOf(row);
  }
  return builder.part();
}

TEST_CASE("rows of a tier block become resident one by one, in any order") {
  std::shared_ptr<const TierBlock> block;
  std::vector<size_t> there;
  for (const size_t row : {5u, 31u, 0u, 6u, 17u}) {
    block = std::make_shared<TierBlock>(block.get(), row, RowBytes(row).data(), ScaleOf(row),
                                        kShape);
    there.push_back(row);
    CHECK(block->num_rows() == there.size());
    CHECK(block->part() == nullptr);
    for (const size_t known : there) CheckRow(*block, known);
    float scale = 0;
    for (const size_t other : {1u, 4u, 16u, 30u}) CHECK(block->Row(other, &scale) == nullptr);
  }
  CHECK(block->memory_bytes() < 5 * 64 + sizeof(TierBlock) + 64);
}

TEST_CASE("a row that is read twice at a time is there once") {
  const TierBlock one(nullptr, 3, RowBytes(3).data(), ScaleOf(3), kShape);
  const TierBlock again(&one, 3, RowBytes(3).data(), ScaleOf(3), kShape);
  CHECK(again.num_rows() == 1);
  CheckRow(again, 3);
}

TEST_CASE("a whole block has every row, and scale 1 where the tier has no scales") {
  const TierBlock block(WholePart(), kShape);
  CHECK(block.num_rows() == kBlockRows);
  CHECK(block.part() != nullptr);
  for (size_t row = 0; row < kBlockRows; ++row) CheckRow(block, row);
  const TierBlock unscaled(WholePart(), {.row_bytes = kRowBytes, .has_scales = false});
  float scale = 0;
  CHECK(unscaled.Row(9, &scale) != nullptr);
  CHECK(scale == 1);
}

TEST_CASE("a cached part is replaced by a larger one if that fits") {
  PartCache cache(100);
  PartCache::Slot slot, other;
  const auto small = std::make_shared<const int>(1), large = std::make_shared<const int>(2);
  cache.Replace(&slot, small, 40, PartCache::Priority::kRerank);
  CHECK(slot.Get() == small);
  cache.Admit(&other, large, 30, PartCache::Priority::kRerank);
  CHECK(cache.used_bytes() == 70);
  cache.Replace(&slot, large, 71, PartCache::Priority::kRerank);  // 101 in all
  CHECK(slot.Get() == small);
  cache.Replace(&slot, large, 70, PartCache::Priority::kRerank);
  CHECK(slot.Get() == large);
  CHECK(cache.used_bytes() == 100);
  cache.Remove(&slot);
  cache.Remove(&other);
  CHECK(cache.used_bytes() == 0);
}

}  // namespace
}  // namespace quash
