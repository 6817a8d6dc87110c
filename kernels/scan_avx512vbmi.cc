// The AVX-512 kernels where the CPU has VBMI too, whose byte permutation looks up
// six coordinates at once in a table of 64 bytes and ignores the two bits above.
// Inline functions of other headers stay out of this file: a copy compiled for these
// instructions could be the one that the linker keeps for every caller.
#include <immintrin.h>

#include "kernels/scan.h"
#include "kernels/scan_plane_sums.h"

namespace quash {
namespace {

static_assert(kBlockRows == 32);

// Three bytes of a row are four fields of six coordinates: 0..5 of each byte, and 6
// and 7 of all three.
constexpr size_t kFields = 4;
constexpr size_t kFieldCoordinates = 6;
constexpr size_t kTableBytes = 64;
constexpr size_t kGroupTableBytes = kFields * kTableBytes;
static_assert(kPlaneGroupBytes == 3 && kPlaneGroupMax <= 255);

size_t TableBytes(size_t plane_bytes) {
  return (plane_bytes + kPlaneGroupBytes - 1) / kPlaneGroupBytes * kGroupTableBytes;
}

// [groups][fields][64]
void Table(const int8_t* weights, size_t plane_bytes, uint8_t* table) {
  // Entries of which bit i of the index is set.
  constexpr __mmask64 kWithBit[kFieldCoordinates] = {0xAAAAAAAAAAAAAAAA, 0xCCCCCCCCCCCCCCCC,
                                                     0xF0F0F0F0F0F0F0F0, 0xFF00FF00FF00FF00,
                                                     0xFFFF0000FFFF0000, 0xFFFFFFFF00000000};
  const size_t padded = plane_bytes * 8;
  for (size_t begin = 0; begin < padded; begin += kPlaneGroupBytes * 8) {
    for (size_t field = 0; field < kFields; ++field, table += kTableBytes) {
      __m512i sums = _mm512_setzero_si512();
#pragma GCC unroll 6
      for (size_t i = 0; i < kFieldCoordinates; ++i) {
        const size_t j = begin + (field < 3 ? field * 8 + i : i / 2 * 8 + 6 + i % 2);
        const int weight = j < padded ? weights[j] : 0;
        const __mmask64 lifted = weight >= 0 ? kWithBit[i] : ~kWithBit[i];
        sums = _mm512_mask_add_epi8(
            sums, lifted, sums,
            _mm512_set1_epi8(static_cast<char>(weight >= 0 ? weight : -weight)));
      }
      _mm512_store_si512(table, sums);
    }
  }
}

// Sums of 32 rows in either half, from bytes that hold them: whole (even rows plus
// 256 * odd rows) and the odd rows apart, as in scan_avx512.cc.
struct RowSums {
  __m512i whole = _mm512_setzero_si512();
  __m512i odd = _mm512_setzero_si512();

  void Add(__m512i bytes) {
    whole = _mm512_add_epi16(whole, bytes);
    odd = _mm512_add_epi16(odd, _mm512_maddubs_epi16(bytes, _mm512_set1_epi16(0x0100)));
  }
  template <size_t kBlocks>
  void Store(uint16_t* out) const {
    const __m512i even = _mm512_sub_epi16(whole, _mm512_slli_epi16(odd, 8));
    const __m512i low = _mm512_unpacklo_epi16(even, odd);   // rows 0-7, 16-23
    const __m512i high = _mm512_unpackhi_epi16(even, odd);  // rows 8-15, 24-31
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    _mm512_storeu_si512(out, _mm512_permutex2var_epi64(low, first, high));
    if constexpr (kBlocks == 2) {
      const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
      _mm512_storeu_si512(out + kBlockRows, _mm512_permutex2var_epi64(low, second, high));
    }
  }
};

// The same byte of the rows of one block or of two.
template <size_t kBlocks>
inline __m512i LoadRows(const uint8_t* codes, size_t block_bytes) {
  const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
  if constexpr (kBlocks == 1) return _mm512_zextsi256_si512(first);
  const auto* second = reinterpret_cast<const __m256i*>(codes + block_bytes);
  return _mm512_inserti64x4(_mm512_castsi256_si512(first), _mm256_loadu_si256(second), 1);
}

template <size_t kQueries>
inline void AddGroup(__m512i byte1, __m512i byte2, __m512i byte3, const uint8_t* const* luts,
                     size_t table, RowSums* rows) {
  // Bits 6 and 7 of the bytes as bits 0-1, 2-3 and 4-5: the shifts of 16 bits bring
  // in others, which the selections drop.
  const __m512i of_two = _mm512_ternarylogic_epi64(  // a ? b : c
      _mm512_set1_epi8(3), _mm512_srli_epi16(byte1, 6), _mm512_srli_epi16(byte2, 4), 0xCA);
  const __m512i tops =
      _mm512_ternarylogic_epi64(_mm512_set1_epi8(15), of_two, _mm512_srli_epi16(byte3, 2), 0xCA);
#pragma GCC unroll 4
  for (size_t q = 0; q < kQueries; ++q) {
    const uint8_t* tables = luts[q] + table;
    const auto look_up = [tables](__m512i code, size_t field) {
      return _mm512_permutexvar_epi8(code, _mm512_load_si512(tables + field * kTableBytes));
    };
    rows[q].Add(_mm512_add_epi8(_mm512_add_epi8(look_up(byte1, 0), look_up(byte2, 1)),
                                _mm512_add_epi8(look_up(byte3, 2), look_up(tops, 3))));
  }
}

template <size_t kQueries, size_t kBlocks>
inline void SumBlocks(const uint8_t* codes, size_t plane_bytes, const uint8_t* const* luts,
                      uint16_t* sums, size_t sums_stride) {
  constexpr size_t kGroupRowBytes = kPlaneGroupBytes * kBlockRows;
  const size_t block_bytes = plane_bytes * kBlockRows;
  const auto* next = reinterpret_cast<const char*>(codes + kBlocks * block_bytes);
  RowSums rows[kQueries];
  size_t table = 0;
  const auto* const end = codes + plane_bytes / kPlaneGroupBytes * kGroupRowBytes;
  for (; codes < end; codes += kGroupRowBytes, table += kGroupTableBytes) {
    // The next blocks in the order of memory, not of use: twice as fast from DRAM.
    for (size_t line = 0; line < kBlocks * kGroupRowBytes; line += 64) {
      _mm_prefetch(next + line, _MM_HINT_T0);
    }
    next += kBlocks * kGroupRowBytes;
    AddGroup<kQueries>(LoadRows<kBlocks>(codes, block_bytes),
                       LoadRows<kBlocks>(codes + kBlockRows, block_bytes),
                       LoadRows<kBlocks>(codes + 2 * kBlockRows, block_bytes), luts, table, rows);
  }
  if (const size_t left = plane_bytes % kPlaneGroupBytes; left != 0) {
    const __m512i second =
        left == 2 ? LoadRows<kBlocks>(codes + kBlockRows, block_bytes) : _mm512_setzero_si512();
    AddGroup<kQueries>(LoadRows<kBlocks>(codes, block_bytes), second, _mm512_setzero_si512(), luts,
                       table, rows);
  }
#pragma GCC unroll 4
  for (size_t q = 0; q < kQueries; ++q) {
    rows[q].template Store<kBlocks>(sums + q * sums_stride);
  }
}

template <size_t kQueries>
void PlaneSumsOf(const uint8_t* plane, size_t nblocks, size_t plane_bytes,
                 const uint8_t* const* luts, uint16_t* sums, size_t sums_stride) {
  PlaneSumsInPairs<kQueries>(plane, nblocks, plane_bytes, luts, sums, sums_stride);
}

ScanKernels WithPlaneSums(ScanKernels kernels) noexcept {
  kernels.name = "avx512vbmi";
  kernels.plane_table_bytes = TableBytes;
  kernels.plane_table = Table;
  kernels.plane_sums = PlaneSums;
  return kernels;
}

}  // namespace

const ScanKernels* Avx512VbmiKernels() noexcept {
  static const ScanKernels kernels = WithPlaneSums(*Avx512Kernels());
  return &kernels;
}

}  // namespace quash
