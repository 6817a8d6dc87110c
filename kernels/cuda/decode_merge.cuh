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
  // Of PartialFloats(kDim).
  __device__ void Store(float* to, int lane) const {
    pages.Store(to, lane);
    given.Store(to + kDim, lane);
    if (lane == 0) to[2 * kDim] = top, to[2 * kDim + 1] = sum;
  }
  // Adds what Store() left.
  __device__ void Join(const float* from, int lane) {
    const float other_top = from[2 * kDim];
    Raise(fmaxf(top, other_top));
    const float weight = PartWeight(other_top, top);
    sum += weight * from[2 * kDim + 1];
    LaneValues<kDim> values;
    values.Load(from, lane);
    pages.Add(weight, values);
    values.Load(from + kDim, lane);
    given.Add(weight, values);
  }
  // side  0: to `pages`, 1: to `given`
  __device__ void Add(int side, const LaneValues<kDim>& values) {
#pragma unroll
    for (int i = 0; i < kDim / 32; ++i) {
      pages.of[i] += side == 0 ? values.of[i] : 0.0f;
      given.of[i] += side == 0 ? 0.0f : values.of[i];
    }
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
  const float inverse = sums.sum > 0 ? __fdividef(1.0f, sums.sum) : 0.0f;
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
    args.lse[row] = (sums.top + __log2f(sums.sum)) * (1 / kLog2E);
  }
}

// ---- Parts of a block's warps ----
// This code runs once, and it takes longer to fetch than to run: few loops are unrolled.

// Query x of a slot from the parts that the block's warps left. False: one warp had the
// whole unit.
// stages  of the warps, where their last parts are
template <int kDim, typename S>
__device__ __forceinline__ bool MergeWarps(const typename S::Parts& parts, const uint8_t* stages,
                                           uint32_t warps, int slot, int x, int lane,
                                           QuerySums<kDim>* sums) {
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
  const unsigned given = __ballot_sync(kAllLanes, has_given);
  sums->has_given = given != 0;
  unsigned left = __ballot_sync(kAllLanes, has_pages);
  // Of pages, warps' last parts, all at once.
  LaneValues<kDim> lasts[S::kWarps];
#pragma unroll
  for (int warp = 0; warp < S::kWarps; ++warp) {
    lasts[warp] = {};
    if ((left >> (2 * warp + 1) & 1) != 0) {
      lasts[warp].Load(
          reinterpret_cast<const float*>(stages + warp * S::kStagesBytes) + x * S::kPartStride,
          lane);
    }
  }
#pragma unroll
  for (int warp = 0; warp < S::kWarps; ++warp) {
    sums->pages.Add(__shfl_sync(kAllLanes, pages_weight, 2 * warp + 1), lasts[warp]);
  }
  // The others.
  left &= 0x55555555u;
#pragma unroll 1
  for (int side = 0; side < 2; ++side, left = given) {
    const float weight = side == 0 ? pages_weight : given_weight;
    const int offset = side * S::kPartSums + x * S::kPartStride;
#pragma unroll 1
    for (; left != 0; left &= left - 1) {
      const int part = __ffs(left) - 1;
      LaneValues<kDim> values;
      values.Load(parts.out[part] + offset, lane);
      values.Scale(__shfl_sync(kAllLanes, weight, part));
      sums->Add(side, values);
    }
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
  template <int kDim>
  __device__ __forceinline__ void AddTo(float weight, LaneValues<kDim>* values) const {
#pragma unroll
    for (int i = 0; i < kN; ++i) values->of[i] += weight * __uint_as_float(words[i]);
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
    const uint32_t has = sums.has_given ? kPages | kGiven : kPages;
    Handed<4>{{NeverZero(sums.top), NeverZero(sums.sum), has, has}}.Send(to + 2 * kDim);
  }
}

// Adds the parts of a query that `count` blocks leave, some at a time: to look at what
// another block has written takes a microsecond, so that as much as fits is looked at together,
// and again what had not arrived.
//   from  of the first of them
template <int kDim>
__device__ __forceinline__ void TakeParts(float* from, size_t stride, uint32_t count, int lane,
                                          QuerySums<kDim>* sums) {
  constexpr int kPer = kDim / 32;
  constexpr uint32_t kTogether = kPer > 4 ? 4 : 8;
#pragma unroll 1
  for (uint32_t first = 0; first < count; first += kTogether, from += kTogether * stride) {
    const uint32_t here = min(count - first, kTogether);
    const bool has_words = lane < here;
    float* const words_at = from + lane * stride + 2 * kDim;
    Handed<4> words;
    Handed<kPer> parts[kTogether];
    for (uint32_t missing = (1u << here) - 1; missing != 0;) {
      if (has_words && (missing >> lane & 1) != 0) words.Look(words_at);
#pragma unroll
      for (uint32_t i = 0; i < kTogether; ++i) {
        if ((missing >> i & 1) != 0) parts[i].Look(from + i * stride + kPer * lane);
      }
      const unsigned with_words = __ballot_sync(kAllLanes, has_words && words.HasArrived());
      uint32_t arrived = 0;
#pragma unroll
      for (uint32_t i = 0; i < kTogether; ++i) {
        if ((missing >> i & 1) != 0 && __all_sync(kAllLanes, parts[i].HasArrived())) {
          arrived |= 1u << i;
        }
      }
      missing &= ~(arrived & with_words);
    }
    if (has_words) words.Take(words_at);
    const float top = has_words ? __uint_as_float(words.words[0]) : -INFINITY;
    sums->Raise(fmaxf(sums->top, ReduceWarp(top, Max())));
    const float weight = PartWeight(top, sums->top);
    sums->sum += ReduceWarp(has_words ? weight * __uint_as_float(words.words[1]) : 0.0f, Add());
#pragma unroll
    for (uint32_t i = 0; i < kTogether; ++i) {
      const float of_part = __shfl_sync(kAllLanes, weight, i);
      if (i >= here) continue;
      parts[i].Take(from + i * stride + kPer * lane);
      parts[i].AddTo(of_part, &sums->pages);
    }
    unsigned given = __ballot_sync(kAllLanes, has_words && (words.words[2] & kGiven) != 0);
#pragma unroll 1
    for (; given != 0; given &= given - 1) {
      const int part = __ffs(given) - 1;
      float* const at = from + part * stride + kDim + kPer * lane;
      do {
        parts[0].Look(at);
      } while (!__all_sync(kAllLanes, parts[0].HasArrived()));
      parts[0].Take(at);
      parts[0].AddTo(__shfl_sync(kAllLanes, weight, part), &sums->given);
    }
  }
}

}  // namespace quash::cuda
