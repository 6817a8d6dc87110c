// Arguments, work split and shared memory of the decode kernel.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attend.h"
#include "kernels/cuda/page_copier.cuh"

namespace quash::cuda {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kTileHeads = 4;     // query heads of one product: 8 columns, high and low
constexpr int kOpenHeads = 2;     // that share one look at the open tokens
constexpr int kProbStride = 80;   // bytes per column of probabilities: 64 and padding
constexpr float kIntMax = 16256;  // 127 * 128: the largest hi * 128 + lo
constexpr float kLog2E = 1.4426950408889634f;

constexpr int kStages = 2;

// Bytes of a head page with both means, the most there are.
constexpr uint32_t HeadPageBytes(int k_bits, int v_bits, int dim) {
  return static_cast<uint32_t>(kPageTokens * dim * (k_bits + v_bits) / 8 + 4 * kPageTokens +
                               2 * dim);
}

template <int kKBits, int kVBits, int kDim, int kTiles>
struct SharedState {
  static constexpr int kHeads = kTileHeads * kTiles;
  union PerWarp {
    uint8_t stages[kStages][HeadPageBytes(kKBits, kVBits, kDim) + PageCopier::kExtra];
    float out[kHeads][kDim];  // of a segment, when its pages are done
  };
  alignas(128) PerWarp warps[kWarps];
  uint64_t barriers[kWarps][kStages];
  int8_t bytes[2 * kHeads][kDim];  // high and low bytes of the rotated query
  float query_scale[kHeads];
  int32_t query_sum[kHeads];
  // Of a page; at other times scratch of rotations.
  alignas(16) uint8_t probabilities[kWarps][2 * kHeads * kProbStride];
  float part_max[kWarps][kHeads], part_sum[kWarps][kHeads];
  uint64_t items, seq_begin;  // all, and before the first sequence of this block
  uint32_t first_seq;
  bool is_last;
};

// What a split leaves behind, per head: max, sum, out[kDim].
template <int kDim>
__host__ __device__ constexpr size_t PartialFloats() {
  return kDim + 2;
}

// The work is a line of items: for each unit (sequence, KV head, pass over its
// query heads) one per page and kOpenItems for the open tokens. Blocks take equal
// stretches, whatever units they cover, so that one wave of them ends together.
// Block b leaves its part of unit u in partial b + u, which no other pair has.
constexpr uint32_t kOpenItems = 8;

struct KernelArgs {
  DecodeArgs a;
  uint32_t passes;     // over the query heads of a KV head
  float* partials;     // [blocks + units, kHeads, kDim + 2]
  float* open;         // [units, kHeads, kDim + 2]
  uint32_t* counters;  // [units]
};

struct Segment {
  uint32_t seq, row;    // row: KV head and pass
  uint32_t begin, end;  // pages
  bool has_open;
};

}  // namespace quash::cuda
