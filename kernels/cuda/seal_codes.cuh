// Numbers to codes as kvcache/part_codec.cc makes them, without its division, search
// and double-precision product for each number.
//
// Codes. The code is the number of boundaries b with v / norm > b, rounded to float.
// With m halfway from b to the next float, that is v > m * norm: no quotient of two
// floats is m, which has 25 bits, and m * norm is exact in double. So each row has
// thresholds to compare v with. Levels are spaced so evenly that a line through the
// boundaries, cut off at both ends, tells the only one that is in question.
//
// Scales. In float, with the error bounded: all products of levels and numbers are
// positive. Where the bound leaves two float16 values, the row is done as on the CPU.
//
// Rows of codes are made of nibbles first: sign-magnitude codes of kernels/attend.h
// with the sign at bit 3, whatever their width, low nibbles before high ones and
// halves of the row side by side, as in a row of 4 bits.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/seal_rows.cuh"

namespace quash::cuda {

constexpr uint32_t kOnes = 0x11111111;  // one in each nibble

struct CodeMemory {
  double middles[16];  // between a boundary and the next float
  double levels[16];
  float boundaries[16];
  float thresholds[15 * kPageTokens];  // [boundary][token]

  __device__ void Load(const int8_t* all_levels, const float* all_boundaries) {
    const int i = threadIdx.x;
    if (i >= 16) return;
    levels[i] = all_levels[i];
    const float boundary = boundaries[i] = all_boundaries[i];
    // Of -0 too, which is 0: half of the smallest number above.
    const float next = boundary == 0  ? __uint_as_float(1)
                       : boundary > 0 ? __uint_as_float(__float_as_uint(boundary) + 1)
                                      : __uint_as_float(__float_as_uint(boundary) - 1);
    middles[i] = (static_cast<double>(boundary) + next) / 2;
  }
};

// Norm of a row as kernels' dot_f32() adds it.
template <int kDim>
__device__ __forceinline__ float Norm(const TokenRow<kDim>& row) {
  constexpr int kLanes = 16;
  float lanes[kLanes] = {};
#pragma unroll
  for (int j = 0; j < kDim; ++j) lanes[j % kLanes] += row.v[j] * row.v[j];
#pragma unroll
  for (int half = kLanes / 2; half > 0; half /= 2) {
#pragma unroll
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return sqrtf(lanes[0]);
}

// The scale of `row`, residuals in shared memory, as the CPU adds it. By a warp.
template <int kDim, int kBits>
__device__ __noinline__ float ExactScale(const CodeMemory& memory, const float* row, float norm,
                                         double square) {
  const int lane = threadIdx.x % 32;
  const auto product = [&](int j) {
    const float unit = row[j] / norm;
    int code = 0;
    for (int i = 0; i < (1 << kBits) - 1; ++i) code += unit > memory.boundaries[i] ? 1 : 0;
    return memory.levels[code] * static_cast<double>(unit);  // exact
  };
  const auto scale_of = [&](double dot) { return static_cast<float>(norm * dot / square); };
  double dot = 0;
  for (int j = lane; j < kDim; j += 32) dot += product(j);
  for (int step = 16; step > 0; step /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, step);
  // In any order the sum is within 2^-45; in the end it must be the CPU's float16.
  const float least = scale_of(dot * (1 - 0x1p-44)), most = scale_of(dot * (1 + 0x1p-44));
  if (__half_as_ushort(ToF16(least)) == __half_as_ushort(ToF16(most))) return least;
  dot = 0;
  for (int j = 0; j < kDim; ++j) dot += product(j);
  return scale_of(dot);
}

// ++word if v > threshold; compilers take an instruction more.
__device__ __forceinline__ void CountIfGreater(float v, float threshold, uint32_t& word) {
#ifdef __CUDA_ARCH__
  asm("{\n.reg .pred greater;\nsetp.gt.f32 greater, %1, %2;\n@greater add.u32 %0, %0, 1;\n}"
      : "+r"(word)
      : "f"(v), "f"(threshold));
#else
  if (v > threshold) ++word;
#endif
}

// Nibbles of this thread's row, and its scale. Word w of keys has numbers 4 w + i in
// its low nibbles and those half a row on in the high ones; of values 8 w + i.
//   doubtful  [2, kDim], of each warp
template <int kDim, int kBits, bool kIsValue>
__device__ __forceinline__ float Quantize(CodeMemory& memory, const TokenRow<kDim>& row,
                                          float guess_slope, float* doubtful,
                                          uint32_t (&nibbles)[kDim / 8]) {
  constexpr int kHalf = 1 << (kBits - 1);
  constexpr int kBoundaries = 2 * kHalf - 1;
  constexpr float kMagic = 0x1p23f;  // its last bits are a whole number
  constexpr uint32_t kMagicBits = 0x4B000000;
  const int token = threadIdx.x;
  const float norm = Norm(row);
  const bool is_zero = !(norm > 0);
#pragma unroll
  for (int i = 0; i < kBoundaries; ++i) {
    memory.thresholds[i * kPageTokens + token] =
        __double2float_rd(memory.middles[i] * static_cast<double>(norm));
  }
  uint32_t magnitudes[2] = {};  // of levels, a byte each
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    magnitudes[i / 4] |= static_cast<uint32_t>(memory.levels[kHalf + i]) << 8 * (i % 4);
  }
  const float slope = guess_slope / norm;
  // The bits of kMagic are shifted out of offsets.
  static_assert(4 * kPageTokens == 1 << 8);
  const char* thresholds = reinterpret_cast<const char*>(memory.thresholds + token);
  float sums[8] = {};
  uint32_t square = 0;
#pragma unroll
  for (int w = 0; w < kDim / 8; ++w) {
    const auto number = [&](int i) {
      return row.v[kIsValue ? 8 * w + i : 4 * w + i / 2 + i % 2 * (kDim / 2)];
    };
    uint32_t word = 0;
#pragma unroll
    for (int i = 7; i >= 0; --i) {
      const float v = number(i);
      const float place = __saturatef(__fmaf_rn(v, slope, 0.5f));
      const uint32_t boundary = __float_as_uint(__fmaf_rn(place, kBoundaries - 1, kMagic));
      const float threshold = *reinterpret_cast<const float*>(thresholds + (boundary << 8));
      word = (word << 4) + boundary;
      CountIfGreater(v, threshold, word);
    }
    word -= kMagicBits + (kMagicBits << 4);  // those of all eight, modulo 2^32
    if (is_zero) word = 0;
    const uint32_t negative = ~word >> (kBits - 1) & kOnes;
    const uint32_t magnitude = (word ^ negative * (kHalf - 1)) & kOnes * (kHalf - 1);
    nibbles[w] = magnitude | negative << 3;
    const uint32_t low = __byte_perm(magnitudes[0], magnitudes[1], magnitude);
    const uint32_t high = __byte_perm(magnitudes[0], magnitudes[1], magnitude >> 16);
    square = __dp4a(low, low, square);
    square = __dp4a(high, high, square);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const auto level = static_cast<float>((i < 4 ? low : high) >> 8 * (i % 4) & 0xff);
      sums[i] = __fmaf_rn(level, fabsf(number(i)), sums[i]);
    }
  }
#pragma unroll
  for (int half = 4; half > 0; half /= 2) {
#pragma unroll
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  // 19 roundings of the sum, one of the quotients and two here: less than 2^-19.
  float scale = sums[0] * (1 - 0x1p-19f) / static_cast<float>(square);
  const float most = sums[0] * (1 + 0x1p-19f) / static_cast<float>(square);
  const bool is_sure =
      is_zero || __half_as_ushort(ToF16(scale)) == __half_as_ushort(ToF16(most));
  const int lane = token % 32;
  float* doubtful_row = doubtful + token / 32 * kDim;
  for (unsigned rows = __ballot_sync(0xffffffffu, !is_sure); rows != 0; rows &= rows - 1) {
    const int source = __ffs(static_cast<int>(rows)) - 1;
    if (lane == source) {
#pragma unroll
      for (int j = 0; j < kDim; ++j) doubtful_row[j] = row.v[j];
    }
    __syncwarp();
    const float exact = ExactScale<kDim, kBits>(
        memory, doubtful_row, __shfl_sync(0xffffffffu, norm, source),
        static_cast<double>(__shfl_sync(0xffffffffu, square, source)));
    if (lane == source) scale = exact;
    __syncwarp();
  }
  return is_zero ? 0.0f : scale;
}

// Bits of a where the mask has ones, others of b; compilers take an instruction more.
__device__ __forceinline__ uint32_t Choose(uint32_t mask, uint32_t a, uint32_t b) {
  uint32_t chosen;
  asm("lop3.b32 %0, %1, %2, %3, 0xe4;" : "=r"(chosen) : "r"(a), "r"(b), "r"(mask));
  return chosen;
}

// Two bits of each nibble, of 3-bit codes the magnitudes.
template <int kBits>
__device__ __forceinline__ uint32_t ToCrumbs(uint32_t nibbles) {
  static_assert(kBits == 2 || kBits == 3);
  return kBits == 3 ? nibbles & 3 * kOnes : (nibbles & kOnes) | (nibbles >> 2 & 2 * kOnes);
}

// Those of a, and those of b above them.
template <int kBits>
__device__ __forceinline__ uint32_t JoinCrumbs(uint32_t a, uint32_t b) {
  if constexpr (kBits == 3) return Choose(3 * kOnes, a, b << 2);
  const uint32_t low = Choose(kOnes, a, a >> 2), high = Choose(4 * kOnes, b << 2, b);
  return Choose(3 * kOnes, low, high);
}

// Nibbles of a row of kN codes to the row of kernels/attend.h.
template <int kN, int kBits>
__device__ __forceinline__ void PackNibbles(const uint32_t (&nibbles)[kN / 8],
                                            uint32_t (&row)[kN * kBits / 32]) {
  constexpr int kWords = kN / 8;
  if constexpr (kBits == 4) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) row[w] = nibbles[w];
    return;
  } else {
#pragma unroll
    for (int w = 0; w < kWords / 2; ++w) {
      row[w] = JoinCrumbs<kBits>(nibbles[w], nibbles[w + kWords / 2]);
    }
  }
  if constexpr (kBits == 3) {
    constexpr int kSignWords = kN / 32;
#pragma unroll
    for (int w = 0; w < kSignWords; ++w) {
      uint32_t signs = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        signs |= nibbles[w + i * kSignWords] >> (3 - i) & kOnes << i;
      }
      row[kWords / 2 + w] = signs;
    }
  }
}

// The nibbles of 8 tokens by 8 coordinates: word i of `of_token` has those of token i,
// and word j of the result those of coordinate j, in the order of the tokens.
__device__ __forceinline__ void Transpose(const uint32_t (&of_token)[8],
                                          uint32_t (&of_coordinate)[8]) {
  constexpr uint32_t kLow = 0x0f0f0f0f;
#pragma unroll
  for (int odd = 0; odd < 2; ++odd) {
    uint32_t pairs[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t a = of_token[2 * i], b = of_token[2 * i + 1];
      pairs[i] = odd == 0 ? (a & kLow) | (b & kLow) << 4 : (a >> 4 & kLow) | (b & ~kLow);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // Bytes 2 half and 2 half + 1 of all four.
      const uint32_t selector = half == 0 ? 0x5140 : 0x7362;
      const uint32_t first = __byte_perm(pairs[0], pairs[1], selector);
      const uint32_t second = __byte_perm(pairs[2], pairs[3], selector);
      of_coordinate[4 * half + odd] = __byte_perm(first, second, 0x5410);
      of_coordinate[4 * half + 2 + odd] = __byte_perm(first, second, 0x7632);
    }
  }
}

}  // namespace quash::cuda
