// Attention over packed codes: the function table of the KV cache. Scores and
// value sums are integer dots of int8 levels with int16 vectors, bit-equal on
// every ISA; the softmax between them is float, within 2^-20 relative of libm's.
//
// Rows of codes here are not those of layout.h: one code holds its sign beside
// its magnitude, so that a table of 2^bits levels or a byte permute decodes it,
// and fields are strided, so that a shift and a mask give neighbours.
//
//   sign-magnitude code   with c the ascending index of `bits` bits and
//                         half = 2^(bits-1):  c >= half ? c - half, sign 0
//                                             c <  half ? half - 1 - c, sign 1
//   nibble row, 4 bits    [n / 2] u8: byte j has code j in its low nibble, code
//                         j + n / 2 in its high one; sign is bit 3
//   crumb row, 2 bits     [n / 4] u8: byte j has codes j + i * n / 4 at bits
//                         2i, i = 0..3; sign is bit 1 of the two
//   bit row, 1 bit        [n / 8] u8: byte j has codes j + i * n / 8 at bit i;
//                         set is negative
//   3 bits                a crumb row of magnitudes (2 bits, no sign), then a
//                         bit row of signs
//
// n is a multiple of 16; 8 bytes past the last row of a matrix are readable.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codebook.h"
#include "kernels/dispatch.h"
#include "kernels/fixed_point.h"

namespace quash {

// Bytes of a row of n codes.
inline constexpr size_t SignedRowBytes(size_t n, size_t bits) { return n * bits / 8; }

// Ascending codes to a row and back.
//   codes  [n] u8, each below 2^bits
//   row    [SignedRowBytes(n, bits)] u8
void PackSignedRow(const uint8_t* codes, size_t n, size_t bits, uint8_t* row);
void UnpackSignedRow(const uint8_t* row, size_t n, size_t bits, uint8_t* codes);

// Query rows that one call of level_dots serves at most.
inline constexpr size_t kLevelDotsMaxVectors = 8;

struct AttendKernels {
  const char* name;

  // Rows of codes to int8 levels, in the order of the codes.
  //   rows    [nrows][SignedRowBytes(n, bits)] u8, bits 1..4
  //   levels  the 2^bits ascending levels of LevelCodebook
  //   out     [nrows][n] int8 out, 32 bytes past the end may be overwritten
  void (*unpack_levels)(const uint8_t* rows, size_t nrows, size_t n, size_t bits,
                        const int8_t* levels, int8_t* out);

  // sums[v][r] = sum_j levels[r][j] * vectors[v][j], exact in int32. Callers keep
  // 107 * sum_j |vectors[v][j]| below 2^31.
  //   levels   [nrows][n] int8, n a multiple of 16, nrows a multiple of 8
  //   vectors  [nv][n] int16, 64-byte aligned rows not required; nv 1..8
  //   sums     [nv][sums_stride] int32 out
  void (*level_dots)(const int8_t* levels, size_t nrows, size_t n, const int16_t* vectors,
                     size_t nv, int32_t* sums, size_t sums_stride);

  // Largest magnitude over n floats, NaN left out; 0 for n = 0.
  float (*max_abs)(const float* values, size_t n);

  // to[i] = round to nearest even of from[i] * inverse_scale; |result| <= 32767.
  void (*quantize_i16)(const float* from, size_t n, float inverse_scale, int16_t* to);

  // values[i] = exp(values[i] - max); returns their sum, added in 16 strided
  // lanes folded by halves. -infinity gives 0, as does a difference (float32)
  // below -87.3365, whose exp is under 2^-126. max is finite and not below any.
  float (*exp_sum)(float* values, size_t n, float max);

  // to[i] += factor * from[i] (int32), and to[i] += factor * from[i] (float).
  void (*add_scaled_i32)(const int32_t* from, size_t n, float factor, float* to);
  void (*add_scaled_f32)(const float* from, size_t n, float factor, float* to);

  // bfloat16 to float32 and back (round to nearest even, NaN stays NaN).
  void (*bf16_to_f32)(const uint16_t* from, size_t n, float* to);
  void (*f32_to_bf16)(const float* from, size_t n, uint16_t* to);

  // Norm of a row of whole numbers and its codes, as kernels/fixed_point.h says.
  //   row    [n], n a multiple of 32
  //   codes  [n] ascending codes out
  float (*fixed_point_codes)(const float* row, size_t n, const FixedPointCode& code,
                             uint8_t* codes);
};

// Every table is linked on its architecture; null where it is not.
const AttendKernels* ScalarAttendKernels();
const AttendKernels* Avx2AttendKernels();
const AttendKernels* Avx512AttendKernels();
const AttendKernels* NeonAttendKernels();

// Of one instruction set (null where missing), and the one that Kernels() uses.
const AttendKernels* AttendKernelsFor(Isa isa);
const AttendKernels& Attend();

}  // namespace quash
