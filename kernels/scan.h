// Scans over packed codes: the function table that dispatch.h selects from.
// Integer sums are bit-equal on every ISA; float results too, for the order
// of additions is fixed (16 strided lanes, folded by halves) and contraction
// to FMA is off.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codebook.h"
#include "kernels/layout.h"

namespace quash {

// ---- Plane scan -------------------------------------------------------------
// For a plane with bits p_j in {0, 1}, the scan wants S = sum_j q_j (2 p_j - 1).
// A few coordinates at a time, S is a sum of table look-ups, which add up in bytes
// before they are widened.

// Most that the magnitudes of a nibble's four weights add up to: two bytes of a row
// then fit in a byte, a whole row in 16 bits.
inline constexpr size_t PlaneLutMax(size_t plane_bytes) {
  const size_t whole_row = 65535 / (2 * plane_bytes);
  return whole_row < 63 ? whole_row : 63;  // 63 up to dim 4,160; 3 at 65,536
}
// Those of three bytes of a row, counted from its first, fit in a byte as well.
inline constexpr size_t kPlaneGroupBytes = 3;
inline constexpr size_t kPlaneGroupMax = 255;

// The query rounded to multiples of step / 2: weights w_j, so that sums are
// linear in the bits and any way of adding gives the same integers. Each table
// entry has |w_j| for every w_j that does not lower the sum least.
//   sum of a row's table entries = offset + sum_j w_j p_j
//   S is about                     bias + step * (sum of its table entries)
struct PlaneLut {
  const uint8_t* table = nullptr;   // for plane_sums of the kernels it is built for
  const int8_t* weights = nullptr;  // [plane_bytes * 8], |w| <= 63, padding zero
  int32_t offset = 0;
  float step = 0;
  float bias = 0;
};

struct ScanKernels;

// Builds the table of one rotated query.
//   rotated  [dim] float32
//   table    [kernels.plane_table_bytes(plane_bytes(dim))] u8 out, 64-byte aligned
//   weights  [plane_bytes(dim) * 8] i8 out
// Padding coordinates contribute nothing. A query of zeros, or one whose sums
// under- or overflow float32, gives step 0, bias 0 and zeros.
PlaneLut BuildPlaneLut(const ScanKernels& kernels, const float* rotated, size_t dim, uint8_t* table,
                       int8_t* weights);

// plane_table_bytes and plane_table of kernels that look up nibbles:
// [2 * plane_bytes][16], nibble n of the row.
size_t NibbleTableBytes(size_t plane_bytes);
void BuildNibbleTable(const int8_t* weights, size_t plane_bytes, uint8_t* table);

// Queries that one pass over a plane serves at most.
inline constexpr size_t kPlaneSumsMaxQueries = 4;

// ---- Full-code score ----------------------------------------------------------
// A query as int16 for exact integer dots with the codebook's levels.
struct LevelQuery {
  const int16_t* values = nullptr;  // [plane_bytes * 8], padding zero
  float scale = 0;                  // rotated query is about values * scale
};

// Chooses the largest scale for which 107 * sum |values| fits in int32.
//   values  [plane_bytes(dim) * 8] int16 out, 64-byte aligned
LevelQuery BuildLevelQuery(const float* rotated, size_t dim, int16_t* values);

struct ScanKernels {
  const char* name;  // as IsaName()

  // The table of one query in the form that plane_sums wants.
  //   weights  [plane_bytes * 8] within the limits above
  //   table    [plane_table_bytes(plane_bytes)] u8 out, 64-byte aligned
  size_t (*plane_table_bytes)(size_t plane_bytes);
  void (*plane_table)(const int8_t* weights, size_t plane_bytes, uint8_t* table);

  // sums[i][b * 32 + r] = sum of query i's table entries over row r of block b.
  //   plane  [nblocks][plane_bytes][32] u8
  //   luts   [nq] tables, nq 1..kPlaneSumsMaxQueries
  //   sums   [nq][sums_stride] u16 out, sums_stride >= nblocks * 32
  void (*plane_sums)(const uint8_t* plane, size_t nblocks, size_t plane_bytes,
                     const uint8_t* const* luts, size_t nq, uint16_t* sums, size_t sums_stride);

  // Scores rows and keeps those that reach a threshold, in ascending row order.
  //   score_r = scale_r * (mul * sums_r + add)               norm_sq null
  //   score_r = 2 * scale_r * (mul * sums_r + add) - norm_sq_r   otherwise
  //   mask    [nblocks] bit r of word b set: row b * 32 + r may be kept
  //   rows    [nblocks * 32] out: row numbers, scores [nblocks * 32] out
  // Returns how many were kept: score >= threshold and masked in. Entries past
  // those are undefined.
  size_t (*collect)(const uint16_t* sums, const float* scale, const float* norm_sq, float mul,
                    float add, const uint32_t* mask, size_t nblocks, float threshold,
                    uint32_t* rows, float* scores);
  // With two planes: score from mul1 * sums1 + mul2 * sums2 + add.
  size_t (*collect2)(const uint16_t* sums1, const uint16_t* sums2, const float* scale,
                     const float* norm_sq, float mul1, float mul2, float add, const uint32_t* mask,
                     size_t nblocks, float threshold, uint32_t* rows, float* scores);

  // best[b] = the largest score of the rows of block b that are masked in, -infinity if
  // there are none: by the formula of collect() where sums2 is null, else of collect2().
  void (*best_of_blocks)(const uint16_t* sums1, const uint16_t* sums2, const float* scale,
                         const float* norm_sq, float mul1, float mul2, float add,
                         const uint32_t* mask, size_t nblocks, float* best);

  // sum_j values_j * levels[code_j] of one row code, exact in int32.
  //   row_code  [bits][plane_bytes] u8
  //   levels    [16], of LevelCodebook
  int32_t (*code_dot)(const uint8_t* row_code, size_t bits, size_t plane_bytes,
                      const int8_t* levels, const int16_t* values);

  // Rerank tier: inner product and squared L2 distance of one row with a
  // float32 query [dim]. f16 rows are IEEE half as u16.
  float (*dot_f32)(const float* row, const float* query, size_t dim);
  float (*dot_f16)(const uint16_t* row, const float* query, size_t dim);
  float (*dot_i8)(const int8_t* row, const float* query, size_t dim);
  float (*l2_f32)(const float* row, const float* query, size_t dim);
  float (*l2_f16)(const uint16_t* row, const float* query, size_t dim);
  // |scale * row - query|^2
  float (*l2_i8)(const int8_t* row, float scale, const float* query, size_t dim);

  // Conversions of the rerank tier, n values; int8 returns the scale
  // max|x| / 127 (0 for a zero row).
  void (*f32_to_f16)(const float* from, size_t n, uint16_t* to);
  void (*f16_to_f32)(const uint16_t* from, size_t n, float* to);
  float (*f32_to_i8)(const float* from, size_t n, int8_t* to);

  // Steps of the encoder (encode.h).
  // Walsh-Hadamard, n a power of two (1 included), unnormalised. Butterflies
  // (a + b, a - b) with stride 1, 2, 4, ... n / 2 in this order.
  void (*hadamard)(float* values, size_t n);
  // code_j = number of boundaries below unit_j.
  //   codes  [plane_bytes * 8] u8 out, padding zero
  void (*quantize)(const float* unit, size_t dim, const float* boundaries, size_t bits,
                   uint8_t* codes);
};

// Every table is linked on its architecture; null where it is not.
const ScanKernels* ScalarKernels() noexcept;
const ScanKernels* Avx2Kernels() noexcept;
const ScanKernels* Avx512Kernels() noexcept;
const ScanKernels* Avx512VbmiKernels() noexcept;
const ScanKernels* NeonKernels() noexcept;

}  // namespace quash
