// NEON attention kernels (AArch64 baseline). Float paths multiply and add
// separately and in the order of the reference, so that results equal it bit for bit.
#include <arm_neon.h>

#include "kernels/attend.h"
#include "kernels/attend_exp.h"
#include "kernels/fixed_point_codes.h"

namespace quash {
namespace {

// ---- Codes to levels ----------------------------------------------------------

// Goes by fields of n / 8 codes (3 bits) or of as many as there are bytes, 16 codes at a
// time and in ascending order: what a store writes past its field is written again by
// the next. A load reads at most 8 bytes past its own.
template <size_t kBits>
void UnpackRows(const uint8_t* rows, size_t nrows, size_t n, const int8_t* levels, int8_t* out) {
  constexpr size_t kCount = size_t{1} << kBits;
  int8_t by_code[16];  // sign-magnitude
  for (size_t i = 0; i < 16; ++i) {
    const size_t code = i % kCount;
    by_code[i] = levels[code ^ (code >= kCount / 2 ? kCount - 1 : kCount / 2)];
  }
  const int8x16_t table = vld1q_s8(by_code);
  const uint8x16_t mask = vdupq_n_u8(kBits == 3 ? 3 : kCount - 1), sign_bit = vdupq_n_u8(4);
  const size_t field = kBits == 3 ? n / 8 : n * kBits / 8;
  const auto right = [](size_t count) {
    return vdupq_n_s8(static_cast<int8_t>(-static_cast<int>(count)));
  };
  for (size_t r = 0; r < nrows; ++r, rows += n * kBits / 8, out += n) {
    for (size_t i = 0; i * field < n; ++i) {
      // Two fields of signs cover one of magnitudes.
      const uint8_t* from = kBits == 3 ? rows + i % 2 * field : rows;
      const int8x16_t count = right(kBits == 3 ? i / 2 * 2 : i * kBits);
      const int8x16_t sign_count = right(i);
      for (size_t j = 0; j < field; j += 16) {
        const bool whole = field - j >= 8;
        const auto load = [whole](const uint8_t* bytes) {
          return whole ? vld1q_u8(bytes) : vcombine_u8(vld1_u8(bytes), vdup_n_u8(0));
        };
        uint8x16_t codes = vandq_u8(vshlq_u8(load(from + j), count), mask);
        if constexpr (kBits == 3) {
          const uint8x16_t signs = vshlq_u8(load(rows + n / 4 + j), sign_count);
          codes = vorrq_u8(codes, vandq_u8(vshlq_n_u8(signs, 2), sign_bit));
        }
        vst1q_s8(out + i * field + j, vqtbl1q_s8(table, codes));
      }
    }
  }
}

void UnpackLevels(const uint8_t* rows, size_t nrows, size_t n, size_t bits, const int8_t* levels,
                  int8_t* out) {
  switch (bits) {
    case 1:
      return UnpackRows<1>(rows, nrows, n, levels, out);
    case 2:
      return UnpackRows<2>(rows, nrows, n, levels, out);
    case 3:
      return UnpackRows<3>(rows, nrows, n, levels, out);
    default:
      return UnpackRows<4>(rows, nrows, n, levels, out);
  }
}

// ---- Dots ---------------------------------------------------------------------

// Four rows with kVectors (1..4) vectors: each 8 levels are widened once.
template <size_t kVectors>
inline void DotFourRows(const int8_t* levels, size_t n, const int16_t* vectors, int32_t* sums,
                        size_t sums_stride) {
  int32x4_t sum[kVectors][4];
  for (size_t v = 0; v < kVectors; ++v) {
    for (size_t r = 0; r < 4; ++r) sum[v][r] = vdupq_n_s32(0);
  }
  for (size_t j = 0; j < n; j += 8) {
    int16x8_t row[4];
    for (size_t r = 0; r < 4; ++r) row[r] = vmovl_s8(vld1_s8(levels + r * n + j));
    for (size_t v = 0; v < kVectors; ++v) {
      const int16x8_t vector = vld1q_s16(vectors + v * n + j);
      for (size_t r = 0; r < 4; ++r) {
        sum[v][r] = vmlal_s16(sum[v][r], vget_low_s16(row[r]), vget_low_s16(vector));
        sum[v][r] = vmlal_high_s16(sum[v][r], row[r], vector);
      }
    }
  }
  for (size_t v = 0; v < kVectors; ++v) {
    const int32x4_t rows01 = vpaddq_s32(sum[v][0], sum[v][1]);
    vst1q_s32(sums + v * sums_stride, vpaddq_s32(rows01, vpaddq_s32(sum[v][2], sum[v][3])));
  }
}

template <size_t kVectors>
void DotRows(const int8_t* levels, size_t nrows, size_t n, const int16_t* vectors, int32_t* sums,
             size_t sums_stride) {
  for (size_t r = 0; r < nrows; r += 4) {
    DotFourRows<kVectors>(levels + r * n, n, vectors, sums + r, sums_stride);
  }
}

void LevelDots(const int8_t* levels, size_t nrows, size_t n, const int16_t* vectors, size_t nv,
               int32_t* sums, size_t sums_stride) {
  for (; nv > 4; nv -= 4, vectors += 4 * n, sums += 4 * sums_stride) {
    DotRows<4>(levels, nrows, n, vectors, sums, sums_stride);
  }
  switch (nv) {
    case 1:
      return DotRows<1>(levels, nrows, n, vectors, sums, sums_stride);
    case 2:
      return DotRows<2>(levels, nrows, n, vectors, sums, sums_stride);
    case 3:
      return DotRows<3>(levels, nrows, n, vectors, sums, sums_stride);
    default:
      return DotRows<4>(levels, nrows, n, vectors, sums, sums_stride);
  }
}

// ---- Floats -------------------------------------------------------------------

float MaxAbs(const float* values, size_t n) {
  float32x4_t largest = vdupq_n_f32(0);
  const auto add = [&](float32x4_t x) {
    x = vabsq_f32(x);  // taken where it compares above, which NaN does not
    largest = vbslq_f32(vcgtq_f32(x, largest), x, largest);
  };
  size_t i = 0;
  for (; i + 4 <= n; i += 4) add(vld1q_f32(values + i));
  if (i < n) {
    float tail[4] = {};
    __builtin_memcpy(tail, values + i, (n - i) * sizeof(float));
    add(vld1q_f32(tail));
  }
  return vmaxvq_f32(largest);
}

void QuantizeI16(const float* from, size_t n, float inverse_scale, int16_t* to) {
  const float32x4_t factor = vdupq_n_f32(inverse_scale);
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    vst1_s16(to + i, vqmovn_s32(vcvtnq_s32_f32(vmulq_f32(vld1q_f32(from + i), factor))));
  }
  ScalarAttendKernels()->quantize_i16(from + i, n - i, inverse_scale, to + i);
}

inline float32x4_t Exp(float32x4_t x) {
  const float32x4_t round = vdupq_n_f32(kExpRound);
  const float32x4_t rounded = vaddq_f32(vmulq_f32(x, vdupq_n_f32(kLog2E)), round);
  const float32x4_t k = vsubq_f32(rounded, round);
  float32x4_t r = vsubq_f32(x, vmulq_f32(k, vdupq_n_f32(kLn2High)));
  r = vsubq_f32(r, vmulq_f32(k, vdupq_n_f32(kLn2Low)));
  float32x4_t p = vdupq_n_f32(kExpPolynomial[0]);
  for (int i = 1; i < 6; ++i) p = vaddq_f32(vmulq_f32(p, r), vdupq_n_f32(kExpPolynomial[i]));
  p = vaddq_f32(vmulq_f32(p, vmulq_f32(r, r)), r);
  p = vaddq_f32(p, vdupq_n_f32(1.0f));
  const uint32x4_t power =
      vshlq_n_u32(vaddq_u32(vreinterpretq_u32_f32(rounded), vdupq_n_u32(127)), 23);
  const uint32x4_t normal = vreinterpretq_u32_f32(vmulq_f32(p, vreinterpretq_f32_u32(power)));
  return vreinterpretq_f32_u32(vbicq_u32(normal, vcltq_f32(x, vdupq_n_f32(kExpLeast))));
}

float ExpSum(float* values, size_t n, float max) {
  const float32x4_t max_v = vdupq_n_f32(max);
  float32x4_t lanes[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
  const auto exp16 = [&](float* of) {
    for (size_t i = 0; i < 4; ++i) {
      const float32x4_t y = Exp(vsubq_f32(vld1q_f32(of + 4 * i), max_v));
      vst1q_f32(of + 4 * i, y);
      lanes[i] = vaddq_f32(lanes[i], y);
    }
  };
  size_t i = 0;
  for (; i + 16 <= n; i += 16) exp16(values + i);
  if (i < n) {
    float tail[16];
    for (float& value : tail) value = -__builtin_inff();
    __builtin_memcpy(tail, values + i, (n - i) * sizeof(float));
    exp16(tail);
    __builtin_memcpy(values + i, tail, (n - i) * sizeof(float));
  }
  const float32x4_t four = vaddq_f32(vaddq_f32(lanes[0], lanes[2]), vaddq_f32(lanes[1], lanes[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

void AddScaledI32(const int32_t* from, size_t n, float factor, float* to) {
  const float32x4_t factor_v = vdupq_n_f32(factor);
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    const float32x4_t term = vmulq_f32(factor_v, vcvtq_f32_s32(vld1q_s32(from + i)));
    vst1q_f32(to + i, vaddq_f32(vld1q_f32(to + i), term));
  }
  ScalarAttendKernels()->add_scaled_i32(from + i, n - i, factor, to + i);
}

void AddScaledF32(const float* from, size_t n, float factor, float* to) {
  const float32x4_t factor_v = vdupq_n_f32(factor);
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    const float32x4_t term = vmulq_f32(factor_v, vld1q_f32(from + i));
    vst1q_f32(to + i, vaddq_f32(vld1q_f32(to + i), term));
  }
  ScalarAttendKernels()->add_scaled_f32(from + i, n - i, factor, to + i);
}

void Bf16ToF32(const uint16_t* from, size_t n, float* to) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    vst1q_f32(to + i, vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from + i), 16)));
  }
  ScalarAttendKernels()->bf16_to_f32(from + i, n - i, to + i);
}

void F32ToBf16(const float* from, size_t n, uint16_t* to) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    const float32x4_t x = vld1q_f32(from + i);
    const uint32x4_t bits = vreinterpretq_u32_f32(x);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7FFF)));
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    vst1_u16(to + i, vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet), 16));
  }
  ScalarAttendKernels()->f32_to_bf16(from + i, n - i, to + i);
}

constexpr AttendKernels kNeon = {
    "neon", UnpackLevels, LevelDots,    MaxAbs,    QuantizeI16,
    ExpSum, AddScaledI32, AddScaledF32, Bf16ToF32, F32ToBf16,
    FixedPointCodes,
};

}  // namespace

const AttendKernels* NeonAttendKernels() { return &kNeon; }

}  // namespace quash
