// The MSE quantizer for rows of whole numbers, with which CPU and GPU seal pages of KV
// caches to the same bytes whatever order they add in.
//
// A page's rows are put on a grid of powers of two and transformed by Walsh-Hadamard: sums
// of whole numbers below 2^24 are exact in float and in int32. What is left to define is
// then one row v[n] of such numbers, all in float32 with round to nearest:
//
//   norm       square root of the sum of squares: 32 lanes, v[i]^2 to lane i % 32 by fused
//              multiply-add in ascending order (the first is a product), folded by
//              lanes i and i + 2, 1, 16, 8, 4 in this order
//   magnitude  a = min(1, |v[i]| * (reach / norm)); floor(a * f) exact,
//              f = fma(fma(a, curve[2], curve[1]), a, curve[0])
//   code       2^(bits-1) + magnitude, or 2^(bits-1) - 1 - magnitude where v[i] < 0
//   scale      norm * (scale_base + scale_part / sum of squared levels)
//
// The curve is a cubic through the codebook's boundaries (0.05 % more squared error at 4
// bits, less below), so that no table is searched. The scale is the one of least squared
// error if the codes leave the error that they leave on average: |v|^2 = |v - sy|^2 +
// 2 <v, sy> - |sy|^2 then has <v, y> from |y|^2 alone.
#pragma once

#include <cstdint>

namespace quash {

struct FixedPointCode {
  uint32_t bits;
  float reach;     // of a row of norm 1: the largest coordinate that the curve tells apart
  float curve[3];
  float scale_base, scale_part;
};

// For dim 64 or 128 and 2, 3 or 4 bits; throws std::invalid_argument.
FixedPointCode MakeFixedPointCode(uint32_t dim, uint32_t bits);

// t = round(x * 2^shift) has |t| <= 2^14 if the largest of all |x| is `largest`; at most 113.
int FixedPointShift(float largest);

}  // namespace quash
