// How parts of a unit come together: those of a block's warps, then those of the
// blocks, always in the order of the line, so that results are reproducible.
#pragma once

#include <cstdint>

#include "kernels/cuda/attend.h"
#include "kernels/cuda/decode_state.cuh"
#include "kernels/cuda/decode_unit.cuh"
#include "kernels/cuda/warp_math.cuh"
#include "kernels/cuda/warp_rotation.cuh"

namespace quash::cuda {

template <int kDim>
struct LaneValues {
  static constexpr int kPer = kDim / 32;
  float of[kPer];  // dims kPer * lane + i

  struct alignas(4 * (kPer < 4 ? kPer : 4)) Vector {
    float of[kPer];
  };
  __device__ void Load(const float* from, int lane) {
    const Vector vector = reinterpret_cast<const Vector*>(from)[lane];
#pragma unroll
    for (int i = 0; i < kPer; ++i) of[i] = vector.of[i];
  }
  // Past the first-level cache, as other multiprocessors wrote it.
  __device__ void LoadShared(const float* from, int lane) {
    if constexpr (kPer >= 4) {
#pragma unroll
      for (int i = 0; i < kPer; i += 4) {
        const float4 v = __ldcg(reinterpret_cast<const float4*>(from + kPer * lane + i));
        of[i] = v.x, of[i + 1] = v.y, of[i + 2] = v.z, of[i + 3] = v.w;
      }
    } else {
      const float2 v = __ldcg(reinterpret_cast<const float2*>(from) + lane);
      of[0] = v.x, of[1] = v.y;
    }
  }
  __device__ void Store(float* to, int lane) const {
    Vector vector;
#pragma unroll
    for (int i = 0; i < kPer; ++i) vector.of[i] = of[i];
    reinterpret_cast<Vector*>(to)[lane] = vector;
  }
  __device__ void Add(float weight, const LaneValues& other) {
#pragma unroll
    for (int i = 0; i < kPer; ++i) of[i] += weight * other.of[i];
  }
};

__device__ __forceinline__ float PartWeight(float top, float all_top) {
  return top == -INFINITY ? 0.0f : Exp2(top - all_top);
}

// Rotates back and writes query x of a unit; by one warp.
template <int kDim, int kQueries, typename Tables>
__device__ void WriteResult(const UnitQueries<kQueries>& unit, int x, float top, float sum,
                            const LaneValues<kDim>& rotated, const Tables& tables, float* scratch,
                            int lane) {
  constexpr int kPer = kDim / 32;
  if (!unit.Exists(x)) return;
  const DecodeArgs& args = unit.args.a;
  __syncwarp();
  rotated.Store(scratch, lane);
  Tables::Rotation::ApplyInverse(scratch, tables, lane);
  const float inverse = sum > 0 ? 1 / sum : 0.0f;
  struct alignas(2 * kPer) Bits {
    uint16_t of[kPer];
  } bits;
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    bits.of[i] = ToBits16(scratch[kPer * lane + i] * inverse, args.is_half);
  }
  const size_t row = unit.Row(x);
  reinterpret_cast<Bits*>(args.out + row * kDim)[lane] = bits;
  if (args.lse != nullptr && lane == 0) args.lse[row] = (top + log2f(sum)) / kLog2E;
}

// A query of a slot from the parts that the block's warps left. False: one warp
// had the whole unit.
template <int kDim, typename Parts>
__device__ bool MergeWarps(const Parts& parts, uint32_t warps, int slot, int x, int lane,
                           float* top, float* sum, LaneValues<kDim>* values) {
  const bool mine = static_cast<uint32_t>(lane) < 2 * warps && parts.slot[lane] == slot;
  unsigned left = __ballot_sync(kAllLanes, mine);
  if (left == 0) return false;
  // Lane l weighs part l.
  const float own_top = mine ? parts.top[lane][x] : -INFINITY;
  *top = ReduceWarp(own_top, Max());
  const float weight = PartWeight(own_top, *top);
  *sum = ReduceWarp(mine ? weight * parts.sum[lane][x] : 0.0f, Add());
  *values = {};
  const float* out = mine ? parts.out[lane] + x * kDim : nullptr;
  while (left != 0) {
    constexpr int kAhead = 4;
    LaneValues<kDim> others[kAhead];
    float weights[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i, left &= left - 1) {
      const int part = left != 0 ? __ffs(left) - 1 : 0;
      weights[i] = __shfl_sync(kAllLanes, weight, part);
      const float* from = reinterpret_cast<const float*>(
          __shfl_sync(kAllLanes, reinterpret_cast<uintptr_t>(out), part));
      others[i] = {};
      if (left != 0) others[i].Load(from, lane);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) values->Add(weights[i], others[i]);
  }
  return true;
}

// Adds 1 to a counter of all blocks, after all that this block wrote, and before all
// that it reads from the others; by one thread, between barriers.
__device__ __forceinline__ uint32_t ArriveAt(uint32_t* counter) {
  uint32_t before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;"
               : "=r"(before)
               : "l"(counter)
               : "memory");
  return before + 1;
}

// A query of a unit from every `step`-th of the blocks' parts, relative to the
// largest top of all.
template <int kDim>
__device__ __forceinline__ void MergeBlocks(const float* partials, size_t stride, uint32_t count,
                                            uint32_t first, uint32_t step, int lane, float* top,
                                            float* sum, LaneValues<kDim>* values) {
  constexpr int kAhead = 8;  // loads in flight
  float largest = -INFINITY;
#pragma unroll 1
  for (uint32_t part = lane; part < count; part += 32) {
    largest = fmaxf(largest, __ldcg(partials + part * stride + kDim));
  }
  *sum = 0;
  *values = {};
#pragma unroll 1
  for (uint32_t from = first; from < count; from += kAhead * step) {
    LaneValues<kDim> parts[kAhead];
    float2 tops[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const float* part = partials + min(from + i * step, count - 1) * stride;
      parts[i].LoadShared(part, lane);
      tops[i] = __ldcg(reinterpret_cast<const float2*>(part + kDim));
    }
    if (from == first) *top = ReduceWarp(largest, Max());
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const float weight = from + i * step < count ? PartWeight(tops[i].x, *top) : 0.0f;
      *sum += weight * tops[i].y;
      values->Add(weight, parts[i]);
    }
  }
}

}  // namespace quash::cuda
