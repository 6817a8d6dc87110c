// Reads one row's vector back.
#pragma once

#include <cstdint>

#include "libquashdb/snapshot.h"
#include "libquashdb/status.h"

namespace quash {

// The vector of a row: the rerank tier dequantized if there is one, else its
// codes decoded.
//   vector  [dim] out
Status ReadVector(const Snapshot& snapshot, uint32_t segment, uint32_t row, float* vector);

}  // namespace quash
