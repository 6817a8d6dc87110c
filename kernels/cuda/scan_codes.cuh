// Levels as sums of binary functions of a code's bits, so that a scan of whole codes
// is binary products, whose operands need no unpacking.
//
// Levels are odd and antisymmetric: that of the complemented code is the opposite.
// A function f with f(~code) = 1 - f(code) makes 2 f - 1 antisymmetric too, and of
// those below, 2^(bits - 1) in number, every such table of levels is a sum with
// integer weights a_i (checked by MakeCodeWeights()):
//   levels[code] = sum_i a_i (2 f_i(code) - 1)
// With X_i the sum of a query's values where f_i is 1,
//   sum_j values_j levels[code_j] = sum_i 2 a_i X_i - sum_j values_j * sum_i a_i
// modulo 2^32, and the sum itself fits in 32 bits. All functions are bits of the code
// or majorities of three words: one logic operation for 32 coordinates.
#pragma once

#include <cstdint>

namespace quash::cuda {

template <typename Word>
__host__ __device__ inline Word Majority(Word a, Word b, Word c) {
  return (a & b) | (c & (a | b));
}

// Function `i` of codes whose bits are given plane by plane, the sign first.
template <uint32_t kBits, typename Word>
__host__ __device__ inline Word CodeFunction(uint32_t i, const Word (&planes)[kBits]) {
  if (i < kBits) return planes[i];
  if constexpr (kBits == 3) return Majority(planes[0], planes[1], planes[2]);
  if constexpr (kBits == 4) {
    if (i == 4) return Majority(planes[0], planes[1], planes[2]);
    if (i == 5) return Majority(planes[0], planes[1], planes[3]);
    const Word inner = Majority(planes[0], planes[2], planes[3]);
    return i == 6 ? inner : Majority(planes[0], planes[1], inner);
  }
  return 0;
}

}  // namespace quash::cuda
