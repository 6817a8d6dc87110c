// Byte layout of packed codes, shared by the encoder, the scans and storage.
//
// A code is the ascending index of a coordinate's centroid, `bits` wide, split
// in bit planes: plane 1 is the top bit (the sign), plane 2 the next, and so
// on. Rows are grouped in blocks of 32. One plane holds coordinates 8c..8c+7
// of a row in its byte c, coordinate 8c + i in bit i; padding bits are zero.
//
//   planes 1 and 2   [nblocks][plane_bytes][32] u8, byte c of row r of a block
//                    at c * 32 + r: one SIMD load is one byte of 32 rows
//   planes 3..bits   row-major "rest": [nblocks * 32][bits - 2][plane_bytes] u8
//   row code         [bits][plane_bytes] u8, all planes of one row, contiguous
//
// Each prefix of planes has a float32 scale per row, a = |x| / <u, y> with u
// the rotated unit vector and y its levels under that prefix (design notes,
// "Scale"), so that <q, x> is estimated without bias along x. With q' the
// rotated query, Sk = sum_j q'_j (2 p_j - 1) over the bits p of plane k and
// m, delta, levels of LevelCodebook:
//
//   plane 1          <q, x> ~ scale1 * S1                      y_j = +-1
//   planes 1 and 2   <q, x> ~ scale2 * (m * S1 + delta * S2)   y_j = +-m +- delta
//   all planes       <q, x> ~ scale_full * sum_j q'_j levels[code_j]
//
// The full scale is scale1 at 1 bit, scale2 at 2 bits and scale_full above.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quash {

inline constexpr size_t kBlockRows = 32;
inline constexpr size_t kMaxBits = 4;
inline constexpr size_t kAlignment = 64;  // of planes and scales

// Bytes of one plane of one row: whole 16-coordinate pairs, so that a 64-byte
// load always holds two complete byte rows of a block.
inline constexpr size_t PlaneBytes(size_t dim) { return (dim + 15) / 16 * 2; }

struct CodeLayout {
  uint32_t dim;
  uint32_t bits;  // 1..4

  constexpr size_t plane_bytes() const { return PlaneBytes(dim); }
  constexpr size_t block_bytes() const { return plane_bytes() * kBlockRows; }
  constexpr size_t rest_stride() const { return bits > 2 ? (bits - 2) * plane_bytes() : 0; }
  constexpr size_t row_code_bytes() const { return bits * plane_bytes(); }
  // Distinct plane prefixes with a scale of their own: {1}, {1,2}, {1..bits}.
  constexpr size_t num_scales() const { return bits > 2 ? 3 : bits; }
};

inline constexpr size_t NumBlocks(size_t rows) { return (rows + kBlockRows - 1) / kBlockRows; }

// Where the codes of a run of blocks lie. Arrays cover NumBlocks(rows) * 32
// rows; padding rows are zero. Members past what `bits` needs are null.
template <typename Byte, typename Float>
struct BasicCodeArrays {
  Byte* plane1 = nullptr;
  Byte* plane2 = nullptr;
  Byte* rest = nullptr;
  Float* scale1 = nullptr;      // of plane 1 alone
  Float* scale2 = nullptr;      // of planes 1 and 2 (bits >= 2)
  Float* scale_full = nullptr;  // of all planes (bits >= 3)
  Float* norm_sq = nullptr;     // |x|^2, kept for L2 only
};
using CodeArrays = BasicCodeArrays<uint8_t, float>;
using ConstCodeArrays = BasicCodeArrays<const uint8_t, const float>;

// Gathers row `row` of `codes` into its contiguous row code.
void GatherRowCode(const CodeLayout& layout, const ConstCodeArrays& codes, size_t row,
                   uint8_t* row_code);

// Writes a row code into row `row` of `codes`. Touches no byte of other rows.
void ScatterRowCode(const CodeLayout& layout, const uint8_t* row_code, size_t row,
                    const CodeArrays& codes);

// Copies a row with its scales (and norm_sq where both have one) between runs.
void CopyRow(const CodeLayout& layout, const ConstCodeArrays& from, size_t from_row,
             const CodeArrays& to, size_t to_row);

}  // namespace quash
