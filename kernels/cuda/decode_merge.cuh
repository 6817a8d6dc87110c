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

__device__ __forceinline__ float PartWeight(float top, float all_top) {
  return top == -INFINITY ? 0.0f : Exp2(top - all_top);
}

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
  __device__ void Store(float* to, int lane) const {
    Vector vector;
#pragma unroll
    for (int i = 0; i < kPer; ++i) vector.of[i] = of[i];
    reinterpret_cast<Vector*>(to)[lane] = vector;
  }
  __device__ void Scale(float weight) {
#pragma unroll
    for (int i = 0; i < kPer; ++i) of[i] *= weight;
  }
  __device__ void Add(float weight, const LaneValues& other) {
#pragma unroll
    for (int i = 0; i < kPer; ++i) of[i] += weight * other.of[i];
  }
};

// A query of a unit, or a part of it, in one warp's registers.
template <int kDim>
struct QuerySums {
  float top = -INFINITY, sum = 0;
  LaneValues<kDim> pages = {}, given = {};  // rotated, and as open tokens are
  bool has_given = false;

  // To another maximum.
  __device__ void Raise(float new_top) {
    const float factor = PartWeight(top, new_top);
    top = new_top;
    sum *= factor;
    pages.Scale(factor);
    given.Scale(factor);
  }
};

// Rotates back and writes query x of a unit; by one warp.
template <int kDim, int kQueries, typename Tables>
__device__ __forceinline__ void WriteResult(const UnitQueries<kQueries>& unit, int x,
                                            const QuerySums<kDim>& sums, const Tables& tables,
                                            float* scratch, int lane) {
  constexpr int kPer = kDim / 32;
  const DecodeArgs& args = unit.args.a;
  __syncwarp();
  sums.pages.Store(scratch, lane);
  Tables::Rotation::ApplyInverse(scratch, tables, lane);
  const float inverse = sums.sum > 0 ? 1 / sums.sum : 0.0f;
  struct alignas(2 * kPer) Bits {
    uint16_t of[kPer];
  } bits;
  LaneValues<kDim> values;
  values.Load(scratch, lane);
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    bits.of[i] = ToBits16((values.of[i] + sums.given.of[i]) * inverse, args.is_half);
  }
  const size_t row = unit.Row(x);
  reinterpret_cast<Bits*>(args.out + row * kDim)[lane] = bits;
  if (args.lse != nullptr && lane == 0) {
    args.lse[row] = (sums.top + log2f(sums.sum)) / kLog2E;
  }
}

// ---- Parts of a block's warps ----

// Sums of the parts in the mask `left`, lane l having part l's weight and place.
template <int kDim>
__device__ __forceinline__ LaneValues<kDim> SumParts(unsigned left, float weight,
                                                     const float* from, int lane) {
  LaneValues<kDim> values = {};
#pragma unroll 1
  while (left != 0) {
    constexpr int kAhead = 4;
    LaneValues<kDim> others[kAhead];
    float weights[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i, left &= left - 1) {
      const int part = left != 0 ? __ffs(left) - 1 : 0;
      weights[i] = __shfl_sync(kAllLanes, weight, part);
      const float* of_part = reinterpret_cast<const float*>(
          __shfl_sync(kAllLanes, reinterpret_cast<uintptr_t>(from), part));
      others[i] = {};
      if (left != 0) others[i].Load(of_part, lane);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) values.Add(weights[i], others[i]);
  }
  return values;
}

// Query x of a slot from the parts that the block's warps left. False: one warp had the
// whole unit.
template <int kDim, typename S>
__device__ __forceinline__ bool MergeWarps(const typename S::Parts& parts, uint32_t warps,
                                           int slot, int x, int lane, QuerySums<kDim>* sums) {
  const int mark = static_cast<uint32_t>(lane) < 2 * warps ? parts.slot[lane] : -1;
  const bool mine = mark >= 0 && mark / 4 == slot;
  if (!__any_sync(kAllLanes, mine)) return false;
  const bool has_pages = mine && (mark & kPages) != 0, has_given = mine && (mark & kGiven) != 0;
  const float pages_top = has_pages ? parts.top[0][lane][x] : -INFINITY;
  const float given_top = has_given ? parts.top[1][lane][x] : -INFINITY;
  sums->top = ReduceWarp(fmaxf(pages_top, given_top), Max());
  const float pages_weight = PartWeight(pages_top, sums->top);
  const float given_weight = PartWeight(given_top, sums->top);
  sums->sum = ReduceWarp((has_pages ? pages_weight * parts.sum[0][lane][x] : 0.0f) +
                             (has_given ? given_weight * parts.sum[1][lane][x] : 0.0f),
                         Add());
  const float* from = mine ? parts.out[lane] + x * S::kPartStride : nullptr;
  sums->pages = SumParts<kDim>(__ballot_sync(kAllLanes, has_pages), pages_weight, from, lane);
  const unsigned given = __ballot_sync(kAllLanes, has_given);
  sums->has_given = given != 0;
  sums->given = {};
  if (given != 0) {
    sums->given = SumParts<kDim>(given, given_weight, from + S::kPartSums, lane);
  }
  return true;
}

// ---- Parts of blocks ----

// They are handed over in memory that is zero between launches, so that a word that is
// not has arrived: no fence is waited for and nothing is counted. Who reads words makes
// them zero again. Zeros are handed over as -0.
__device__ __forceinline__ uint32_t NeverZero(float value) {
  const uint32_t bits = __float_as_uint(value);
  return bits == 0 ? 0x80000000u : bits;
}

// N words.
template <int kN>
struct Handed {
  uint32_t words[kN];

  __device__ __forceinline__ void Send(float* to) const {
    if constexpr (kN % 4 == 0) {
#pragma unroll
      for (int i = 0; i < kN; i += 4) {
        asm volatile("st.relaxed.gpu.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to + i),
                     "r"(words[i]), "r"(words[i + 1]), "r"(words[i + 2]), "r"(words[i + 3])
                     : "memory");
      }
    } else {
      asm volatile("st.relaxed.gpu.global.v2.b32 [%0], {%1, %2};" ::"l"(to), "r"(words[0]),
                   "r"(words[1])
                   : "memory");
    }
  }
  __device__ __forceinline__ void Look(const float* from) {
    if constexpr (kN % 4 == 0) {
#pragma unroll
      for (int i = 0; i < kN; i += 4) {
        asm volatile("ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(words[i]), "=r"(words[i + 1]), "=r"(words[i + 2]), "=r"(words[i + 3])
                     : "l"(from + i)
                     : "memory");
      }
    } else {
      asm volatile("ld.relaxed.gpu.global.v2.b32 {%0, %1}, [%2];"
                   : "=r"(words[0]), "=r"(words[1])
                   : "l"(from)
                   : "memory");
    }
  }
  __device__ __forceinline__ bool HasArrived() const {
    bool has = true;
#pragma unroll
    for (int i = 0; i < kN; ++i) has &= words[i] != 0;
    return has;
  }
  // What was read is zero for the next launch.
  __device__ __forceinline__ void Take(float* from) const {
    Handed zero = {};
    zero.Send(from);
  }
};

template <int kDim>
__device__ __forceinline__ void SendValues(const LaneValues<kDim>& values, float* to, int lane) {
  constexpr int kPer = kDim / 32;
  Handed<kPer> handed;
#pragma unroll
  for (int i = 0; i < kPer; ++i) handed.words[i] = NeverZero(values.of[i]);
  handed.Send(to + kPer * lane);
}

// Leaves this block's part of a query.
template <int kDim>
__device__ __forceinline__ void SendPart(const QuerySums<kDim>& sums, float* to, int lane) {
  SendValues<kDim>(sums.pages, to, lane);
  if (sums.has_given) SendValues<kDim>(sums.given, to + kDim, lane);
  if (lane == 0) {
    Handed<2>{{NeverZero(sums.top), NeverZero(sums.sum)}}.Send(to + 2 * kDim);
  }
}

// Adds the vectors of the parts in the mask `left`, lane l having part l's weight, as soon
// as they are there.
//   from  of part 0
template <int kDim>
__device__ __forceinline__ void TakeValues(float* from, size_t stride, unsigned left,
                                           float weight, int lane, LaneValues<kDim>* values) {
  constexpr int kPer = kDim / 32;
  constexpr int kAhead = kPer > 4 ? 4 : 8;  // parts on their way together
#pragma unroll 1
  while (left != 0) {
    Handed<kPer> parts[kAhead];
    int numbers[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i, left &= left - 1) {
      numbers[i] = left != 0 ? __ffs(left) - 1 : -1;
    }
    bool have_arrived = false;
    while (!have_arrived) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (numbers[i] >= 0) parts[i].Look(from + numbers[i] * stride + kPer * lane);
      }
      bool mine = true;
#pragma unroll
      for (int i = 0; i < kAhead; ++i) mine &= numbers[i] < 0 || parts[i].HasArrived();
      have_arrived = __all_sync(kAllLanes, mine);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const float of_part = __shfl_sync(kAllLanes, weight, numbers[i] & 31);
      if (numbers[i] < 0) continue;
      parts[i].Take(from + numbers[i] * stride + kPer * lane);
#pragma unroll
      for (int j = 0; j < kPer; ++j) values->of[j] += of_part * __uint_as_float(parts[i].words[j]);
    }
  }
}

// Adds the parts of a query that `count` blocks before this one leave.
//   from       of the first of them
//   has_given  (part): whether it has sums of open tokens
template <int kDim, typename HasGiven>
__device__ __forceinline__ void TakeParts(float* from, size_t stride, uint32_t count,
                                          const HasGiven& has_given, int lane,
                                          QuerySums<kDim>* sums) {
#pragma unroll 1
  for (uint32_t first = 0; first < count; first += 32, from += 32 * stride) {
    const bool exists = first + lane < count;
    const unsigned parts = __ballot_sync(kAllLanes, exists);
    const unsigned given = __ballot_sync(kAllLanes, exists && has_given(first + lane));
    float top = -INFINITY, sum = 0;
    if (exists) {
      Handed<2> words;
      float* at = from + lane * stride + 2 * kDim;
      do {
        words.Look(at);
      } while (!words.HasArrived());
      words.Take(at);
      top = __uint_as_float(words.words[0]), sum = __uint_as_float(words.words[1]);
    }
    __syncwarp();
    sums->Raise(fmaxf(sums->top, ReduceWarp(top, Max())));
    const float weight = PartWeight(top, sums->top);
    sums->sum += ReduceWarp(weight * sum, Add());
    TakeValues<kDim>(from, stride, parts, weight, lane, &sums->pages);
    TakeValues<kDim>(from + kDim, stride, given, weight, lane, &sums->given);
  }
}

}  // namespace quash::cuda
