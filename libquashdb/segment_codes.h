// Whole codes of a segment, whatever parts its bits need.
#pragma once

#include <cstdint>

#include "libquashdb/segment.h"

namespace quash {

struct SegmentCodes {
  ConstCodeArrays arrays;
  const float* scale = nullptr;  // of whole codes, [rows]
  Pin pins[3];                   // keep both valid

  Status Read(const Segment& segment, uint32_t bits) {
    QUASH_RETURN_IF_ERROR(segment.Codes(SegmentPart::kPlane1, &arrays, &pins[0]));
    if (bits >= 2) QUASH_RETURN_IF_ERROR(segment.Codes(SegmentPart::kPlane2, &arrays, &pins[1]));
    if (bits >= 3) QUASH_RETURN_IF_ERROR(segment.Codes(SegmentPart::kRest, &arrays, &pins[2]));
    scale = bits == 1 ? arrays.scale1 : bits == 2 ? arrays.scale2 : arrays.scale_full;
    return Status();
  }
};

}  // namespace quash
