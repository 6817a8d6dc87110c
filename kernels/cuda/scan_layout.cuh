// The order of planes and weights on the device, and finding a block's segment.
//
// A warp multiplies 32 rows by kChunkDims coordinates. Lane (g, t) = (lane / 4,
// lane % 4) has coordinates 32 t .. 32 t + 31 of the chunk for rows g, g + 8,
// g + 16 and g + 24, as the bits of one word each. Step i of four takes bits 2 i
// and 2 i + 1 of every byte: bytes of 0 or 1, and of 0 or 2, which are operand A
// of mma.m16n8k32, whose inner index may be in any order that B has too. Weights
// of the former are doubled in B, so the sums are twice those of the weights.
//
// For few queries the words themselves are operand A of mma.m16n8k128 with bits,
// and the eight columns of B are the bits of one query's weights.
#pragma once

#include <cstdint>

#include "kernels/cuda/scan.h"

namespace quash::cuda {

inline constexpr uint32_t kLowBits = 0x01010101;
inline constexpr uint32_t kHighBits = 0x02020202;
inline constexpr uint32_t kSteps = 4;        // per chunk
inline constexpr uint32_t kTileQueries = 8;  // columns of one product

__host__ __device__ inline uint32_t Chunks(uint32_t dim) {
  return (dim + kChunkDims - 1) / kChunkDims;
}

// Word of B's fragments for a step and tile of eight queries: lane (column n, t)
// has two words, of the low and of the high bits.
__host__ __device__ inline uint32_t WeightWord(uint32_t step, uint32_t tiles, uint32_t tile,
                                               uint32_t lane) {
  return ((step * tiles + tile) * 32 + lane) * 2;
}

// Word of B's fragments for one query's bits: lane (bit n of the weight, t) has the
// weights of coordinates 32 t .. 32 t + 31 of the chunk.
__host__ __device__ inline uint32_t BitWord(uint32_t chunks, uint32_t query, uint32_t chunk,
                                            uint32_t lane) {
  return (query * chunks + chunk) * 32 + lane;
}

// Word `w` of row `row` of a block: coordinates 32 w .. 32 w + 31.
__host__ __device__ inline uint32_t PlaneWord(uint32_t chunks, uint32_t block, uint32_t row,
                                              uint32_t w) {
  const uint32_t lane = (row % 8) * 4 + w % 4;
  return ((block * chunks + w / 4) * 32 + lane) * 4 + row / 8;
}

// The segment that has `block`. Segments are about equally large, so the search
// starts where it would be if they were.
__device__ inline uint32_t SegmentOfBlock(const ScanSegment* segments, uint32_t num_segments,
                                          uint32_t num_blocks, uint32_t block) {
  const auto guess = static_cast<uint32_t>(uint64_t{block} * num_segments / num_blocks);
  uint32_t low = guess, high = guess;  // segments[low].first_block <= block < that of high + 1
  for (uint32_t step = 1; low > 0 && segments[low].first_block > block; step *= 2) {
    high = low - 1;
    low = low > step ? low - step : 0;
  }
  for (uint32_t step = 1; high + 1 < num_segments && segments[high + 1].first_block <= block;
       step *= 2) {
    low = high + 1;
    high = min(high + step, num_segments - 1);
  }
  while (low < high) {
    const uint32_t middle = (low + high + 1) / 2;
    if (segments[middle].first_block <= block) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

}  // namespace quash::cuda
