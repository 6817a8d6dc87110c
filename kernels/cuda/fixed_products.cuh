// The Walsh-Hadamard transform of a page's rows on tensor cores, by blocks of four warps.
//
// Whole numbers are float16 in units of its least subnormal, 2^-24, so that rounding to float16
// rounds to the grid of fixed_point.h. Of numbers of 16 bits float16 has all bits of those that
// are not subnormal, others come in two parts. Sums below 2^24 units are exact in float32.
//
// Warp w has tokens 8 w + g and 32 + 8 w + g, g = 0..7; of these thread 4 g + q brings numbers
// 8 q.. of every 32 and gets coordinates 8 q.. of every 32. The matrix is the one of half the
// size, signs included, of which products are added and subtracted.
#pragma once

#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/fixed_matrix.h"
#include "kernels/cuda/warp_math.cuh"

// Products of a whole block, which only compute capability 9.0 has.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define QUASH_HAS_WGMMA 1
#else
#define QUASH_HAS_WGMMA 0
#endif

namespace quash::cuda {

constexpr int kFixedThreads = 128;
constexpr int kFixedWarps = kFixedThreads / 32;
constexpr float kFixedUnit = 0x1p-24f;
constexpr uint32_t kHalfOnes = 0x3c003c00;  // two float16

// The column of products in which coordinate `output` of half a row is: FixedOutput() backwards.
__device__ __forceinline__ int FixedColumn(int output) {
  return 32 * (output / 32) + 8 * (output / 2 % 4) + 2 * (output / 8 % 4) + output % 2;
}

// A page's rows in the rotated space, [half row][result of a product]; of products what the
// halves of the numbers give, of which the halves of the rows are sum and difference.
template <int kDim>
struct FixedRows {
  float d[2][kDim / 4];

  __device__ void Join() {
#pragma unroll
    for (int i = 0; i < kDim / 4; ++i) {
      const float a = d[0][i], b = d[1][i];
      d[0][i] = a + b, d[1][i] = a - b;
    }
  }

  // Word w = 0..kDim / 32 - 1, c = 0..3: coordinate 32 (w / 2) + 8 q + 4 (w % 2) + c of the
  // half row.
  __device__ float At(int token, int half, int w, int c) const {
    return d[half][4 * (2 * w + c / 2) + 2 * token + c % 2];
  }
};

template <int kDim>
struct FixedMatrixMemory {
  static constexpr int kColumns = kDim / 2;
  uint4 matrix[2][kDim / 32][2][kColumns];  // FixedMatrix()
  // Added to each column of a half row whatever the row, two parts of float16 of each half.
  uint4 constants[kColumns];
  // Eight rows of operand A for them, the same for all: of halves of their sum, and of their
  // difference.
  uint4 joins[2][2][8];
};

// Numbers of a page: what a warp's threads copy, 16 bytes each, and then the same as operand A.
template <int kDim>
struct FixedNumbers {
  // Of eight tokens, eight numbers of each are 128 bytes in turn. What the four threads of a
  // token write is in different banks.
  static constexpr uint32_t kQuadBytes = kDim / 32 * 128 + 32;
  static constexpr uint32_t kTokensBytes = 4 * kQuadBytes - 32;
  static_assert(2 * kTokensBytes >= kDim / 16 * 32 * sizeof(uint4));
  alignas(128) uint8_t bytes[kFixedWarps][2][kTokensBytes];

  // Vector i = 0..kDim / 16 - 1 of this thread, [token][32 numbers].
  __device__ uint4& Raw(int i) {
    return reinterpret_cast<uint4*>(bytes[threadIdx.x / 32][0])[i * 32 + threadIdx.x % 32];
  }
  // Numbers 32 i + 8 quad.. of a token of warp `warp`.
  __device__ uint4& Eight(int warp, int token, int group, int i, int quad) {
    return reinterpret_cast<uint4*>(bytes[warp][token] + quad * kQuadBytes + i * 128)[group];
  }
};

// Four matrices of 8 x 8 float16: lane 8 i + j has the address of row j of matrix i.
template <bool kTransposes>
__device__ __forceinline__ void LoadMatrices(const uint4* row, uint32_t (&to)[4]) {
  if constexpr (kTransposes) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(SharedAddress(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(SharedAddress(row))
                 : "memory");
  }
}

// Sums over all tokens, of those numbers that SummedNumber() names, or with kAdds adds them:
// products of the numbers transposed with 1. Four threads have the same.
template <bool kAdds, int kDim>
__device__ __forceinline__ void SumTokens(FixedNumbers<kDim>& numbers, float (&sums)[kDim / 32]) {
  constexpr int kTiles = kDim / 64;  // of sixteen numbers, of each warp
  const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * kTiles;
  // [token][eight numbers]
  const uint4* eights =
      &numbers.Eight(0, lane / 16, lane % 8, first / 2, first % 2 * 2 + lane / 8 % 2);
  float of_tile[kTiles][4] = {};
#pragma unroll
  for (int warp = 0; warp < kFixedWarps; ++warp) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      using Numbers = FixedNumbers<kDim>;
      constexpr uint32_t kVector = sizeof(uint4);
      uint32_t a[4];
      LoadMatrices<true>(eights + warp * (2 * Numbers::kTokensBytes / kVector) +
                             i * (2 * Numbers::kQuadBytes / kVector),
                         a);
      ProductOf16<true>(of_tile[i], a, kHalfOnes, kHalfOnes);
    }
  }
  // All columns are alike.
#pragma unroll
  for (int i = 0; i < 2 * kTiles; ++i) {
    const float sum = of_tile[i / 2][i % 2 * 2];
    sums[i] = kAdds ? sums[i] + sum : sum;
  }
}
// Of sum `i`, 8 i on from the first.
template <int kDim>
__device__ __forceinline__ int SummedNumber(int i) {
  return threadIdx.x / 32 * (kDim / 4) + threadIdx.x % 32 / 4 + 8 * i;
}

// Where operands are, for products of a block; to be kept.
struct OperandAddresses {
  uint32_t products, numbers;

  // As a maximum over the warp, which is the same, compilers have the address in the uniform
  // registers that products want; otherwise they may copy each operand's to them.
  template <int kDim>
  __device__ OperandAddresses(const FixedMatrixMemory<kDim>& memory,
                              const FixedNumbers<kDim>& numbers_memory)
      : products(MaxOfWarp(SharedAddress(&memory))),
        numbers(products + (SharedAddress(&numbers_memory) - SharedAddress(&memory))) {}
};

#if QUASH_HAS_WGMMA

// An operand in shared memory without swizzling: 8 rows or columns by 8 inner indices are 128
// bytes in turn.
struct Operand {
  uint32_t address, outer;

  //   inner, outer  bytes from such eight to the next
  __device__ Operand(uint32_t address, uint32_t inner, uint32_t outer)
      : address((address & 0x3ffff) >> 4 | inner >> 4 << 16), outer(outer >> 4) {}
  __device__ uint64_t After(uint32_t bytes) const {
    return address + (bytes >> 4) | static_cast<uint64_t>(outer) << 32;
  }
};

// d (+)= a * b, 64 x 64 x 16 or 64 x 32 x 16.
template <bool kAdds>
__device__ __forceinline__ void BlockProduct(float (&d)[32], uint64_t a, uint64_t b) {
  asm volatile(
      "{\n.reg .pred adds;\nsetp.ne.b32 adds, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
      "%32, %33, adds, 1, 1, 0, 0;\n}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
      : "l"(a), "l"(b), "n"(kAdds ? 1 : 0));
}
template <bool kAdds>
__device__ __forceinline__ void BlockProduct(float (&d)[16], uint64_t a, uint64_t b) {
  asm volatile(
      "{\n.reg .pred adds;\nsetp.ne.b32 adds, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, "
      "%16, %17, adds, 1, 1, 0, 0;\n}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
        "+f"(d[14]), "+f"(d[15])
      : "l"(a), "l"(b), "n"(kAdds ? 1 : 0));
}

// Registers may be used by products from here on, or again by others.
template <int kDim>
__device__ __forceinline__ void FenceRegisters(FixedRows<kDim>& rows) {
#pragma unroll
  for (auto& half : rows.d) {
#pragma unroll
    for (float& number : half) asm volatile("" : "+f"(number)::"memory");
  }
}

// What this thread has written to shared memory can be an operand, after a barrier.
__device__ __forceinline__ void ShowToProducts() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// rows = numbers * the matrix, or with kAdds +=; they are there after EndProducts(), in halves.
template <bool kAdds, int kDim>
__device__ __forceinline__ void BeginTransform(const OperandAddresses& addresses,
                                               const FixedMatrixMemory<kDim>&, FixedNumbers<kDim>&,
                                               FixedRows<kDim>& rows) {
  using Numbers = FixedNumbers<kDim>;
  constexpr uint32_t kDepthBytes = kDim / 2 * 16;
  const Operand matrix(addresses.products, kDepthBytes, 128);
  const Operand tokens(addresses.numbers, Numbers::kQuadBytes, Numbers::kTokensBytes);
  FenceRegisters(rows);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
  for (int i = 0; i < kDim / 32; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int step = half * (kDim / 32) + i;
      const uint64_t a = tokens.After(step / 2 * 128 + step % 2 * 2 * Numbers::kQuadBytes);
      const uint64_t b = matrix.After(step * 2 * kDepthBytes);
      if (i == 0) {
        BlockProduct<kAdds>(rows.d[half], a, b);
      } else {
        BlockProduct<true>(rows.d[half], a, b);
      }
    }
  }
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// rows += constants of their columns, after BeginTransform().
template <int kDim>
__device__ __forceinline__ void AddConstants(const OperandAddresses& addresses,
                                             const FixedMatrixMemory<kDim>&,
                                             FixedRows<kDim>& rows) {
  using Memory = FixedMatrixMemory<kDim>;
  const uint32_t base = addresses.products;
  // The other inner indices read constants again, which are products with 0.
  const Operand joins(base + offsetof(Memory, joins), 128, 0);
  const Operand constants(base + offsetof(Memory, constants), 0, 128);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    BlockProduct<true>(rows.d[half], joins.After(half * 256), constants.After(0));
  }
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int kDim>
__device__ __forceinline__ void EndProducts(FixedRows<kDim>& rows) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  FenceRegisters(rows);
}

#else

__device__ __forceinline__ void ShowToProducts() {}

template <bool kAdds, int kDim>
__device__ __forceinline__ void BeginTransform(const OperandAddresses&,
                                               const FixedMatrixMemory<kDim>& memory,
                                               FixedNumbers<kDim>& numbers, FixedRows<kDim>& rows) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t a[kDim / 32][4];
#pragma unroll
    for (int i = 0; i < kDim / 32; ++i) {
      const int step = half * (kDim / 32) + i;
      LoadMatrices<false>(&numbers.Eight(threadIdx.x / 32, lane / 8 % 2, lane % 8, step / 2,
                                         step % 2 * 2 + lane / 16),
                          a[i]);
    }
#pragma unroll
    for (int tile = 0; tile < kDim / 16; ++tile) {
      float d[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) d[i] = kAdds ? rows.d[half][4 * tile + i] : 0.0f;
#pragma unroll
      for (int i = 0; i < kDim / 32; i += 2) {
        uint32_t b[4];  // [step][half of the inner indices]
        LoadMatrices<false>(&memory.matrix[half][i + lane / 16][lane / 8 % 2][8 * tile + lane % 8],
                            b);
        ProductOf16<true>(d, a[i], b[0], b[1]);
        ProductOf16<true>(d, a[i + 1], b[2], b[3]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) rows.d[half][4 * tile + i] = d[i];
    }
  }
}

template <int kDim>
__device__ __forceinline__ void AddConstants(const OperandAddresses&,
                                             const FixedMatrixMemory<kDim>& memory,
                                             FixedRows<kDim>& rows) {
  const int quad = threadIdx.x % 4, group = threadIdx.x % 32 / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t join = reinterpret_cast<const uint32_t*>(&memory.joins[half][0][group])[quad];
#pragma unroll
    for (int tile = 0; tile < kDim / 16; ++tile) {
      float d[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) d[i] = rows.d[half][4 * tile + i];
      const auto* words = reinterpret_cast<const uint32_t*>(&memory.constants[8 * tile + group]);
      ProductOf16<true>(d, {join, join, 0, 0}, words[quad], 0);
#pragma unroll
      for (int i = 0; i < 4; ++i) rows.d[half][4 * tile + i] = d[i];
    }
  }
}

template <int kDim>
__device__ __forceinline__ void EndProducts(FixedRows<kDim>&) {}

#endif

}  // namespace quash::cuda
