// From which key and estimate on rows are listed, and which of the listed rows
// are kept.
#pragma once

#include <cstdint>

#include "kernels/cuda/scan.h"

namespace quash::cuda {
namespace {

constexpr uint32_t kSelectThreads = 1024;
constexpr uint32_t kSelectBins = 2 * kSelectThreads;
constexpr uint32_t kShortList = 4096;  // values of a sample that are looked at closely

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

// As SelectRank(), of the values of a sample. The greatest of every 32 bounds the
// rank's value from below; the few values above are looked at closely.
//   maxima  [n / 32]
//   values  [n]
__device__ float SelectSampleRank(uint32_t n, uint32_t rank, const float* maxima,
                                  const float* values, SelectShared* shared) {
  __shared__ float list[kShortList];
  __shared__ uint32_t listed;
  if (threadIdx.x == 0) listed = 0;
  const float floor = SelectRank(rank, shared, [&](auto&& use) {
    for (uint32_t i = threadIdx.x; i < n / 32; i += kSelectThreads) use(maxima[i]);
  });
#pragma unroll 8
  for (uint32_t i = threadIdx.x; i < n / 4; i += kSelectThreads) {
    const float4 four = reinterpret_cast<const float4*>(values)[i];
    for (float value : {four.x, four.y, four.z, four.w}) {
      if (value < floor || value == -INFINITY) continue;
      const uint32_t at = atomicAdd(&listed, 1u);
      if (at < kShortList) list[at] = value;
    }
  }
  __syncthreads();
  if (listed <= kShortList) {
    return SelectRank(rank, shared, [&](auto&& use) {
      for (uint32_t i = threadIdx.x; i < listed; i += kSelectThreads) use(list[i]);
    });
  }
  return SelectRank(rank, shared, [&](auto&& use) {
    for (uint32_t i = threadIdx.x; i < n; i += kSelectThreads) use(values[i]);
  });
}

// blockIdx.x: a query; blockIdx.y: keys or estimates.
__global__ void __launch_bounds__(kSelectThreads) SelectLimits(ScanArgs args) {
  __shared__ SelectShared shared;
  const ScanQuery& query = args.queries[blockIdx.x];
  const uint32_t n = args.sample_blocks * 32;
  const float* values = args.sample + (size_t{blockIdx.x} * 2 + blockIdx.y) * n;
  const float* maxima = args.sample + size_t{gridDim.x} * 2 * n +
                        (size_t{blockIdx.x} * 2 + blockIdx.y) * args.sample_blocks;
  const uint32_t rank = min(blockIdx.y == 0 ? query.key_rank : query.estimate_rank, n - 1);
  float limit = blockIdx.y == 0 ? query.key_limit : query.estimate_limit;
  if (limit < INFINITY) {
    limit = fmaxf(limit, SelectSampleRank(n, rank, maxima, values, &shared));
  }
  if (threadIdx.x == 0) args.limits[2 * blockIdx.x + blockIdx.y] = limit;
}

// Keys and estimates of a list: of one that is not too long in registers.
constexpr uint32_t kHeld = 16;

struct HeldList {
  const uint4* list;
  uint32_t n;
  bool in_registers;
  float keys[kHeld], estimates[kHeld];

  __device__ HeldList(const uint4* list, uint32_t n)
      : list(list), n(n), in_registers(n <= kHeld * kSelectThreads) {
    if (!in_registers) return;
#pragma unroll
    for (uint32_t slot = 0; slot < kHeld; ++slot) {
      const uint32_t i = threadIdx.x + slot * kSelectThreads;
      const uint2 both =
          i < n ? reinterpret_cast<const uint2*>(list + i)[1] : uint2{0xff800000u, 0xff800000u};
      estimates[slot] = __uint_as_float(both.x);
      keys[slot] = __uint_as_float(both.y);
    }
  }

  // use(key, estimate, index)
  template <typename Use>
  __device__ void Each(Use use) const {
    if (in_registers) {
#pragma unroll
      for (uint32_t slot = 0; slot < kHeld; ++slot) {
        use(keys[slot], estimates[slot], threadIdx.x + slot * kSelectThreads);
      }
    } else {
      for (uint32_t i = threadIdx.x; i < n; i += kSelectThreads) {
        use(__uint_as_float(list[i].w), __uint_as_float(list[i].z), i);
      }
    }
  }
};

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
  const HeldList held(list, n);
  float key_limit = args.limits[2 * q], estimate_limit = args.limits[2 * q + 1];
  if (query.k != 0 && n >= query.k) {
    const float kth = SelectRank(query.k - 1, &shared, [&](auto&& use) {
      held.Each([&](float, float estimate, uint32_t) { use(estimate); });
    });
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
    key_limit = fmaxf(key_limit, SelectRank(query.width, &shared, [&](auto&& use) {
                        held.Each([&](float key, float, uint32_t) { use(key); });
                      }));
  }
  if (threadIdx.x == 0) kept = 0;
  __syncthreads();
  auto* out = reinterpret_cast<uint2*>(args.kept) + size_t{q} * args.capacity;
  held.Each([&](float key, float estimate, uint32_t i) {
    if (i < n && (key >= key_limit || estimate >= estimate_limit)) {
      out[atomicAdd(&kept, 1u)] = {list[i].x, list[i].y};
    }
  });
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
