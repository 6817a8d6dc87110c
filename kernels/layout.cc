#include "kernels/layout.h"

#include <cstring>

namespace quash {
namespace {

// First byte of a row in plane 1 or 2; the next are kBlockRows apart.
size_t PlaneOffset(const CodeLayout& layout, size_t row) {
  return row / kBlockRows * layout.block_bytes() + row % kBlockRows;
}

void CopyFloat(const float* from, size_t from_row, float* to, size_t to_row) {
  if (from != nullptr && to != nullptr) to[to_row] = from[from_row];
}

}  // namespace

void GatherRowCode(const CodeLayout& layout, const ConstCodeArrays& codes, size_t row,
                   uint8_t* row_code) {
  const size_t bytes = layout.plane_bytes();
  const size_t offset = PlaneOffset(layout, row);
  for (size_t c = 0; c < bytes; ++c) row_code[c] = codes.plane1[offset + c * kBlockRows];
  if (layout.bits < 2) return;
  for (size_t c = 0; c < bytes; ++c) row_code[bytes + c] = codes.plane2[offset + c * kBlockRows];
  if (layout.bits < 3) return;
  std::memcpy(row_code + 2 * bytes, codes.rest + row * layout.rest_stride(), layout.rest_stride());
}

void ScatterRowCode(const CodeLayout& layout, const uint8_t* row_code, size_t row,
                    const CodeArrays& codes) {
  const size_t bytes = layout.plane_bytes();
  const size_t offset = PlaneOffset(layout, row);
  for (size_t c = 0; c < bytes; ++c) codes.plane1[offset + c * kBlockRows] = row_code[c];
  if (layout.bits < 2) return;
  for (size_t c = 0; c < bytes; ++c) codes.plane2[offset + c * kBlockRows] = row_code[bytes + c];
  if (layout.bits < 3) return;
  std::memcpy(codes.rest + row * layout.rest_stride(), row_code + 2 * bytes, layout.rest_stride());
}

void CopyRow(const CodeLayout& layout, const ConstCodeArrays& from, size_t from_row,
             const CodeArrays& to, size_t to_row) {
  const size_t bytes = layout.plane_bytes();
  const size_t from_offset = PlaneOffset(layout, from_row);
  const size_t to_offset = PlaneOffset(layout, to_row);
  for (size_t c = 0; c < bytes * kBlockRows; c += kBlockRows) {
    to.plane1[to_offset + c] = from.plane1[from_offset + c];
  }
  if (layout.bits >= 2) {
    for (size_t c = 0; c < bytes * kBlockRows; c += kBlockRows) {
      to.plane2[to_offset + c] = from.plane2[from_offset + c];
    }
  }
  if (layout.bits >= 3) {
    std::memcpy(to.rest + to_row * layout.rest_stride(),
                from.rest + from_row * layout.rest_stride(), layout.rest_stride());
  }
  CopyFloat(from.scale1, from_row, to.scale1, to_row);
  CopyFloat(from.scale2, from_row, to.scale2, to_row);
  CopyFloat(from.scale_full, from_row, to.scale_full, to_row);
  CopyFloat(from.norm_sq, from_row, to.norm_sq, to_row);
}

}  // namespace quash
