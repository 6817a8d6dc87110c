// What a block does for one sequence and KV head. One warp takes a page at a
// time: scores of 64 tokens by int8 tensor-core products of code rows with the
// query, an online softmax, and value sums by products of code columns with the
// probabilities. Queries and probabilities are split in a high and a low byte,
// which fill neighbouring columns of the product, so that a thread holds both
// parts of what it computes.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/attend.h"
#include "kernels/cuda/decode_codes.cuh"
#include "kernels/cuda/decode_state.cuh"
#include "kernels/cuda/page_copier.cuh"
#include "kernels/cuda/warp_math.cuh"
#include "kernels/cuda/warp_rotation.cuh"

namespace quash::cuda {

template <int kKBits, int kVBits, int kDim, int kTiles>
class Decoder {
 public:
  using Shared = SharedState<kKBits, kVBits, kDim, kTiles>;
  static constexpr int kHeads = Shared::kHeads;
  static constexpr int kSteps = kDim / 32;
  static constexpr int kDimTiles = kDim / 16;
  using KRow = RowPart<kKBits, kDim>;
  using VRow = RowPart<kVBits, 64>;

  __device__ Decoder(const KernelArgs& args, Shared& shared, const Segment& segment)
      : args_(args.a),
        shared_(shared),
        warp_(threadIdx.x / 32),
        lane_(threadIdx.x % 32),
        g_(lane_ / 4),
        t_(lane_ % 4),
        seq_(segment.seq),
        kv_head_(segment.row / args.passes),
        group_(args_.num_q_heads / args_.num_kv_heads),
        first_in_group_(segment.row % args.passes * kHeads) {}

  // Query heads past the group are zero and thrown away at the end.
  __device__ bool HeadExists(int head) const { return first_in_group_ + head < group_; }
  __device__ size_t QRow(int head) const {
    return static_cast<size_t>(seq_) * args_.num_q_heads + kv_head_ * group_ + first_in_group_ +
           head;
  }

  // Rotated and as bytes, by all warps.
  __device__ void PrepareQuery() {
    const typename WarpRotation<kDim>::Tables tables(args_.k_rotation, lane_);
    for (int head = warp_; head < kHeads; head += kWarps) {
      float* rotated = reinterpret_cast<float*>(shared_.probabilities[warp_]);
      for (int i = lane_; i < kDim; i += 32) {
        const float q = HeadExists(head) ? BfToFloat(args_.q[QRow(head) * kDim + i]) : 0.0f;
        rotated[i] = q * args_.scale * kLog2E;
      }
      WarpRotation<kDim>::Apply(rotated, tables, lane_);
      float largest = 0;
      for (int i = lane_; i < kDim; i += 32) largest = fmaxf(largest, fabsf(rotated[i]));
      for (int step = 1; step < 32; step *= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, step));
      }
      const float inverse = largest > 0 ? kIntMax / largest : 0.0f;
      int sum = 0;
      for (int i = lane_; i < kDim; i += 32) {
        const int x = __float2int_rn(rotated[i] * inverse);
        const int hi = (x + 64) >> 7;
        shared_.bytes[2 * head][i] = static_cast<int8_t>(hi);
        shared_.bytes[2 * head + 1][i] = static_cast<int8_t>(x - (hi << 7));
        sum += x;
      }
      for (int step = 1; step < 32; step *= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
      if (lane_ == 0) {
        shared_.query_scale[head] = largest / kIntMax;
        shared_.query_sum[head] = sum;
      }
      __syncwarp();
    }
    __syncthreads();
  }

  // phase  bit per stage: parity of the copies waited for so far
  __device__ void Pages(uint32_t begin, uint32_t end, uint32_t& phase) {
    const PageLayout& layout = args_.layout;
    const int32_t* table = args_.block_table + static_cast<size_t>(seq_) * args_.max_pages;
    const size_t head_offset = static_cast<size_t>(kv_head_) * layout.head_page_bytes;
    // Pages of this warp come one after the other through its stages.
    const auto copier = [&](uint32_t stage) {
      return PageCopier(shared_.warps[warp_].stages[stage], &shared_.barriers[warp_][stage],
                        layout.head_page_bytes, lane_);
    };
    // The 16 bytes with this head's mean scales come along. Ids are read ahead.
    const size_t means_offset = layout.mean_scales + kv_head_ / 4 * 16;
    const auto id_of = [&](uint32_t p) { return begin < end ? __ldg(table + min(p, end - 1)) : 0; };
    const auto start = [&](uint32_t stage, uint32_t p, int32_t id) {
      if (p < end) {
        const uint8_t* page = args_.pages + static_cast<size_t>(id) * layout.page_bytes;
        copier(stage).Start(page + head_offset, page + means_offset);
      } else {
        copier(stage).StartNothing();
      }
    };
    PageCopier::Fence();
#pragma unroll
    for (int i = 0; i < kStages; ++i) {
      const uint32_t p = begin + warp_ + i * kWarps;
      start(i, p, id_of(p));
    }
    PrepareQuery();
    uint32_t b[kTiles][2 * kSteps];
    float query_scale[kTiles];
    int query_sum[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int8_t* column = shared_.bytes[8 * tile + g_];
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int at = StepBase<kKBits, kDim>(t_, s) + 2 * r;
          b[tile][2 * s + r] =
              static_cast<uint8_t>(column[at]) | static_cast<uint8_t>(column[at + kDim / 2]) << 8 |
              static_cast<uint8_t>(column[at + 1]) << 16 |
              static_cast<uint32_t>(static_cast<uint8_t>(column[at + kDim / 2 + 1])) << 24;
        }
      }
      query_scale[tile] = shared_.query_scale[kTileHeads * tile + t_];
      query_sum[tile] = shared_.query_sum[kTileHeads * tile + t_];
    }
    const LevelTable k_table = MakeTable<kKBits>(args_.k_levels);
    const LevelTable v_table = MakeTable<kVBits>(args_.v_levels);
    uint8_t* probabilities = shared_.probabilities[warp_];

    float acc[kTiles][2 * kDimTiles] = {};
    float mean_acc[kHeads][kDim / 32] = {};
    float top[kTiles], mass[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) top[tile] = -INFINITY, mass[tile] = 0;

    int32_t next_id = id_of(begin + warp_ + kStages * kWarps);
    uint32_t stage = 0;
    for (uint32_t p = begin + warp_; p < end; p += kWarps) {
      copier(stage).template Wait<kStages - 1>(phase >> stage);
      phase ^= 1u << stage;
      const uint8_t* head = shared_.warps[warp_].stages[stage];
      const __half2 mean_scales =
          reinterpret_cast<const __half2*>(head + layout.head_page_bytes)[kv_head_ % 4];

      // ---- Scores ----
      float mean_score[kTiles] = {};
      if (layout.k_mean != 0) {
        int32_t c[kTiles][4] = {};
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
          uint32_t lo = 0, hi = 0;
          if (g_ == 0) {
            const uint8_t* mean = head + layout.k_mean + StepBase<kKBits, kDim>(t_, s);
            lo = *reinterpret_cast<const uint32_t*>(mean);
            hi = *reinterpret_cast<const uint32_t*>(mean + kDim / 2);
          }
          const uint32_t a0 = Permute(lo, hi, 0x5140), a2 = Permute(lo, hi, 0x7362);
#pragma unroll
          for (int tile = 0; tile < kTiles; ++tile) {
            Product(c[tile], a0, 0, a2, 0, b[tile][2 * s], b[tile][2 * s + 1]);
          }
        }
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          const int dot = __shfl_sync(kAllLanes, 128 * c[tile][0] + c[tile][1], t_);
          mean_score[tile] = static_cast<float>(dot) * __low2float(mean_scales);
        }
      }
      float scores[kTiles][8];
      const uint8_t* k_codes = head + layout.k_codes + g_ * KRow::kRowBytes;
      const auto* k_scales = reinterpret_cast<const __half*>(head + layout.k_scales) + g_;
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        uint32_t rows[2][2 * kSteps];
        const float2 scale = {__half2float(k_scales[16 * m]), __half2float(k_scales[16 * m + 8])};
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          KRow row;
          row.Load(k_codes + (16 * m + 8 * h) * KRow::kRowBytes, t_);
          row.Decode(k_table, t_, rows[h]);
        }
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          int32_t c[4] = {};
#pragma unroll
          for (int s = 0; s < kSteps; ++s) {
            Product(c, rows[0][2 * s], rows[1][2 * s], rows[0][2 * s + 1], rows[1][2 * s + 1],
                    b[tile][2 * s], b[tile][2 * s + 1]);
          }
          int dots[2] = {128 * c[0] + c[1], 128 * c[2] + c[3]};
          if (kKBits == 4) {
            dots[0] = 2 * dots[0] + query_sum[tile];
            dots[1] = 2 * dots[1] + query_sum[tile];
          }
          scores[tile][2 * m] =
              query_scale[tile] * (static_cast<float>(dots[0]) * scale.x + mean_score[tile]);
          scores[tile][2 * m + 1] =
              query_scale[tile] * (static_cast<float>(dots[1]) * scale.y + mean_score[tile]);
        }
      }

      // ---- Softmax ----
      float prob_scale[kTiles];
      int prob_sum[kTiles];
      const auto* v_scale_words = reinterpret_cast<const __half*>(head + layout.v_scales) + g_;
      float v_scales[8];
#pragma unroll
      for (int x = 0; x < 8; ++x) v_scales[x] = __half2float(v_scale_words[8 * x]);
      const uint32_t v_mean = layout.v_mean != 0 ? LoadMean(head + layout.v_mean) : 0;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        float largest = scores[tile][0];
#pragma unroll
        for (int x = 1; x < 8; ++x) largest = fmaxf(largest, scores[tile][x]);
        largest = ReduceRows(largest, Max());
        if (__any_sync(kAllLanes, largest > top[tile])) {
          const float new_top = fmaxf(top[tile], largest);
          const float factor = Exp2(top[tile] - new_top);
          top[tile] = new_top;
          mass[tile] *= factor;
#pragma unroll
          for (int i = 0; i < 2 * kDimTiles; ++i) acc[tile][i] *= factor;
          if (layout.v_mean != 0) {
#pragma unroll
            for (int h = 0; h < kTileHeads; ++h) {
              const float of_head = __shfl_sync(kAllLanes, factor, h);
#pragma unroll
              for (int i = 0; i < kDim / 32; ++i) mean_acc[kTileHeads * tile + h][i] *= of_head;
            }
          }
        }
        float sum = 0, weighted[8], peak = 0;
#pragma unroll
        for (int x = 0; x < 8; ++x) {
          const float probability = Exp2(scores[tile][x] - top[tile]);
          sum += probability;
          weighted[x] = probability * v_scales[x];
          peak = fmaxf(peak, weighted[x]);
        }
        mass[tile] += sum;
        if (layout.v_mean != 0) {
          const float page_mass = ReduceRows(sum, Add()) * __high2float(mean_scales);
#pragma unroll
          for (int h = 0; h < kTileHeads; ++h) {
            const float of_head = __shfl_sync(kAllLanes, page_mass, h);
#pragma unroll
            for (int i = 0; i < kDim / 32; ++i) {
              mean_acc[kTileHeads * tile + h][i] += of_head * ByteToFloat(v_mean, i);
            }
          }
        }
        peak = ReduceRows(peak, Max());
        const float inverse = peak > 0 ? __fdividef(kIntMax, peak) : 0.0f;
        prob_scale[tile] = peak * (1 / kIntMax);
        int total = 0;
        uint8_t* column = probabilities + (8 * tile + 2 * t_) * kProbStride;
#pragma unroll
        for (int x = 0; x < 8; ++x) {
          const int value = RoundToInt(weighted[x] * inverse);
          const int high = (value + 64) >> 7;
          const int at = ProbabilityOffset(8 * x + g_);
          column[at] = static_cast<uint8_t>(high);
          column[kProbStride + at] = static_cast<uint8_t>(value - (high << 7));
          total += value;
        }
        prob_sum[tile] = kVBits == 4 ? ReduceRows(total, Add()) : 0;
      }
      __syncwarp();

      // ---- Values ----
      const uint8_t* v_codes = head + layout.v_codes + g_ * VRow::kRowBytes;
      uint4 columns[kTiles];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        columns[tile] = *reinterpret_cast<const uint4*>(probabilities +
                                                        (8 * tile + g_) * kProbStride + 16 * t_);
      }
#pragma unroll
      for (int m = 0; m < kDimTiles; ++m) {
        uint32_t rows[2][4];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          VRow row;
          row.Load(v_codes + (16 * m + 8 * h) * VRow::kRowBytes, t_);
          row.Decode(v_table, t_, rows[h]);
        }
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          int32_t c[4] = {};
          Product(c, rows[0][0], rows[1][0], rows[0][1], rows[1][1], columns[tile].x,
                  columns[tile].y);
          Product(c, rows[0][2], rows[1][2], rows[0][3], rows[1][3], columns[tile].z,
                  columns[tile].w);
          int sums[2] = {128 * c[0] + c[1], 128 * c[2] + c[3]};
          if (kVBits == 4) {
            sums[0] = 2 * sums[0] + prob_sum[tile];
            sums[1] = 2 * sums[1] + prob_sum[tile];
          }
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            acc[tile][2 * m + h] += static_cast<float>(sums[h]) * prob_scale[tile];
          }
        }
      }
      __syncwarp();
      start(stage, p + kStages * kWarps, next_id);
      next_id = id_of(p + (kStages + 1) * kWarps);
      stage = (stage + 1) % kStages;
    }

#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int head = kTileHeads * tile + t_;
      mass[tile] = ReduceRows(mass[tile], Add());
      if (g_ == 0) {
        shared_.part_max[warp_][head] = top[tile];
        shared_.part_sum[warp_][head] = mass[tile];
      }
#pragma unroll
      for (int i = 0; i < 2 * kDimTiles; ++i) {
        shared_.warps[warp_].out[head][8 * i + g_] = acc[tile][i];
      }
    }
    if (layout.v_mean == 0) return;
    __syncwarp();
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
#pragma unroll
      for (int i = 0; i < kDim / 32; ++i) {
        shared_.warps[warp_].out[head][kDim / 32 * lane_ + i] += mean_acc[head][i];
      }
    }
  }

  // Uncompressed tokens in float32: eight lanes share a token, so a warp takes
  // four at a time.
  __device__ void OpenTokens() {
    for (int head = 0; head < kHeads; head += kOpenHeads) OpenTokens(head);
  }

  __device__ void OpenTokens(int first_head) {
    constexpr int kLanes = 8;
    constexpr int kPer = kDim / kLanes;
    const int part = lane_ % kLanes;
    const int tokens = args_.open_tokens[seq_];
    float query[kOpenHeads][kPer], acc[kOpenHeads][kPer] = {};
    float top[kOpenHeads], mass[kOpenHeads] = {};
#pragma unroll
    for (int h = 0; h < kOpenHeads; ++h) {
      top[h] = -INFINITY;
      const int head = first_head + h;
      if (HeadExists(head)) LoadBf(args_.q + QRow(head) * kDim + part * kPer, query[h]);
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        query[h][i] = HeadExists(head) ? query[h][i] * args_.scale * kLog2E : 0.0f;
      }
    }
    const size_t token_stride = static_cast<size_t>(args_.num_kv_heads) * kDim;
    const size_t base = static_cast<size_t>(seq_) * args_.open_capacity * token_stride +
                        kv_head_ * kDim + part * kPer;
    for (int first = 4 * warp_; first < tokens; first += 4 * kWarps) {
      const int token = first + lane_ / kLanes;
      const bool exists = token < tokens;
      const size_t at = base + (exists ? token : 0) * token_stride;
      float key[kPer], value[kPer];
      LoadBf(args_.open_k + at, key);
      LoadBf(args_.open_v + at, value);
#pragma unroll
      for (int h = 0; h < kOpenHeads; ++h) {
        float score = 0;
#pragma unroll
        for (int i = 0; i < kPer; ++i) score += key[i] * query[h][i];
#pragma unroll
        for (int step = 1; step < kLanes; step *= 2) {
          score += __shfl_xor_sync(kAllLanes, score, step);
        }
        if (!exists) score = -INFINITY;
        const float new_top = fmaxf(top[h], score);
        const float factor = new_top == -INFINITY ? 0.0f : Exp2(top[h] - new_top);
        const float probability = new_top == -INFINITY ? 0.0f : Exp2(score - new_top);
        top[h] = new_top;
        mass[h] = mass[h] * factor + probability;
#pragma unroll
        for (int i = 0; i < kPer; ++i) acc[h][i] = acc[h][i] * factor + probability * value[i];
      }
    }
    // The four token groups of the warp.
#pragma unroll
    for (int h = 0; h < kOpenHeads; ++h) {
      float all_top = top[h];
      for (int step = kLanes; step < 32; step *= 2) {
        all_top = fmaxf(all_top, __shfl_xor_sync(kAllLanes, all_top, step));
      }
      const float factor = top[h] == -INFINITY ? 0.0f : Exp2(top[h] - all_top);
      float sum = mass[h] * factor;
      for (int step = kLanes; step < 32; step *= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        float value = acc[h][i] * factor;
        for (int step = kLanes; step < 32; step *= 2) {
          value += __shfl_xor_sync(kAllLanes, value, step);
        }
        if (lane_ < kLanes) shared_.warps[warp_].out[first_head + h][part * kPer + i] = value;
      }
      if (lane_ == 0) {
        shared_.part_max[warp_][first_head + h] = all_top;
        shared_.part_sum[warp_][first_head + h] = sum;
      }
    }
  }

  // Merges the warps and leaves the split's result in `partial`.
  __device__ void StorePartial(float* partial) {
    __syncthreads();
    for (int head = warp_; head < kHeads; head += kWarps) {
      float top = -INFINITY;
      for (int w = 0; w < kWarps; ++w) top = fmaxf(top, shared_.part_max[w][head]);
      float weights[kWarps], sum = 0;
      for (int w = 0; w < kWarps; ++w) {
        const float part = shared_.part_max[w][head];
        weights[w] = part == -INFINITY ? 0.0f : Exp2(part - top);
        sum += weights[w] * shared_.part_sum[w][head];
      }
      float* to = partial + head * PartialFloats<kDim>();
      if (lane_ == 0) to[0] = top, to[1] = sum;
      for (int i = lane_; i < kDim; i += 32) {
        float value = 0;
        for (int w = 0; w < kWarps; ++w) value += weights[w] * shared_.warps[w].out[head][i];
        to[2 + i] = value;
      }
    }
  }

  // All partials of a unit, in order, and that of its open tokens, whose values
  // are not rotated.
  __device__ void Merge(const float* partials, uint32_t count, const float* open_partial) {
    const size_t stride = kHeads * PartialFloats<kDim>();
    const typename WarpRotation<kDim>::Tables tables(args_.v_rotation, lane_);
    for (int head = warp_; head < kHeads; head += kWarps) {
      if (!HeadExists(head)) continue;
      const float* of_head = partials + head * PartialFloats<kDim>();
      const float* of_open = open_partial + head * PartialFloats<kDim>();
      constexpr int kPer = kDim / 32;
      float open[kPer], packed[kPer] = {};
#pragma unroll
      for (int i = 0; i < kPer; ++i) open[i] = __ldcg(of_open + 2 + 32 * i + lane_);
      const float open_top = __ldcg(of_open), open_sum = __ldcg(of_open + 1);
      float top = open_top;
      for (uint32_t s = lane_; s < count; s += 32) top = fmaxf(top, __ldcg(of_head + s * stride));
      for (int step = 1; step < 32; step *= 2) {
        top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, step));
      }
      const auto weight_of = [&](float part_top) {
        return part_top == -INFINITY ? 0.0f : Exp2(part_top - top);
      };
      float sum = 0;
#pragma unroll 4
      for (uint32_t s = 0; s < count; ++s) {
        const float* part = of_head + s * stride;
        const float weight = weight_of(__ldcg(part));
        sum += weight * __ldcg(part + 1);
#pragma unroll
        for (int i = 0; i < kPer; ++i) packed[i] += weight * __ldcg(part + 2 + 32 * i + lane_);
      }
      const float open_weight = weight_of(open_top);
      sum += open_weight * open_sum;
#pragma unroll
      for (int i = 0; i < kPer; ++i) open[i] *= open_weight;
      float* values = reinterpret_cast<float*>(shared_.probabilities[warp_]);
#pragma unroll
      for (int i = 0; i < kPer; ++i) values[32 * i + lane_] = packed[i];
      WarpRotation<kDim>::ApplyInverse(values, tables, lane_);
      const float inverse = sum > 0 ? 1 / sum : 0.0f;
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        args_.out[QRow(head) * kDim + 32 * i + lane_] =
            FloatToBf((values[32 * i + lane_] + open[i]) * inverse);
      }
      if (args_.lse != nullptr && lane_ == 0) {
        args_.lse[QRow(head)] = (top + log2f(sum)) / kLog2E;
      }
      __syncwarp();
    }
  }

 private:
  template <int kCount>
  static __device__ __forceinline__ void LoadBf(const uint16_t* from, float (&to)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; i += 8) {
      const uint4 v = __ldg(reinterpret_cast<const uint4*>(from + i));
      const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        to[i + 2 * j] = __uint_as_float(words[j] << 16);
        to[i + 2 * j + 1] = __uint_as_float(words[j] & 0xffff0000u);
      }
    }
  }

  // The bytes of this lane's kDim / 32 dims.
  __device__ __forceinline__ uint32_t LoadMean(const uint8_t* mean) const {
    if constexpr (kDim == 128) return reinterpret_cast<const uint32_t*>(mean)[lane_];
    return reinterpret_cast<const uint16_t*>(mean)[lane_];
  }
  static __device__ __forceinline__ float ByteToFloat(uint32_t word, int i) {
    return static_cast<float>(static_cast<int8_t>(word >> (8 * i)));
  }

  template <int kBits>
  static __device__ __forceinline__ LevelTable MakeTable(const int8_t* ascending) {
    constexpr int kHalf = 1 << (kBits - 1);
    uint32_t words[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      int entry = 0;
      if (kBits == 4) {
        entry = (ascending[kHalf + i] - 1) / 2;
      } else if (i < 2 * kHalf) {
        entry = i < kHalf ? ascending[kHalf + i] : ascending[2 * kHalf - 1 - i];
      }
      words[i / 4] |= static_cast<uint32_t>(entry & 0xff) << (i % 4 * 8);
    }
    return {words[0], words[1]};
  }

  // Where the byte of a token goes in a column, for the 16 bytes of thread t to
  // be its two steps of two registers (StepBase<kVBits, 64>).
  static __device__ __forceinline__ int ProbabilityOffset(int token) {
    const int half = token / 32, j = token % 32;
    const int t = kVBits == 4 ? j / 8 : j % 16 / 4;
    const int s = kVBits == 4 ? j % 8 / 4 : j / 16;
    return 16 * t + 8 * s + j % 4 / 2 * 4 + j % 2 * 2 + half;
  }

  const DecodeArgs& args_;
  Shared& shared_;
  const int warp_, lane_, g_, t_;
  const uint32_t seq_, kv_head_, group_, first_in_group_;
};

}  // namespace quash::cuda
