// Small things of one warp: the tensor-core product, reductions, exponentials.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace quash::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

// d = a * b + c, 16 x 8 x 32 bytes; c0 is of even columns and c1 of odd ones. B is
// signed or, with kUnsigned, not.
template <bool kUnsigned = false>
__device__ __forceinline__ void Product(int32_t (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                        uint32_t a3, uint32_t b0, uint32_t b1, int32_t c0,
                                        int32_t c1, int32_t c2, int32_t c3) {
  if constexpr (kUnsigned) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%10,%11,%12,%13};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "r"(c0), "r"(c1), "r"(c2),
          "r"(c3));
  } else {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%10,%11,%12,%13};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "r"(c0), "r"(c1), "r"(c2),
          "r"(c3));
  }
}
template <bool kUnsigned = false>
__device__ __forceinline__ void Product(int32_t (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                        uint32_t a3, uint32_t b0, uint32_t b1) {
  Product<kUnsigned>(c, a0, a1, a2, a3, b0, b1, c[0], c[1], c[2], c[3]);
}

// c += a * b, 16 x 8 x 16 in bf16 or f16. Registers a0, a2 and c0, c1 are of rows 0 to 7.
template <bool kHalf>
__device__ __forceinline__ void ProductOf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                            uint32_t b1) {
  if constexpr (kHalf) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

__device__ __forceinline__ uint32_t SharedAddress(const void* memory) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(memory));
}
// 16 bytes to shared memory, of the group that is committed next.
__device__ __forceinline__ void CopyAhead(void* shared, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(SharedAddress(shared)), "l"(from)
               : "memory");
}

// The Walsh-Hadamard transform of what one thread has.
template <typename T, int kCount>
__device__ __forceinline__ void HadamardOfThread(T (&v)[kCount]) {
#pragma unroll
  for (int stride = 1; stride < kCount; stride *= 2) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if ((i & stride) == 0) {
        const T a = v[i], b = v[i + stride];
        v[i] = a + b, v[i + stride] = a - b;
      }
    }
  }
}

__device__ __forceinline__ uint32_t MaxOfWarp(uint32_t value) {
  return __reduce_max_sync(kAllLanes, value);
}
// Over the eight lanes of equal lane % 4.
template <typename T, typename Op>
__device__ __forceinline__ T ReduceRows(T value, Op op) {
#pragma unroll
  for (int step = 4; step < 32; step *= 2)
    value = op(value, __shfl_xor_sync(kAllLanes, value, step));
  return value;
}
template <typename T, typename Op>
__device__ __forceinline__ T ReduceWarp(T value, Op op) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2)
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
// Cut off at the largest number.
__device__ __forceinline__ __half ToF16(float value) {
  return __float2half_rn(fminf(fmaxf(value, -65504.0f), 65504.0f));
}
// Bits of bf16 or f16.
__device__ __forceinline__ float FromBits16(uint16_t bits, bool is_half) {
  return is_half ? __half2float(__ushort_as_half(bits))
                 : __uint_as_float(static_cast<uint32_t>(bits) << 16);
}
__device__ __forceinline__ uint16_t ToBits16(float value, bool is_half) {
  return is_half ? __half_as_ushort(__float2half_rn(value))
                 : __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

}  // namespace quash::cuda
