#include "libquashdb/segment.h"

#include <algorithm>

namespace quash {

Status Segment::FindSlot(uint64_t slot, uint32_t* row, bool* found) const {
  Pin pin;
  std::span<const uint64_t> slots;
  QUASH_RETURN_IF_ERROR(Slots(&slots, &pin));
  const auto place = std::lower_bound(slots.begin(), slots.end(), slot);
  *found = place != slots.end() && *place == slot;
  *row = static_cast<uint32_t>(place - slots.begin());
  return Status();
}

}  // namespace quash
