// Values of a rank, and what lies below them.
#pragma once

#include <cstdint>

#include "kernels/cuda/scan.h"

namespace quash::cuda {
namespace {

constexpr uint32_t kSelectThreads = 1024;
constexpr uint32_t kSelectBins = 2 * kSelectThreads;

struct SelectShared {
  uint32_t bins[kSelectBins];
  uint32_t totals[32];
  float low[32], high[32];
  float limit;
};

// No values may be NaN. Integers that order as floats do.
__device__ float WarpMax(float value) {
  const auto ordered = [](int bits) { return bits ^ (bits >> 31 & 0x7fffffff); };
  return __int_as_float(ordered(__reduce_max_sync(~0u, ordered(__float_as_int(value)))));
}

__device__ float WarpMin(float value) { return -WarpMax(-value); }

__device__ uint32_t WarpPrefixSum(uint32_t value) {
#pragma unroll
  for (uint32_t step = 1; step < 32; step *= 2) {
    const uint32_t other = __shfl_up_sync(~0u, value, step);
    if (threadIdx.x % 32 >= step) value += other;
  }
  return value;
}

// A value that more than `rank` of all values reach, close below that of the rank
// (from the top, from 0): the lower edge of its bin, of kSelectBins between the
// least and the greatest. -infinity if there are not so many above it.
// For all threads of a block of kSelectThreads.
//   each  each(f) calls f with every value of this thread, twice the same
template <typename Each>
__device__ float SelectRank(uint32_t rank, SelectShared* shared, Each each) {
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float low = INFINITY, high = -INFINITY;
  each([&](float value) {
    if (value > -INFINITY) low = fminf(low, value);
    high = fmaxf(high, value);
  });
  low = WarpMin(low);
  high = WarpMax(high);
  if (lane == 0) {
    shared->low[warp] = low;
    shared->high[warp] = high;
  }
  shared->bins[threadIdx.x] = shared->bins[threadIdx.x + kSelectThreads] = 0;
  if (threadIdx.x == 0) shared->limit = -INFINITY;
  __syncthreads();
  low = WarpMin(shared->low[lane]);
  high = WarpMax(shared->high[lane]);
  const float factor = kSelectBins / fmaxf(high - low, 1e-30f);
  each([&](float value) {
    if (value > -INFINITY) {
      const auto bin = static_cast<uint32_t>((value - low) * factor);
      atomicAdd(&shared->bins[min(bin, kSelectBins - 1)], 1u);
    }
  });
  __syncthreads();
  // Two bins a thread, from the top.
  const uint32_t top = kSelectBins - 1 - 2 * threadIdx.x;
  const uint32_t first = shared->bins[top], sum = first + shared->bins[top - 1];
  uint32_t before = WarpPrefixSum(sum);
  if (lane == 31) shared->totals[warp] = before;
  before -= sum;
  __syncthreads();
  const uint32_t total = shared->totals[lane];
  before += __shfl_sync(~0u, WarpPrefixSum(total) - total, warp);
  if (rank >= before && rank < before + sum) {
    const uint32_t bin = rank < before + first ? top : top - 1;
    // A little lower, for rounding.
    shared->limit = bin == 0 ? low : low + (static_cast<float>(bin) - 0.01f) / factor;
  }
  __syncthreads();
  return shared->limit;
}

// The lowest key that can matter where the k-th estimate is `kth`, as CandidateSet
// has it.
__device__ float KeyFloor(const ScanQuery& query, float kth) {
  if (!query.is_cosine) return kth;
  const float cosine = fminf(fmaxf(kth, 0.0f), 1.0f);
  const float square = __fsub_rn(1.0f, __fmul_rn(cosine, cosine));
  return __fsub_rn(kth, __fmul_rn(query.slack, __fsqrt_rn(fmaxf(0.25f, square))));
}

}  // namespace
}  // namespace quash::cuda
