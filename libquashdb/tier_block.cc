#include "libquashdb/tier_block.h"

#include <bit>
#include <cstring>

#include "kernels/layout.h"

namespace quash {

TierBlock::TierBlock(BufferRef part, const Shape& shape)
    : present_(~uint32_t{0}),
      row_bytes_(shape.row_bytes),
      rows_(part->data() + sizeof(PartHeader)),
      scales_(shape.has_scales ? reinterpret_cast<const float*>(
                                     rows_ + AlignUp(kBlockRows * shape.row_bytes))
                               : nullptr),
      part_(std::move(part)) {}

TierBlock::TierBlock(const TierBlock* before, size_t row, const void* data, float scale,
                     const Shape& shape)
    : present_((before != nullptr ? before->present_ : 0) | uint32_t{1} << row),
      row_bytes_(shape.row_bytes) {
  const size_t n = num_rows(), rows_bytes = AlignUp(n * row_bytes_);
  few_ = std::make_unique<AlignedBuffer>(rows_bytes +
                                         (shape.has_scales ? n * sizeof(float) : 0));
  auto* scales = reinterpret_cast<float*>(few_->data() + rows_bytes);
  size_t at = 0;
  for (uint32_t left = present_; left != 0; left &= left - 1, ++at) {
    const auto from = static_cast<size_t>(std::countr_zero(left));
    float scale_of_row = scale;
    const void* source = from == row ? data : before->Row(from, &scale_of_row);
    std::memcpy(few_->data() + at * row_bytes_, source, row_bytes_);
    if (shape.has_scales) scales[at] = scale_of_row;
  }
  rows_ = few_->data();
  scales_ = shape.has_scales ? scales : nullptr;
}

size_t TierBlock::Before(size_t row) const {
  return static_cast<size_t>(std::popcount(present_ & ((uint32_t{1} << row) - 1)));
}

size_t TierBlock::num_rows() const { return static_cast<size_t>(std::popcount(present_)); }

size_t TierBlock::memory_bytes() const {
  return sizeof(TierBlock) + (part_ != nullptr ? part_->size() : few_->size());
}

}  // namespace quash
