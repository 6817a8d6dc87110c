// Codes to bits and back, lossless for every dim.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quash {

// ---- Dense packing ------------------------------------------------------------
// Code j takes bits j * bits .. j * bits + bits - 1 of a little-endian bit
// string, so codes of 3 bits straddle bytes. Unused bits of the last byte are zero.

// Bytes of `dim` codes of 1, 2, 3, 4 or 8 bits.
inline constexpr size_t PackedSize(size_t dim, size_t bits) { return (dim * bits + 7) / 8; }

//   codes   [dim] u8, each below 2^bits (higher bits are dropped)
//   bits    1, 2, 3, 4 or 8
//   packed  [PackedSize(dim, bits)] u8 out
void PackBits(const uint8_t* codes, size_t dim, size_t bits, uint8_t* packed);
void UnpackBits(const uint8_t* packed, size_t dim, size_t bits, uint8_t* codes);

// ---- Bit planes (layout.h) ------------------------------------------------------
//   codes     [plane_bytes * 8] u8, padding zero
//   bits      1..4
//   row_code  [bits][plane_bytes] u8, top bit first
void PackPlanes(const uint8_t* codes, size_t bits, size_t plane_bytes, uint8_t* row_code);
void UnpackPlanes(const uint8_t* row_code, size_t bits, size_t plane_bytes, uint8_t* codes);

// sum_j values_j * table[code_j] of a row code without unpacking it, in eight
// strided lanes folded by halves.
//   table   [2^bits]
//   values  [dim], dim at most plane_bytes * 8
float DotTable(const uint8_t* row_code, size_t bits, size_t plane_bytes, const float* table,
               const float* values, size_t dim);

}  // namespace quash
