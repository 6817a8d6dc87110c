// The reference of every attention kernel. The SIMD tables must equal it bit for bit.
#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/attend.h"
#include "kernels/attend_exp.h"
#include "kernels/fixed_point_codes.h"

namespace quash {
namespace {

constexpr size_t kLanes = 16;

void UnpackLevels(const uint8_t* rows, size_t nrows, size_t n, size_t bits, const int8_t* levels,
                  int8_t* out) {
  for (size_t r = 0; r < nrows; ++r, rows += SignedRowBytes(n, bits), out += n) {
    auto* codes = reinterpret_cast<uint8_t*>(out);
    UnpackSignedRow(rows, n, bits, codes);
    for (size_t j = 0; j < n; ++j) out[j] = levels[codes[j]];
  }
}

void LevelDots(const int8_t* levels, size_t nrows, size_t n, const int16_t* vectors, size_t nv,
               int32_t* sums, size_t sums_stride) {
  for (size_t v = 0; v < nv; ++v) {
    for (size_t r = 0; r < nrows; ++r) {
      int32_t sum = 0;
      for (size_t j = 0; j < n; ++j) sum += int32_t{levels[r * n + j]} * vectors[v * n + j];
      sums[v * sums_stride + r] = sum;
    }
  }
}

float MaxAbs(const float* values, size_t n) {
  float largest = 0;
  for (size_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(values[i]));
  return largest;
}

void QuantizeI16(const float* from, size_t n, float inverse_scale, int16_t* to) {
  for (size_t i = 0; i < n; ++i) {
    to[i] = static_cast<int16_t>(std::nearbyint(from[i] * inverse_scale));
  }
}

float Exp(float x) {
  if (x < kExpLeast) return 0;
  const float rounded = x * kLog2E + kExpRound;
  const float k = rounded - kExpRound;
  const float r = (x - k * kLn2High) - k * kLn2Low;
  float p = kExpPolynomial[0];
  for (int i = 1; i < 6; ++i) p = p * r + kExpPolynomial[i];
  // The exponent of 2^k: k sits in the low bits of `rounded`.
  const float power = std::bit_cast<float>((std::bit_cast<uint32_t>(rounded) + 127) << 23);
  return (((p * (r * r)) + r) + 1.0f) * power;
}

float ExpSum(float* values, size_t n, float max) {
  float lanes[kLanes] = {};
  for (size_t i = 0; i < n; ++i) {
    values[i] = Exp(values[i] - max);
    lanes[i % kLanes] += values[i];
  }
  for (size_t half = kLanes / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

void AddScaledI32(const int32_t* from, size_t n, float factor, float* to) {
  for (size_t i = 0; i < n; ++i) to[i] += factor * static_cast<float>(from[i]);
}
void AddScaledF32(const float* from, size_t n, float factor, float* to) {
  for (size_t i = 0; i < n; ++i) to[i] += factor * from[i];
}

void Bf16ToF32(const uint16_t* from, size_t n, float* to) {
  for (size_t i = 0; i < n; ++i) to[i] = std::bit_cast<float>(uint32_t{from[i]} << 16);
}
void F32ToBf16(const float* from, size_t n, uint16_t* to) {
  for (size_t i = 0; i < n; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(from[i]);
    const bool nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
    const uint32_t rounded = bits + 0x7FFFu + (bits >> 16 & 1);
    to[i] = static_cast<uint16_t>((nan ? bits | 0x400000u : rounded) >> 16);
  }
}

constexpr AttendKernels kScalar = {
    "scalar", UnpackLevels, LevelDots,    MaxAbs,    QuantizeI16,
    ExpSum,   AddScaledI32, AddScaledF32, Bf16ToF32, F32ToBf16,
    FixedPointCodes,
};

}  // namespace

const AttendKernels* ScalarAttendKernels() { return &kScalar; }

}  // namespace quash
