// Pages whose sides have one band or two (kvcache/LAYOUT.md), by one kernel for all
// such formats: bits are looked up for each page and band, which costs a branch and
// no instance. Products are those of decode_pages.cuh.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/attend.h"
#include "kernels/cuda/decode_codes.cuh"
#include "kernels/cuda/decode_launch.cuh"
#include "kernels/cuda/decode_state.cuh"
#include "kernels/cuda/decode_sums.cuh"
#include "kernels/cuda/decode_unit.cuh"
#include "kernels/cuda/warp_math.cuh"

namespace quash::cuda {

// Calls body(std::integral_constant<int, bits>) for bits from kLeast to kMost.
template <int kLeast, int kMost, typename Body>
__device__ __forceinline__ void WithBits(uint32_t bits, const Body& body) {
  if constexpr (kLeast == kMost) {
    body(std::integral_constant<int, kLeast>());
  } else if (bits == kMost) {
    body(std::integral_constant<int, kMost>());
  } else {
    WithBits<kLeast, kMost - 1>(bits, body);
  }
}

// Query x of a unit, rotated; for a sketch, and rotated again.
template <int kKBits, int kDim, int kQueries, typename Tables>
__device__ __forceinline__ void PrepareQuery(
    const DecodeArgs& args, const QueryRow<kDim>& row, const Tables& tables, int lane, int x,
    float* scratch, BandedQuery<kQueries, kDim, kKBits == kSketched>* to) {
  float rotated[kDim / 32];
  RotateQuery(args, row, tables, lane, scratch, &rotated);
  int8_t *high = to->bytes[2 * x], *low = to->bytes[2 * x + 1];
  if constexpr (kKBits == kSketched) {
    WithBits<1, 3>(args.k_bits, [&](auto bits) {
      QuantizeQuery<bits.value, kDim, 0>(rotated, lane, high, low, to->scale[0] + x, nullptr);
    });
    const Tables sketch(args.sketch, lane);
    Tables::Rotation::Apply(scratch, sketch, lane);
#pragma unroll
    for (int i = 0; i < kDim / 32; ++i) rotated[i] = scratch[32 * i + lane];
    QuantizeQuery<1, kDim, 0>(rotated, lane, high + kDim, low + kDim, to->scale[1] + x, nullptr);
  } else if (args.k_second.bits == 0) {
    WithBits<2, 4>(args.k_bits, [&](auto bits) {
      QuantizeQuery<bits.value, kDim, 0>(rotated, lane, high, low, to->scale[0] + x, to->sum + x);
    });
  } else {
    constexpr int kHalf = kDim / 2;
    WithBits<3, 4>(args.k_bits, [&](auto bits) {
      QuantizeQuery<bits.value, kHalf, 0>(rotated, lane, high, low, to->scale[0] + x, to->sum + x);
    });
    WithBits<2, 3>(args.k_second.bits, [&](auto bits) {
      QuantizeQuery<bits.value, kHalf, kHalf / 32>(rotated, lane, high + kHalf, low + kHalf,
                                                   to->scale[1] + x, nullptr);
    });
  }
  __syncwarp();
}

// kKBits  kBanded or kSketched
template <int kKBits, int kDim, int kTiles>
class PageState<kKBits, kBanded, kDim, kTiles> : public PageSums<kDim, kTiles> {
 public:
  using S = Shape<kKBits, kBanded, kDim, kTiles>;
  using Sums = PageSums<kDim, kTiles>;

  __device__ PageState(const KernelArgs& args, int lane, uint8_t* scratch)
      : Sums(args, lane, scratch, 0) {}

  __device__ void LoadQuery(const typename S::Query& query) { query_ = &query; }

  // As that of one band a side.
  template <bool kRules>
  __device__ __forceinline__ void Page(const uint8_t* head, uint32_t page, uint32_t kv_head,
                                       const Walk* walk) {
    const PageLayout& layout = args_.a.layout;
    const __half2 mean_scales =
        reinterpret_cast<const __half2*>(head + layout.head_page_bytes)[kv_head % 4];
    float scores[kTiles][8] = {};  // of tokens m, h at 2 m + h
    AddKeys(head, __low2float(mean_scales), scores);
    if constexpr (kRules) {
      if (args_.cap != 0) {
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
          for (int x = 0; x < 8; ++x) scores[tile][x] = Cap(scores[tile][x], args_);
        }
      }
      this->Mask(static_cast<int>(kPageTokens * page), *walk, scores);
    }
    float largest[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      largest[tile] = scores[tile][0];
#pragma unroll
      for (int x = 1; x < 8; ++x) largest[tile] = fmaxf(largest[tile], scores[tile][x]);
      largest[tile] = ReduceRows(largest[tile], Max());
      if (__any_sync(kAllLanes, largest[tile] > top_[tile])) this->Raise(tile, largest[tile]);
    }
    float mean_weight[kTiles];
    AddMasses(layout.v_mean != 0 ? __high2float(mean_scales) : 0, scores, largest, mean_weight);
    const SecondBand& second = args_.a.v_second;
    if (second.bits == 0) {
      AddBand<0, kDimTiles, 2, 4>(head, layout.v_codes, layout.v_scales, args_.a.v_bits,
                                  args_.v_table, scores, largest, mean_weight);
    } else {
      AddBand<0, kDimTiles / 2, 3, 4>(head, layout.v_codes, layout.v_scales, args_.a.v_bits,
                                      args_.v_table, scores, largest, mean_weight);
      __syncwarp();  // probabilities take the place of those of the first band
      AddBand<kDimTiles / 2, kDimTiles / 2, 2, 3>(head, second.codes, second.scales, second.bits,
                                                  args_.v_second_table, scores, largest,
                                                  mean_weight);
    }
  }

  // Leaves the part of the unit.
  __device__ __forceinline__ void Store(float* out, float* top, float* mass) {
    this->template StoreSums<S::kPartStride>(out, top, mass,
                    args_.a.v_bits != 4           ? 0
                    : args_.a.v_second.bits == 0 ? 2 * kDimTiles
                                                 : kDimTiles);
  }

 private:
  using Sums::args_;
  using Sums::common_;
  using Sums::first_token_;
  using Sums::g_;
  using Sums::kDimTiles;
  using Sums::mass_;
  using Sums::scratch_;
  using Sums::t_;
  using Sums::top_;

  // ---- Keys ----

  // Scores in log2 units.
  __device__ __forceinline__ void AddKeys(const uint8_t* head, float mean_scale,
                                          float (&scores)[kTiles][8]) const {
    const PageLayout& layout = args_.a.layout;
    const SecondBand& second = args_.a.k_second;
    const uint8_t* mean = layout.k_mean != 0 ? head + layout.k_mean : nullptr;
    const uint8_t *codes = head + layout.k_codes, *scales = head + layout.k_scales;
    if constexpr (kKBits == kSketched) {
      WithBits<1, 3>(args_.a.k_bits, [&](auto bits) {
        AddKeyBand<0, bits.value, kDim>(codes, scales, args_.k_table, mean, mean_scale, scores);
      });
      AddKeyBand<1, 1, kDim>(head + second.codes, head + second.scales, args_.k_second_table,
                             nullptr, 0, scores);
    } else if (second.bits == 0) {
      WithBits<2, 4>(args_.a.k_bits, [&](auto bits) {
        AddKeyBand<0, bits.value, kDim>(codes, scales, args_.k_table, mean, mean_scale, scores);
      });
    } else {
      constexpr int kHalf = kDim / 2;
      WithBits<3, 4>(args_.a.k_bits, [&](auto bits) {
        AddKeyBand<0, bits.value, kHalf>(codes, scales, args_.k_table, mean, mean_scale, scores);
      });
      WithBits<2, 3>(second.bits, [&](auto bits) {
        AddKeyBand<1, bits.value, kHalf>(head + second.codes, head + second.scales,
                                         args_.k_second_table,
                                         mean != nullptr ? mean + kHalf : nullptr, mean_scale,
                                         scores);
      });
    }
  }

  template <int kBand, int kBits, int kN>
  __device__ __forceinline__ void AddKeyBand(const uint8_t* codes, const uint8_t* scales_of_band,
                                             LevelTable table, const uint8_t* mean,
                                             float mean_scale,
                                             float (&scores)[kTiles][8]) const {
    using Row = RowPart<kBits, kN>;
    constexpr int kSteps = kN / 32;
    uint32_t query[kTiles][2 * kSteps];
    float query_scale[kTiles], mean_score[kTiles] = {};
    int32_t query_sum[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      LoadWords<2 * kSteps>(reinterpret_cast<const uint8_t*>(query_->bytes[8 * tile + g_]) +
                                kBand * kN + 8 * kSteps * t_,
                            query[tile]);
      query_scale[tile] = query_->scale[kBand][kTileQueries * tile + t_];
      query_sum[tile] = kBits == 4 ? query_->sum[kTileQueries * tile + t_] : 0;
    }
    if (mean != nullptr) {
      uint32_t row[2 * kSteps];
      LoadBytes<kBits, kN>(mean, t_, row);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        int32_t c[4] = {};
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
          Product(c, row[2 * s], row[2 * s], row[2 * s + 1], row[2 * s + 1], query[tile][2 * s],
                  query[tile][2 * s + 1]);
        }
        mean_score[tile] =
            static_cast<float>(256 * c[0] + c[1]) * (kBits == 4 ? 0.5f : 1.0f) * mean_scale;
      }
    }
    float scales[8];
    this->LoadScales(scales_of_band, scales, nullptr);
    const uint8_t* from = codes + first_token_ * Row::kRowBytes;
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      uint32_t rows[2][2 * kSteps];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        Row row;
        row.Load(from + (m + 32 * h) * Row::kRowBytes, t_);
        row.Decode(table, t_, rows[h]);
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        int32_t c[4];
        Product(c, rows[0][0], rows[1][0], rows[0][1], rows[1][1], query[tile][0], query[tile][1],
                0, query_sum[tile], 0, query_sum[tile]);
#pragma unroll
        for (int s = 1; s < kSteps; ++s) {
          Product(c, rows[0][2 * s], rows[1][2 * s], rows[0][2 * s + 1], rows[1][2 * s + 1],
                  query[tile][2 * s], query[tile][2 * s + 1]);
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float score = fmaf(static_cast<float>(256 * c[2 * h] + c[2 * h + 1]),
                                   scales[2 * m + h], mean_score[tile]);
          scores[tile][2 * m + h] = fmaf(score, query_scale[tile], scores[tile][2 * m + h]);
        }
      }
    }
  }

  // ---- Values ----

  // The page's softmax mass, by which the mean of its values is to be weighed.
  __device__ __forceinline__ void AddMasses(float mean_scale, const float (&scores)[kTiles][8],
                                            const float (&largest)[kTiles],
                                            float (&mean_weight)[kTiles]) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const float top = largest[tile] == -INFINITY ? 0.0f : top_[tile];  // sees nothing here
      float sum = 0;
#pragma unroll
      for (int x = 0; x < 8; ++x) sum += Exp2(scores[tile][x] - top);
      sum = ReduceRows(sum, Add());
      mean_weight[tile] = sum * mean_scale;
      if (g_ == 0) mass_[tile] += sum;
    }
  }

  // Tiles kFrom.. of 16 dims, of kLeast to kMost bits.
  template <int kFrom, int kCount, int kLeast, int kMost>
  __device__ __forceinline__ void AddBand(const uint8_t* head, uint32_t codes,
                                          uint32_t scales_of_band, uint32_t bits, LevelTable table,
                                          const float (&scores)[kTiles][8],
                                          const float (&largest)[kTiles],
                                          const float (&mean_weight)[kTiles]) {
    // Probabilities as integers of 15 bits, as for one band a side.
    float scales[8], most;
    this->LoadScales(head + scales_of_band, scales, &most);
    const int exponent = static_cast<int>(__float_as_uint(ReduceRows(most, Max())) >> 23);
    const int shift = min(141 - exponent, 40);
    float weight[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const bool none = largest[tile] == -INFINITY;
      const float base = none ? 0.0f : largest[tile] - static_cast<float>(shift);
      weight[tile] = none ? 0.0f : Exp2(base - top_[tile]);
      uint32_t values[8], total = 0;
#pragma unroll
      for (int x = 0; x < 8; ++x) {
        values[x] =
            __float_as_uint(fmaf(Exp2(scores[tile][x] - base), scales[x], 8388608.0f));
        total += values[x];
      }
      if (kMost == 4 && bits == 4) {
        common_[tile] += weight[tile] * static_cast<float>(total - 8u * 0x4b000000u);
        weight[tile] *= 2;
      }
      this->StoreProbabilities(tile, static_cast<int>(bits), values);
    }
    __syncwarp();
    uint4 columns[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      columns[tile] = *reinterpret_cast<const uint4*>(scratch_ + (8 * tile + g_) * kProbStride +
                                                      16 * t_);
    }
    WithBits<kLeast, kMost>(bits, [&](auto of_band) {
      AddProducts<of_band.value, kFrom, kCount>(head, codes, table, columns, weight, mean_weight);
    });
  }

  template <int kBits, int kFrom, int kCount>
  __device__ __forceinline__ void AddProducts(const uint8_t* head, uint32_t codes, LevelTable table,
                                              const uint4 (&columns)[kTiles],
                                              const float (&weight)[kTiles],
                                              const float (&mean_weight)[kTiles]) {
    using Row = RowPart<kBits, kPageTokens>;
    const uint8_t* from = head + codes + g_ * Row::kRowBytes;
#pragma unroll
    for (int m = 0; m < kCount; ++m) {
      uint32_t rows[2][4];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        Row row;
        row.Load(from + (16 * m + 8 * h) * Row::kRowBytes, t_);
        row.Decode(table, t_, rows[h]);
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
          this->AddValue(tile, 2 * (kFrom + m) + h, 256 * c[2 * h] + c[2 * h + 1], weight[tile],
                         head, mean_weight[tile]);
        }
      }
    }
  }

  const typename S::Query* query_ = nullptr;
};

template <int kDim>
const char* LaunchBands(const DecodeArgs& args, CUstream_st* stream) {
  const bool is_small = args.num_q_heads / args.num_kv_heads * args.query_tokens <= kTileQueries;
  if (args.is_sketched) {
    return is_small ? Launch<kSketched, kBanded, kDim, 1>(args, stream)
                    : Launch<kSketched, kBanded, kDim, 2>(args, stream);
  }
  return is_small ? Launch<kBanded, kBanded, kDim, 1>(args, stream)
                  : Launch<kBanded, kBanded, kDim, 2>(args, stream);
}

}  // namespace quash::cuda
