// What is resident of 32 rows of the rerank tier: all of them, or those that searches
// have read. A search reads a few rows from all over a collection, and whole blocks in
// memory for them would be ten times what it needs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "libquashdb/part.h"

namespace quash {

class TierBlock {
 public:
  struct Shape {
    size_t row_bytes = 0;
    bool has_scales = false;  // int8
  };

  // All rows: of a stored block.
  TierBlock(BufferRef part, const Shape& shape);
  // The rows of `before` (null: none) and one more.
  TierBlock(const TierBlock* before, size_t row, const void* data, float scale,
            const Shape& shape);

  // Row [0, 32) of the block; null if it is not here.
  const void* Row(size_t row, float* scale) const {
    if ((present_ >> row & 1) == 0) return nullptr;
    const size_t at = part_ != nullptr ? row : Before(row);
    *scale = scales_ != nullptr ? scales_[at] : 1;
    return rows_ + at * row_bytes_;
  }
  size_t num_rows() const;
  // The stored block; null unless all rows are here.
  const BufferRef& part() const { return part_; }
  size_t memory_bytes() const;

 private:
  size_t Before(size_t row) const;  // rows here with smaller numbers

  uint32_t present_;
  size_t row_bytes_;
  const uint8_t* rows_;
  const float* scales_;  // null unless int8
  BufferRef part_;
  std::unique_ptr<AlignedBuffer> few_;  // rows, then scales
};

}  // namespace quash
