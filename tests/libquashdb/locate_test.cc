#include <doctest/doctest.h>

#include <map>
#include <memory>
#include <random>
#include <vector>

#include "libquashdb/executor_rows.h"
#include "libquashdb/snapshot.h"

namespace quash {
namespace {

// Has slots and nothing else.
class SlotsOnly final : public Segment {
 public:
  explicit SlotsOnly(std::vector<uint64_t> slots) : slots_(std::move(slots)) {
    rows_ = slots_.size();
    first_slot_ = slots_.front();
    last_slot_ = slots_.back();
  }
  Status Slots(std::span<const uint64_t>* slots, Pin*) const override {
    *slots = slots_;
    return Status();
  }
  Status Codes(SegmentPart, ConstCodeArrays*, Pin*) const override { return None(); }
  Status RerankRow(size_t, const void**, float*, std::vector<Pin>*) const override {
    return None();
  }
  Status RerankBlock(size_t, const void**, const float**, Pin*) const override { return None(); }
  Status Ids(IdColumn*, Pin*) const override { return None(); }
  Status MetadataColumn(size_t, std::shared_ptr<const Column>*) const override { return None(); }

 private:
  static Status None() { return Status(QUASH_UNSUPPORTED, "slots only"); }
  std::vector<uint64_t> slots_;
};

TEST_CASE("every slot is located in its segment, whatever gaps there are") {
  std::mt19937_64 random(11);
  for (size_t n = 0; n < 20; ++n) {  // segments
    CAPTURE(n);
    Snapshot snapshot;
    std::map<uint64_t, uint64_t> rows;
    uint64_t slot = random() % 50;
    for (uint32_t segment = 0; segment < n; ++segment) {
      const uint64_t gap = 1 + random() % 4;  // 1: none within the segment
      std::vector<uint64_t> slots;
      for (size_t i = 1 + random() % 30; i > 0; --i, slot += 1 + random() % gap) {
        rows[slot] = RowIndex(segment, static_cast<uint32_t>(slots.size()));
        slots.push_back(slot);
      }
      snapshot.first_slots.push_back(slots.front());
      snapshot.segments.push_back({std::make_shared<SlotsOnly>(slots), nullptr, slots.size()});
      slot += random() % 40;
    }
    for (uint64_t s = 0; s < slot + 50; ++s) {
      CAPTURE(s);
      uint64_t row = 0, row_in_two = 0;
      bool found = false, found_in_two = false;
      REQUIRE(Locate(snapshot, s, &row, &found).ok());
      REQUIRE(LocateIn(snapshot, FetchPlace(snapshot, s), s, &row_in_two, &found_in_two).ok());
      REQUIRE(found == rows.contains(s));
      REQUIRE(found_in_two == found);
      if (found) REQUIRE(row == rows[s]);
      if (found) REQUIRE(row_in_two == row);
    }
  }
}

}  // namespace
}  // namespace quash
