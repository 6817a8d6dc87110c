// The plane scan for few queries, and the sample: words of the plane are operand A
// of a binary product as they are, and a query's eight columns of B are the bits of
// its weights in two's complement. A lane ends with the sum of one row.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "kernels/cuda/scan.h"
#include "kernels/cuda/scan_layout.cuh"
#include "kernels/cuda/scan_walk.cuh"

namespace quash::cuda {
namespace {

// Bits that are set in both, of rows g and g + 8 and columns 2 t and 2 t + 1.
__device__ void CountBits(int (&sum)[4], uint32_t a0, uint32_t a1, uint32_t b) {
  asm("mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3}, {%4,%5}, {%6}, "
      "{%0,%1,%2,%3};"
      : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
      : "r"(a0), "r"(a1), "r"(b));
}

// The same of two chunks.
__device__ void CountBits(int (&sum)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                          uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3}, "
      "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Every lane of a quad has a part of four rows' sums; lane t gets row t's.
template <typename Sum>
__device__ int QuadRowSum(const Sum (&sums)[4]) {
  const uint32_t t = threadIdx.x % 4;
  const bool second = t & 2, odd = t & 1;
  const Sum even_sum =
      (second ? sums[2] : sums[0]) + __shfl_xor_sync(~0u, second ? sums[0] : sums[2], 2);
  const Sum odd_sum =
      (second ? sums[3] : sums[1]) + __shfl_xor_sync(~0u, second ? sums[1] : sums[3], 2);
  return static_cast<int>((odd ? odd_sum : even_sum) +
                          __shfl_xor_sync(~0u, odd ? even_sum : odd_sum, 1));
}

// Counts by bit of the weights, of rows g, g + 8 and g + 16, g + 24.
struct BitCounts {
  int upper[4] = {}, lower[4] = {};

  __device__ void Add(const uint4& one, uint32_t b) {
    CountBits(upper, one.x, one.y, b);
    CountBits(lower, one.z, one.w, b);
  }
  __device__ void Add(const uint4& one, const uint4& two, uint32_t b0, uint32_t b1) {
    CountBits(upper, one.x, one.y, two.x, two.y, b0, b1);
    CountBits(lower, one.z, one.w, two.z, two.w, b0, b1);
  }

  // The sum of weights of row g + 8 t.
  __device__ int RowSum() const {
    const uint32_t t = threadIdx.x % 4;
    const int low = 1 << 2 * t, high = t == 3 ? -128 : 2 << 2 * t;
    const int sums[4] = {upper[0] * low + upper[1] * high, upper[2] * low + upper[3] * high,
                         lower[0] * low + lower[1] * high, lower[2] * low + lower[3] * high};
    return QuadRowSum(sums);
  }
};

struct BitQuery {
  ScanQuery query;
  float key_limit, estimate_limit;
};

template <bool kSample>
__device__ BitQuery MakeBitQuery(const ScanArgs& args, uint32_t q) {
  if (kSample) return {args.queries[q], INFINITY, INFINITY};
  return {args.queries[q], args.limits[2 * q], args.limits[2 * q + 1]};
}

// Four rows and one query of the sample, the greatest by key and by estimate.
//   group  of the block's eight
__device__ void SampleGroup(const ScanArgs& args, uint32_t q, uint32_t position, uint32_t group,
                            float key, float estimate) {
  const size_t n = size_t{args.sample_blocks} * 8;
  float* values = args.sample + size_t{q} * 2 * n + size_t{position} * 8 + group;
  values[0] = key;
  values[n] = estimate;
}

// One row and query: to the list if it reaches a limit, or to the sample.
//   position  of the block in the sample
template <bool kSample>
__device__ void TakeRow(const ScanArgs& args, const BitQuery& query, uint32_t q,
                        const Estimate& made, uint32_t mask, uint32_t block, uint32_t position) {
  const uint32_t row = threadIdx.x % 32 / 4 + 8 * (threadIdx.x % 4);
  const bool masked = mask >> row & 1;
  if constexpr (kSample) {
    float key = masked ? made.key : -INFINITY;
    float estimate = masked ? made.estimate : -INFINITY;
#pragma unroll
    for (uint32_t other = 1; other < 4; other *= 2) {
      key = fmaxf(key, __shfl_xor_sync(~0u, key, other));
      estimate = fmaxf(estimate, __shfl_xor_sync(~0u, estimate, other));
    }
    if (threadIdx.x % 4 == 0) {
      SampleGroup(args, q, position, threadIdx.x % 32 / 4, key, estimate);
    }
  } else if (masked && (made.key >= query.key_limit || made.estimate >= query.estimate_limit)) {
    List(args, q, block * 32 + row, made);
  }
}

// The blocks of a warp with a chunk count known to the compiler.
template <uint32_t kChunks, uint32_t kQueries, bool kSample>
__device__ void ScanWholeBlocks(const ScanArgs& args, const BitQuery* queries, const uint32_t* bits,
                                uint32_t first_query, Walker walker, uint32_t stride) {
  constexpr uint32_t kAhead = kChunks <= 3 && kQueries <= 2 ? 2 : 1;
  Fetched heads[kAhead];  // `words` unused
  uint4 words[kAhead][kChunks];
#pragma unroll
  for (uint32_t slot = 0; slot < kAhead; ++slot) {
    const uint4* next = walker.NextBlock(&heads[slot]);
    if (next == nullptr) continue;
#pragma unroll
    for (uint32_t c = 0; c < kChunks; ++c) words[slot][c] = __ldcs(next + c * 32);
  }
  while (true) {
#pragma unroll
    for (uint32_t slot = 0; slot < kAhead; ++slot) {
      const Fetched head = heads[slot];
      if (head.block == kNoBlock) return;
      BitCounts counts[kQueries];
#pragma unroll
      for (uint32_t c = 0; c < kChunks; c += 2) {
#pragma unroll
        for (uint32_t q = 0; q < kQueries; ++q) {
          const uint32_t* b = bits + (q * kChunks + c) * 32;
          if (c + 1 < kChunks) {
            counts[q].Add(words[slot][c], words[slot][(c + 1) % kChunks], b[0], b[32]);
          } else {
            counts[q].Add(words[slot][c], b[0]);
          }
        }
      }
      const uint4* next = walker.NextBlock(&heads[slot]);
      if (next != nullptr) {
#pragma unroll
        for (uint32_t c = 0; c < kChunks; ++c) words[slot][c] = __ldcs(next + c * 32);
      }
#pragma unroll
      for (uint32_t q = 0; q < kQueries; ++q) {
        if (first_query + q >= args.nq) break;
        TakeRow<kSample>(
            args, queries[q], first_query + q,
            MakeEstimate(queries[q].query, counts[q].RowSum(), head.scale, head.norm_sq), head.mask,
            head.block, head.block / stride);
      }
    }
  }
}

// Any number of chunks: kDepth of them are fetched ahead.
template <uint32_t kQueries, bool kSample>
__device__ void ScanByChunks(const ScanArgs& args, const BitQuery* queries, const uint32_t* bits,
                             uint32_t first_query, Walker walker, uint32_t stride) {
  constexpr uint32_t kDepth = 4;
  const uint32_t chunks = Chunks(args.dim);
  Fetched ring[kDepth];
  uint32_t items = 0;  // fetched and not used yet
#pragma unroll
  for (uint32_t slot = 0; slot < kDepth; ++slot) {
    if (!walker.done()) {
      ring[slot] = walker.Next();
      ++items;
    }
  }
  BitCounts counts[kQueries];
  uint32_t chunk = 0;
  while (items != 0) {
#pragma unroll
    for (uint32_t slot = 0; slot < kDepth; ++slot) {
      if (items == 0) break;
      const Fetched fetched = ring[slot];
      if (walker.done()) {
        --items;
      } else {
        ring[slot] = walker.Next();
      }
#pragma unroll
      for (uint32_t q = 0; q < kQueries; ++q) {
        counts[q].Add(fetched.words, bits[(q * chunks + chunk) * 32]);
      }
      if (++chunk < chunks) continue;
      chunk = 0;
#pragma unroll
      for (uint32_t q = 0; q < kQueries; ++q) {
        if (first_query + q < args.nq) {
          TakeRow<kSample>(
              args, queries[q], first_query + q,
              MakeEstimate(queries[q].query, counts[q].RowSum(), fetched.scale, fetched.norm_sq),
              fetched.mask, fetched.block, fetched.block / stride);
        }
        counts[q] = BitCounts();
      }
    }
  }
}

// Resident on a multiprocessor, with the registers that this leaves.
constexpr uint32_t BlocksOf(uint32_t chunks, uint32_t queries) {
  if (chunks == 0 || chunks > 4) return 2;
  return chunks <= 3 && queries == 4 ? 4 : 3;
}

// blockIdx.y: kQueries queries. Each block has an equal stretch of blocks.
//   packed  bits of the weights
template <uint32_t kChunks, uint32_t kQueries, bool kSample>
__global__ void __launch_bounds__(kThreads, BlocksOf(kChunks, kQueries))
    ScanBits(ScanArgs args, const uint32_t* packed) {
  extern __shared__ uint32_t shared_bits[];
  __shared__ BitQuery queries[kQueries];
  const uint32_t chunks = Chunks(args.dim);
  const uint32_t first_query = blockIdx.y * kQueries;
  for (uint32_t i = threadIdx.x; i < kQueries * chunks * 32; i += kThreads) {
    const uint32_t word = first_query * chunks * 32 + i;
    shared_bits[i] = word < args.nq * chunks * 32 ? packed[word] : 0;
  }
  if (threadIdx.x < kQueries && first_query + threadIdx.x < args.nq) {
    const uint32_t q = first_query + threadIdx.x;
    queries[threadIdx.x] = MakeBitQuery<kSample>(args, q);
  }
  __syncthreads();
  const uint32_t stride = kSample ? args.num_blocks / args.sample_blocks : 1;
  const uint64_t total = kSample ? args.sample_blocks : args.num_blocks;
  const auto begin = static_cast<uint32_t>(total * blockIdx.x / gridDim.x) + threadIdx.x / 32;
  const auto end = static_cast<uint32_t>(total * (blockIdx.x + 1) / gridDim.x);
  const uint32_t lane = threadIdx.x % 32;
  const Walker walker(args, begin, end, stride, lane / 4 + 8 * (lane % 4));
  if constexpr (kChunks != 0) {
    ScanWholeBlocks<kChunks, kQueries, kSample>(args, queries, shared_bits + lane, first_query,
                                                walker, stride);
  } else {
    ScanByChunks<kQueries, kSample>(args, queries, shared_bits + lane, first_query, walker, stride);
  }
}

template <uint32_t kChunks, uint32_t kQueries, bool kSample>
const char* LaunchBits(const ScanArgs& args, CUstream_st* stream) {
  const auto kernel = ScanBits<kChunks, kQueries, kSample>;
  const size_t shared = size_t{kQueries} * Chunks(args.dim) * 32 * sizeof(uint32_t);
  static thread_local Residency residency;
  if (const char* error = residency.Find(kernel, shared); error != nullptr) return error;
  const uint32_t groups = (args.nq + kQueries - 1) / kQueries;
  const uint32_t blocks = kSample ? args.sample_blocks : args.num_blocks;
  kernel<<<dim3(residency.Share(blocks, groups), groups), kThreads, shared, stream>>>(
      args, args.weights + ScanByteWords(args.dim, args.nq));
  return Text(cudaGetLastError());
}

// Dimensions that embeddings often have: 128, 256, 384, 512, 768, 1024, 1536.
template <uint32_t kQueries, bool kSample>
const char* LaunchBitScan(const ScanArgs& args, CUstream_st* stream) {
  switch (Chunks(args.dim)) {
    case 1:
      return LaunchBits<1, kQueries, kSample>(args, stream);
    case 2:
      return LaunchBits<2, kQueries, kSample>(args, stream);
    case 3:
      return LaunchBits<3, kQueries, kSample>(args, stream);
    case 4:
      return LaunchBits<4, kQueries, kSample>(args, stream);
    case 6:
      return LaunchBits<6, kQueries, kSample>(args, stream);
    case 8:
      return LaunchBits<8, kQueries, kSample>(args, stream);
    case 12:
      return LaunchBits<12, kQueries, kSample>(args, stream);
    default:
      return LaunchBits<0, kQueries, kSample>(args, stream);
  }
}

}  // namespace
}  // namespace quash::cuda
