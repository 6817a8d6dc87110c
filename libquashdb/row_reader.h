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

// The same for many rows in about ascending order: neighbours share what is read.
class VectorReader {
 public:
  explicit VectorReader(const Snapshot& snapshot) : snapshot_(snapshot) {}
  Status Read(uint32_t segment, uint32_t row, float* vector);

 private:
  const Snapshot& snapshot_;
  // The 32 rows of the tier read last.
  uint32_t segment_ = UINT32_MAX;
  size_t block_ = 0;
  const void* data_ = nullptr;
  const float* scales_ = nullptr;
  Pin pin_;
};

}  // namespace quash
