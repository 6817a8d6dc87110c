// Codes and scales of a page's rotated rows without their mean, and how they are stored.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/fixed_memory.cuh"
#include "kernels/cuda/seal_codes.cuh"

namespace quash::cuda {

// A sum over the four threads of two tokens, of which the lower two end with the first's and
// the others with the second's.
template <typename T>
__device__ __forceinline__ T SumOfToken(const T (&of_token)[2]) {
  const bool second = (threadIdx.x & 2) != 0;
  const T sent = second ? of_token[0] : of_token[1];
  const T sum = (second ? of_token[1] : of_token[0]) + __shfl_xor_sync(kAllLanes, sent, 2);
  return sum + __shfl_xor_sync(kAllLanes, sum, 1);
}

// The sum of squares, in units of kFixedUnit, of the token whose sums this thread ends with.
template <int kDim>
__device__ __forceinline__ float FixedSquare(const FixedRows<kDim>& rows) {
  float squares[2][2];  // [w % 2][token]
#pragma unroll
  for (int token = 0; token < 2; ++token) {
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      float sums[4];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
#pragma unroll
        for (int i = 0; i < kDim / 32; ++i) {
          const int half = i / (kDim / 64), w = i % (kDim / 64) * 2 + odd;
          const float v = rows.At(token, half, w, c);
          sums[c] = i == 0 ? v * v : __fmaf_rn(v, v, sums[c]);
        }
      }
      squares[odd][token] = (sums[0] + sums[2]) + (sums[1] + sums[3]);
    }
  }
  return SumOfToken(squares[0]) + SumOfToken(squares[1]);
}

// Word w of this thread for a token: sign-magnitude codes of its coordinates c = 0..3 in the low
// nibble of byte c and those half a row on in the high one. `sum` gets the squares of their
// levels.
//   eight  as a variable: multiply-adds are on another pipe than shifts, which is busy
template <int kDim, int kBits>
__device__ __forceinline__ uint32_t FixedCodes(const FixedRows<kDim>& rows, int token, int w,
                                               float reach, const float (&curve)[3], uint32_t eight,
                                               const uint32_t (&magnitudes)[2], uint32_t& sum) {
  constexpr uint32_t kBase = 0x4B000000;  // of 2^23
  uint32_t word = 0, bases = 0;
#pragma unroll
  for (int i = 7; i >= 0; --i) {
    const float v = rows.At(token, i % 2, w, i / 2);
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
  // Of the selector, the instruction takes 16 bits.
  const auto levels = [&](uint32_t selector) {
    uint32_t four;
    asm("prmt.b32 %0, %1, %2, %3;"
        : "=r"(four)
        : "r"(magnitudes[0]), "r"(magnitudes[1]), "r"(selector));
    return four;
  };
  const uint32_t selector = word & 0x77777777;
  const uint32_t low = levels(selector), high = levels(selector >> 16);
  sum = __dp4a(low, low, sum);
  sum = __dp4a(high, high, sum);
  return word;
}

// Codes of this thread's two tokens, [token][word] (FixedCodes()).
template <int kDim>
using FixedWords = uint32_t[2][kDim / 32];

// Codes of keys: a row per token.
template <int kDim, int kBits>
__device__ __forceinline__ void StoreFixedKeys(const FixedWords<kDim>& words, uint8_t* codes) {
  constexpr int kRowBytes = kDim * kBits / 8;
  const int group = threadIdx.x / 4, quad = threadIdx.x % 4;
#pragma unroll
  for (int token = 0; token < 2; ++token) {
    auto* row = reinterpret_cast<uint2*>(codes + (32 * token + group) * kRowBytes);
    const uint32_t(&word)[kDim / 32] = words[token];
    if constexpr (kBits == 4) {
#pragma unroll
      for (int w = 0; w < kDim / 32; w += 2) {
        row[2 * w + quad] = make_uint2(word[w], word[w + 1]);
      }
    } else {
      // Of 128 numbers those of one word are in this thread, and their signs in two.
      uint32_t crumbs[2], signs[2];
#pragma unroll
      for (int w = 0; w < 2; ++w) {
        signs[w] = word[w] >> 3 & kOnes;
        if constexpr (kDim == 128) {
          crumbs[w] = JoinCrumbs<kBits>(word[w], word[w + 2]);
          signs[w] |= (word[w + 2] >> 3 & kOnes) << 2;
          signs[w] <<= quad / 2;
        } else {
          crumbs[w] = ToCrumbs<kBits>(word[w]) << quad / 2 * 2;
          crumbs[w] |= __shfl_xor_sync(kAllLanes, crumbs[w], 2);
          signs[w] <<= quad;
          signs[w] |= __shfl_xor_sync(kAllLanes, signs[w], 1);
        }
        if constexpr (kBits == 3) signs[w] |= __shfl_xor_sync(kAllLanes, signs[w], 2);
      }
      if (quad < kDim / 32) row[quad] = make_uint2(crumbs[0], crumbs[1]);
      if constexpr (kBits == 3) {
        if (quad < kDim / 64) row[kDim / 32 + quad] = make_uint2(signs[0], signs[1]);
      }
    }
  }
}

// Words of 8 tokens by 8 pairs of coordinates to rows of pairs. Of FixedCodes() word i is of
// half i / (kDim / 32) of the row.
//   tokens  where the first of this warp's is of the first pair
template <int kDim, int kStride>
__device__ __forceinline__ void StorePairs(const uint32_t (&words)[kDim / 16], uint8_t* tokens) {
  const int lane = threadIdx.x % 32;
#if __CUDA_ARCH__ >= 900
  // Row j of matrix m: pair j / 2 * 4 + m % 2 * 2 + j % 2 of sixteen, m / 2 of them on.
  const int row = (lane & 17) | (lane & 6) << 1 | (lane & 8) >> 2;
#pragma unroll
  for (int i = 0; i < kDim / 16; i += 4) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(
                     SharedAddress(tokens + (row + 8 * i) * kStride)),
                 "r"(words[i]), "r"(words[i + 1]), "r"(words[i + 2]), "r"(words[i + 3])
                 : "memory");
  }
#else
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) {
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      const int row = i / 2 * 16 + lane % 4 * 4 + i % 2 * 2 + column;
      *reinterpret_cast<uint16_t*>(tokens + row * kStride + lane / 4 * 2) =
          static_cast<uint16_t>(words[i] >> 16 * column);
    }
  }
#endif
}

// Codes of values to shared memory, of both tokens of a thread in a byte.
template <int kDim>
__device__ __forceinline__ void StageFixedValues(FixedMemory<kDim>& memory,
                                                 const FixedWords<kDim>& words) {
  constexpr uint32_t kLow = 0x0f0f0f0f;
  constexpr int kWords = kDim / 32;
  uint32_t of_tokens[2 * kWords];
#pragma unroll
  for (int w = 0; w < kWords; ++w) {
    const uint32_t a = words[0][w], b = words[1][w];
    of_tokens[w] = Choose(kLow, a, b << 4);
    of_tokens[kWords + w] = Choose(kLow, a >> 4, b);
  }
  StorePairs<kDim, FixedMemory<kDim>::kPairStride>(of_tokens,
                                                   &memory.pairs[0][threadIdx.x / 32 * 16]);
}

// A row of codes per coordinate from what all threads have staged.
template <int kDim, int kBits>
__device__ __forceinline__ void StoreFixedValues(const FixedMemory<kDim>& memory, uint8_t* codes) {
  constexpr int kRowBytes = kPageTokens * kBits / 8;
  const int thread = threadIdx.x;
  if (kDim < kFixedThreads && thread >= kDim) return;
  const auto* from = reinterpret_cast<const uint4*>(memory.pairs[thread / 2]);
  // Of coordinate `odd` of the pair and eight tokens.
  const auto nibbles_of = [](const uint4& four, uint32_t odd) {
    const uint32_t selector = 0x6420 + odd * 0x1111;
    return make_uint2(__byte_perm(four.x, four.y, selector), __byte_perm(four.z, four.w, selector));
  };
  if constexpr (kBits == 4) {  // two threads have half a row of both
    const int half = thread % 2;
    const uint4 first = from[2 * half], second = from[2 * half + 1];
    auto* to = reinterpret_cast<uint4*>(codes + (thread / 2 * (2 * kRowBytes) + half * 16));
#pragma unroll
    for (uint32_t odd = 0; odd < 2; ++odd) {
      const uint2 a = nibbles_of(first, odd), b = nibbles_of(second, odd);
      to[odd * (kRowBytes / 16)] = make_uint4(a.x, a.y, b.x, b.y);
    }
  } else {
    uint32_t nibbles[8], row[kRowBytes / 4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint2 two = nibbles_of(from[i], thread % 2);
      nibbles[2 * i] = two.x, nibbles[2 * i + 1] = two.y;
    }
    PackNibbles<kPageTokens, kBits>(nibbles, row);
    uint8_t* to = codes + thread * kRowBytes;
    if constexpr (kBits == 2) {
      *reinterpret_cast<uint4*>(to) = make_uint4(row[0], row[1], row[2], row[3]);
    } else {
#pragma unroll
      for (int w = 0; w < kRowBytes / 4; w += 2) {
        reinterpret_cast<uint2*>(to)[w / 2] = make_uint2(row[w], row[w + 1]);
      }
    }
  }
}

// Codes and scales of rows without their mean; values are not stored yet.
template <int kDim, int kBits>
__device__ __forceinline__ void StoreFixed(FixedMemory<kDim>& memory, const FixedRows<kDim>& rows,
                                           const FixedPointCode& code, float from_grid,
                                           bool is_value, uint8_t* codes, __half* scales) {
  const int lane = threadIdx.x % 32;
  // Of whole numbers: 0 or at least 1.
  const float square = FixedSquare<kDim>(rows) * (1 / (kFixedUnit * kFixedUnit));
  const float norm = square > 0 ? Root(square) : 0.0f;
  const float reach = square > 0 ? Quotient(code.reach, norm) * (1 / kFixedUnit) : 0.0f;
  FixedWords<kDim> words;
  uint32_t squares[2] = {};  // of levels
#pragma unroll
  for (int token = 0; token < 2; ++token) {
    const float own = __shfl_sync(kAllLanes, reach, (lane & ~3) + 2 * token);
#pragma unroll
    for (int w = 0; w < kDim / 32; ++w) {
      words[token][w] = FixedCodes<kDim, kBits>(rows, token, w, own, code.curve, blockDim.x / 16,
                                                memory.magnitudes, squares[token]);
    }
  }
  const auto of_levels = static_cast<float>(SumOfToken(squares));
  const float factor = code.scale_base + Quotient(code.scale_part, of_levels);
  if (lane % 2 == 0) {
    const int token = lane / 2 % 2 * 32 + threadIdx.x / 4;
    scales[token] = ToF16(norm * from_grid * factor);
  }
  if (is_value) {
    StageFixedValues(memory, words);
  } else {
    StoreFixedKeys<kDim, kBits>(words, codes);
  }
}

}  // namespace quash::cuda
