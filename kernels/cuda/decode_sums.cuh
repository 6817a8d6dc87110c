// A warp's running softmax over pages, whatever their codes: with g = lane / 4 and
// t = lane % 4 a thread has query t of each tile and tokens 4 g .. 4 g + 3 and 32 on.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/attend.h"
#include "kernels/cuda/decode_codes.cuh"
#include "kernels/cuda/decode_state.cuh"
#include "kernels/cuda/decode_unit.cuh"
#include "kernels/cuda/warp_math.cuh"

namespace quash::cuda {

__device__ __forceinline__ float Cap(float x, const KernelArgs& args) {
  return args.cap * (1 - __fdividef(2.0f, 1 + Exp2(2 * kLog2E * args.inverse_cap * x)));
}

template <int kDim, int kTiles>
class PageSums {
 public:
  static constexpr int kQueries = kTileQueries * kTiles;

  __device__ void Reset() {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      top_[tile] = -INFINITY, mass_[tile] = 0, common_[tile] = 0;
#pragma unroll
      for (int i = 0; i < 2 * kDimTiles; ++i) acc_[tile][i] = 0;
    }
  }

  // Pages that Page<false>() can take: all their tokens are seen by every query, and scores have
  // no cap.
  struct PageRange {
    uint32_t begin, end;
  };
  __device__ static PageRange PlainPages(const UnitQueries<kQueries>& unit, const SeqWork& work) {
    if (unit.args.cap != 0) return {work.pages, work.pages};
    const int sinks = static_cast<int>(work.Sinks(unit.args.a));
    const int from = unit.Sees(unit.args.a.query_tokens - 1, work.Length()).begin - sinks;
    const int until = unit.Sees(0, work.Length()).end - sinks;
    constexpr int kTokens = kPageTokens;
    return {static_cast<uint32_t>(max(from + kTokens - 1, 0)) / kPageTokens,
            static_cast<uint32_t>(max(until, 0)) / kPageTokens};
  }

 protected:
  static constexpr int kDimTiles = kDim / 16;

  // flip  0 or 2: which half of its four tokens this thread has first
  __device__ PageSums(const KernelArgs& args, int lane, uint8_t* scratch, int flip)
      : args_(args),
        g_(lane / 4),
        t_(lane % 4),
        scratch_(scratch),
        first_token_(4 * g_ + flip),
        second_token_(4 * g_ + 2 - flip) {}

  // Leaves the part of the unit, in the rotated space: out [kQueries, kStride], and
  // for each query its top and mass.
  // common  of the sums [8 i + g], so many i have common_ to be added
  template <int kStride>
  __device__ __forceinline__ void StoreSums(float* out, float* top, float* mass, int common) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int query = kTileQueries * tile + t_;
      mass_[tile] = ReduceRows(mass_[tile], Add());
      if (common != 0) common_[tile] = ReduceRows(common_[tile], Add());
      if (g_ == 0) top[query] = top_[tile], mass[query] = mass_[tile];
#pragma unroll
      for (int i = 0; i < 2 * kDimTiles; ++i) {
        out[query * kStride + 8 * i + g_] = acc_[tile][i] + (i < common ? common_[tile] : 0.0f);
      }
    }
  }

  // Of token m, h at 2 m + h, and this thread's largest.
  __device__ __forceinline__ void LoadScales(const uint8_t* from, float (&to)[8],
                                             float* most) const {
    const auto* scales = reinterpret_cast<const __half*>(from);
    __half2 all[4];
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const __half2 two = *reinterpret_cast<const __half2*>(
            scales + (pair == 0 ? first_token_ : second_token_) + 32 * h);
        to[4 * pair + h] = __low2float(two);
        to[4 * pair + 2 + h] = __high2float(two);
        all[2 * pair + h] = two;
      }
    }
    if (most == nullptr) return;
    const __half2 two = __hmax2(__hmax2(all[0], all[1]), __hmax2(all[2], all[3]));
    *most = fmaxf(__low2float(two), __high2float(two));
  }

  __device__ __forceinline__ void Mask(int begin, const Walk& walk,
                                       float (&scores)[kTiles][8]) const {
    const UnitQueries<kQueries> unit(args_, walk.seq, walk.row);
    const int at = begin + static_cast<int>(walk.work.Sinks(args_.a));
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int query = kTileQueries * tile + t_;
      const auto range =
          unit.Sees(unit.Token(unit.Exists(query) ? query : 0), walk.work.Length());
#pragma unroll
      for (int x = 0; x < 8; ++x) {
        const int m = x / 2;
        const int token = at + (m < 2 ? first_token_ + m : second_token_ + m - 2) + 32 * (x % 2);
        if (token < range.begin || token >= range.end) scores[tile][x] = -INFINITY;
      }
    }
  }

  // Scales the sums to a larger maximum.
  __device__ __forceinline__ void Raise(int tile, float largest) {
    const float new_top = fmaxf(top_[tile], largest);
    const float factor = new_top == top_[tile] ? 1.0f : Exp2(top_[tile] - new_top);
    top_[tile] = new_top;
    mass_[tile] *= factor;
    common_[tile] *= factor;
#pragma unroll
    for (int i = 0; i < 2 * kDimTiles; ++i) acc_[tile][i] *= factor;
  }

  // As columns of operand B: what V's rows have in a register (StepBase<bits, 64>) are
  // the tokens of one thread here.
  __device__ __forceinline__ void StoreProbabilities(int tile, int bits,
                                                     const uint32_t (&values)[8]) {
    const int slot = bits == 4 ? g_ : 2 * (g_ % 4) + g_ / 4;
    uint8_t* high = scratch_ + (8 * tile + 2 * t_) * kProbStride + 8 * slot;
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      const uint32_t even = Permute(values[4 * pair], values[4 * pair + 1], 0x5140);
      const uint32_t odd = Permute(values[4 * pair + 2], values[4 * pair + 3], 0x5140);
      const int at = 2 * ((pair == 0 ? first_token_ : second_token_) & 2);
      *reinterpret_cast<uint32_t*>(high + at) = Permute(even, odd, 0x7632);
      *reinterpret_cast<uint32_t*>(high + kProbStride + at) = Permute(even, odd, 0x5410);
    }
  }

  // Adds to sum i of a tile the products of a page and its values' mean.
  // head  the page
  // mean_weight  0 without a mean, in whose place there are other bytes then
  __device__ __forceinline__ void AddValue(int tile, int i, int32_t product, float weight,
                                           const uint8_t* head, float mean_weight) {
    const auto* mean = reinterpret_cast<const int8_t*>(head + args_.a.layout.v_mean + g_);
    const float sum = fmaf(static_cast<float>(product), weight, acc_[tile][i]);
    acc_[tile][i] = fmaf(static_cast<float>(mean[8 * i]), mean_weight, sum);
  }

  const KernelArgs& args_;
  const int g_, t_;
  uint8_t* const scratch_;
  const int first_token_, second_token_;  // of m = 0 and of m = 2; m + 1 is the next one
  float acc_[kTiles][2 * kDimTiles];      // dims 8 i + g of query t
  float top_[kTiles], mass_[kTiles];      // mass of this thread's tokens
  float common_[kTiles];                  // to be added to dims
};

}  // namespace quash::cuda
