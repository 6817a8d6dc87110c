// plane_sums() of kernels/scan.h, compiled for each instruction set over its own loops.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/layout.h"

namespace quash {
namespace {

// Those of the file that includes this: so many queries over all blocks, or over kBlocks
// for the files that use PlaneSumsInPairs().
template <size_t kQueries>
void PlaneSumsOf(const uint8_t* plane, size_t nblocks, size_t plane_bytes,
                 const uint8_t* const* luts, uint16_t* sums, size_t sums_stride);
template <size_t kQueries, size_t kBlocks>
void SumBlocks(const uint8_t* codes, size_t plane_bytes, const uint8_t* const* luts,
               uint16_t* sums, size_t sums_stride);

// Two blocks at once.
template <size_t kQueries>
void PlaneSumsInPairs(const uint8_t* plane, size_t nblocks, size_t plane_bytes,
                      const uint8_t* const* luts, uint16_t* sums, size_t sums_stride) {
  const size_t block_bytes = plane_bytes * kBlockRows;
  size_t block = 0;
  for (; block + 2 <= nblocks; block += 2) {
    SumBlocks<kQueries, 2>(plane + block * block_bytes, plane_bytes, luts,
                           sums + block * kBlockRows, sums_stride);
  }
  if (block < nblocks) {
    SumBlocks<kQueries, 1>(plane + block * block_bytes, plane_bytes, luts,
                           sums + block * kBlockRows, sums_stride);
  }
}

void PlaneSums(const uint8_t* plane, size_t nblocks, size_t plane_bytes, const uint8_t* const* luts,
               size_t nq, uint16_t* sums, size_t sums_stride) {
  switch (nq) {
    case 1:
      return PlaneSumsOf<1>(plane, nblocks, plane_bytes, luts, sums, sums_stride);
    case 2:
      return PlaneSumsOf<2>(plane, nblocks, plane_bytes, luts, sums, sums_stride);
    case 3:
      return PlaneSumsOf<3>(plane, nblocks, plane_bytes, luts, sums, sums_stride);
    default:
      return PlaneSumsOf<4>(plane, nblocks, plane_bytes, luts, sums, sums_stride);
  }
}

}  // namespace
}  // namespace quash
