// From which key and estimate on rows are listed, and which of the listed rows
// are kept.
#pragma once

#include <cstdint>

#include "kernels/cuda/scan.h"
#include "kernels/cuda/scan_join.h"
#include "kernels/cuda/scan_select.cuh"

namespace quash::cuda {
namespace {

// Values of a sample in the registers of a block.
struct HeldSample {
  static constexpr uint32_t kPerThread = kScanSampleBlocks * 8 / kSelectThreads;
  float values[kPerThread];

  // Of query q, keys (which: 0) or estimates (1), eight to a block.
  __device__ HeldSample(const SampleSet& set, uint32_t q, uint32_t which) {
#pragma unroll
    for (uint32_t slot = 0; slot < kPerThread; ++slot) {
      uint32_t i = threadIdx.x + slot * kSelectThreads, part = 0;
      while (part < set.count && i >= set.blocks[part] * 8) i -= set.blocks[part++] * 8;
      values[slot] = part == set.count
                         ? -INFINITY
                         : set.samples[part][(size_t{q} * 2 + which) * set.blocks[part] * 8 + i];
    }
  }

  template <typename Use>
  __device__ void Each(Use use) const {
#pragma unroll
    for (uint32_t slot = 0; slot < kPerThread; ++slot) use(values[slot]);
  }
};

// blockIdx.x: a query. Ranks are looked up among the greatest of every four rows,
// where a value's rank is no higher than among all: limits get no higher by it, and
// hardly lower where ranks are a small part of the sample.
__global__ void __launch_bounds__(kSelectThreads) 
    SelectLimits(const __grid_constant__ ScanArgs args, const __grid_constant__ SampleSet samples) {
  __shared__ SelectShared shared;
  const ScanQuery& query = args.queries[blockIdx.x];
  uint32_t n = 0;
  for (uint32_t part = 0; part < samples.count; ++part) n += samples.blocks[part] * 8;
  const HeldSample held_keys(samples, blockIdx.x, 0), held_estimates(samples, blockIdx.x, 1);
  const auto select = [&](const HeldSample& held, uint32_t rank) {
    const float found =
        SelectRank(min(rank, n - 1), &shared, [&](auto&& use) { held.Each(use); });
    __syncthreads();
    return found;
  };
  float key_limit = query.key_limit, estimate_limit = query.estimate_limit;
  if (estimate_limit < INFINITY) {
    estimate_limit = fmaxf(estimate_limit, select(held_estimates, query.estimate_rank));
    // About what the k-th estimate is at least: lower keys do not matter then.
    if (query.k != 0) key_limit = fmaxf(key_limit, KeyFloor(query, estimate_limit));
  }
  if (key_limit < INFINITY) key_limit = fmaxf(key_limit, select(held_keys, query.key_rank));
  if (threadIdx.x == 0) {
    args.limits[2 * blockIdx.x] = key_limit;
    args.limits[2 * blockIdx.x + 1] = estimate_limit;
  }
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

// blockIdx.x: a query. Raises the limits to what the list of all rows shows and keeps
// what reaches them of one's own. An overfull list keeps nothing: the caller cannot use it.
__global__ void __launch_bounds__(kSelectThreads)
    NarrowCandidates(const __grid_constant__ ScanArgs args, const __grid_constant__ ScanArgs all) {
  __shared__ SelectShared shared;
  __shared__ uint32_t kept;
  const uint32_t q = blockIdx.x;
  const ScanQuery& query = args.queries[q];
  const size_t first = size_t{q} * args.capacity;
  const uint32_t found = all.counts[q];
  const uint32_t n = found <= args.capacity ? found : 0;
  const HeldList held(reinterpret_cast<const uint4*>(all.candidates) + first, n);
  float key_limit = all.limits[2 * q], estimate_limit = all.limits[2 * q + 1];
  if (query.k != 0 && n >= query.k) {
    const float kth = SelectRank(query.k - 1, &shared, [&](auto&& use) {
      held.Each([&](float, float estimate, uint32_t) { use(estimate); });
    });
    key_limit = fmaxf(key_limit, KeyFloor(query, kth));
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
  const auto* own = reinterpret_cast<const uint4*>(args.candidates) + first;
  auto* out = reinterpret_cast<uint2*>(args.kept) + first;
  const auto keep = [&](float key, float estimate, uint32_t i) {
    if (key >= key_limit || estimate >= estimate_limit) {
      out[atomicAdd(&kept, 1u)] = {own[i].x, own[i].y};
    }
  };
  if (args.candidates == all.candidates) {
    held.Each([&](float key, float estimate, uint32_t i) {
      if (i < n) keep(key, estimate, i);
    });
  } else if (n != 0) {
    for (uint32_t i = threadIdx.x; i < args.counts[q]; i += kSelectThreads) {
      keep(__uint_as_float(own[i].w), __uint_as_float(own[i].z), i);
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
