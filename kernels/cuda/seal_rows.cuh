// Rows of a page by blocks of 64 threads, one for each token, whose row of kDim
// numbers is in registers: transforms need no exchange between threads. Float
// operations are those of kvcache/part_codec.cc and kernels/rotation.cc in their
// order; compile without contraction to FMA.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <utility>

#include "kernels/cuda/default_rotation.h"
#include "kernels/cuda/seal.h"
#include "kernels/cuda/warp_math.cuh"

namespace quash::cuda {

constexpr int kRounds = 3;  // of a rotation
// Floats between coordinates in shared memory: threads read rows, columns and
// four of a column without bank conflicts.
constexpr int kColumnStride = kPageTokens + 4;

__device__ __forceinline__ uint32_t RowBytes(RowType type, int dim) {
  return static_cast<uint32_t>(dim) * (type == RowType::kF32 ? 4 : 2);
}

// Where 16 bytes of a row are among staged rows: rows are read by one thread each,
// and by neighbouring threads, without bank conflicts.
__device__ __forceinline__ uint32_t StagedAt(uint32_t row, uint32_t vector, uint32_t row_vectors) {
  return row * row_vectors + (vector ^ (row % 8));
}

// Tables of a rotation that is not compiled in.
template <int kDim>
struct RotationMemory {
  alignas(16) uint16_t permutation[kRounds * kDim];
  alignas(16) float factors[kRounds * kDim];

  __device__ void Load(const RotationTables& tables) {
    for (int i = threadIdx.x; i < kRounds * kDim; i += blockDim.x) {
      permutation[i] = tables.permutation[i];
      factors[i] = tables.factors[i];
    }
  }
};

// One token's row.
template <int kDim>
struct TokenRow {
  float v[kDim];

  __device__ void Hadamard() { HadamardOfThread(v); }

  __device__ void Store(float* column) const {
#pragma unroll
    for (int j = 0; j < kDim; ++j) column[j * kColumnStride] = v[j];
  }

  // By tables. `column` is this thread's own, so nobody waits.
  __device__ void Rotate(const RotationMemory<kDim>& memory, float* column) {
#pragma unroll 1
    for (int round = 0; round < kRounds; ++round) {
      Store(column);
#pragma unroll
      for (int j = 0; j < kDim; j += 8) {
        const uint4 four = *reinterpret_cast<const uint4*>(memory.permutation + round * kDim + j);
        const uint32_t pairs[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const uint32_t from = i % 2 == 0 ? pairs[i / 2] & 0xffff : pairs[i / 2] >> 16;
          v[j + i] = memory.factors[round * kDim + j + i] * column[from * kColumnStride];
        }
      }
      Hadamard();
    }
  }

  __device__ void RotateBack(const RotationMemory<kDim>& memory, float* column) {
#pragma unroll 1
    for (int round = kRounds - 1; round >= 0; --round) {
      Hadamard();
#pragma unroll
      for (int j = 0; j < kDim; j += 8) {
        const uint4 four = *reinterpret_cast<const uint4*>(memory.permutation + round * kDim + j);
        const uint32_t pairs[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const uint32_t to = i % 2 == 0 ? pairs[i / 2] & 0xffff : pairs[i / 2] >> 16;
          column[to * kColumnStride] = memory.factors[round * kDim + j + i] * v[j + i];
        }
      }
#pragma unroll
      for (int j = 0; j < kDim; ++j) v[j] = column[j * kColumnStride];
    }
  }

  // By the rotation of the default seed.
  template <bool kIsValue>
  __device__ void RotateByDefault() {
    Permute<kIsValue, 0>(std::make_integer_sequence<int, kDim>());
    Hadamard();
    Permute<kIsValue, 1>(std::make_integer_sequence<int, kDim>());
    Hadamard();
    Permute<kIsValue, 2>(std::make_integer_sequence<int, kDim>());
    Hadamard();
  }
  template <bool kIsValue>
  __device__ void RotateBackByDefault() {
    Hadamard();
    PermuteBack<kIsValue, 2>(std::make_integer_sequence<int, kDim>());
    Hadamard();
    PermuteBack<kIsValue, 1>(std::make_integer_sequence<int, kDim>());
    Hadamard();
    PermuteBack<kIsValue, 0>(std::make_integer_sequence<int, kDim>());
  }

  // The row's 16 bytes i are vector_at(i); next_half() comes before the second half of
  // float32.
  template <typename VectorAt, typename NextHalf>
  __device__ void Load(RowType type, const VectorAt& vector_at, const NextHalf& next_half) {
    if (type == RowType::kF32) {
#pragma unroll
      for (int j = 0; j < kDim; j += 4) {
        if (j == kDim / 2) next_half();
        const uint4 x = vector_at(j / 4);
        v[j] = __uint_as_float(x.x), v[j + 1] = __uint_as_float(x.y);
        v[j + 2] = __uint_as_float(x.z), v[j + 3] = __uint_as_float(x.w);
      }
    } else if (type == RowType::kF16) {
      LoadHalves(vector_at, [](uint32_t bits) {
        return __half2float(__ushort_as_half(static_cast<uint16_t>(bits)));
      });
    } else {
      LoadHalves(vector_at, [](uint32_t bits) { return __uint_as_float(bits << 16); });
    }
  }

  // put(i, 16 bytes), and next_half() as above.
  template <typename Put, typename NextHalf>
  __device__ void Save(RowType type, const Put& put, const NextHalf& next_half) const {
    if (type == RowType::kF32) {
#pragma unroll
      for (int j = 0; j < kDim; j += 4) {
        if (j == kDim / 2) next_half();
        put(j / 4,
            make_uint4(__float_as_uint(v[j]), __float_as_uint(v[j + 1]), __float_as_uint(v[j + 2]),
                       __float_as_uint(v[j + 3])));
      }
    } else if (type == RowType::kF16) {
      SaveHalves(put, [](float value) { return __half_as_ushort(__float2half_rn(value)); });
    } else {
      SaveHalves(put,
                 [](float value) { return __bfloat16_as_ushort(__float2bfloat16_rn(value)); });
    }
  }

 private:
  template <bool kIsValue, int kRound, int... kAt>
  __device__ void Permute(std::integer_sequence<int, kAt...>) {
    using Rotation = DefaultRotation<kDim, kIsValue>;
    constexpr float kNorm = Rotation::kNorm;
    const TokenRow from = *this;
    ((v[kAt] = from.v[std::integral_constant<
          int, Rotation::kTables.permutation[kRound][kAt]>::value] *
               (std::bool_constant<Rotation::kTables.is_negative[kRound][kAt]>::value ? -kNorm
                                                                                      : kNorm)),
     ...);
  }
  template <bool kIsValue, int kRound, int... kAt>
  __device__ void PermuteBack(std::integer_sequence<int, kAt...>) {
    using Rotation = DefaultRotation<kDim, kIsValue>;
    constexpr float kNorm = Rotation::kNorm;
    const TokenRow from = *this;
    ((v[std::integral_constant<int, Rotation::kTables.permutation[kRound][kAt]>::value] =
          from.v[kAt] *
          (std::bool_constant<Rotation::kTables.is_negative[kRound][kAt]>::value ? -kNorm
                                                                                 : kNorm)),
     ...);
  }

  template <typename VectorAt, typename ToFloat>
  __device__ void LoadHalves(const VectorAt& vector_at, const ToFloat& to_float) {
#pragma unroll
    for (int j = 0; j < kDim; j += 8) {
      const uint4 x = vector_at(j / 8);
      const uint32_t words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int i = 0; i < 8; ++i) v[j + i] = to_float(words[i / 2] >> 16 * (i % 2) & 0xffff);
    }
  }
  template <typename Put, typename FromFloat>
  __device__ void SaveHalves(const Put& put, const FromFloat& from_float) const {
#pragma unroll
    for (int j = 0; j < kDim; j += 8) {
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t low = from_float(v[j + 2 * i]), high = from_float(v[j + 2 * i + 1]);
        words[i] = low | high << 16;
      }
      put(j / 8, make_uint4(words[0], words[1], words[2], words[3]));
    }
  }
};

}  // namespace quash::cuda
