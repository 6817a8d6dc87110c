// AVX-512 kernels (F, BW, VL, DQ, CD). Float paths multiply and add separately
// and in the order of scan.h, so that results equal the scalar reference bit for
// bit. Inline functions of other headers stay out of this file: a copy compiled
// for AVX-512 could be the one that the linker keeps for every caller.
#include <immintrin.h>

#include "kernels/scan.h"
#include "kernels/scan_plane_sums.h"
#include "kernels/scan_scores.h"

namespace quash {
namespace {

static_assert(kBlockRows == 32);

// ---- Plane scan -------------------------------------------------------------

// A byte accumulator holds sums of four table entries of at most 63, of byte c of
// 32 rows in its lower half and of byte c + 1 in its upper half. Sums of 16 bits
// take it whole (even rows plus 256 * odd rows) and its odd rows apart; the even
// rows are the difference, which costs no masks in the loop.
struct RowSums {
  __m512i whole = _mm512_setzero_si512();
  __m512i odd = _mm512_setzero_si512();

  void Add(__m512i bytes) {
    whole = _mm512_add_epi16(whole, bytes);
    // 0 * even + 1 * odd; shifts share their ports with the look-ups.
    odd = _mm512_add_epi16(odd, _mm512_maddubs_epi16(bytes, _mm512_set1_epi16(0x0100)));
  }
  void Store(uint16_t* out) const {
    const __m256i odd_rows =
        _mm256_add_epi16(_mm512_castsi512_si256(odd), _mm512_extracti64x4_epi64(odd, 1));
    const __m256i all =
        _mm256_add_epi16(_mm512_castsi512_si256(whole), _mm512_extracti64x4_epi64(whole, 1));
    const __m256i even = _mm256_sub_epi16(all, _mm256_slli_epi16(odd_rows, 8));
    const __m256i low = _mm256_unpacklo_epi16(even, odd_rows);   // rows 0-7, 16-23
    const __m256i high = _mm256_unpackhi_epi16(even, odd_rows);  // rows 8-15, 24-31
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                        _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16),
                        _mm256_permute2x128_si256(low, high, 0x31));
  }
};

// The look-ups of two byte rows of a block, tables of the low and high nibbles.
struct PairTables {
  __m512i low;
  __m512i high;
};

inline PairTables LoadTables(const uint8_t* table) {
  const __m512i four = _mm512_load_si512(table);  // low, high of byte c; of byte c + 1
  return {_mm512_shuffle_i64x2(four, four, 0xA0), _mm512_shuffle_i64x2(four, four, 0xF5)};
}

// Sums of kBlocks blocks at once, which share the tables.
template <size_t kQueries, size_t kBlocks>
inline void SumBlocks(const uint8_t* codes, size_t plane_bytes, const uint8_t* const* luts,
                      uint16_t* sums, size_t sums_stride) {
  const size_t block_bytes = plane_bytes * kBlockRows;
  const auto* next = reinterpret_cast<const char*>(codes + kBlocks * block_bytes);
  const __m512i low_nibble = _mm512_set1_epi8(15);
  const auto low = [=](__m512i code) { return _mm512_and_si512(code, low_nibble); };
  const auto high = [=](__m512i code) {
    return _mm512_and_si512(_mm512_srli_epi16(code, 4), low_nibble);
  };
  const auto look_up = [](const PairTables& tables, __m512i low, __m512i high) {
    return _mm512_add_epi8(_mm512_shuffle_epi8(tables.low, low),
                           _mm512_shuffle_epi8(tables.high, high));
  };
  RowSums rows[kQueries][kBlocks];
  size_t byte = 0;
  for (; byte + 4 <= plane_bytes; byte += 4) {
    PairTables first[kQueries], second[kQueries];
#pragma GCC unroll 4
    for (size_t q = 0; q < kQueries; ++q) {
      first[q] = LoadTables(luts[q] + byte * 32);
      second[q] = LoadTables(luts[q] + byte * 32 + 64);
    }
#pragma GCC unroll 2
    for (size_t b = 0; b < kBlocks; ++b) {
      // The next blocks in the order of memory, not of use: twice as fast from DRAM.
      _mm_prefetch(next, _MM_HINT_T0);
      _mm_prefetch(next + 64, _MM_HINT_T0);
      next += 128;
      const uint8_t* from = codes + b * block_bytes + byte * kBlockRows;
      const __m512i code1 = _mm512_loadu_si512(from), code2 = _mm512_loadu_si512(from + 64);
      const __m512i low1 = low(code1), high1 = high(code1);
      const __m512i low2 = low(code2), high2 = high(code2);
#pragma GCC unroll 4
      for (size_t q = 0; q < kQueries; ++q) {
        rows[q][b].Add(
            _mm512_add_epi8(look_up(first[q], low1, high1), look_up(second[q], low2, high2)));
      }
    }
  }
  if (byte < plane_bytes) {  // one more pair of bytes
#pragma GCC unroll 4
    for (size_t q = 0; q < kQueries; ++q) {
      const PairTables tables = LoadTables(luts[q] + byte * 32);
#pragma GCC unroll 2
      for (size_t b = 0; b < kBlocks; ++b) {
        const __m512i code = _mm512_loadu_si512(codes + b * block_bytes + byte * kBlockRows);
        rows[q][b].Add(look_up(tables, low(code), high(code)));
      }
    }
  }
#pragma GCC unroll 4
  for (size_t q = 0; q < kQueries; ++q) {
#pragma GCC unroll 2
    for (size_t b = 0; b < kBlocks; ++b) rows[q][b].Store(sums + q * sums_stride + b * kBlockRows);
  }
}

template <size_t kQueries>
void PlaneSumsOf(const uint8_t* plane, size_t nblocks, size_t plane_bytes,
                 const uint8_t* const* luts, uint16_t* sums, size_t sums_stride) {
  PlaneSumsInPairs<kQueries>(plane, nblocks, plane_bytes, luts, sums, sums_stride);
}

inline __m512 LoadSums(const uint16_t* sums) {
  const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums));
  return _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(packed));
}

template <bool kTwoPlanes, bool kNorms>
class RowScores {
 public:
  explicit RowScores(const ScoreInputs& in)
      : in_(in),
        mul1_(_mm512_set1_ps(in.mul1)),
        mul2_(_mm512_set1_ps(in.mul2)),
        add_(_mm512_set1_ps(in.add)) {}

  // Of 16 rows.
  __m512 operator()(size_t row) const {
    __m512 value = _mm512_mul_ps(mul1_, LoadSums(in_.sums1 + row));
    if constexpr (kTwoPlanes) {
      value = _mm512_add_ps(value, _mm512_mul_ps(mul2_, LoadSums(in_.sums2 + row)));
    }
    __m512 score = _mm512_mul_ps(_mm512_loadu_ps(in_.scale + row), _mm512_add_ps(value, add_));
    if constexpr (kNorms) {
      score = _mm512_sub_ps(_mm512_mul_ps(_mm512_set1_ps(2.0f), score),
                            _mm512_loadu_ps(in_.norm_sq + row));
    }
    return score;
  }

 private:
  const ScoreInputs in_;
  const __m512 mul1_, mul2_, add_;
};

template <bool kTwoPlanes, bool kNorms>
size_t CollectOf(const ScoreInputs& in, const uint32_t* mask, size_t nblocks, float threshold,
                 uint32_t* rows, float* scores) {
  const RowScores<kTwoPlanes, kNorms> score_of(in);
  const __m512 threshold_v = _mm512_set1_ps(threshold);
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  size_t kept = 0;
  for (size_t block = 0; block < nblocks; ++block) {
    if (mask[block] == 0) continue;
    for (size_t half = 0; half < 2; ++half) {
      const size_t base = block * kBlockRows + half * 16;
      const __m512 score = score_of(base);
      const auto wanted = static_cast<__mmask16>(mask[block] >> (half * 16));
      const __mmask16 reached = _mm512_mask_cmp_ps_mask(wanted, score, threshold_v, _CMP_GE_OQ);
      if (reached == 0) continue;
      // kept <= base, so 16 lanes stay within the arrays; the next rows overwrite
      // those past the kept ones. A compressing store is slow on some CPUs.
      const __m512i row = _mm512_add_epi32(lane, _mm512_set1_epi32(static_cast<int>(base)));
      _mm512_storeu_si512(rows + kept, _mm512_maskz_compress_epi32(reached, row));
      _mm512_storeu_ps(scores + kept, _mm512_maskz_compress_ps(reached, score));
      kept += static_cast<size_t>(__builtin_popcount(reached));
    }
  }
  return kept;
}

template <bool kTwoPlanes, bool kNorms>
void BestOf(const ScoreInputs& in, const uint32_t* mask, size_t nblocks, float* best) {
  const RowScores<kTwoPlanes, kNorms> score_of(in);
  // The best of eight places of a block.
  const auto best_of = [&](size_t block) {
    const size_t base = block * kBlockRows;
    __m512 of_block = _mm512_set1_ps(-__builtin_inff());
    const auto first = static_cast<__mmask16>(mask[block]);
    const auto second = static_cast<__mmask16>(mask[block] >> 16);
    of_block = _mm512_mask_max_ps(of_block, first, of_block, score_of(base));
    of_block = _mm512_mask_max_ps(of_block, second, of_block, score_of(base + 16));
    return _mm256_max_ps(_mm512_castps512_ps256(of_block), _mm512_extractf32x8_ps(of_block, 1));
  };
  const auto of_pair = [](__m256 a, __m256 b) {  // in each half: a, b, a, b
    return _mm256_max_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
  };
  size_t block = 0;
  for (; block + 4 <= nblocks; block += 4) {
    const __m256d pair1 = _mm256_castps_pd(of_pair(best_of(block), best_of(block + 1)));
    const __m256d pair2 = _mm256_castps_pd(of_pair(best_of(block + 2), best_of(block + 3)));
    const __m256 four = _mm256_max_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(pair1, pair2)),
                                      _mm256_castpd_ps(_mm256_unpackhi_pd(pair1, pair2)));
    _mm_storeu_ps(best + block,
                  _mm_max_ps(_mm256_castps256_ps128(four), _mm256_extractf128_ps(four, 1)));
  }
  for (; block < nblocks; ++block) {
    const __m256 eight = best_of(block);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    best[block] = _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
  }
}

// ---- Full-code score ----------------------------------------------------------

// Products of the levels of 64 coordinates, of which `present` exist.
template <size_t kBits>
inline __m512i DotOf64(const uint64_t* words, __m512i table, __mmask64 present,
                       const int16_t* values) {
  // Eight bytes of a plane are the mask of the coordinates with that bit set.
  __m512i codes = _mm512_maskz_set1_epi8(words[0], 1 << (kBits - 1));
  for (size_t plane = 1; plane < kBits; ++plane) {
    const __m512i bit = _mm512_set1_epi8(static_cast<char>(1 << (kBits - 1 - plane)));
    codes = _mm512_mask_add_epi8(codes, words[plane], codes, bit);
  }
  const __m512i level = _mm512_shuffle_epi8(table, codes);
  const __m512i first = _mm512_cvtepi8_epi16(_mm512_castsi512_si256(level));
  const __m512i second = _mm512_cvtepi8_epi16(_mm512_extracti64x4_epi64(level, 1));
  const auto low = static_cast<__mmask32>(present);
  const auto high = static_cast<__mmask32>(present >> 32);
  return _mm512_add_epi32(_mm512_madd_epi16(first, _mm512_maskz_loadu_epi16(low, values)),
                          _mm512_madd_epi16(second, _mm512_maskz_loadu_epi16(high, values + 32)));
}

template <size_t kBits>
int32_t CodeDotOf(const uint8_t* row_code, size_t plane_bytes, const int8_t* levels,
                  const int16_t* values) {
  const __m512i table =
      _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(levels)));
  __m512i sum = _mm512_setzero_si512();
  uint64_t words[kBits];
  size_t byte = 0;
  for (; byte + 8 <= plane_bytes; byte += 8) {
    for (size_t plane = 0; plane < kBits; ++plane) {
      __builtin_memcpy(&words[plane], row_code + plane * plane_bytes + byte, 8);
    }
    sum = _mm512_add_epi32(sum, DotOf64<kBits>(words, table, ~uint64_t{0}, values + byte * 8));
  }
  if (byte < plane_bytes) {
    const size_t left = plane_bytes - byte;  // 2, 4 or 6
    const auto bytes = static_cast<__mmask16>((1u << left) - 1);
    for (size_t plane = 0; plane < kBits; ++plane) {
      const __m128i tail = _mm_maskz_loadu_epi8(bytes, row_code + plane * plane_bytes + byte);
      words[plane] = static_cast<uint64_t>(_mm_cvtsi128_si64(tail));
    }
    const __mmask64 present = (uint64_t{1} << left * 8) - 1;
    sum = _mm512_add_epi32(sum, DotOf64<kBits>(words, table, present, values + byte * 8));
  }
  return _mm512_reduce_add_epi32(sum);
}

int32_t CodeDot(const uint8_t* row_code, size_t bits, size_t plane_bytes, const int8_t* levels,
                const int16_t* values) {
  switch (bits) {
    case 1:
      return CodeDotOf<1>(row_code, plane_bytes, levels, values);
    case 2:
      return CodeDotOf<2>(row_code, plane_bytes, levels, values);
    case 3:
      return CodeDotOf<3>(row_code, plane_bytes, levels, values);
    default:
      return CodeDotOf<4>(row_code, plane_bytes, levels, values);
  }
}

// ---- Rerank tier ----------------------------------------------------------------

inline __mmask16 FirstLanes(size_t n) { return static_cast<__mmask16>((1u << n) - 1); }

inline __m512 Load16(const float* from) { return _mm512_loadu_ps(from); }
inline __m512 Load16(const uint16_t* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
inline __m512 Load16(const int8_t* from) {
  return _mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
inline __m512 LoadTail(const float* from, __mmask16 lanes) {
  return _mm512_maskz_loadu_ps(lanes, from);
}
inline __m512 LoadTail(const uint16_t* from, __mmask16 lanes) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, from));
}
inline __m512 LoadTail(const int8_t* from, __mmask16 lanes) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(lanes, from)));
}

// 16 strided lanes (coordinate j in lane j % 16) folded by halves.
template <typename Element, typename Term>
inline float LaneSum(const Element* row, const float* query, size_t dim, Term term) {
  __m512 lanes = _mm512_setzero_ps();
  size_t j = 0;
  for (; j + 16 <= dim; j += 16) {
    lanes = _mm512_add_ps(lanes, term(Load16(row + j), Load16(query + j)));
  }
  if (j < dim) {
    const __mmask16 tail = FirstLanes(dim - j);
    lanes = _mm512_mask_add_ps(lanes, tail, lanes,
                               term(LoadTail(row + j, tail), LoadTail(query + j, tail)));
  }
  const __m256 eight =
      _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

template <typename Element>
float Dot(const Element* row, const float* query, size_t dim) {
  return LaneSum(row, query, dim, [](__m512 x, __m512 q) { return _mm512_mul_ps(x, q); });
}

template <typename Element>
float L2(const Element* row, const float* query, size_t dim) {
  return LaneSum(row, query, dim, [](__m512 x, __m512 q) {
    const __m512 difference = _mm512_sub_ps(x, q);
    return _mm512_mul_ps(difference, difference);
  });
}

float L2I8(const int8_t* row, float scale, const float* query, size_t dim) {
  const __m512 scale_v = _mm512_set1_ps(scale);
  return LaneSum(row, query, dim, [scale_v](__m512 x, __m512 q) {
    const __m512 difference = _mm512_sub_ps(_mm512_mul_ps(scale_v, x), q);
    return _mm512_mul_ps(difference, difference);
  });
}

void F32ToF16(const float* from, size_t n, uint16_t* to) {
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i),
                        _mm512_cvtps_ph(Load16(from + i), _MM_FROUND_TO_NEAREST_INT));
  }
  if (i == n) return;
  const __mmask16 tail = FirstLanes(n - i);
  _mm256_mask_storeu_epi16(to + i, tail,
                           _mm512_cvtps_ph(LoadTail(from + i, tail), _MM_FROUND_TO_NEAREST_INT));
}

void F16ToF32(const uint16_t* from, size_t n, float* to) {
  size_t i = 0;
  for (; i + 16 <= n; i += 16) _mm512_storeu_ps(to + i, Load16(from + i));
  if (i == n) return;
  const __mmask16 tail = FirstLanes(n - i);
  _mm512_mask_storeu_ps(to + i, tail, LoadTail(from + i, tail));
}

float F32ToI8(const float* from, size_t n, int8_t* to) {
  __m512 largest_v = _mm512_setzero_ps();
  const size_t whole = n / 16 * 16;
  const __mmask16 tail = FirstLanes(n - whole);
  for (size_t i = 0; i < whole; i += 16) {
    largest_v = _mm512_max_ps(largest_v, _mm512_abs_ps(Load16(from + i)));
  }
  if (tail != 0) largest_v = _mm512_max_ps(largest_v, _mm512_abs_ps(LoadTail(from + whole, tail)));
  const float scale = _mm512_reduce_max_ps(largest_v) / 127.0f;
  if (scale == 0) {
    __builtin_memset(to, 0, n);
    return 0;
  }
  const __m512 scale_v = _mm512_set1_ps(scale);
  const auto round16 = [scale_v](__m512 values) {
    const __m512i nearest = _mm512_cvtps_epi32(_mm512_div_ps(values, scale_v));
    return _mm_max_epi8(_mm512_cvtsepi32_epi8(nearest), _mm_set1_epi8(-127));
  };
  for (size_t i = 0; i < whole; i += 16) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), round16(Load16(from + i)));
  }
  if (tail != 0) _mm_mask_storeu_epi8(to + whole, tail, round16(LoadTail(from + whole, tail)));
  return scale;
}

// ---- Encoder ----------------------------------------------------------------------

// Strides 1 to 8 within a register: partner by shuffle, sign by lane.
inline __m512 Butterflies(__m512 x) {
  const auto step = [](__m512 lane, __m512 partner, __mmask16 second) {
    const __m512i sign = _mm512_maskz_set1_epi32(second, INT32_MIN);
    return _mm512_add_ps(partner, _mm512_xor_ps(lane, _mm512_castsi512_ps(sign)));
  };
  x = step(x, _mm512_permute_ps(x, 0xB1), 0xAAAA);
  x = step(x, _mm512_permute_ps(x, 0x4E), 0xCCCC);
  x = step(x, _mm512_shuffle_f32x4(x, x, 0xB1), 0xF0F0);
  return step(x, _mm512_shuffle_f32x4(x, x, 0x4E), 0xFF00);
}

// All strides of 16 * kRegisters values without a trip to memory in between.
template <size_t kRegisters>
inline void HadamardInRegisters(float* values) {
  __m512 x[kRegisters];
#pragma GCC unroll 16
  for (size_t i = 0; i < kRegisters; ++i) x[i] = Butterflies(_mm512_loadu_ps(values + 16 * i));
#pragma GCC unroll 4
  for (size_t stride = 1; stride < kRegisters; stride *= 2) {
#pragma GCC unroll 16
    for (size_t i = 0; i < kRegisters; ++i) {
      if ((i & stride) != 0) continue;
      const __m512 a = x[i], b = x[i + stride];
      x[i] = _mm512_add_ps(a, b);
      x[i + stride] = _mm512_sub_ps(a, b);
    }
  }
#pragma GCC unroll 16
  for (size_t i = 0; i < kRegisters; ++i) _mm512_storeu_ps(values + 16 * i, x[i]);
}

void Hadamard(float* values, size_t n) {
  constexpr size_t kBase = 256;
  switch (n) {
    case 16:
      return HadamardInRegisters<1>(values);
    case 32:
      return HadamardInRegisters<2>(values);
    case 64:
      return HadamardInRegisters<4>(values);
    case 128:
      return HadamardInRegisters<8>(values);
  }
  if (n < 16) return ScalarKernels()->hadamard(values, n);
  for (size_t i = 0; i < n; i += kBase) HadamardInRegisters<kBase / 16>(values + i);
  size_t stride = kBase;
  for (; 4 * stride <= n; stride *= 4) {  // two strides in one pass
    for (size_t begin = 0; begin < n; begin += 4 * stride) {
      for (size_t i = begin; i < begin + stride; i += 16) {
        const __m512 a = Load16(values + i), b = Load16(values + i + stride);
        const __m512 c = Load16(values + i + 2 * stride), d = Load16(values + i + 3 * stride);
        const __m512 ab = _mm512_add_ps(a, b), a_b = _mm512_sub_ps(a, b);
        const __m512 cd = _mm512_add_ps(c, d), c_d = _mm512_sub_ps(c, d);
        _mm512_storeu_ps(values + i, _mm512_add_ps(ab, cd));
        _mm512_storeu_ps(values + i + stride, _mm512_add_ps(a_b, c_d));
        _mm512_storeu_ps(values + i + 2 * stride, _mm512_sub_ps(ab, cd));
        _mm512_storeu_ps(values + i + 3 * stride, _mm512_sub_ps(a_b, c_d));
      }
    }
  }
  if (stride < n) {
    for (size_t i = 0; i < stride; i += 16) {
      const __m512 a = Load16(values + i), b = Load16(values + i + stride);
      _mm512_storeu_ps(values + i, _mm512_add_ps(a, b));
      _mm512_storeu_ps(values + i + stride, _mm512_sub_ps(a, b));
    }
  }
}

// Binary search among the ascending boundaries, held in one register.
void Quantize(const float* unit, size_t dim, const float* boundaries, size_t bits, uint8_t* codes) {
  const __m512 table = LoadTail(boundaries, FirstLanes((size_t{1} << bits) - 1));
  const auto code16 = [&](__m512 x) {
    __m512i code = _mm512_setzero_si512();
    for (int half = 1 << (bits - 1); half > 0; half /= 2) {
      const __m512i probe = _mm512_add_epi32(code, _mm512_set1_epi32(half - 1));
      const __mmask16 above =
          _mm512_cmp_ps_mask(x, _mm512_permutexvar_ps(probe, table), _CMP_GT_OQ);
      code = _mm512_mask_add_epi32(code, above, code, _mm512_set1_epi32(half));
    }
    return _mm512_cvtepi32_epi8(code);
  };
  size_t j = 0;
  for (; j + 16 <= dim; j += 16) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + j), code16(Load16(unit + j)));
  }
  if (j == dim) return;  // rows of codes are whole runs of 16
  const __mmask16 tail = FirstLanes(dim - j);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + j),
                   _mm_maskz_mov_epi8(tail, code16(LoadTail(unit + j, tail))));
}

constexpr ScanKernels kAvx512 = {
    "avx512",    NibbleTableBytes, BuildNibbleTable, PlaneSums,  Collect,
    Collect2,    BestOfBlocks,     CodeDot,          Dot<float>, Dot<uint16_t>,
    Dot<int8_t>, L2<float>,        L2<uint16_t>,     L2I8,       F32ToF16,
    F16ToF32,    F32ToI8,          Hadamard,         Quantize,
};

}  // namespace

const ScanKernels* Avx512Kernels() noexcept { return &kAvx512; }

}  // namespace quash
