// AVX2 kernels. Float paths multiply and add separately and in the order of
// scan.h, so that results equal the scalar reference bit for bit. Inline functions
// of other headers stay out of this file: a copy compiled for AVX2 could be the one
// that the linker keeps for every caller.
#include <immintrin.h>

#include "kernels/scan.h"
#include "kernels/scan_plane_sums.h"
#include "kernels/scan_scores.h"

namespace quash {
namespace {

// ---- Plane scan -------------------------------------------------------------

// A byte accumulator holds sums of four table entries of at most 63. Sums of 16
// bits take it whole (even rows plus 256 * odd rows) and its odd rows apart; the
// even rows are the difference, which costs no masks in the loop.
struct RowSums {
  __m256i whole = _mm256_setzero_si256();
  __m256i odd = _mm256_setzero_si256();

  void Add(__m256i bytes) {
    whole = _mm256_add_epi16(whole, bytes);
    odd = _mm256_add_epi16(odd, _mm256_srli_epi16(bytes, 8));
  }
  void Store(uint16_t* out) const {
    const __m256i even = _mm256_sub_epi16(whole, _mm256_slli_epi16(odd, 8));
    const __m256i low = _mm256_unpacklo_epi16(even, odd);   // rows 0-7, 16-23
    const __m256i high = _mm256_unpackhi_epi16(even, odd);  // rows 8-15, 24-31
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                        _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16),
                        _mm256_permute2x128_si256(low, high, 0x31));
  }
};

inline __m256i Table(const uint8_t* table) {
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
}

// One query over pairs of blocks, which share the loaded tables, whose loads would bound
// the speed.
void SumPairs(const uint8_t* plane, size_t npairs, size_t plane_bytes, const uint8_t* lut,
              uint16_t* sums) {
  const size_t block_bytes = plane_bytes * kBlockRows;
  const __m256i low_nibble = _mm256_set1_epi8(15);
  for (; npairs != 0; --npairs, plane += 2 * block_bytes, sums += 2 * kBlockRows) {
    RowSums rows[2];
    const auto* next = reinterpret_cast<const char*>(plane + 2 * block_bytes);
    for (size_t byte = 0; byte < plane_bytes; byte += 2) {
      const uint8_t* tables = lut + byte * 32;
      const __m256i table1 = Table(tables), table2 = Table(tables + 16);
      const __m256i table3 = Table(tables + 32), table4 = Table(tables + 48);
#pragma GCC unroll 2
      for (size_t b = 0; b < 2; ++b) {
        // The next blocks in the order of memory: the scan streams, and the table stays in L1.
        _mm_prefetch(next, _MM_HINT_T0);
        next += 64;
        const auto* pair =
            reinterpret_cast<const __m256i*>(plane + b * block_bytes + byte * kBlockRows);
        const __m256i first = _mm256_loadu_si256(pair);
        const __m256i second = _mm256_loadu_si256(pair + 1);
        const auto low = [=](__m256i code) { return _mm256_and_si256(code, low_nibble); };
        const auto high = [=](__m256i code) {
          return _mm256_and_si256(_mm256_srli_epi16(code, 4), low_nibble);
        };
        const __m256i sum_first = _mm256_add_epi8(_mm256_shuffle_epi8(table1, low(first)),
                                                  _mm256_shuffle_epi8(table2, high(first)));
        const __m256i sum_second = _mm256_add_epi8(_mm256_shuffle_epi8(table3, low(second)),
                                                   _mm256_shuffle_epi8(table4, high(second)));
        rows[b].Add(_mm256_add_epi8(sum_first, sum_second));
      }
    }
    rows[0].Store(sums);
    rows[1].Store(sums + kBlockRows);
  }
}

template <size_t kQueries>
void PlaneSumsOf(const uint8_t* plane, size_t nblocks, size_t plane_bytes,
                 const uint8_t* const* luts, uint16_t* sums, size_t sums_stride) {
  size_t block = 0;
  if constexpr (kQueries == 1) {
    SumPairs(plane, nblocks / 2, plane_bytes, luts[0], sums);
    block = nblocks / 2 * 2;
  }
  const __m256i low_nibble = _mm256_set1_epi8(15);
  for (; block < nblocks; ++block) {
    const uint8_t* codes = plane + block * plane_bytes * kBlockRows;
    RowSums rows[kQueries];
    for (size_t byte = 0; byte < plane_bytes; byte += 2) {
      const auto* pair = reinterpret_cast<const __m256i*>(codes + byte * kBlockRows);
      // A block ahead: the scan streams, and the table stays in L1.
      _mm_prefetch(reinterpret_cast<const char*>(pair) + plane_bytes * kBlockRows, _MM_HINT_T0);
      const __m256i first = _mm256_loadu_si256(pair);
      const __m256i second = _mm256_loadu_si256(pair + 1);
      const __m256i first_low = _mm256_and_si256(first, low_nibble);
      const __m256i first_high = _mm256_and_si256(_mm256_srli_epi16(first, 4), low_nibble);
      const __m256i second_low = _mm256_and_si256(second, low_nibble);
      const __m256i second_high = _mm256_and_si256(_mm256_srli_epi16(second, 4), low_nibble);
      for (size_t q = 0; q < kQueries; ++q) {
        const uint8_t* tables = luts[q] + byte * 32;
        const __m256i sum_first =
            _mm256_add_epi8(_mm256_shuffle_epi8(Table(tables), first_low),
                            _mm256_shuffle_epi8(Table(tables + 16), first_high));
        const __m256i sum_second =
            _mm256_add_epi8(_mm256_shuffle_epi8(Table(tables + 32), second_low),
                            _mm256_shuffle_epi8(Table(tables + 48), second_high));
        rows[q].Add(_mm256_add_epi8(sum_first, sum_second));
      }
    }
    for (size_t q = 0; q < kQueries; ++q) {
      rows[q].Store(sums + q * sums_stride + block * kBlockRows);
    }
  }
}

inline __m256 LoadSums(const uint16_t* sums) {
  const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(sums));
  return _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(packed));
}

template <bool kTwoPlanes, bool kNorms>
class RowScores {
 public:
  explicit RowScores(const ScoreInputs& in)
      : in_(in),
        mul1_(_mm256_set1_ps(in.mul1)),
        mul2_(_mm256_set1_ps(in.mul2)),
        add_(_mm256_set1_ps(in.add)) {}

  // Of 8 rows.
  __m256 operator()(size_t row) const {
    __m256 value = _mm256_mul_ps(mul1_, LoadSums(in_.sums1 + row));
    if constexpr (kTwoPlanes) {
      value = _mm256_add_ps(value, _mm256_mul_ps(mul2_, LoadSums(in_.sums2 + row)));
    }
    __m256 score = _mm256_mul_ps(_mm256_loadu_ps(in_.scale + row), _mm256_add_ps(value, add_));
    if constexpr (kNorms) {
      score = _mm256_sub_ps(_mm256_mul_ps(_mm256_set1_ps(2.0f), score),
                            _mm256_loadu_ps(in_.norm_sq + row));
    }
    return score;
  }

 private:
  const ScoreInputs in_;
  const __m256 mul1_, mul2_, add_;
};

template <bool kTwoPlanes, bool kNorms>
size_t CollectOf(const ScoreInputs& in, const uint32_t* mask, size_t nblocks, float threshold,
                 uint32_t* rows, float* scores) {
  const RowScores<kTwoPlanes, kNorms> score_of(in);
  const __m256 threshold_v = _mm256_set1_ps(threshold);
  size_t kept = 0;
  for (size_t block = 0; block < nblocks; ++block) {
    if (mask[block] == 0) continue;
    const size_t base = block * kBlockRows;
    alignas(32) float of_block[kBlockRows];
    uint32_t reached = 0;
    for (size_t i = 0; i < kBlockRows; i += 8) {
      const __m256 score = score_of(base + i);
      _mm256_store_ps(of_block + i, score);
      const auto hits =
          static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(score, threshold_v, _CMP_GE_OQ)));
      reached |= hits << i;
    }
    for (uint32_t left = reached & mask[block]; left != 0; left &= left - 1) {
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
  const __m256 none = _mm256_set1_ps(-__builtin_inff());
  const __m256i lane_bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  for (size_t block = 0; block < nblocks; ++block) {
    const size_t base = block * kBlockRows;
    __m256 of_block = none;
    if (mask[block] == ~uint32_t{0}) {
      of_block = _mm256_max_ps(_mm256_max_ps(score_of(base), score_of(base + 8)),
                               _mm256_max_ps(score_of(base + 16), score_of(base + 24)));
    } else if (mask[block] != 0) {
      for (size_t i = 0; i < kBlockRows; i += 8) {
        const __m256i wanted = _mm256_set1_epi32(static_cast<int>(mask[block] >> i));
        const __m256i is_wanted =
            _mm256_cmpeq_epi32(_mm256_and_si256(wanted, lane_bit), lane_bit);
        of_block = _mm256_max_ps(
            of_block, _mm256_blendv_ps(none, score_of(base + i), _mm256_castsi256_ps(is_wanted)));
      }
    }
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(of_block), _mm256_extractf128_ps(of_block, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    best[block] = _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
  }
}

// ---- Full-code score ----------------------------------------------------------

int32_t CodeDot(const uint8_t* row_code, size_t bits, size_t plane_bytes, const int8_t* levels,
                const int16_t* values) {
  // Byte i of a result is bit i of a 32-bit word of the plane.
  const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2,
                                          2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
  const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201ull));
  const __m256i table =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(levels)));
  __m256i sum = _mm256_setzero_si256();
  for (size_t byte = 0; byte < plane_bytes; byte += 4) {
    const size_t left = plane_bytes - byte;
    __m256i codes = _mm256_setzero_si256();
    for (size_t plane = 0; plane < bits; ++plane) {
      uint32_t word = 0;
      __builtin_memcpy(&word, row_code + plane * plane_bytes + byte, 2);
      if (left > 2) __builtin_memcpy(&word, row_code + plane * plane_bytes + byte, 4);
      const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(word)), spread);
      const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);  // 0 or -1
      codes = _mm256_sub_epi8(_mm256_add_epi8(codes, codes), set);
    }
    const __m256i level = _mm256_shuffle_epi8(table, codes);
    const auto* query = reinterpret_cast<const __m256i*>(values + byte * 8);
    const __m256i first = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(level));
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(first, _mm256_loadu_si256(query)));
    if (left > 2) {
      const __m256i second = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(level, 1));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(second, _mm256_loadu_si256(query + 1)));
    }
  }
  __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4E));
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xB1));
  return _mm_cvtsi128_si32(half);
}

// ---- Rerank tier ----------------------------------------------------------------

inline __m256 Load8(const float* from) { return _mm256_loadu_ps(from); }
inline __m256 Load8(const uint16_t* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline __m256 Load8(const int8_t* from) {
  return _mm256_cvtepi32_ps(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}

// 16 strided lanes (coordinate j in lane j % 16) folded by halves.
template <typename Element, typename Term>
inline float LaneSum(const Element* row, const float* query, size_t dim, Term term) {
  __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
  size_t j = 0;
  for (; j + 16 <= dim; j += 16) {
    low = _mm256_add_ps(low, term(Load8(row + j), Load8(query + j)));
    high = _mm256_add_ps(high, term(Load8(row + j + 8), Load8(query + j + 8)));
  }
  if (j < dim) {
    Element row_tail[16] = {};
    float query_tail[16] = {};
    __builtin_memcpy(row_tail, row + j, (dim - j) * sizeof(Element));
    __builtin_memcpy(query_tail, query + j, (dim - j) * sizeof(float));
    low = _mm256_add_ps(low, term(Load8(row_tail), Load8(query_tail)));
    high = _mm256_add_ps(high, term(Load8(row_tail + 8), Load8(query_tail + 8)));
  }
  const __m256 eight = _mm256_add_ps(low, high);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

template <typename Element>
float Dot(const Element* row, const float* query, size_t dim) {
  return LaneSum(row, query, dim, [](__m256 x, __m256 q) { return _mm256_mul_ps(x, q); });
}

template <typename Element>
float L2(const Element* row, const float* query, size_t dim) {
  return LaneSum(row, query, dim, [](__m256 x, __m256 q) {
    const __m256 difference = _mm256_sub_ps(x, q);
    return _mm256_mul_ps(difference, difference);
  });
}

float L2I8(const int8_t* row, float scale, const float* query, size_t dim) {
  const __m256 scale_v = _mm256_set1_ps(scale);
  return LaneSum(row, query, dim, [scale_v](__m256 x, __m256 q) {
    const __m256 difference = _mm256_sub_ps(_mm256_mul_ps(scale_v, x), q);
    return _mm256_mul_ps(difference, difference);
  });
}

void F32ToF16(const float* from, size_t n, uint16_t* to) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm256_cvtps_ph(Load8(from + i), _MM_FROUND_TO_NEAREST_INT));
  }
  ScalarKernels()->f32_to_f16(from + i, n - i, to + i);
}

void F16ToF32(const uint16_t* from, size_t n, float* to) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(to + i, Load8(from + i));
  ScalarKernels()->f16_to_f32(from + i, n - i, to + i);
}

float F32ToI8(const float* from, size_t n, int8_t* to) {
  if (n == 0) return 0;
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
  __m256 largest_v = _mm256_setzero_ps();
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    largest_v = _mm256_max_ps(largest_v, _mm256_and_ps(magnitude, Load8(from + i)));
  }
  float tail[8] = {};
  __builtin_memcpy(tail, from + i, (n - i) * sizeof(float));
  largest_v = _mm256_max_ps(largest_v, _mm256_and_ps(magnitude, Load8(tail)));
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(largest_v), _mm256_extractf128_ps(largest_v, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  const float scale = _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four))) / 127.0f;
  if (scale == 0) {
    __builtin_memset(to, 0, n);
    return 0;
  }
  const __m256 scale_v = _mm256_set1_ps(scale);
  const auto round8 = [&](const float* values) {
    const __m256i whole = _mm256_cvtps_epi32(_mm256_div_ps(Load8(values), scale_v));
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    return _mm_max_epi8(_mm_packs_epi16(words, words), _mm_set1_epi8(-127));
  };
  for (i = 0; i + 8 <= n; i += 8) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to + i), round8(from + i));
  }
  if (i < n) {
    alignas(16) int8_t codes[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(codes), round8(tail));
    __builtin_memcpy(to + i, codes, n - i);
  }
  return scale;
}

// ---- Encoder ----------------------------------------------------------------------

void Hadamard(float* values, size_t n) {
  if (n < 16) return ScalarKernels()->hadamard(values, n);
  // Strides 1, 2 and 4 within a register: partner by shuffle, sign by lane.
  const __m256 sign1 = _mm256_castsi256_ps(
      _mm256_setr_epi32(0, INT32_MIN, 0, INT32_MIN, 0, INT32_MIN, 0, INT32_MIN));
  const __m256 sign2 = _mm256_castsi256_ps(
      _mm256_setr_epi32(0, 0, INT32_MIN, INT32_MIN, 0, 0, INT32_MIN, INT32_MIN));
  const __m256 sign4 = _mm256_castsi256_ps(
      _mm256_setr_epi32(0, 0, 0, 0, INT32_MIN, INT32_MIN, INT32_MIN, INT32_MIN));
  for (size_t i = 0; i < n; i += 8) {
    __m256 x = _mm256_loadu_ps(values + i);
    x = _mm256_add_ps(_mm256_permute_ps(x, 0xB1), _mm256_xor_ps(x, sign1));
    x = _mm256_add_ps(_mm256_permute_ps(x, 0x4E), _mm256_xor_ps(x, sign2));
    x = _mm256_add_ps(_mm256_permute2f128_ps(x, x, 1), _mm256_xor_ps(x, sign4));
    _mm256_storeu_ps(values + i, x);
  }
  for (size_t stride = 8; stride < n; stride *= 2) {
    for (size_t begin = 0; begin < n; begin += 2 * stride) {
      for (size_t i = begin; i < begin + stride; i += 8) {
        const __m256 a = _mm256_loadu_ps(values + i);
        const __m256 b = _mm256_loadu_ps(values + i + stride);
        _mm256_storeu_ps(values + i, _mm256_add_ps(a, b));
        _mm256_storeu_ps(values + i + stride, _mm256_sub_ps(a, b));
      }
    }
  }
}

void Quantize(const float* unit, size_t dim, const float* boundaries, size_t bits, uint8_t* codes) {
  const size_t count = (size_t{1} << bits) - 1;
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  size_t j = 0;
  for (; j + 32 <= dim; j += 32) {
    __m256i code[4] = {};
    const __m256 x[4] = {Load8(unit + j), Load8(unit + j + 8), Load8(unit + j + 16),
                         Load8(unit + j + 24)};
    for (size_t i = 0; i < count; ++i) {
      const __m256 boundary = _mm256_broadcast_ss(boundaries + i);
      for (size_t v = 0; v < 4; ++v) {
        const __m256i above = _mm256_castps_si256(_mm256_cmp_ps(x[v], boundary, _CMP_GT_OQ));
        code[v] = _mm256_sub_epi32(code[v], above);
      }
    }
    const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(code[0], code[1]),
                                              _mm256_packs_epi32(code[2], code[3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + j),
                        _mm256_permutevar8x32_epi32(bytes, order));
  }
  // Tail of up to 31 coordinates with the reference, which counts the padding
  // from the start of its own 16-coordinate pairs.
  if (j < dim) ScalarKernels()->quantize(unit + j, dim - j, boundaries, bits, codes + j);
}

constexpr ScanKernels kAvx2 = {
    "avx2",      NibbleTableBytes, BuildNibbleTable, PlaneSums,  Collect,
    Collect2,    BestOfBlocks,     CodeDot,          Dot<float>, Dot<uint16_t>,
    Dot<int8_t>, L2<float>,        L2<uint16_t>,     L2I8,       F32ToF16,
    F16ToF32,    F32ToI8,          Hadamard,         Quantize,
};

}  // namespace

const ScanKernels* Avx2Kernels() noexcept { return &kAvx2; }

}  // namespace quash
