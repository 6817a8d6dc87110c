#include "libquashdb/slot_map.h"

#include <doctest/doctest.h>

#include <map>
#include <random>

namespace quash {
namespace {

TEST_CASE("a slot map knows the row of each slot and no other") {
  std::mt19937_64 random(3);
  for (const uint64_t gap : {1u, 2u, 5u, 60u, 200u}) {
    CAPTURE(gap);
    std::vector<uint64_t> slots;
    std::map<uint64_t, uint32_t> rows;
    for (uint64_t slot = 1000 + random() % 64; slots.size() < 500; slot += 1 + random() % gap) {
      rows[slot] = static_cast<uint32_t>(slots.size());
      slots.push_back(slot);
    }
    const SlotMap map(slots);
    for (uint64_t slot = slots.front() - 70; slot <= slots.back() + 70; ++slot) {
      uint32_t row = 0;
      const bool found = map.Find(slot, &row);
      REQUIRE(found == rows.contains(slot));
      if (found) REQUIRE(row == rows[slot]);
    }
    uint32_t row = 0;
    CHECK(!map.Find(0, &row));
    CHECK(!map.Find(UINT64_MAX, &row));
  }
  CHECK(!SlotMap::TooSparse(64 * 500, 500));
  CHECK(SlotMap::TooSparse(64 * 500 + 1, 500));
}

}  // namespace
}  // namespace quash
