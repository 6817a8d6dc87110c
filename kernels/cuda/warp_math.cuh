// Small things of one warp: the tensor-core product, reductions, exponentials.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace quash::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ void Product(int32_t (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                        uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Over the eight lanes of equal lane % 4.
template <typename T, typename Op>
__device__ __forceinline__ T ReduceRows(T value, Op op) {
#pragma unroll
  for (int step = 4; step < 32; step *= 2)
    value = op(value, __shfl_xor_sync(kAllLanes, value, step));
  return value;
}
struct Max {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};
struct Add {
  __device__ float operator()(float a, float b) const { return a + b; }
  __device__ int operator()(int a, int b) const { return a + b; }
};

// 2^x to 2^-22, 0 for -infinity.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// The nearest integer of |x| < 2^22, without the slow conversion.
__device__ __forceinline__ int RoundToInt(float x) {
  return __float_as_int(x + 12582912.0f) - 0x4b400000;
}

__device__ __forceinline__ float BfToFloat(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}
__device__ __forceinline__ uint16_t FloatToBf(float value) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

}  // namespace quash::cuda
