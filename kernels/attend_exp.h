// Constants of exp_sum, one algorithm for every ISA (Cephes expf, S. Moshier):
// with x = value - max, rounded to float,
//   k = nearest integer to x log2(e), r = (x - k kLn2High) - k kLn2Low
//   exp(x) = 2^k (((P(r) r^2) + r) + 1)
// P by Horner, every product and sum rounded on its own. Within 2^-22 relative for x
// down to kExpLeast, as attend_test.cc checks.
#pragma once

namespace quash {

// Below it exp(x) < 2^-126, no normal float, and the result is 0.
inline constexpr float kExpLeast = -87.3365f;
inline constexpr float kLog2E = 1.44269504088896341f;
// 1.5 * 2^23: adding it rounds to an integer, which its low mantissa bits hold.
inline constexpr float kExpRound = 12582912.0f;
// Nine bits, so that k kLn2High is exact; and the rest of ln 2.
inline constexpr float kLn2High = 0.693359375f;
inline constexpr float kLn2Low = -2.12194440e-4f;
// P, highest power first.
inline constexpr float kExpPolynomial[6] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                            4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};

}  // namespace quash
