// Open tokens of a unit: bf16 or f16 products, a chunk of 16 tokens at a time,
// by one warp.
#pragma once

#include <cstdint>

#include "kernels/cuda/attend.h"
#include "kernels/cuda/decode_pages.cuh"
#include "kernels/cuda/decode_unit.cuh"
#include "kernels/cuda/warp_math.cuh"

namespace quash::cuda {

// With g = lane / 4 and t = lane % 4 a thread has query g and of scores the tokens 2 t and
// 2 t + 1 of each eight, which is how values want the probabilities; and of sums queries
// 2 t and 2 t + 1 and dims 8 g .. 8 g + 7 of each 64.
template <int kDim, int kQueries, bool kHalf>
class OpenTokens {
 public:
  __device__ OpenTokens(const KernelArgs& args, const UnitQueries<kQueries>& unit, int lane)
      : args_(args), unit_(unit), g_(lane / 4), t_(lane % 4) {}

  // Chunks [begin, end).
  __device__ void Run(const SeqWork& work, uint32_t begin, uint32_t end) {
    const uint32_t stride = args_.a.num_kv_heads * kDim;
    const size_t base =
        static_cast<size_t>(unit_.seq) * args_.a.open_capacity * stride + unit_.kv_head * kDim;
    const uint16_t* const open_k = args_.a.open_k + base + 8 * t_;
    const uint16_t* const open_v = args_.a.open_v + base + 8 * g_;
    const bool exists = g_ < kQueries && unit_.Exists(g_);
    const uint16_t* query_row = args_.a.q + (exists ? unit_.Row(g_) * kDim : 0) + 8 * t_;
    const auto range = unit_.Sees(exists ? unit_.Token(g_) : 0, work.Length());
    const float scale = args_.a.scale * kLog2E;
    const uint32_t sinks = work.Sinks(args_.a);
    uint32_t query[kChunks][4];
#pragma unroll
    for (int j = 0; j < kChunks; ++j) {
      const uint4 dims = exists ? Load(query_row + 32 * j) : uint4{};
      query[j][0] = dims.x, query[j][1] = dims.z, query[j][2] = dims.y, query[j][3] = dims.w;
    }
#pragma unroll 1
    for (uint32_t chunk = begin; chunk < end; ++chunk) {
      const uint32_t first = kOpenChunk * chunk;
      const auto row = [&](uint32_t token) { return min(first + token, work.open - 1) * stride; };
      // All on their way together: memory is busy.
      uint4 keys[2][kChunks];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const uint16_t* from = open_k + row(8 * n + g_);
#pragma unroll
        for (int j = 0; j < kChunks; ++j) keys[n][j] = Load(from + 32 * j);
      }
      uint4 values[4][kGroups];  // tokens 2 t, 2 t + 1, and those eight on
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint16_t* from = open_v + row(2 * t_ + i % 2 + 8 * (i / 2));
#pragma unroll
        for (int j = 0; j < kGroups; ++j) values[i][j] = Load(from + 64 * j);
      }
      float scores[4];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        // Rows 8 to 15 of a product take other dims of the queries.
        float first_half[4] = {}, second_half[4] = {};
#pragma unroll
        for (int j = 0; j < kChunks; ++j) {
          ProductOf16<kHalf>(first_half, query[j], keys[n][j].x, keys[n][j].y);
          ProductOf16<kHalf>(second_half, query[j], keys[n][j].z, keys[n][j].w);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint32_t token = first + 8 * n + 2 * t_ + i;
          float score = (first_half[i] + second_half[2 + i]) * scale;
          if (args_.cap != 0) score = Cap(score, args_);
          const int at = static_cast<int>(
              token < sinks ? token : token + kPageTokens * work.pages);
          const bool seen = token < work.open && at >= range.begin && at < range.end;
          scores[2 * n + i] = seen ? score : -INFINITY;
        }
      }
      AddChunk(scores, values);
    }
    mass_ += __shfl_xor_sync(kAllLanes, mass_, 1);
    mass_ += __shfl_xor_sync(kAllLanes, mass_, 2);
  }

  // Leaves the sums [kQueries, kStride], and for each query its top and mass.
  template <int kStride>
  __device__ void Store(float* out, float* top, float* mass) const {
    if (t_ == 0 && g_ < kQueries) top[g_] = top_, mass[g_] = mass_;
    if (2 * t_ >= kQueries) return;
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
#pragma unroll
      for (int x = 0; x < 2; ++x) {
        auto* to = reinterpret_cast<float4*>(out + (2 * t_ + x) * kStride + 64 * j + 8 * g_);
        const auto& sums = sums_[j];
        to[0] = {sums[0][x], sums[0][2 + x], sums[1][x], sums[1][2 + x]};
        to[1] = {sums[2][x], sums[2][2 + x], sums[3][x], sums[3][2 + x]};
      }
    }
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
    mass_ *= factor;
    // As a rounded part and what that leaves.
    uint32_t rounded[2], rest[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float p[2] = {Exp2(scores[2 * i] - base), Exp2(scores[2 * i + 1] - base)};
      mass_ += p[0] + p[1];
      rounded[i] = Pack(p[0], p[1]);
      rest[i] = Pack(p[0] - Unpack(rounded[i]), p[1] - Unpack(rounded[i] >> 16));
    }
    float factors[2];
#pragma unroll
    for (int x = 0; x < 2; ++x) {
      factors[x] = __shfl_sync(kAllLanes, factor, 4 * (2 * t_ + x));
    }
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        // Dims 2 i and 2 i + 1 of the eight, of two tokens in a register.
        uint32_t dims[4];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint32_t even = Word(values[2 * half][j], i),
                         odd = Word(values[2 * half + 1][j], i);
          dims[2 * half] = Permute(even, odd, 0x5410);
          dims[2 * half + 1] = Permute(even, odd, 0x7632);
        }
        float(&sums)[4] = sums_[j][i];
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[c] *= factors[c % 2];
        ProductOf16<kHalf>(sums, dims, rounded[0], rounded[1]);
        ProductOf16<kHalf>(sums, dims, rest[0], rest[1]);
      }
    }
  }
  static __device__ __forceinline__ uint32_t Pack(float a, float b) {
    return ToBits16(a, kHalf) | static_cast<uint32_t>(ToBits16(b, kHalf)) << 16;
  }
  static __device__ __forceinline__ float Unpack(uint32_t bits) {
    return FromBits16(static_cast<uint16_t>(bits), kHalf);
  }
  static __device__ __forceinline__ uint32_t Word(const uint4& v, int i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
  }

  const KernelArgs& args_;
  const UnitQueries<kQueries>& unit_;
  const int g_, t_;
  float top_ = -INFINITY, mass_ = 0;
  float sums_[kGroups][4][4] = {};  // [.., dims 2 i and 2 i + 1 with queries 2 t and 2 t + 1]
};

}  // namespace quash::cuda
