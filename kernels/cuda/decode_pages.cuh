// A warp's running softmax over the pages of a unit: scores of 64 tokens by int8
// tensor-core products of code rows with the queries, and value sums by products
// of code columns with the probabilities. Queries and probabilities are split in
// a high and a low byte, which fill neighbouring columns of the product, so that
// a thread holds both parts of what it computes. With g = lane / 4 and t =
// lane % 4 a thread has query t of each tile and tokens 4 g .. 4 g + 3 and 32 on.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/attend.h"
#include "kernels/cuda/decode_codes.cuh"
#include "kernels/cuda/decode_merge.cuh"
#include "kernels/cuda/decode_state.cuh"
#include "kernels/cuda/decode_unit.cuh"
#include "kernels/cuda/warp_math.cuh"

namespace quash::cuda {

__device__ __forceinline__ float Cap(float x, const KernelArgs& args) {
  return args.cap * (1 - __fdividef(2.0f, 1 + Exp2(2 * kLog2E * args.inverse_cap * x)));
}

template <int kKBits, int kVBits, int kDim, int kTiles>
class PageState {
 public:
  using S = Shape<kKBits, kVBits, kDim, kTiles>;
  static constexpr int kQueries = S::kQueries;
  static constexpr int kSteps = kDim / 32;
  static constexpr int kDimTiles = kDim / 16;
  static constexpr int kPer = kDim / 32;
  static constexpr int kMeanWords = kPer > 4 ? kPer / 4 : 1;
  using KRow = RowPart<kKBits, kDim>;
  using VRow = RowPart<kVBits, 64>;

  __device__ PageState(const KernelArgs& args, int lane, uint8_t* scratch)
      : args_(args),
        lane_(lane),
        g_(lane / 4),
        t_(lane % 4),
        scratch_(scratch) {

    // Rows that are read together lie in different banks.
    const int flip = kKBits == 4 ? 0 : kKBits == 3 ? ((g_ ^ g_ >> 1) & 1) * 2 : (g_ & 1) * 2;
    first_token_ = 4 * g_ + flip;
    second_token_ = 4 * g_ + 2 - flip;
  }

  __device__ void Reset() {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      top_[tile] = -INFINITY, mass_[tile] = 0, common_[tile] = 0;
#pragma unroll
      for (int i = 0; i < 2 * kDimTiles; ++i) acc_[tile][i] = 0;
    }
#pragma unroll
    for (int x = 0; x < kQueries; ++x) {
#pragma unroll
      for (int i = 0; i < kPer; ++i) mean_acc_[x][i] = 0;
    }
  }

  __device__ void LoadQuery(const typename S::Query& query) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      LoadWords<2 * kSteps>(
          reinterpret_cast<const uint8_t*>(query.bytes[8 * tile + g_]) + 8 * kSteps * t_, b_[tile]);
      query_scale_[tile] = query.scale[kTileQueries * tile + t_];
      query_sum_[tile] = kKBits == 4 ? query.sum[kTileQueries * tile + t_] : 0;
    }
  }

  // A rotated vector in scratch that stands for softmax mass `mass` at `top` (of
  // query x) becomes the state, which was empty.
  __device__ void Adopt(int x, float top, float mass) {
    const float* vector = reinterpret_cast<const float*>(scratch_);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      if (x != kTileQueries * tile + t_) continue;
      top_[tile] = top;
      mass_[tile] = g_ == 0 ? mass : 0;
#pragma unroll
      for (int i = 0; i < 2 * kDimTiles; ++i) acc_[tile][i] = vector[8 * i + g_];
    }
    __syncwarp();
  }

  // Which tokens of the pages every query of the unit sees.
  struct Seen {
    int from, until;
  };
  __device__ static Seen SeenByAll(const UnitQueries<kQueries>& unit, const SeqWork& work) {
    const DecodeArgs& args = unit.args.a;
    const int sinks = static_cast<int>(work.Sinks(args));
    return {unit.Sees(args.query_tokens - 1, work.Length()).begin - sinks,
            unit.Sees(0, work.Length()).end - sinks};
  }

  // Whether Page<true>() has to take a page.
  __device__ __forceinline__ bool NeedsRules(uint32_t page, Seen seen) const {
    const int begin = static_cast<int>(kPageTokens * page);
    return begin < seen.from || begin + static_cast<int>(kPageTokens) > seen.until ||
           args_.cap != 0;
  }

  // head  a head page in shared memory, mean scales behind it
  // walk  at its unit
  // kRules: scores are capped and masked
  template <bool kRules>
  __device__ __forceinline__ void Page(const uint8_t* head, uint32_t page, uint32_t kv_head,
                                       const Walk* walk) {
    const PageLayout& layout = args_.a.layout;
    const __half2 mean_scales =
        reinterpret_cast<const __half2*>(head + layout.head_page_bytes)[kv_head % 4];
    float scores[kTiles][8];  // of tokens m, h at 2 m + h
    Scores(head, __low2float(mean_scales), scores);

    float unit_scale[kTiles];  // of those scores
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) unit_scale[tile] = query_scale_[tile];
    if constexpr (kRules) {
      if (args_.cap != 0) {
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
          for (int x = 0; x < 8; ++x) {
            scores[tile][x] = Cap(scores[tile][x] * unit_scale[tile], args_);
          }
          unit_scale[tile] = 1;
        }
      }
      Mask(static_cast<int>(kPageTokens * page), *walk, scores);
    }

    // ---- Softmax ----
    // Probabilities relative to the page's largest, times the value scales, become
    // integers of 15 bits; 2^shift makes the most of them.
    float v_scales[8], v_most;
    LoadScales(head + layout.v_scales, v_scales, &v_most);
    const int exponent = static_cast<int>(__float_as_uint(ReduceRows(v_most, Max())) >> 23);
    const int shift = min(141 - exponent, 40);
    uint32_t v_mean[kMeanWords];
    if (layout.v_mean != 0) LoadMean(head + layout.v_mean, v_mean);
    float weight[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      float largest = scores[tile][0];
#pragma unroll
      for (int x = 1; x < 8; ++x) largest = fmaxf(largest, scores[tile][x]);
      largest = ReduceRows(largest, Max()) * unit_scale[tile];
      if (__any_sync(kAllLanes, largest > top_[tile])) Raise(tile, largest);
      const bool none = largest == -INFINITY;  // seen of this page
      const float base = none ? 0.0f : largest - static_cast<float>(shift);
      weight[tile] = none ? 0.0f : Exp2(base - top_[tile]);
      float sum = 0;
      uint32_t values[8], total = 0;
#pragma unroll
      for (int x = 0; x < 8; ++x) {
        const float probability = Exp2(fmaf(scores[tile][x], unit_scale[tile], -base));
        sum += probability;
        values[x] = __float_as_uint(fmaf(probability, v_scales[x], 8388608.0f));
        if (kVBits == 4) total += values[x];
      }
      sum *= weight[tile];
      if (layout.v_mean != 0) {
        sum = ReduceRows(sum, Add());
        AddMean(tile, sum * __high2float(mean_scales), v_mean);
        if (g_ != 0) sum = 0;
      }
      mass_[tile] += sum;
      if (kVBits == 4) {
        common_[tile] += weight[tile] * static_cast<float>(total - 8u * 0x4b000000u);
        weight[tile] *= 2;
      }
      StoreProbabilities(tile, values);
    }
    __syncwarp();
    Values(head, weight);
  }

  // Leaves the part of the unit, in the rotated space: out [kQueries, kDim], and
  // for each query its top and mass.
  __device__ __forceinline__ void Store(float* out, float* top, float* mass) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int query = kTileQueries * tile + t_;
      mass_[tile] = ReduceRows(mass_[tile], Add());
      if (kVBits == 4) common_[tile] = ReduceRows(common_[tile], Add());
      if (g_ == 0) top[query] = top_[tile], mass[query] = mass_[tile];
#pragma unroll
      for (int i = 0; i < 2 * kDimTiles; ++i) {
        out[query * kDim + 8 * i + g_] = acc_[tile][i] + (kVBits == 4 ? common_[tile] : 0.0f);
      }
    }
    if (args_.a.layout.v_mean == 0) return;
    __syncwarp();
#pragma unroll
    for (int x = 0; x < kQueries; ++x) {
      LaneValues<kDim> values;
      values.Load(out + x * kDim, lane_);
#pragma unroll
      for (int i = 0; i < kPer; ++i) values.of[i] += mean_acc_[x][i];
      values.Store(out + x * kDim, lane_);
    }
  }

 private:
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

  __device__ __forceinline__ void Scores(const uint8_t* head, float mean_scale,
                                         float (&scores)[kTiles][8]) const {
    const PageLayout& layout = args_.a.layout;
    float mean_score[kTiles] = {};
    if (layout.k_mean != 0) {
      // All rows of A are the mean, so that every thread has its query's.
      uint32_t mean[2 * kSteps];
      LoadBytes<kKBits, kDim>(head + layout.k_mean, t_, mean);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        int32_t c[4] = {};
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
          Product(c, mean[2 * s], mean[2 * s], mean[2 * s + 1], mean[2 * s + 1], b_[tile][2 * s],
                  b_[tile][2 * s + 1]);
        }
        mean_score[tile] =
            static_cast<float>(256 * c[0] + c[1]) * (kKBits == 4 ? 0.5f : 1.0f) * mean_scale;
      }
    }
    float scales[8];
    LoadScales(head + layout.k_scales, scales, nullptr);
    const uint8_t* first = head + layout.k_codes + first_token_ * KRow::kRowBytes;
    const uint8_t* second = head + layout.k_codes + (second_token_ - 2) * KRow::kRowBytes;
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      uint32_t rows[2][2 * kSteps];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        KRow row;
        row.Load((m < 2 ? first : second) + (m + 32 * h) * KRow::kRowBytes, t_);
        row.Decode(args_.k_table, t_, rows[h]);
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        int32_t c[4];
        Product(c, rows[0][0], rows[1][0], rows[0][1], rows[1][1], b_[tile][0], b_[tile][1], 0,
                query_sum_[tile], 0, query_sum_[tile]);
#pragma unroll
        for (int s = 1; s < kSteps; ++s) {
          Product(c, rows[0][2 * s], rows[1][2 * s], rows[0][2 * s + 1], rows[1][2 * s + 1],
                  b_[tile][2 * s], b_[tile][2 * s + 1]);
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          scores[tile][2 * m + h] = fmaf(static_cast<float>(256 * c[2 * h] + c[2 * h + 1]),
                                         scales[2 * m + h], mean_score[tile]);
        }
      }
    }
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
    if (args_.a.layout.v_mean == 0) return;
#pragma unroll
    for (int x = 0; x < kTileQueries; ++x) {
      const float of_query = __shfl_sync(kAllLanes, factor, x);
#pragma unroll
      for (int i = 0; i < kPer; ++i) mean_acc_[kTileQueries * tile + x][i] *= of_query;
    }
  }

  __device__ __forceinline__ void AddMean(int tile, float weight,
                                          const uint32_t (&mean)[kMeanWords]) {
    float of_dim[kPer];
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      of_dim[i] = static_cast<float>(static_cast<int8_t>(mean[i / 4] >> (i % 4 * 8)));
    }
#pragma unroll
    for (int x = 0; x < kTileQueries; ++x) {
      const float of_query = __shfl_sync(kAllLanes, weight, x);
#pragma unroll
      for (int i = 0; i < kPer; ++i) mean_acc_[kTileQueries * tile + x][i] += of_query * of_dim[i];
    }
  }

  // As columns of operand B: what V's rows have in a register (StepBase<kVBits, 64>)
  // are the tokens of one thread here.
  __device__ __forceinline__ void StoreProbabilities(int tile, const uint32_t (&values)[8]) {
    const int slot = kVBits == 4 ? g_ : 2 * (g_ % 4) + g_ / 4;
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

  __device__ __forceinline__ void Values(const uint8_t* head, const float (&weight)[kTiles]) {
    const uint8_t* v_codes = head + args_.a.layout.v_codes + g_ * VRow::kRowBytes;
    uint4 columns[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      columns[tile] = *reinterpret_cast<const uint4*>(scratch_ + (8 * tile + g_) * kProbStride +
                                                      16 * t_);
    }
#pragma unroll
    for (int m = 0; m < kDimTiles; ++m) {
      uint32_t rows[2][4];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        VRow row;
        row.Load(v_codes + (16 * m + 8 * h) * VRow::kRowBytes, t_);
        row.Decode(args_.v_table, t_, rows[h]);
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        int32_t c[4];
        Product<true>(c, rows[0][0], rows[1][0], rows[0][1], rows[1][1], columns[tile].x,
                      columns[tile].y, 0, 0, 0, 0);
        Product<true>(c, rows[0][2], rows[1][2], rows[0][3], rows[1][3], columns[tile].z,
                      columns[tile].w);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          acc_[tile][2 * m + h] +=
              static_cast<float>(256 * c[2 * h] + c[2 * h + 1]) * weight[tile];
        }
      }
    }
  }

  // The bytes of this lane's kPer dims.
  __device__ __forceinline__ void LoadMean(const uint8_t* mean, uint32_t (&to)[kMeanWords]) const {
    if constexpr (kPer < 4) {
      to[0] = reinterpret_cast<const uint16_t*>(mean)[lane_];
    } else {
      LoadWords<kMeanWords>(mean + kPer * lane_, to);
    }
  }

  const KernelArgs& args_;
  const int lane_, g_, t_;
  uint8_t* const scratch_;
  int first_token_, second_token_;  // of m = 0 and of m = 2; m + 1 is the next one
  uint32_t b_[kTiles][2 * kSteps];
  float query_scale_[kTiles];
  int32_t query_sum_[kTiles];
  float acc_[kTiles][2 * kDimTiles];  // dims 8 i + g of query t
  float mean_acc_[kQueries][kPer];    // dims kPer * lane + i
  float top_[kTiles], mass_[kTiles];  // mass of this thread's tokens
  float common_[kTiles];              // to be added to all dims
};

}  // namespace quash::cuda
