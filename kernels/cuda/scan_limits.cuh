// From which key and estimate on rows are listed, and which of the listed rows
// are kept.
#pragma once

#include <cstdint>

#include "kernels/cuda/scan.h"

namespace quash::cuda {
namespace {

constexpr uint32_t kSelectThreads = 1024;
constexpr uint32_t kSelectBins = 2048;

struct SelectShared {
  uint32_t bins[kSelectBins];
  float low[32], high[32];
  float limit;
};

// A value that more than `rank` of n values reach, close below that of the rank
// (from the top, from 0): the lower edge of its bin, of kSelectBins between the
// least and the greatest. -infinity if there are not so many above it.
// For all threads of a block of kSelectThreads.
template <typename Value>
__device__ float SelectRank(uint32_t n, uint32_t rank, SelectShared* shared, Value value) {
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float low = INFINITY, high = -INFINITY;
#pragma unroll 8
  for (uint32_t i = threadIdx.x; i < n; i += kSelectThreads) {
    const float one = value(i);
    if (one > -INFINITY) low = fminf(low, one);
    high = fmaxf(high, one);
  }
#pragma unroll
  for (uint32_t half = 16; half > 0; half /= 2) {
    low = fminf(low, __shfl_xor_sync(~0u, low, half));
    high = fmaxf(high, __shfl_xor_sync(~0u, high, half));
  }
  if (lane == 0) {
    shared->low[warp] = low;
    shared->high[warp] = high;
  }
  shared->bins[threadIdx.x] = shared->bins[threadIdx.x + kSelectThreads] = 0;
  if (threadIdx.x == 0) shared->limit = -INFINITY;
  __syncthreads();
  low = shared->low[lane];
  high = shared->high[lane];
#pragma unroll
  for (uint32_t half = 16; half > 0; half /= 2) {
    low = fminf(low, __shfl_xor_sync(~0u, low, half));
    high = fmaxf(high, __shfl_xor_sync(~0u, high, half));
  }
  const float factor = kSelectBins / fmaxf(high - low, 1e-30f);
#pragma unroll 8
  for (uint32_t i = threadIdx.x; i < n; i += kSelectThreads) {
    const float one = value(i);
    if (one > -INFINITY) {
      const auto bin = static_cast<uint32_t>((one - low) * factor);
      atomicAdd(&shared->bins[min(bin, kSelectBins - 1)], 1u);
    }
  }
  __syncthreads();
  if (warp == 0) {  // lane i has the i-th run of bins from the top
    constexpr uint32_t kRun = kSelectBins / 32;
    const uint32_t top = kSelectBins - 1 - lane * kRun;
    uint32_t sum = 0;
    for (uint32_t j = 0; j < kRun; ++j) sum += shared->bins[top - j];
    uint32_t before = sum;
#pragma unroll
    for (uint32_t step = 1; step < 32; step *= 2) {
      const uint32_t other = __shfl_up_sync(~0u, before, step);
      if (lane >= step) before += other;
    }
    before -= sum;
    if (rank >= before && rank < before + sum) {
      uint32_t bin = top;
      while (rank >= before + shared->bins[bin]) before += shared->bins[bin--];
      // A little lower, for rounding.
      shared->limit = bin == 0 ? low : low + (static_cast<float>(bin) - 0.01f) / factor;
    }
  }
  __syncthreads();
  return shared->limit;
}

// blockIdx.x: a query; blockIdx.y: keys or estimates.
__global__ void __launch_bounds__(kSelectThreads) SelectLimits(ScanArgs args) {
  __shared__ SelectShared shared;
  const ScanQuery& query = args.queries[blockIdx.x];
  const uint32_t n = args.sample_blocks * 32;
  const float* values = args.sample + (size_t{blockIdx.x} * 2 + blockIdx.y) * n;
  const uint32_t rank = min(blockIdx.y == 0 ? query.key_rank : query.estimate_rank, n - 1);
  float limit = blockIdx.y == 0 ? query.key_limit : query.estimate_limit;
  if (limit < INFINITY) {
    limit = fmaxf(limit, SelectRank(n, rank, &shared, [&](uint32_t i) { return values[i]; }));
  }
  if (threadIdx.x == 0) args.limits[2 * blockIdx.x + blockIdx.y] = limit;
}

// blockIdx.x: a query. Raises the limits to what the list shows and keeps what
// reaches them. An overfull list keeps nothing: the caller cannot use it.
__global__ void __launch_bounds__(kSelectThreads) NarrowCandidates(ScanArgs args) {
  __shared__ SelectShared shared;
  __shared__ uint32_t kept;
  const uint32_t q = blockIdx.x;
  const ScanQuery& query = args.queries[q];
  const uint32_t found = args.counts[q];
  const uint32_t n = found <= args.capacity ? found : 0;
  const auto* list = reinterpret_cast<const uint4*>(args.candidates) + size_t{q} * args.capacity;
  float key_limit = args.limits[2 * q], estimate_limit = args.limits[2 * q + 1];
  if (query.k != 0 && n >= query.k) {
    const float kth =
        SelectRank(n, query.k - 1, &shared, [&](uint32_t i) { return __uint_as_float(list[i].z); });
    float floor = kth;
    if (query.is_cosine) {  // as CandidateSet has it
      const float cosine = fminf(fmaxf(kth, 0.0f), 1.0f);
      const float square = __fsub_rn(1.0f, __fmul_rn(cosine, cosine));
      floor = __fsub_rn(kth, __fmul_rn(query.slack, __fsqrt_rn(fmaxf(0.25f, square))));
    }
    key_limit = fmaxf(key_limit, floor);
    estimate_limit = fmaxf(estimate_limit, kth);
  }
  if (query.k != 0 && n > query.width) {
    __syncthreads();
    key_limit = fmaxf(key_limit, SelectRank(n, query.width, &shared, [&](uint32_t i) {
                        return __uint_as_float(list[i].w);
                      }));
  }
  if (threadIdx.x == 0) kept = 0;
  __syncthreads();
  auto* out = reinterpret_cast<uint2*>(args.kept) + size_t{q} * args.capacity;
  for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
    const uint4 one = list[i];
    if (__uint_as_float(one.w) >= key_limit || __uint_as_float(one.z) >= estimate_limit) {
      out[atomicAdd(&kept, 1u)] = {one.x, one.y};
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    args.kept_counts[q] = kept;
    args.summaries[q] = {found, kept, key_limit, estimate_limit};
  }
}

__global__ void KnownLimits(ScanArgs args) {
  const ScanQuery& query = args.queries[threadIdx.x];
  args.limits[2 * threadIdx.x] = query.key_limit;
  args.limits[2 * threadIdx.x + 1] = query.estimate_limit;
}

}  // namespace
}  // namespace quash::cuda
