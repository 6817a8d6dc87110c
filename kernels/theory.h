// What the theory promises, for tests, `explain` and documentation
// (TurboQuant, arXiv 2504.19874, theorems 1 to 3; unit vectors).
#pragma once

#include <cstddef>

namespace quash {

// E|x - decode(encode(x))|^2 as dim grows: Lloyd-Max for a normal coordinate.
inline constexpr double kLloydMaxMse[5] = {1.0, 0.363380, 0.117482, 0.0345477, 0.0095010};

inline constexpr double FourToMinus(size_t bits) {
  double power = 1;
  for (size_t i = 0; i < bits; ++i) power /= 4;
  return power;
}

// Theorem 1: the MSE of tq_mse on any unit vector is at most sqrt(3) pi / 2 / 4^b.
inline constexpr double MseUpperBound(size_t bits) {
  return 2.7206990463513265 * FourToMinus(bits);
}

// Theorem 3: no quantizer does better than this on every unit vector.
inline constexpr double MseLowerBound(size_t bits) { return FourToMinus(bits); }

// Theorem 2: E(<y, x> - estimate)^2 of tq_prod is at most
// sqrt(3) pi^2 |y|^2 / (dim 4^b).
inline constexpr double InnerProductUpperBound(size_t dim, size_t bits, double norm_sq_y) {
  return 17.094656273292166 * norm_sq_y / static_cast<double>(dim) * FourToMinus(bits);
}

// Theorem 3 for inner products.
inline constexpr double InnerProductLowerBound(size_t dim, size_t bits, double norm_sq_y) {
  return norm_sq_y / static_cast<double>(dim) * FourToMinus(bits);
}

}  // namespace quash
