// NEON kernels (AArch64 baseline). Float paths multiply and add separately and in
// the order of scan.h, so that results equal the scalar reference bit for bit.
#include <arm_neon.h>

#include "kernels/scan.h"
#include "kernels/scan_plane_sums.h"
#include "kernels/scan_scores.h"

namespace quash {
namespace {

static_assert(kBlockRows == 32);

// ---- Plane scan -------------------------------------------------------------

// Sums of 16 rows.
struct RowSums {
  uint16x8_t low = vdupq_n_u16(0);
  uint16x8_t high = vdupq_n_u16(0);

  // Of four table entries of at most 63 each.
  void Add(uint8x16_t bytes) {
    low = vaddw_u8(low, vget_low_u8(bytes));
    high = vaddw_high_u8(high, bytes);
  }
  void Store(uint16_t* out) const {
    vst1q_u16(out, low);
    vst1q_u16(out + 8, high);
  }
};

struct Nibbles {
  explicit Nibbles(const uint8_t* codes) {
    const uint8x16_t bytes = vld1q_u8(codes);
    low = vandq_u8(bytes, vdupq_n_u8(15));
    high = vshrq_n_u8(bytes, 4);
  }
  uint8x16_t low;
  uint8x16_t high;
};

inline uint8x16_t LookUp(const uint8_t* tables, const Nibbles& nibbles) {
  return vaddq_u8(vqtbl1q_u8(vld1q_u8(tables), nibbles.low),
                  vqtbl1q_u8(vld1q_u8(tables + 16), nibbles.high));
}

template <size_t kQueries>
void PlaneSumsOf(const uint8_t* plane, size_t nblocks, size_t plane_bytes,
                 const uint8_t* const* luts, uint16_t* sums, size_t sums_stride) {
  for (size_t block = 0; block < nblocks; ++block) {
    const uint8_t* codes = plane + block * plane_bytes * kBlockRows;
    RowSums rows[kQueries][2];
    for (size_t byte = 0; byte < plane_bytes; byte += 2) {
      const uint8_t* pair = codes + byte * kBlockRows;
      __builtin_prefetch(pair + plane_bytes * kBlockRows);  // a block ahead
      const Nibbles first[2] = {Nibbles(pair), Nibbles(pair + 16)};
      const Nibbles second[2] = {Nibbles(pair + 32), Nibbles(pair + 48)};
      for (size_t q = 0; q < kQueries; ++q) {
        const uint8_t* tables = luts[q] + byte * 32;
        for (size_t half = 0; half < 2; ++half) {
          rows[q][half].Add(
              vaddq_u8(LookUp(tables, first[half]), LookUp(tables + 32, second[half])));
        }
      }
    }
    for (size_t q = 0; q < kQueries; ++q) {
      uint16_t* out = sums + q * sums_stride + block * kBlockRows;
      rows[q][0].Store(out);
      rows[q][1].Store(out + 16);
    }
  }
}

inline float32x4_t LoadSums(const uint16_t* sums) {
  return vcvtq_f32_u32(vmovl_u16(vld1_u16(sums)));
}

template <bool kTwoPlanes, bool kNorms>
class RowScores {
 public:
  explicit RowScores(const ScoreInputs& in)
      : in_(in),
        mul1_(vdupq_n_f32(in.mul1)),
        mul2_(vdupq_n_f32(in.mul2)),
        add_(vdupq_n_f32(in.add)) {}

  // Of 4 rows.
  float32x4_t operator()(size_t row) const {
    float32x4_t value = vmulq_f32(mul1_, LoadSums(in_.sums1 + row));
    if constexpr (kTwoPlanes) {
      value = vaddq_f32(value, vmulq_f32(mul2_, LoadSums(in_.sums2 + row)));
    }
    float32x4_t score = vmulq_f32(vld1q_f32(in_.scale + row), vaddq_f32(value, add_));
    if constexpr (kNorms) {
      score = vsubq_f32(vmulq_f32(vdupq_n_f32(2.0f), score), vld1q_f32(in_.norm_sq + row));
    }
    return score;
  }

 private:
  const ScoreInputs in_;
  const float32x4_t mul1_, mul2_, add_;
};

template <bool kTwoPlanes, bool kNorms>
size_t CollectOf(const ScoreInputs& in, const uint32_t* mask, size_t nblocks, float threshold,
                 uint32_t* rows, float* scores) {
  const RowScores<kTwoPlanes, kNorms> score_of(in);
  const float32x4_t threshold_v = vdupq_n_f32(threshold);
  constexpr uint32_t kLaneBits[4] = {1, 2, 4, 8};
  size_t kept = 0;
  for (size_t block = 0; block < nblocks; ++block) {
    if (mask[block] == 0) continue;
    const size_t base = block * kBlockRows;
    float of_block[kBlockRows];
    uint32x4_t reached = vdupq_n_u32(0);
    uint32x4_t lane_bits = vld1q_u32(kLaneBits);
    for (size_t i = 0; i < kBlockRows; i += 4) {
      const float32x4_t score = score_of(base + i);
      vst1q_f32(of_block + i, score);
      reached = vorrq_u32(reached, vandq_u32(vcgeq_f32(score, threshold_v), lane_bits));
      lane_bits = vshlq_n_u32(lane_bits, 4);
    }
    for (uint32_t left = vaddvq_u32(reached) & mask[block]; left != 0; left &= left - 1) {
      const int row = __builtin_ctz(left);
      rows[kept] = static_cast<uint32_t>(base + row);
      scores[kept] = of_block[row];
      ++kept;
    }
  }
  return kept;
}

template <bool kTwoPlanes, bool kNorms>
void BestOf(const ScoreInputs& in, const uint32_t* mask, size_t nblocks, float* best) {
  const RowScores<kTwoPlanes, kNorms> score_of(in);
  const float32x4_t none = vdupq_n_f32(-__builtin_inff());
  constexpr uint32_t kLaneBits[4] = {1, 2, 4, 8};
  for (size_t block = 0; block < nblocks; ++block) {
    float32x4_t of_block = none;
    const uint32x4_t wanted = vdupq_n_u32(mask[block]);
    uint32x4_t lane_bits = vld1q_u32(kLaneBits);
    for (size_t i = 0; mask[block] != 0 && i < kBlockRows; i += 4) {
      const float32x4_t score = score_of(block * kBlockRows + i);
      of_block = vmaxq_f32(of_block, vbslq_f32(vtstq_u32(wanted, lane_bits), score, none));
      lane_bits = vshlq_n_u32(lane_bits, 4);
    }
    best[block] = vmaxvq_f32(of_block);
  }
}

// ---- Full-code score ----------------------------------------------------------

int32_t CodeDot(const uint8_t* row_code, size_t bits, size_t plane_bytes, const int8_t* levels,
                const int16_t* values) {
  constexpr uint8_t kBits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t bit = vld1q_u8(kBits);
  const int8x16_t table = vld1q_s8(levels);
  int32x4_t sum1 = vdupq_n_s32(0), sum2 = vdupq_n_s32(0);
  for (size_t byte = 0; byte < plane_bytes; byte += 2) {  // 16 coordinates
    uint8x16_t codes = vdupq_n_u8(0);
    for (size_t plane = 0; plane < bits; ++plane) {
      const uint8_t* from = row_code + plane * plane_bytes + byte;
      const uint8x16_t bytes = vcombine_u8(vld1_dup_u8(from), vld1_dup_u8(from + 1));
      const uint8x16_t set = vtstq_u8(bytes, bit);  // 0 or 255
      codes = vsubq_u8(vaddq_u8(codes, codes), set);
    }
    const int8x16_t level = vqtbl1q_s8(table, codes);
    const int16x8_t low = vmovl_s8(vget_low_s8(level)), high = vmovl_high_s8(level);
    const int16_t* query = values + byte * 8;
    const int16x8_t query_low = vld1q_s16(query), query_high = vld1q_s16(query + 8);
    sum1 = vmlal_s16(sum1, vget_low_s16(low), vget_low_s16(query_low));
    sum2 = vmlal_high_s16(sum2, low, query_low);
    sum1 = vmlal_s16(sum1, vget_low_s16(high), vget_low_s16(query_high));
    sum2 = vmlal_high_s16(sum2, high, query_high);
  }
  return vaddvq_s32(vaddq_s32(sum1, sum2));
}

// ---- Rerank tier ----------------------------------------------------------------

inline float32x4_t Load4(const float* from) { return vld1q_f32(from); }
inline float32x4_t Load4(const uint16_t* from) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
}
inline float32x4_t Load4(const int8_t* from) {
  uint32_t four;
  __builtin_memcpy(&four, from, 4);
  const int16x8_t words = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four)));
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(words)));
}

// 16 strided lanes (coordinate j in lane j % 16) folded by halves.
template <typename Element, typename Term>
inline float LaneSum(const Element* row, const float* query, size_t dim, Term term) {
  float32x4_t lanes[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
  const auto add16 = [&](const Element* x, const float* q) {
    for (size_t i = 0; i < 4; ++i) {
      lanes[i] = vaddq_f32(lanes[i], term(Load4(x + 4 * i), Load4(q + 4 * i)));
    }
  };
  size_t j = 0;
  for (; j + 16 <= dim; j += 16) add16(row + j, query + j);
  if (j < dim) {
    Element row_tail[16] = {};
    float query_tail[16] = {};
    __builtin_memcpy(row_tail, row + j, (dim - j) * sizeof(Element));
    __builtin_memcpy(query_tail, query + j, (dim - j) * sizeof(float));
    add16(row_tail, query_tail);
  }
  const float32x4_t four = vaddq_f32(vaddq_f32(lanes[0], lanes[2]), vaddq_f32(lanes[1], lanes[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

template <typename Element>
float Dot(const Element* row, const float* query, size_t dim) {
  return LaneSum(row, query, dim, [](float32x4_t x, float32x4_t q) { return vmulq_f32(x, q); });
}

template <typename Element>
float L2(const Element* row, const float* query, size_t dim) {
  return LaneSum(row, query, dim, [](float32x4_t x, float32x4_t q) {
    const float32x4_t difference = vsubq_f32(x, q);
    return vmulq_f32(difference, difference);
  });
}

float L2I8(const int8_t* row, float scale, const float* query, size_t dim) {
  const float32x4_t scale_v = vdupq_n_f32(scale);
  return LaneSum(row, query, dim, [scale_v](float32x4_t x, float32x4_t q) {
    const float32x4_t difference = vsubq_f32(vmulq_f32(scale_v, x), q);
    return vmulq_f32(difference, difference);
  });
}

void F32ToF16(const float* from, size_t n, uint16_t* to) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    vst1_u16(to + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(from + i))));
  }
  ScalarKernels()->f32_to_f16(from + i, n - i, to + i);
}

void F16ToF32(const uint16_t* from, size_t n, float* to) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) vst1q_f32(to + i, Load4(from + i));
  ScalarKernels()->f16_to_f32(from + i, n - i, to + i);
}

float F32ToI8(const float* from, size_t n, int8_t* to) {
  if (n == 0) return 0;
  const size_t whole = n / 8 * 8;
  float tail[8] = {};
  __builtin_memcpy(tail, from + whole, (n - whole) * sizeof(float));
  float32x4_t largest = vmaxq_f32(vabsq_f32(vld1q_f32(tail)), vabsq_f32(vld1q_f32(tail + 4)));
  for (size_t i = 0; i < whole; i += 4) {
    largest = vmaxq_f32(largest, vabsq_f32(vld1q_f32(from + i)));
  }
  const float scale = vmaxvq_f32(largest) / 127.0f;
  if (scale == 0) {
    __builtin_memset(to, 0, n);
    return 0;
  }
  const float32x4_t scale_v = vdupq_n_f32(scale);
  const auto round8 = [scale_v](const float* values) {
    const int32x4_t low = vcvtnq_s32_f32(vdivq_f32(vld1q_f32(values), scale_v));
    const int32x4_t high = vcvtnq_s32_f32(vdivq_f32(vld1q_f32(values + 4), scale_v));
    const int16x8_t words = vcombine_s16(vqmovn_s32(low), vqmovn_s32(high));
    return vmax_s8(vqmovn_s16(words), vdup_n_s8(-127));
  };
  for (size_t i = 0; i < whole; i += 8) vst1_s8(to + i, round8(from + i));
  int8_t codes[8];
  vst1_s8(codes, round8(tail));
  __builtin_memcpy(to + whole, codes, n - whole);
  return scale;
}

// ---- Encoder ----------------------------------------------------------------------

void Hadamard(float* values, size_t n) {
  if (n < 4) return ScalarKernels()->hadamard(values, n);
  // Strides 1 and 2 within a register: partner by shuffle, sign by lane.
  constexpr uint32_t kSign1[4] = {0, 0x80000000u, 0, 0x80000000u};
  constexpr uint32_t kSign2[4] = {0, 0, 0x80000000u, 0x80000000u};
  const uint32x4_t sign1 = vld1q_u32(kSign1), sign2 = vld1q_u32(kSign2);
  const auto flip = [](float32x4_t x, uint32x4_t sign) {
    return vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(x), sign));
  };
  for (size_t i = 0; i < n; i += 4) {
    float32x4_t x = vld1q_f32(values + i);
    x = vaddq_f32(vrev64q_f32(x), flip(x, sign1));
    x = vaddq_f32(vextq_f32(x, x, 2), flip(x, sign2));
    vst1q_f32(values + i, x);
  }
  for (size_t stride = 4; stride < n; stride *= 2) {
    for (size_t begin = 0; begin < n; begin += 2 * stride) {
      for (size_t i = begin; i < begin + stride; i += 4) {
        const float32x4_t a = vld1q_f32(values + i);
        const float32x4_t b = vld1q_f32(values + i + stride);
        vst1q_f32(values + i, vaddq_f32(a, b));
        vst1q_f32(values + i + stride, vsubq_f32(a, b));
      }
    }
  }
}

void Quantize(const float* unit, size_t dim, const float* boundaries, size_t bits, uint8_t* codes) {
  const size_t count = (size_t{1} << bits) - 1;
  size_t j = 0;
  for (; j + 16 <= dim; j += 16) {
    uint32x4_t code[4];
    for (size_t v = 0; v < 4; ++v) {
      const float32x4_t x = vld1q_f32(unit + j + 4 * v);
      code[v] = vdupq_n_u32(0);
      for (size_t i = 0; i < count; ++i) {
        code[v] = vsubq_u32(code[v], vcgtq_f32(x, vdupq_n_f32(boundaries[i])));
      }
    }
    const uint16x8_t low = vcombine_u16(vmovn_u32(code[0]), vmovn_u32(code[1]));
    const uint16x8_t high = vcombine_u16(vmovn_u32(code[2]), vmovn_u32(code[3]));
    vst1q_u8(codes + j, vcombine_u8(vmovn_u16(low), vmovn_u16(high)));
  }
  // The reference pads its own run of 16 coordinates, which starts here.
  if (j < dim) ScalarKernels()->quantize(unit + j, dim - j, boundaries, bits, codes + j);
}

constexpr ScanKernels kNeon = {
    "neon",      NibbleTableBytes, BuildNibbleTable, PlaneSums,  Collect,
    Collect2,    BestOfBlocks,     CodeDot,          Dot<float>, Dot<uint16_t>,
    Dot<int8_t>, L2<float>,        L2<uint16_t>,     L2I8,       F32ToF16,
    F16ToF32,    F32ToI8,          Hadamard,         Quantize,
};

}  // namespace

const ScanKernels* NeonKernels() noexcept { return &kNeon; }

}  // namespace quash
