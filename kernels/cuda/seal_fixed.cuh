// Rows of a page sealed in fixed point (kernels/fixed_point.h), by blocks of 128 threads.
// Sums of whole numbers are exact in any order, so the Walsh-Hadamard transform is
// products on tensor cores: of high and of low bytes.
//
// A warp has tokens 8 w + i and 32 + 8 w + i, i = 0..7. As operands thread 4 i + l has
// numbers 8 l.. of every 32 of token i; as results it has those of tokens 2 l and
// 2 l + 1 at coordinates 4 i + c, c = 0..3, of every 32. The transform is the products of
// both halves of a row with a matrix of half its size, signs included, and one butterfly.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/seal_codes.cuh"
#include "kernels/cuda/warp_math.cuh"

namespace quash::cuda {

constexpr int kFixedThreads = 128;
constexpr int kFixedWarps = kFixedThreads / 32;
constexpr float kFixedMagic = 0x1.8p23f;  // whole numbers below 2^22 are in its last bits
constexpr uint32_t kFixedMagicBits = 0x4B400000;

template <int kDim>
struct FixedMemory {
  static constexpr int kSumStride = kDim + 8;
  uint4 raw[kDim / 16][kFixedThreads];  // [vector][thread]: each reads what it copied itself
  uint4 matrix[kDim / 32][2][kDim / 64][32];
  union {
    int32_t sums[4 * kFixedWarps][kSumStride];
    uint32_t columns[kDim * 9];  // codes of values: [coordinate][32 bytes, 4 of padding]
  };
  float mean[kDim];
  uint32_t largest[kFixedWarps], largest_sum[kFixedWarps];
};

__device__ __forceinline__ uint32_t MaxOfWarp(uint32_t value) {
  return __reduce_max_sync(kAllLanes, value);
}

template <bool kIsHalf>
__device__ __forceinline__ float2 ToFloats(uint32_t pair) {
  if constexpr (kIsHalf) {
    return __half22float2(*reinterpret_cast<const __half2*>(&pair));
  } else {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
  }
}

// Four numbers on the grid, the high bytes and the low ones.
__device__ __forceinline__ void Split(float2 a, float2 b, float to_grid, uint32_t& high,
                                      uint32_t& low) {
  const auto bits = [&](float x) {
    return __float_as_uint(__fmaf_rn(x, to_grid, kFixedMagic));
  };
  const uint32_t first = __byte_perm(bits(a.x), bits(a.y), 0x5410);
  const uint32_t second = __byte_perm(bits(b.x), bits(b.y), 0x5410);
  low = __byte_perm(first, second, 0x6420);
  high = __byte_perm(first, second, 0x7531);
}

// The largest magnitude of numbers in pairs, as bits of float. Maxima take three operands,
// but no magnitudes.
template <bool kIsHalf, int kCount>
__device__ __forceinline__ uint32_t LargestOfPairs(const uint4 (&raw)[kCount]) {
  using Pair = std::conditional_t<kIsHalf, __half2, __nv_bfloat162>;
  uint32_t zero = 0;
  Pair most = *reinterpret_cast<const Pair*>(&zero), least = most;
#pragma unroll
  for (const uint4& v : raw) {
    for (const uint32_t bits : {v.x, v.y, v.z, v.w}) {
      const Pair pair = *reinterpret_cast<const Pair*>(&bits);
      most = __hmax2(most, pair);
      least = __hmin2(least, pair);
    }
  }
  const float2 a = ToFloats<kIsHalf>(*reinterpret_cast<const uint32_t*>(&most));
  const float2 b = ToFloats<kIsHalf>(*reinterpret_cast<const uint32_t*>(&least));
  return __float_as_uint(fmaxf(fmaxf(a.x, a.y), -fminf(b.x, b.y))) & 0x7fffffff;  // of -0 too
}

// A sum over the eight threads of a token, each of which ends with those of one of the
// warp's tokens: that of its bits 4 (half a page) and 3 (column).
template <typename T>
__device__ __forceinline__ T SumOfToken(const T (&of_token)[2][2]) {
  const bool upper = (threadIdx.x & 16) != 0, odd = (threadIdx.x & 8) != 0;
  T kept[2];
#pragma unroll
  for (int column = 0; column < 2; ++column) {
    const T sent = upper ? of_token[0][column] : of_token[1][column];
    kept[column] = (upper ? of_token[1][column] : of_token[0][column]) +
                   __shfl_xor_sync(kAllLanes, sent, 16);
  }
  const T sent = odd ? kept[0] : kept[1];
  T sum = (odd ? kept[1] : kept[0]) + __shfl_xor_sync(kAllLanes, sent, 8);
  return sum + __shfl_xor_sync(kAllLanes, sum, 4);
}

// A page's rows in the rotated space: [half page][half row][tile][of a product]. Whole
// numbers added to kFixedMagicBits; then, without their mean, floats in the same bits.
template <int kDim>
using FixedRows = int32_t[2][2][kDim / 32][4];

//   byte  2^8. As a variable: multiply-adds are on another pipe than shifts, which is busy
template <int kDim>
__device__ __forceinline__ void Transform(const FixedMemory<kDim>& memory,
                                          const uint32_t (&high)[2][kDim / 32][2],
                                          const uint32_t (&low)[2][kDim / 32][2], uint32_t byte,
                                          FixedRows<kDim>& rows) {
  constexpr int kSteps = kDim / 64;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int tile = 0; tile < kDim / 32; ++tile) {
    uint4 matrix[2][kSteps];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        matrix[half][step] = memory.matrix[tile][half][step][lane];
      }
    }
#pragma unroll
    for (int page_half = 0; page_half < 2; ++page_half) {
      int32_t of_half[2][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int32_t(&d)[4] = of_half[half];
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          const uint4 a = matrix[half][step];
          const uint32_t(&b)[2] = high[page_half][half * kSteps + step];
          if (step == 0) {
            Product(d, a.x, a.y, a.z, a.w, b[0], b[1], 0, 0, 0, 0);
          } else {
            Product(d, a.x, a.y, a.z, a.w, b[0], b[1]);
          }
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          d[i] = static_cast<int32_t>(static_cast<uint32_t>(d[i]) * byte + kFixedMagicBits);
        }
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          const uint4 a = matrix[half][step];
          const uint32_t(&b)[2] = low[page_half][half * kSteps + step];
          Product<true>(d, a.x, a.y, a.z, a.w, b[0], b[1]);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        rows[page_half][0][tile][i] =
            of_half[0][i] + of_half[1][i] - static_cast<int32_t>(kFixedMagicBits);
        rows[page_half][1][tile][i] =
            of_half[0][i] - of_half[1][i] + static_cast<int32_t>(kFixedMagicBits);
      }
    }
  }
}

// a / b rounded to nearest, for normal numbers far from the ends of the range.
__device__ __forceinline__ float Quotient(float a, float b) {
  float reciprocal;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(b));
  reciprocal = __fmaf_rn(reciprocal, __fmaf_rn(-b, reciprocal, 1.0f), reciprocal);
  float quotient = __fmul_rn(a, reciprocal);
  quotient = __fmaf_rn(reciprocal, __fmaf_rn(-b, quotient, a), quotient);
  return __fmaf_rn(reciprocal, __fmaf_rn(-b, quotient, a), quotient);
}
// The square root likewise.
__device__ __forceinline__ float Root(float x) {
  float inverse;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
  const float root = __fmul_rn(x, inverse);
  return __fmaf_rn(__fmaf_rn(-root, root, x), __fmul_rn(inverse, 0.5f), root);
}

// The mean of the rows in int8, and what they are without it.
//   from_grid  to numbers of the rotated rows; to_grid is back
template <int kDim>
__device__ __forceinline__ void SubtractFixedMean(FixedMemory<kDim>& memory, FixedRows<kDim>& rows,
                                                  bool has_mean, float from_grid, float to_grid,
                                                  int8_t* mean, __half* mean_scale) {
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int group = lane / 4, quad = lane % 4;
  constexpr float kTokens = kPageTokens;
  if (has_mean) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int pair = 0; pair < kDim / 64; ++pair) {
        int4 four;
        int32_t* to = &four.x;
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const int tile = 2 * pair + c / 2, i = c % 2 * 2;
          to[c] = rows[0][half][tile][i] + rows[0][half][tile][i + 1] + rows[1][half][tile][i] +
                  rows[1][half][tile][i + 1];
        }
        *reinterpret_cast<int4*>(
            &memory.sums[4 * warp + quad][half * (kDim / 2) + pair * 32 + 4 * group]) = four;
      }
    }
    __syncthreads();
    int32_t sum = 0;
    if (kDim == kFixedThreads || thread < kDim) {
#pragma unroll
      for (int i = 0; i < 4 * kFixedWarps; ++i) sum += memory.sums[i][thread];
      sum -= static_cast<int32_t>(kFixedMagicBits << 6);  // those of 64 rows, modulo 2^32
    }
    const uint32_t of_warp = MaxOfWarp(static_cast<uint32_t>(abs(sum)));
    if (lane == 0) memory.largest_sum[warp] = of_warp;
    __syncthreads();
    uint32_t largest = memory.largest_sum[0];
#pragma unroll
    for (int i = 1; i < kFixedWarps; ++i) largest = max(largest, memory.largest_sum[i]);
    const __half rounded =
        ToF16(static_cast<float>(largest) * (1 / (127 * kTokens)) * from_grid);
    const float step = __half2float(rounded) * to_grid;
    if (thread == 0) *mean_scale = rounded;
    if (kDim == kFixedThreads || thread < kDim) {
      const float steps =
          step > 0 ? rintf(Quotient(static_cast<float>(sum), step * kTokens)) : 0.0f;
      const float cut = fminf(fmaxf(steps, -127.0f), 127.0f);
      mean[thread] = static_cast<int8_t>(cut);
      memory.mean[thread] = kFixedMagic + rintf(step * cut);
    }
    __syncthreads();
  } else if (thread == 0) {
    *mean_scale = __ushort_as_half(0);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int pair = 0; pair < kDim / 64; ++pair) {
      const float4 four = *reinterpret_cast<const float4*>(
          memory.mean + half * (kDim / 2) + pair * 32 + 4 * group);
      const float means[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int c = 0; c < 4; ++c) {
#pragma unroll
        for (int page_half = 0; page_half < 2; ++page_half) {
#pragma unroll
          for (int column = 0; column < 2; ++column) {
            int32_t& x = rows[page_half][half][2 * pair + c / 2][c % 2 * 2 + column];
            x = __float_as_int(__int_as_float(x) - means[c]);
          }
        }
      }
    }
  }
}

// Number c of word `pair` of a token, of one half of the row.
template <int kDim>
__device__ __forceinline__ float NumberAt(const FixedRows<kDim>& rows, int page_half, int column,
                                          int half, int pair, int c) {
  return __int_as_float(rows[page_half][half][2 * pair + c / 2][c % 2 * 2 + column]);
}

// The sum of squares of the token whose sums this thread ends with.
template <int kDim>
__device__ __forceinline__ float FixedSquare(const FixedRows<kDim>& rows) {
  float squares[2][2];
#pragma unroll
  for (int page_half = 0; page_half < 2; ++page_half) {
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      float sums[4];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
#pragma unroll
        for (int i = 0; i < kDim / 32; ++i) {
          const float v =
              NumberAt<kDim>(rows, page_half, column, i / (kDim / 64), i % (kDim / 64), c);
          sums[c] = i == 0 ? v * v : __fmaf_rn(v, v, sums[c]);
        }
      }
      squares[page_half][column] = (sums[0] + sums[2]) + (sums[1] + sums[3]);
    }
  }
  return SumOfToken(squares);
}

// Word `pair` of a token: sign-magnitude codes of coordinates 32 pair + 4 group + c in the
// low nibble of byte c and those half a row on in the high one. `sum` gets the squares of
// their levels.
template <int kDim, int kBits>
__device__ __forceinline__ uint32_t FixedCodes(const FixedRows<kDim>& rows, int page_half,
                                               int column, int pair, float reach,
                                               const float (&curve)[3],
                                               uint32_t eight, const uint32_t (&magnitudes)[2],
                                               uint32_t& sum) {
  constexpr uint32_t kBase = 0x4B000000;  // of 2^23
  uint32_t word = 0, bases = 0;
#pragma unroll
  for (int i = 7; i >= 0; --i) {
    const float v = NumberAt<kDim>(rows, page_half, column, i % 2, pair, i / 2);
    const float a = __saturatef(__fmul_rn(fabsf(v), reach));
    uint32_t bits;
    if constexpr (kBits == 2) {
      bits = __float_as_uint(__fadd_rd(a, 0x1p23f));
    } else {
      const float factor = __fmaf_rn(__fmaf_rn(a, curve[2], curve[1]), a, curve[0]);
      bits = __float_as_uint(__fmaf_rd(a, factor, 0x1p23f));
    }
    word = __funnelshift_l(__float_as_uint(v), word, 1);
    word = word * eight + bits;
    bases = bases * 16 + kBase;
  }
  word -= bases;
  const uint32_t selector = word & 0x77777777;
  const uint32_t low = __byte_perm(magnitudes[0], magnitudes[1], selector);
  const uint32_t high = __byte_perm(magnitudes[0], magnitudes[1], selector >> 16);
  sum = __dp4a(low, low, sum);
  sum = __dp4a(high, high, sum);
  return word;
}

}  // namespace quash::cuda
