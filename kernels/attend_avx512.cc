// AVX-512 attention kernels (F, BW, VL, DQ, CD). Float paths multiply and add
// separately and in the order of the reference, so that results equal it bit for
// bit. Inline functions of other headers stay out of this file, as in
// scan_avx512.cc.
#include <immintrin.h>

#include "kernels/attend.h"
#include "kernels/attend_exp.h"
#include "kernels/fixed_point_codes.h"

namespace quash {
namespace {

inline __m128i Load64(const void* from) {
  return _mm_loadl_epi64(static_cast<const __m128i*>(from));
}
inline __m128i Load128(const void* from) {
  return _mm_loadu_si128(static_cast<const __m128i*>(from));
}
inline __m256i Load256(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
inline __mmask16 FirstLanes(size_t n) { return static_cast<__mmask16>((1u << n) - 1); }

// ---- Codes to levels ----------------------------------------------------------

// Levels by sign-magnitude code.
template <size_t kBits>
inline __m512i LevelTable(const int8_t* levels) {
  constexpr size_t kCount = size_t{1} << kBits;
  int8_t table[16];
  for (size_t i = 0; i < 16; ++i) {
    const size_t code = i % kCount;
    table[i] = levels[code ^ (code >= kCount / 2 ? kCount - 1 : kCount / 2)];
  }
  return _mm512_broadcast_i32x4(Load128(table));
}

// Fields 64 k .. 64 k + 63 of a run of kBytes bytes, the code at bit 0 of each byte
// turned right by kTurn bits; the other bits are those of other fields.
template <size_t kWidth, size_t kBytes, int kTurn = 0>
inline __m512i Fields(const uint8_t* from, size_t k) {
  constexpr int kW = kWidth;
  const auto turned = [k](__m512i bytes, __m512i counts, size_t per_register) {
    const int base = static_cast<int>(per_register * k) * kW + kTurn;
    return _mm512_rorv_epi32(bytes, _mm512_add_epi32(counts, _mm512_set1_epi32(base)));
  };
  if constexpr (kBytes >= 64) {
    const int count = static_cast<int>(64 * k / kBytes) * kW + kTurn;
    return _mm512_rorv_epi32(_mm512_loadu_si512(from + 64 * k % kBytes), _mm512_set1_epi32(count));
  } else if constexpr (kBytes == 32) {
    const __m512i counts =
        _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, kW, kW, kW, kW, kW, kW, kW, kW);
    return turned(_mm512_broadcast_i64x4(Load256(from)), counts, 2);
  } else if constexpr (kBytes == 16) {
    const __m512i counts = _mm512_setr_epi32(0, 0, 0, 0, kW, kW, kW, kW, 2 * kW, 2 * kW, 2 * kW,
                                             2 * kW, 3 * kW, 3 * kW, 3 * kW, 3 * kW);
    return turned(_mm512_broadcast_i32x4(Load128(from)), counts, 4);
  } else {
    static_assert(kBytes == 8 && kWidth == 1);
    const __m512i counts = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return turned(_mm512_broadcastq_epi64(Load64(from)), counts, 8);
  }
}

// Rows of 64, 128 or 256 codes.
template <size_t kBits, size_t kN>
void UnpackRows(const uint8_t* rows, size_t nrows, const int8_t* levels, int8_t* out) {
  constexpr size_t kRowBytes = kN * kBits / 8;
  constexpr size_t kWidth = kBits == 3 ? 2 : kBits;
  const __m512i table = LevelTable<kBits>(levels);
  const __m512i mask = _mm512_set1_epi8((1 << kWidth) - 1), sign_bit = _mm512_set1_epi8(4);
  for (size_t r = 0; r < nrows; ++r, rows += kRowBytes, out += kN) {
#pragma GCC unroll 4
    for (size_t k = 0; k < kN / 64; ++k) {
      __m512i codes = _mm512_and_si512(Fields<kWidth, kN * kWidth / 8>(rows, k), mask);
      if constexpr (kBits == 3) {
        const __m512i signs = Fields<1, kN / 8, -2>(rows + kN / 4, k);
        codes = _mm512_ternarylogic_epi32(codes, signs, sign_bit, 0xF8);  // a | b & c
      }
      _mm512_storeu_si512(out + 64 * k, _mm512_shuffle_epi8(table, codes));
    }
  }
}

// Rows of other lengths, by fields of n / 8 codes (3 bits) or of as many as there are
// bytes, 16 codes at a time and in ascending order: what a store writes past its field
// is written again by the next. A load reads at most 8 bytes past its own.
template <size_t kBits>
void UnpackAnyRows(const uint8_t* rows, size_t nrows, size_t n, const int8_t* levels, int8_t* out) {
  const __m128i table = _mm512_castsi512_si128(LevelTable<kBits>(levels));
  const __m128i mask = _mm_set1_epi8(kBits == 3 ? 3 : (1 << kBits) - 1);
  const __m128i sign_bit = _mm_set1_epi8(4);
  const size_t field = kBits == 3 ? n / 8 : n * kBits / 8;
  for (size_t r = 0; r < nrows; ++r, rows += n * kBits / 8, out += n) {
    for (size_t i = 0; i * field < n; ++i) {
      // Two fields of signs cover one of magnitudes.
      const uint8_t* from = kBits == 3 ? rows + i % 2 * field : rows;
      const __m128i count = _mm_cvtsi32_si128(static_cast<int>(kBits == 3 ? i / 2 * 2 : i * kBits));
      const __m128i sign_count = _mm_cvtsi32_si128(static_cast<int>(i));
      for (size_t j = 0; j < field; j += 16) {
        const bool whole = field - j >= 8;
        const auto load = [whole](const uint8_t* bytes) {
          return whole ? Load128(bytes) : Load64(bytes);
        };
        __m128i codes = _mm_and_si128(_mm_srl_epi16(load(from + j), count), mask);
        if constexpr (kBits == 3) {
          const __m128i signs = _mm_srl_epi16(load(rows + n / 4 + j), sign_count);
          codes = _mm_or_si128(codes, _mm_and_si128(_mm_slli_epi16(signs, 2), sign_bit));
        }
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i * field + j),
                         _mm_shuffle_epi8(table, codes));
      }
    }
  }
}

template <size_t kBits>
void UnpackLevelsOf(const uint8_t* rows, size_t nrows, size_t n, const int8_t* levels,
                    int8_t* out) {
  switch (n) {
    case 64:
      return UnpackRows<kBits, 64>(rows, nrows, levels, out);
    case 128:
      return UnpackRows<kBits, 128>(rows, nrows, levels, out);
    case 256:
      return UnpackRows<kBits, 256>(rows, nrows, levels, out);
    default:
      return UnpackAnyRows<kBits>(rows, nrows, n, levels, out);
  }
}

void UnpackLevels(const uint8_t* rows, size_t nrows, size_t n, size_t bits, const int8_t* levels,
                  int8_t* out) {
  switch (bits) {
    case 1:
      return UnpackLevelsOf<1>(rows, nrows, n, levels, out);
    case 2:
      return UnpackLevelsOf<2>(rows, nrows, n, levels, out);
    case 3:
      return UnpackLevelsOf<3>(rows, nrows, n, levels, out);
    default:
      return UnpackLevelsOf<4>(rows, nrows, n, levels, out);
  }
}

// ---- Dots ---------------------------------------------------------------------

// Eight rows with kVectors (1..4) vectors. A register holds 16 levels of row r in
// its lower half and of row r + 4 in its upper one, so that the lane sums of 8
// registers fold to one without a step between halves.
template <size_t kVectors>
inline void DotEightRows(const int8_t* levels, size_t n, const int16_t* vectors, int32_t* sums,
                         size_t sums_stride) {
  __m512i sum[kVectors][4];
#pragma GCC unroll 4
  for (size_t v = 0; v < kVectors; ++v) {
#pragma GCC unroll 4
    for (size_t r = 0; r < 4; ++r) sum[v][r] = _mm512_setzero_si512();
  }
  for (size_t j = 0; j < n; j += 16) {
    __m512i row[4];
#pragma GCC unroll 4
    for (size_t r = 0; r < 4; ++r) {
      const int8_t* from = levels + r * n + j;
      row[r] = _mm512_cvtepi8_epi16(
          _mm256_inserti128_si256(_mm256_castsi128_si256(Load128(from)), Load128(from + 4 * n), 1));
    }
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      const __m512i vector = _mm512_broadcast_i64x4(Load256(vectors + v * n + j));
#pragma GCC unroll 4
      for (size_t r = 0; r < 4; ++r) {
        sum[v][r] = _mm512_add_epi32(sum[v][r], _mm512_madd_epi16(row[r], vector));
      }
    }
  }
  // Per vector: lanes of rows 0-3 in two quarters, of rows 4-7 in the other two.
  const auto quarters = [](const __m512i* of) {
    const __m512i rows01 =
        _mm512_add_epi32(_mm512_unpacklo_epi32(of[0], of[1]), _mm512_unpackhi_epi32(of[0], of[1]));
    const __m512i rows23 =
        _mm512_add_epi32(_mm512_unpacklo_epi32(of[2], of[3]), _mm512_unpackhi_epi32(of[2], of[3]));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(rows01, rows23),
                            _mm512_unpackhi_epi64(rows01, rows23));
  };
#pragma GCC unroll 2
  for (size_t v = 0; v < kVectors; v += 2) {
    const __m512i first = quarters(sum[v]);
    const __m512i second = v + 1 < kVectors ? quarters(sum[v + 1]) : first;
    const __m512i all = _mm512_add_epi32(_mm512_shuffle_i64x2(first, second, 0x88),
                                         _mm512_shuffle_i64x2(first, second, 0xDD));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + v * sums_stride),
                        _mm512_castsi512_si256(all));
    if (v + 1 < kVectors) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + (v + 1) * sums_stride),
                          _mm512_extracti64x4_epi64(all, 1));
    }
  }
}

template <size_t kVectors>
void DotRows(const int8_t* levels, size_t nrows, size_t n, const int16_t* vectors, int32_t* sums,
             size_t sums_stride) {
  for (size_t r = 0; r < nrows; r += 8) {
    DotEightRows<kVectors>(levels + r * n, n, vectors, sums + r, sums_stride);
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

// The second operand of a maximum is kept where the first is NaN.
float MaxAbs(const float* values, size_t n) {
  __m512 largest = _mm512_setzero_ps();
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    largest = _mm512_max_ps(_mm512_abs_ps(_mm512_loadu_ps(values + i)), largest);
  }
  const __m512 tail = _mm512_maskz_loadu_ps(FirstLanes(n - i), values + i);
  return _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(tail), largest));
}

void QuantizeI16(const float* from, size_t n, float inverse_scale, int16_t* to) {
  const __m512 factor = _mm512_set1_ps(inverse_scale);
  const auto quantize = [factor](__m512 x) {
    return _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(x, factor)));
  };
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), quantize(_mm512_loadu_ps(from + i)));
  }
  if (i == n) return;
  const __mmask16 tail = FirstLanes(n - i);
  _mm256_mask_storeu_epi16(to + i, tail, quantize(_mm512_maskz_loadu_ps(tail, from + i)));
}

inline __m512 Exp(__m512 x) {
  const __m512 round = _mm512_set1_ps(kExpRound);
  const __m512 rounded = _mm512_add_ps(_mm512_mul_ps(x, _mm512_set1_ps(kLog2E)), round);
  const __m512 k = _mm512_sub_ps(rounded, round);
  __m512 r = _mm512_sub_ps(x, _mm512_mul_ps(k, _mm512_set1_ps(kLn2High)));
  r = _mm512_sub_ps(r, _mm512_mul_ps(k, _mm512_set1_ps(kLn2Low)));
  __m512 p = _mm512_set1_ps(kExpPolynomial[0]);
#pragma GCC unroll 5
  for (int i = 1; i < 6; ++i) {
    p = _mm512_add_ps(_mm512_mul_ps(p, r), _mm512_set1_ps(kExpPolynomial[i]));
  }
  p = _mm512_add_ps(_mm512_mul_ps(p, _mm512_mul_ps(r, r)), r);
  p = _mm512_add_ps(p, _mm512_set1_ps(1.0f));
  const __m512i power =
      _mm512_slli_epi32(_mm512_add_epi32(_mm512_castps_si512(rounded), _mm512_set1_epi32(127)), 23);
  const __mmask16 kept = _mm512_cmp_ps_mask(x, _mm512_set1_ps(kExpLeast), _CMP_NLT_UQ);
  return _mm512_maskz_mul_ps(kept, p, _mm512_castsi512_ps(power));
}

float ExpSum(float* values, size_t n, float max) {
  const __m512 max_v = _mm512_set1_ps(max);
  __m512 lanes = _mm512_setzero_ps();
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m512 y = Exp(_mm512_sub_ps(_mm512_loadu_ps(values + i), max_v));
    _mm512_storeu_ps(values + i, y);
    lanes = _mm512_add_ps(lanes, y);
  }
  if (i < n) {
    const __mmask16 tail = FirstLanes(n - i);
    const __m512 y = Exp(_mm512_sub_ps(_mm512_maskz_loadu_ps(tail, values + i), max_v));
    _mm512_mask_storeu_ps(values + i, tail, y);
    lanes = _mm512_mask_add_ps(lanes, tail, lanes, y);
  }
  const __m256 eight =
      _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

void AddScaledI32(const int32_t* from, size_t n, float factor, float* to) {
  const __m512 factor_v = _mm512_set1_ps(factor);
  for (size_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = FirstLanes(n - i < 16 ? n - i : 16);
    const __m512 x = _mm512_cvtepi32_ps(_mm512_maskz_loadu_epi32(lanes, from + i));
    const __m512 sum =
        _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, to + i), _mm512_mul_ps(factor_v, x));
    _mm512_mask_storeu_ps(to + i, lanes, sum);
  }
}

void AddScaledF32(const float* from, size_t n, float factor, float* to) {
  const __m512 factor_v = _mm512_set1_ps(factor);
  for (size_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = FirstLanes(n - i < 16 ? n - i : 16);
    const __m512 x = _mm512_maskz_loadu_ps(lanes, from + i);
    const __m512 sum =
        _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, to + i), _mm512_mul_ps(factor_v, x));
    _mm512_mask_storeu_ps(to + i, lanes, sum);
  }
}

void Bf16ToF32(const uint16_t* from, size_t n, float* to) {
  for (size_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = FirstLanes(n - i < 16 ? n - i : 16);
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, from + i));
    _mm512_mask_storeu_epi32(to + i, lanes, _mm512_slli_epi32(wide, 16));
  }
}

void F32ToBf16(const float* from, size_t n, uint16_t* to) {
  for (size_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = FirstLanes(n - i < 16 ? n - i : 16);
    const __m512i bits = _mm512_maskz_loadu_epi32(lanes, from + i);
    const __m512 x = _mm512_castsi512_ps(bits);
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    const __m512i all = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    _mm256_mask_storeu_epi16(to + i, lanes, _mm512_cvtepi32_epi16(_mm512_srli_epi32(all, 16)));
  }
}

constexpr AttendKernels kAvx512 = {
    "avx512", UnpackLevels, LevelDots,    MaxAbs,    QuantizeI16,
    ExpSum,   AddScaledI32, AddScaledF32, Bf16ToF32, F32ToBf16,
    FixedPointCodes,
};

}  // namespace

const AttendKernels* Avx512AttendKernels() { return &kAvx512; }

}  // namespace quash
