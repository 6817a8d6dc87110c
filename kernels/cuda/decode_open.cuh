// Open tokens of a unit: bf16 or f16 products, a chunk of 16 tokens at a time,
// by one warp.
#pragma once

#include <cstdint>

#include "kernels/cuda/attend.h"
#include "kernels/cuda/decode_pages.cuh"
#include "kernels/cuda/decode_unit.cuh"
#include "kernels/cuda/warp_math.cuh"

namespace quash::cuda {

// With g = lane / 4 and t = lane % 4 a thread has query g, of scores the tokens
// 2 t and 2 t + 1 of each eight, of sums the dims 8 (2 t) .. 8 (2 t) + 15 of each 64.
template <int kDim, int kQueries, bool kHalf>
class OpenTokens {
 public:
  __device__ OpenTokens(const KernelArgs& args, const UnitQueries<kQueries>& unit, int lane)
      : args_(args), unit_(unit), g_(lane / 4), t_(lane % 4) {}

  // Chunks [begin, end).
  __device__ void Run(const SeqWork& work, uint32_t begin, uint32_t end) {
    const size_t stride = static_cast<size_t>(args_.a.num_kv_heads) * kDim;
    const size_t base = static_cast<size_t>(unit_.seq) * args_.a.open_capacity * stride +
                        static_cast<size_t>(unit_.kv_head) * kDim;
    const bool exists = g_ < kQueries && unit_.Exists(g_);
    const uint16_t* query_row = args_.a.q + (exists ? unit_.Row(g_) * kDim : 0) + 8 * t_;
    const auto range = unit_.Sees(exists ? unit_.Token(g_) : 0, work.Length());
    const float scale = args_.a.scale * kLog2E;
    const uint32_t sinks = work.Sinks(args_.a);
#pragma unroll 1
    for (uint32_t chunk = begin; chunk < end; ++chunk) {
      const uint32_t first = kOpenChunk * chunk;
      const auto row = [&](uint32_t token) {
        return base + min(first + token, work.open - 1) * stride;
      };
      uint4 query[kChunks];
#pragma unroll
      for (int j = 0; j < kChunks; ++j) query[j] = exists ? Load(query_row + 32 * j) : uint4{};
      uint4 keys[2][kChunks];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const uint16_t* from = args_.a.open_k + row(8 * n + g_);
#pragma unroll
        for (int j = 0; j < kChunks; ++j) keys[n][j] = Load(from + 8 * (t_ + 4 * j));
      }
      float scores[4];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        float c[2] = {};
#pragma unroll
        for (int j = 0; j < kChunks; ++j) {
          ProductOf16<kHalf>(c, query[j].x, query[j].y, keys[n][j].x, keys[n][j].y);
          ProductOf16<kHalf>(c, query[j].z, query[j].w, keys[n][j].z, keys[n][j].w);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint32_t token = first + 8 * n + 2 * t_ + i;
          float score = c[i] * scale;
          if (args_.cap != 0) score = Cap(score, args_);
          const int at = static_cast<int>(
              token < sinks ? token : token + kPageTokens * work.pages);
          const bool seen = token < work.open && at >= range.begin && at < range.end;
          scores[2 * n + i] = seen ? score : -INFINITY;
        }
      }
      uint4 values[4][kGroups];  // tokens 2 t, 2 t + 1, and those eight on
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint16_t* from = args_.a.open_v + row(2 * t_ + i % 2 + 8 * (i / 2));
#pragma unroll
        for (int j = 0; j < kGroups; ++j) values[i][j] = Load(from + 8 * (g_ + 8 * j));
      }
      AddChunk(scores, values);
    }
    mass_ += __shfl_xor_sync(kAllLanes, mass_, 1);
    mass_ += __shfl_xor_sync(kAllLanes, mass_, 2);
  }

  // Leaves the sums [kQueries, kStride], and for each query its top and mass.
  template <int kStride>
  __device__ void Store(float* out, float* top, float* mass) const {
    if (g_ >= kQueries) return;
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        auto* to = reinterpret_cast<float4*>(out + g_ * kStride + 64 * j + 16 * t_ + 8 * half);
        to[0] = {sums_[j][0][half], sums_[j][1][half], sums_[j][2][half], sums_[j][3][half]};
        to[1] = {sums_[j][4][half], sums_[j][5][half], sums_[j][6][half], sums_[j][7][half]};
      }
    }
    if (t_ == 0) top[g_] = top_, mass[g_] = mass_;
  }

 private:
  static constexpr int kChunks = kDim / 32;  // of 8 dims, that a thread has of a key
  static constexpr int kGroups = kDim / 64;  // and of a value

  static __device__ __forceinline__ uint4 Load(const uint16_t* from) {
    return __ldg(reinterpret_cast<const uint4*>(from));
  }

  __device__ __forceinline__ void AddChunk(const float (&scores)[4],
                                           const uint4 (&values)[4][kGroups]) {
    float largest = fmaxf(fmaxf(scores[0], scores[1]), fmaxf(scores[2], scores[3]));
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
    const float new_top = fmaxf(top_, largest);
    const float base = new_top == -INFINITY ? 0.0f : new_top;
    const float factor = Exp2(top_ - base);
    top_ = new_top;
    float p[4], rest[4];
    mass_ *= factor;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      p[i] = Exp2(scores[i] - base);
      mass_ += p[i];
      rest[i] = p[i] - FromBits16(ToBits16(p[i], kHalf), kHalf);
    }
    const uint32_t high[2] = {Pack(p[0], p[1]), Pack(p[2], p[3])};
    const uint32_t low[2] = {Pack(rest[0], rest[1]), Pack(rest[2], rest[3])};
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        // Dim 8 g + i of this group, of two tokens in a register.
        const uint32_t selector = i % 2 == 0 ? 0x5410 : 0x7632;
        const uint32_t b0 = Permute(Word(values[0][j], i / 2), Word(values[1][j], i / 2), selector);
        const uint32_t b1 = Permute(Word(values[2][j], i / 2), Word(values[3][j], i / 2), selector);
        sums_[j][i][0] *= factor, sums_[j][i][1] *= factor;
        ProductOf16<kHalf>(sums_[j][i], high[0], high[1], b0, b1);
        ProductOf16<kHalf>(sums_[j][i], low[0], low[1], b0, b1);
      }
    }
  }
  static __device__ __forceinline__ uint32_t Pack(float a, float b) {
    return ToBits16(a, kHalf) | static_cast<uint32_t>(ToBits16(b, kHalf)) << 16;
  }
  static __device__ __forceinline__ uint32_t Word(const uint4& v, int i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
  }

  const KernelArgs& args_;
  const UnitQueries<kQueries>& unit_;
  const int g_, t_;
  float top_ = -INFINITY, mass_ = 0;
  float sums_[kGroups][8][2] = {};
};

}  // namespace quash::cuda
