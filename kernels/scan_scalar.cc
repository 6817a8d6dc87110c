// The reference of every kernel. The SIMD tables must equal it bit for bit.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/scan.h"

namespace quash {
namespace {

constexpr size_t kLanes = 16;

void PlaneSums(const uint8_t* plane, size_t nblocks, size_t plane_bytes, const uint8_t* const* luts,
               size_t nq, uint16_t* sums, size_t sums_stride) {
  for (size_t q = 0; q < nq; ++q) {
    for (size_t block = 0; block < nblocks; ++block) {
      const uint8_t* codes = plane + block * plane_bytes * kBlockRows;
      uint16_t* out = sums + q * sums_stride + block * kBlockRows;
      std::fill_n(out, kBlockRows, uint16_t{0});
      for (size_t byte = 0; byte < plane_bytes; ++byte) {
        const uint8_t* low = luts[q] + byte * 32;
        const uint8_t* high = low + 16;
        for (size_t row = 0; row < kBlockRows; ++row) {
          const uint8_t code = codes[byte * kBlockRows + row];
          out[row] = static_cast<uint16_t>(out[row] + low[code & 15] + high[code >> 4]);
        }
      }
    }
  }
}

float ScoreOf(size_t row, const uint16_t* sums1, const uint16_t* sums2, const float* scale,
              const float* norm_sq, float mul1, float mul2, float add) {
  float value = mul1 * static_cast<float>(sums1[row]);
  if (sums2 != nullptr) value = value + mul2 * static_cast<float>(sums2[row]);
  const float score = scale[row] * (value + add);
  return norm_sq != nullptr ? 2.0f * score - norm_sq[row] : score;
}

size_t Collect2(const uint16_t* sums1, const uint16_t* sums2, const float* scale,
                const float* norm_sq, float mul1, float mul2, float add, const uint32_t* mask,
                size_t nblocks, float threshold, uint32_t* rows, float* scores) {
  size_t kept = 0;
  for (size_t block = 0; block < nblocks; ++block) {
    for (uint32_t left = mask[block]; left != 0; left &= left - 1) {
      const size_t row = block * kBlockRows + std::countr_zero(left);
      const float score = ScoreOf(row, sums1, sums2, scale, norm_sq, mul1, mul2, add);
      if (score >= threshold) {
        rows[kept] = static_cast<uint32_t>(row);
        scores[kept] = score;
        ++kept;
      }
    }
  }
  return kept;
}

size_t Collect(const uint16_t* sums, const float* scale, const float* norm_sq, float mul, float add,
               const uint32_t* mask, size_t nblocks, float threshold, uint32_t* rows,
               float* scores) {
  return Collect2(sums, nullptr, scale, norm_sq, mul, 0, add, mask, nblocks, threshold, rows,
                  scores);
}

void BestOfBlocks(const uint16_t* sums1, const uint16_t* sums2, const float* scale,
                  const float* norm_sq, float mul1, float mul2, float add, const uint32_t* mask,
                  size_t nblocks, float* best) {
  for (size_t block = 0; block < nblocks; ++block) {
    best[block] = -std::numeric_limits<float>::infinity();
    for (uint32_t left = mask[block]; left != 0; left &= left - 1) {
      const size_t row = block * kBlockRows + std::countr_zero(left);
      best[block] =
          std::max(best[block], ScoreOf(row, sums1, sums2, scale, norm_sq, mul1, mul2, add));
    }
  }
}

int32_t CodeDot(const uint8_t* row_code, size_t bits, size_t plane_bytes, const int8_t* levels,
                const int16_t* values) {
  int32_t sum = 0;
  for (size_t j = 0; j < plane_bytes * 8; ++j) {
    unsigned code = 0;
    for (size_t plane = 0; plane < bits; ++plane) {
      code = code << 1 | (row_code[plane * plane_bytes + j / 8] >> (j % 8) & 1);
    }
    sum += int32_t{levels[code]} * values[j];
  }
  return sum;
}

float FoldLanes(float* lanes) {
  for (size_t half = kLanes / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// Sum of term(j) over j in the fixed order of scan.h.
template <typename Term>
float LaneSum(size_t dim, Term term) {
  float lanes[kLanes] = {};
  for (size_t j = 0; j < dim; ++j) lanes[j % kLanes] += term(j);
  return FoldLanes(lanes);
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t exponent = half >> 10 & 31;
  uint32_t mantissa = half & 0x3FFu;
  uint32_t bits;
  if (exponent == 31) {
    // Infinity, or a NaN made quiet as hardware does.
    bits = sign | 0x7F800000u | mantissa << 13 | (mantissa != 0 ? 0x400000u : 0);
  } else if (exponent != 0) {
    bits = sign | (exponent + 112) << 23 | mantissa << 13;
  } else if (mantissa == 0) {
    bits = sign;
  } else {  // subnormal: mantissa * 2^-24
    const int shift = std::countl_zero(mantissa) - 21;
    mantissa = mantissa << shift & 0x3FFu;
    bits = sign | (113u - shift) << 23 | mantissa << 13;
  }
  return std::bit_cast<float>(bits);
}

uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) {  // NaN stays a (quiet) NaN
    return static_cast<uint16_t>(sign | 0x7E00u | (magnitude >> 13 & 0x3FFu));
  }
  if (magnitude >= 0x477FF000u) return sign | 0x7C00u;  // rounds past 65,504
  if (magnitude >= 0x38800000u) {                       // normal
    const uint32_t rounded = magnitude + 0xFFFu + (magnitude >> 13 & 1);
    return static_cast<uint16_t>(sign | (rounded - (112u << 23)) >> 13);
  }
  if (magnitude < 0x33000000u) return sign;  // below half the least subnormal
  const uint32_t shift = 126 - (magnitude >> 23);
  const uint32_t mantissa = (magnitude & 0x7FFFFFu) | 0x800000u;
  const uint32_t half = 1u << (shift - 1);
  const uint32_t rounded = (mantissa + half - 1 + (mantissa >> shift & 1)) >> shift;
  return static_cast<uint16_t>(sign | rounded);
}

float DotF32(const float* row, const float* query, size_t dim) {
  return LaneSum(dim, [=](size_t j) { return row[j] * query[j]; });
}
float DotF16(const uint16_t* row, const float* query, size_t dim) {
  return LaneSum(dim, [=](size_t j) { return HalfToFloat(row[j]) * query[j]; });
}
float DotI8(const int8_t* row, const float* query, size_t dim) {
  return LaneSum(dim, [=](size_t j) { return static_cast<float>(row[j]) * query[j]; });
}
float Square(float x) { return x * x; }
float L2F32(const float* row, const float* query, size_t dim) {
  return LaneSum(dim, [=](size_t j) { return Square(row[j] - query[j]); });
}
float L2F16(const uint16_t* row, const float* query, size_t dim) {
  return LaneSum(dim, [=](size_t j) { return Square(HalfToFloat(row[j]) - query[j]); });
}
float L2I8(const int8_t* row, float scale, const float* query, size_t dim) {
  return LaneSum(dim,
                 [=](size_t j) { return Square(scale * static_cast<float>(row[j]) - query[j]); });
}

void F32ToF16(const float* from, size_t n, uint16_t* to) {
  for (size_t i = 0; i < n; ++i) to[i] = FloatToHalf(from[i]);
}
void F16ToF32(const uint16_t* from, size_t n, float* to) {
  for (size_t i = 0; i < n; ++i) to[i] = HalfToFloat(from[i]);
}
float F32ToI8(const float* from, size_t n, int8_t* to) {
  float largest = 0;
  for (size_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(from[i]));
  const float scale = largest / 127.0f;
  if (scale == 0) {
    std::fill_n(to, n, int8_t{0});
    return 0;
  }
  for (size_t i = 0; i < n; ++i) {
    to[i] = static_cast<int8_t>(std::clamp(std::nearbyint(from[i] / scale), -127.0f, 127.0f));
  }
  return scale;
}

void Hadamard(float* values, size_t n) {
  for (size_t stride = 1; stride < n; stride *= 2) {
    for (size_t begin = 0; begin < n; begin += 2 * stride) {
      for (size_t i = begin; i < begin + stride; ++i) {
        const float a = values[i], b = values[i + stride];
        values[i] = a + b;
        values[i + stride] = a - b;
      }
    }
  }
}

void Quantize(const float* unit, size_t dim, const float* boundaries, size_t bits, uint8_t* codes) {
  const size_t count = (size_t{1} << bits) - 1;
  for (size_t j = 0; j < dim; ++j) {
    uint8_t code = 0;
    for (size_t i = 0; i < count; ++i) code += unit[j] > boundaries[i];
    codes[j] = code;
  }
  std::fill(codes + dim, codes + PlaneBytes(dim) * 8, uint8_t{0});
}

constexpr ScanKernels kScalar = {
    "scalar", NibbleTableBytes, BuildNibbleTable, PlaneSums, Collect,  Collect2, BestOfBlocks,
    CodeDot,  DotF32,           DotF16,           DotI8,     L2F32,    L2F16,    L2I8,
    F32ToF16, F16ToF32,         F32ToI8,          Hadamard,  Quantize,
};

}  // namespace

const ScanKernels* ScalarKernels() noexcept { return &kScalar; }

}  // namespace quash
