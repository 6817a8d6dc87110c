// What blocks that seal in fixed point have in shared memory, and small things of theirs.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/fixed_products.cuh"
#include "kernels/cuda/seal.h"
#include "kernels/cuda/warp_math.cuh"

namespace quash::cuda {

constexpr int kMostPages = 64;       // that a block seals in turn
constexpr float kWhole = 0x1.8p23f;  // whole numbers below 2^22 added to it are in its last bits

template <int kDim>
struct FixedMemory {
  // Bytes of two coordinates by pairs of tokens, and padding against bank conflicts.
  static constexpr int kPairStride = kPageTokens + 16;
  FixedMatrixMemory<kDim> products;
  FixedNumbers<kDim> numbers;
  alignas(16) uint8_t pairs[kDim / 2][kPairStride];  // codes of values
  int32_t sums[kFixedWarps][32];                     // SumTokens(), transformed by each warp
  float signs[kFixedThreads][kDim / 32];             // what they are multiplied by
  uint32_t largest[2][kFixedWarps];                  // of a page and of the next one
  alignas(8) uint32_t magnitudes[2];                 // of levels, a byte each
  uint8_t* pages[kMostPages];                        // of the block, where its head begins
};

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

}  // namespace quash::cuda
