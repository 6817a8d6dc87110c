// fixed_point.h for one row, compiled for each instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/fixed_point.h"

namespace quash {
namespace {

float FixedPointNorm(const float* row, size_t n) {
  constexpr size_t kLanes = 32;
  float lanes[kLanes];
  for (size_t i = 0; i < kLanes; ++i) lanes[i] = row[i] * row[i];
  for (size_t j = kLanes; j < n; j += kLanes) {
    for (size_t i = 0; i < kLanes; ++i) {
      lanes[i] = __builtin_fmaf(row[j + i], row[j + i], lanes[i]);
    }
  }
  for (const size_t step : {2, 1, 16, 8, 4}) {
    for (size_t i = 0; i < kLanes; ++i) {
      if ((i & step) == 0) lanes[i] += lanes[i + step];
    }
  }
  return __builtin_sqrtf(lanes[0]);
}

float FixedPointCodes(const float* row, size_t n, const FixedPointCode& code, uint8_t* codes) {
  constexpr float kWhole = 0x1p23f;  // from here on floats are whole numbers
  const float norm = FixedPointNorm(row, n);
  const float factor = norm > 0 ? code.reach / norm : 0.0f;
  const int half = 1 << (code.bits - 1);
  for (size_t i = 0; i < n; ++i) {
    const float far = __builtin_fabsf(row[i]) * factor;
    const float a = far < 1 ? far : 1.0f;
    const float f =
        __builtin_fmaf(__builtin_fmaf(a, code.curve[2], code.curve[1]), a, code.curve[0]);
    // Rounded to nearest, and one less where that was up.
    const float nearest = __builtin_fmaf(a, f, kWhole) - kWhole;
    const float magnitude = __builtin_fmaf(a, f, -nearest) < 0 ? nearest - 1 : nearest;
    const int whole = static_cast<int>(magnitude);
    codes[i] = static_cast<uint8_t>(row[i] < 0 ? half - 1 - whole : half + whole);
  }
  return norm;
}

}  // namespace
}  // namespace quash
