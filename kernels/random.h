// Seeded random numbers that are equal on every platform: integer generator,
// and only IEEE additions, multiplications, divisions and square roots.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace quash {

// xoshiro256++ (Blackman and Vigna, 2019), seeded by SplitMix64.
class Random {
 public:
  constexpr explicit Random(uint64_t seed) {
    for (uint64_t& word : state_) {
      seed += 0x9E3779B97F4A7C15u;
      uint64_t z = seed;
      z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
      z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
      word = z ^ (z >> 31);
    }
  }

  constexpr uint64_t Next() {
    const uint64_t result = RotateLeft(state_[0] + state_[3], 23) + state_[0];
    const uint64_t t = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= t;
    state_[3] = RotateLeft(state_[3], 45);
    return result;
  }

  // Uniform in [0, n), n >= 1, without bias (Lemire, 2019).
  constexpr uint32_t Below(uint32_t n) {
    uint64_t product = (Next() >> 32) * n;
    if (static_cast<uint32_t>(product) < n) {
      const uint32_t threshold = (0u - n) % n;
      while (static_cast<uint32_t>(product) < threshold) product = (Next() >> 32) * n;
    }
    return static_cast<uint32_t>(product >> 32);
  }

  // Uniform in [0, 1), 53 bits.
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

  // Standard normal by the polar method (Marsaglia), one value per pair used.
  double Gaussian() {
    double u;
    double square;
    do {
      u = 2 * Uniform() - 1;
      const double v = 2 * Uniform() - 1;
      square = u * u + v * v;
    } while (square >= 1 || square == 0);
    return u * std::sqrt(-2 * PortableLog(square) / square);
  }

  // Natural logarithm of a normal positive number, within a few ulp. The
  // library's own may differ in the last bit between platforms.
  static double PortableLog(double x) {
    uint64_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    int exponent = static_cast<int>(bits >> 52) - 1023;
    bits = (bits & 0x000FFFFFFFFFFFFFu) | 0x3FF0000000000000u;
    double mantissa;  // in [1, 2), then [0.7, 1.42)
    std::memcpy(&mantissa, &bits, sizeof(mantissa));
    if (mantissa > 1.4142135623730951) {
      mantissa *= 0.5;
      ++exponent;
    }
    // log m = 2 atanh(z), |z| < 0.172, so the last term is below 1e-17.
    const double z = (mantissa - 1) / (mantissa + 1);
    const double z2 = z * z;
    double series = 0;
    for (int k = 21; k >= 1; k -= 2) series = series * z2 + 1.0 / k;
    return exponent * 0.6931471805599453 + 2 * z * series;
  }

 private:
  static constexpr uint64_t RotateLeft(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

  uint64_t state_[4];
};

}  // namespace quash
