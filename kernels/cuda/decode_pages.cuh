// Pages of one band a side: scores of 64 tokens by int8 tensor-core products of code
// rows with the queries, and value sums by products of code columns with the
// probabilities. Queries and probabilities are split in a high and a low byte, which
// fill neighbouring columns of the product, so that a thread holds both parts of what
// it computes.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/attend.h"
#include "kernels/cuda/decode_codes.cuh"
#include "kernels/cuda/decode_state.cuh"
#include "kernels/cuda/decode_sums.cuh"
#include "kernels/cuda/warp_math.cuh"

namespace quash::cuda {

template <int kKBits, int kVBits, int kDim, int kTiles>
class PageState : public PageSums<kDim, kTiles> {
 public:
  using S = Shape<kKBits, kVBits, kDim, kTiles>;
  using Sums = PageSums<kDim, kTiles>;
  static constexpr int kSteps = kDim / 32;
  using KRow = RowPart<kKBits, kDim>;
  using VRow = RowPart<kVBits, 64>;

  __device__ PageState(const KernelArgs& args, int lane, uint8_t* scratch)
      : Sums(args, lane, scratch, Flip(lane / 4)) {}

  __device__ void LoadQuery(const typename S::Query& query) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      LoadWords<2 * kSteps>(
          reinterpret_cast<const uint8_t*>(query.bytes[8 * tile + g_]) + 8 * kSteps * t_, b_[tile]);
      query_scale_[tile] = query.scale[kTileQueries * tile + t_];
      query_sum_[tile] = kKBits == 4 ? query.sum[kTileQueries * tile + t_] : 0;
    }
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
    Scores(head, layout.k_mean != 0 ? __low2float(mean_scales) : 0, scores);
    const float v_mean_scale = layout.v_mean != 0 ? __high2float(mean_scales) : 0;

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
    float weight[kTiles], mean_weight[kTiles];
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
      sum = ReduceRows(sum * weight[tile], Add());
      mean_weight[tile] = sum * v_mean_scale;
      if (g_ == 0) mass_[tile] += sum;
      if (kVBits == 4) {
        common_[tile] += weight[tile] * static_cast<float>(total - 8u * 0x4b000000u);
        weight[tile] *= 2;
      }
      StoreProbabilities(tile, kVBits, values);
    }
    __syncwarp();
    Values(head, weight, mean_weight);
  }

  // Leaves the part of the unit.
  __device__ __forceinline__ void Store(float* out, float* top, float* mass) {
    this->template StoreSums<S::kPartStride>(out, top, mass, kVBits == 4 ? 2 * Sums::kDimTiles : 0);
  }

 private:
  using Sums::AddValue;
  using Sums::args_;
  using Sums::common_;
  using Sums::first_token_;
  using Sums::g_;
  using Sums::kDimTiles;
  using Sums::LoadScales;
  using Sums::Mask;
  using Sums::mass_;
  using Sums::Raise;
  using Sums::scratch_;
  using Sums::second_token_;
  using Sums::StoreProbabilities;
  using Sums::t_;
  using Sums::top_;

  // Rows that are read together lie in different banks.
  static __device__ int Flip(int g) {
    return kKBits == 4 ? 0 : kKBits == 3 ? ((g ^ g >> 1) & 1) * 2 : (g & 1) * 2;
  }

  __device__ __forceinline__ void Scores(const uint8_t* head, float mean_scale,
                                         float (&scores)[kTiles][8]) const {
    const PageLayout& layout = args_.a.layout;
    // Without a mean, of other bytes times 0: a branch would keep the rest waiting. All rows of
    // A are the mean, so that every thread has its query's.
    float mean_score[kTiles];
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

  // weight, mean_weight  of the products, and of the mean
  __device__ __forceinline__ void Values(const uint8_t* head, const float (&weight)[kTiles],
                                         const float (&mean_weight)[kTiles]) {
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
          AddValue(tile, 2 * m + h, 256 * c[2 * h] + c[2 * h + 1], weight[tile], head,
                   mean_weight[tile]);
        }
      }
    }
  }

  uint32_t b_[kTiles][2 * kSteps];
  float query_scale_[kTiles];
  int32_t query_sum_[kTiles];
};

}  // namespace quash::cuda
