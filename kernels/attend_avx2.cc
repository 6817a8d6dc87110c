// AVX2 attention kernels. Float paths multiply and add separately and in the order
// of the reference, so that results equal it bit for bit. Inline functions of other
// headers stay out of this file, as in scan_avx2.cc.
#include <immintrin.h>

#include "kernels/attend.h"
#include "kernels/attend_exp.h"
#include "kernels/fixed_point_codes.h"

namespace quash {
namespace {

inline __m128i Load128(const void* from) {
  return _mm_loadu_si128(static_cast<const __m128i*>(from));
}
inline __m256i Load256(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
inline void Store256(void* to, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(to), x); }

// ---- Codes to levels ----------------------------------------------------------

// Levels by sign-magnitude code; entries repeat, so that a look-up may leave any of
// the bits above the code's in its index.
template <size_t kBits>
inline __m128i LevelTable(const int8_t* levels) {
  constexpr size_t kCount = size_t{1} << kBits;
  int8_t table[16];
  for (size_t i = 0; i < 16; ++i) {
    const size_t code = i % kCount;
    table[i] = levels[code ^ (code >= kCount / 2 ? kCount - 1 : kCount / 2)];
  }
  return Load128(table);
}

// Fields 32 k .. 32 k + 31 of a run of kBytes bytes, at the low bits of each byte;
// the bits above are those of other fields.
template <size_t kWidth, size_t kBytes>
inline __m256i Fields(const uint8_t* from, size_t k) {
  constexpr int kW = kWidth;
  if constexpr (kBytes >= 32) {
    return _mm256_srli_epi16(Load256(from + 32 * k % kBytes),
                             static_cast<int>(32 * k / kBytes * kWidth));
  } else if constexpr (kBytes == 16) {
    const __m256i counts = _mm256_setr_epi32(0, 0, 0, 0, kW, kW, kW, kW);
    return _mm256_srlv_epi32(
        _mm256_broadcastsi128_si256(Load128(from)),
        _mm256_add_epi32(counts, _mm256_set1_epi32(static_cast<int>(2 * k) * kW)));
  } else {
    static_assert(kBytes == 8);
    const __m256i counts = _mm256_setr_epi32(0, 0, kW, kW, 2 * kW, 2 * kW, 3 * kW, 3 * kW);
    return _mm256_srlv_epi32(
        _mm256_broadcastq_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))),
        _mm256_add_epi32(counts, _mm256_set1_epi32(static_cast<int>(4 * k) * kW)));
  }
}

// Rows of 64, 128 or 256 codes.
template <size_t kBits, size_t kN>
void UnpackRows(const uint8_t* rows, size_t nrows, const int8_t* levels, int8_t* out) {
  constexpr size_t kRowBytes = kN * kBits / 8;
  constexpr size_t kWidth = kBits == 3 ? 2 : kBits;
  const __m256i table = _mm256_broadcastsi128_si256(LevelTable<kBits>(levels));
  const __m256i mask = _mm256_set1_epi8((1 << kWidth) - 1), sign_bit = _mm256_set1_epi8(4);
  for (size_t r = 0; r < nrows; ++r, rows += kRowBytes, out += kN) {
#pragma GCC unroll 8
    for (size_t k = 0; k < kN / 32; ++k) {
      __m256i codes = _mm256_and_si256(Fields<kWidth, kN * kWidth / 8>(rows, k), mask);
      if constexpr (kBits == 3) {
        const __m256i signs = Fields<1, kN / 8>(rows + kN / 4, k);
        codes = _mm256_or_si256(codes, _mm256_and_si256(_mm256_slli_epi16(signs, 2), sign_bit));
      }
      Store256(out + 32 * k, _mm256_shuffle_epi8(table, codes));
    }
  }
}

// Rows of other lengths, by fields of n / 8 codes (3 bits) or of as many as there are
// bytes, 16 codes at a time and in ascending order: what a store writes past its field
// is written again by the next. A load reads at most 8 bytes past its own.
template <size_t kBits>
void UnpackAnyRows(const uint8_t* rows, size_t nrows, size_t n, const int8_t* levels, int8_t* out) {
  const __m128i table = LevelTable<kBits>(levels);
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
          return whole ? Load128(bytes) : _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes));
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

// Sums of the lane pairs of a and b, alternating: a b a b in each half.
inline __m256i AddPairs(__m256i a, __m256i b) {
  return _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
}

// The sums over 8 registers, in order.
inline __m256i FoldEight(const __m256i (&sum)[4][2]) {
  const auto fold = [](__m256i a, __m256i b) {
    return _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
  };
  const __m256i first = fold(AddPairs(sum[0][0], sum[0][1]), AddPairs(sum[1][0], sum[1][1]));
  const __m256i second = fold(AddPairs(sum[2][0], sum[2][1]), AddPairs(sum[3][0], sum[3][1]));
  return _mm256_add_epi32(_mm256_permute2x128_si256(first, second, 0x20),
                          _mm256_permute2x128_si256(first, second, 0x31));
}

// Two rows with kVectors (2..4) vectors: each 16 levels are widened once.
template <size_t kVectors>
inline void DotTwoRows(const int8_t* levels, size_t n, const int16_t* vectors, int32_t* sums,
                       size_t sums_stride) {
  __m256i sum[4][2] = {};
  for (size_t j = 0; j < n; j += 16) {
    const __m256i row0 = _mm256_cvtepi8_epi16(Load128(levels + j));
    const __m256i row1 = _mm256_cvtepi8_epi16(Load128(levels + n + j));
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      const __m256i vector = Load256(vectors + v * n + j);
      sum[v][0] = _mm256_add_epi32(sum[v][0], _mm256_madd_epi16(row0, vector));
      sum[v][1] = _mm256_add_epi32(sum[v][1], _mm256_madd_epi16(row1, vector));
    }
  }
  const __m256i all = FoldEight(sum);  // both rows of a vector side by side
  const __m128i low = _mm256_castsi256_si128(all), high = _mm256_extracti128_si256(all, 1);
  const auto store = [&](size_t v, int64_t pair) {
    __builtin_memcpy(sums + v * sums_stride, &pair, sizeof(pair));
  };
  store(0, _mm_extract_epi64(low, 0));
  store(1, _mm_extract_epi64(low, 1));
  if constexpr (kVectors > 2) store(2, _mm_extract_epi64(high, 0));
  if constexpr (kVectors > 3) store(3, _mm_extract_epi64(high, 1));
}

template <size_t kVectors>
void DotRows(const int8_t* levels, size_t nrows, size_t n, const int16_t* vectors, int32_t* sums,
             size_t sums_stride) {
  for (size_t r = 0; r < nrows; r += 2) {
    DotTwoRows<kVectors>(levels + r * n, n, vectors, sums + r, sums_stride);
  }
}

// Eight rows at once with a single vector.
void DotRowsOfOne(const int8_t* levels, size_t nrows, size_t n, const int16_t* vector,
                  int32_t* sums) {
  for (size_t r = 0; r < nrows; r += 8, levels += 8 * n) {
    __m256i sum[4][2] = {};
    for (size_t j = 0; j < n; j += 16) {
      const __m256i values = Load256(vector + j);
#pragma GCC unroll 8
      for (size_t i = 0; i < 8; ++i) {
        const __m256i row = _mm256_cvtepi8_epi16(Load128(levels + i * n + j));
        sum[i / 2][i % 2] = _mm256_add_epi32(sum[i / 2][i % 2], _mm256_madd_epi16(row, values));
      }
    }
    Store256(sums + r, FoldEight(sum));
  }
}

void LevelDots(const int8_t* levels, size_t nrows, size_t n, const int16_t* vectors, size_t nv,
               int32_t* sums, size_t sums_stride) {
  for (; nv > 4; nv -= 4, vectors += 4 * n, sums += 4 * sums_stride) {
    DotRows<4>(levels, nrows, n, vectors, sums, sums_stride);
  }
  switch (nv) {
    case 1:
      return DotRowsOfOne(levels, nrows, n, vectors, sums);
    case 2:
      return DotRows<2>(levels, nrows, n, vectors, sums, sums_stride);
    case 3:
      return DotRows<3>(levels, nrows, n, vectors, sums, sums_stride);
    default:
      return DotRows<4>(levels, nrows, n, vectors, sums, sums_stride);
  }
}

// ---- Floats -------------------------------------------------------------------

inline __m256 Abs(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

// The second operand of a maximum is kept where the first is NaN.
float MaxAbs(const float* values, size_t n) {
  __m256 largest = _mm256_setzero_ps();
  size_t i = 0;
  for (; i + 8 <= n; i += 8) largest = _mm256_max_ps(Abs(_mm256_loadu_ps(values + i)), largest);
  if (i < n) {
    float tail[8] = {};
    __builtin_memcpy(tail, values + i, (n - i) * sizeof(float));
    largest = _mm256_max_ps(Abs(_mm256_loadu_ps(tail)), largest);
  }
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps(largest, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

void QuantizeI16(const float* from, size_t n, float inverse_scale, int16_t* to) {
  const __m256 factor = _mm256_set1_ps(inverse_scale);
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(from + i), factor));
    const __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(from + i + 8), factor));
    Store256(to + i, _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8));
  }
  ScalarAttendKernels()->quantize_i16(from + i, n - i, inverse_scale, to + i);
}

inline __m256 Exp(__m256 x) {
  const __m256 round = _mm256_set1_ps(kExpRound);
  const __m256 rounded = _mm256_add_ps(_mm256_mul_ps(x, _mm256_set1_ps(kLog2E)), round);
  const __m256 k = _mm256_sub_ps(rounded, round);
  __m256 r = _mm256_sub_ps(x, _mm256_mul_ps(k, _mm256_set1_ps(kLn2High)));
  r = _mm256_sub_ps(r, _mm256_mul_ps(k, _mm256_set1_ps(kLn2Low)));
  __m256 p = _mm256_set1_ps(kExpPolynomial[0]);
#pragma GCC unroll 5
  for (int i = 1; i < 6; ++i) {
    p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(kExpPolynomial[i]));
  }
  p = _mm256_add_ps(_mm256_mul_ps(p, _mm256_mul_ps(r, r)), r);
  p = _mm256_add_ps(p, _mm256_set1_ps(1.0f));
  const __m256i power =
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_castps_si256(rounded), _mm256_set1_epi32(127)), 23);
  const __m256 normal = _mm256_mul_ps(p, _mm256_castsi256_ps(power));
  return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(kExpLeast), _CMP_LT_OQ), normal);
}

float ExpSum(float* values, size_t n, float max) {
  const __m256 max_v = _mm256_set1_ps(max);
  __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
  const auto exp16 = [&](float* of) {
    const __m256 first = Exp(_mm256_sub_ps(_mm256_loadu_ps(of), max_v));
    const __m256 second = Exp(_mm256_sub_ps(_mm256_loadu_ps(of + 8), max_v));
    _mm256_storeu_ps(of, first);
    _mm256_storeu_ps(of + 8, second);
    low = _mm256_add_ps(low, first);
    high = _mm256_add_ps(high, second);
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
  const __m256 eight = _mm256_add_ps(low, high);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

void AddScaledI32(const int32_t* from, size_t n, float factor, float* to) {
  const __m256 factor_v = _mm256_set1_ps(factor);
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 term = _mm256_mul_ps(factor_v, _mm256_cvtepi32_ps(Load256(from + i)));
    _mm256_storeu_ps(to + i, _mm256_add_ps(_mm256_loadu_ps(to + i), term));
  }
  ScalarAttendKernels()->add_scaled_i32(from + i, n - i, factor, to + i);
}

void AddScaledF32(const float* from, size_t n, float factor, float* to) {
  const __m256 factor_v = _mm256_set1_ps(factor);
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 term = _mm256_mul_ps(factor_v, _mm256_loadu_ps(from + i));
    _mm256_storeu_ps(to + i, _mm256_add_ps(_mm256_loadu_ps(to + i), term));
  }
  ScalarAttendKernels()->add_scaled_f32(from + i, n - i, factor, to + i);
}

void Bf16ToF32(const uint16_t* from, size_t n, float* to) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    Store256(to + i, _mm256_slli_epi32(_mm256_cvtepu16_epi32(Load128(from + i)), 16));
  }
  ScalarAttendKernels()->bf16_to_f32(from + i, n - i, to + i);
}

// The upper halves of eight floats, rounded.
inline __m256i RoundToBf16(const float* from) {
  const __m256i bits = Load256(from);
  const __m256 x = _mm256_castsi256_ps(bits);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
}

void F32ToBf16(const float* from, size_t n, uint16_t* to) {
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m256i packed = _mm256_packus_epi32(RoundToBf16(from + i), RoundToBf16(from + i + 8));
    Store256(to + i, _mm256_permute4x64_epi64(packed, 0xD8));
  }
  ScalarAttendKernels()->f32_to_bf16(from + i, n - i, to + i);
}

constexpr AttendKernels kAvx2 = {
    "avx2", UnpackLevels, LevelDots,    MaxAbs,    QuantizeI16,
    ExpSum, AddScaledI32, AddScaledF32, Bf16ToF32, F32ToBf16,
    FixedPointCodes,
};

}  // namespace

const AttendKernels* Avx2AttendKernels() { return &kAvx2; }

}  // namespace quash
