// Pages by blocks of 64 threads, one for each token, whose row of kDim numbers is
// in registers: rotations need no exchange between threads. Float operations are
// those of kvcache/part_codec.cc and kernels/rotation.cc in their order; compile
// without contraction to FMA.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/seal.h"

namespace quash::cuda {

constexpr int kRounds = 3;      // of a rotation
constexpr int kPageBlocks = 6;  // of a multiprocessor, as shared memory allows
// Floats between coordinates in shared memory: threads read rows and columns
// without bank conflicts.
constexpr int kColumnStride = kPageTokens + 1;
constexpr int kCodeStride = kPageTokens + 4;  // bytes, likewise

// Shared memory of a block.
template <int kDim>
struct PageMemory {
  union {
    float columns[kDim * kColumnStride];  // [coordinate][token]
    uint8_t codes[kDim * kCodeStride];    // the same
  };
  alignas(16) uint16_t permutation[kRounds * kDim];
  alignas(16) float factors[kRounds * kDim];
  alignas(16) float mean[kDim];
  double levels[16];
  float boundaries[16];
  double largest[2];

  __device__ void LoadTables(const RotationTables& tables) {
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

  __device__ void Hadamard() {
#pragma unroll
    for (int stride = 1; stride < kDim; stride *= 2) {
#pragma unroll
      for (int i = 0; i < kDim; ++i) {
        if ((i & stride) == 0) {
          const float a = v[i], b = v[i + stride];
          v[i] = a + b, v[i + stride] = a - b;
        }
      }
    }
  }

  __device__ void Store(float* column) const {
#pragma unroll
    for (int j = 0; j < kDim; ++j) column[j * kColumnStride] = v[j];
  }

  // `column` is this thread's own, so nobody waits.
  __device__ void Rotate(const PageMemory<kDim>& memory, float* column) {
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

  __device__ void RotateBack(const PageMemory<kDim>& memory, float* column) {
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

  // A contiguous, 16-byte aligned row.
  __device__ void Load(const uint8_t* from, RowType type) {
    const auto* vectors = reinterpret_cast<const uint4*>(from);
    if (type == RowType::kF32) {
#pragma unroll
      for (int j = 0; j < kDim; j += 4) {
        const uint4 x = vectors[j / 4];
        v[j] = __uint_as_float(x.x), v[j + 1] = __uint_as_float(x.y);
        v[j + 2] = __uint_as_float(x.z), v[j + 3] = __uint_as_float(x.w);
      }
      return;
    }
    const bool is_half = type == RowType::kF16;
#pragma unroll
    for (int j = 0; j < kDim; j += 8) {
      const uint4 x = vectors[j / 8];
      const uint32_t words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const auto bits = static_cast<uint16_t>(words[i / 2] >> 16 * (i % 2));
        v[j + i] = is_half ? __half2float(__ushort_as_half(bits))
                           : __uint_as_float(static_cast<uint32_t>(bits) << 16);
      }
    }
  }

  __device__ void Save(uint8_t* to, RowType type) const {
    auto* vectors = reinterpret_cast<uint4*>(to);
    if (type == RowType::kF32) {
#pragma unroll
      for (int j = 0; j < kDim; j += 4) {
        vectors[j / 4] = make_uint4(__float_as_uint(v[j]), __float_as_uint(v[j + 1]),
                                    __float_as_uint(v[j + 2]), __float_as_uint(v[j + 3]));
      }
      return;
    }
    const bool is_half = type == RowType::kF16;
#pragma unroll
    for (int j = 0; j < kDim; j += 8) {
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float a = v[j + 2 * i], b = v[j + 2 * i + 1];
        const uint32_t lo = is_half ? __half_as_ushort(__float2half_rn(a))
                                    : __bfloat16_as_ushort(__float2bfloat16_rn(a));
        const uint32_t hi = is_half ? __half_as_ushort(__float2half_rn(b))
                                    : __bfloat16_as_ushort(__float2bfloat16_rn(b));
        words[i] = lo | hi << 16;
      }
      vectors[j / 8] = make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
};

// Sign-magnitude codes, one per byte of `bytes` [kN / 4], to a row of kernels/attend.h.
template <int kN, int kBits>
__device__ void PackRow(const uint32_t (&bytes)[kN / 4], uint32_t (&row)[kN * kBits / 32]) {
  constexpr int kWidth = kBits == 3 ? 2 : kBits;
  constexpr int kWords = kN * kWidth / 32;
  constexpr uint32_t kMask = kBits == 3 ? 0x03030303u : 0xffffffffu;
#pragma unroll
  for (int w = 0; w < kWords; ++w) {
    row[w] = 0;
#pragma unroll
    for (int i = 0; i < 8 / kWidth; ++i) row[w] |= (bytes[w + i * kWords] & kMask) << i * kWidth;
  }
  if constexpr (kBits == 3) {
    constexpr int kSignWords = kN / 32;
#pragma unroll
    for (int w = 0; w < kSignWords; ++w) {
      row[kWords + w] = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        row[kWords + w] |= (bytes[w + i * kSignWords] >> 2 & 0x01010101u) << i;
      }
    }
  }
}

// Code j of a row of kN codes.
template <int kN, int kBits>
__device__ __forceinline__ uint32_t CodeAt(const uint8_t* row, int j) {
  constexpr int kWidth = kBits == 3 ? 2 : kBits;
  constexpr int kBytes = kN * kWidth / 8;
  uint32_t code = row[j % kBytes] >> j / kBytes * kWidth & ((1u << kWidth) - 1);
  if constexpr (kBits == 3) code |= (row[kBytes + j % (kN / 8)] >> j / (kN / 8) & 1u) << 2;
  return code;
}

__device__ __forceinline__ __half ToF16(float value) {
  return __float2half_rn(fminf(fmaxf(value, -65504.0f), 65504.0f));
}

// What appending n tokens does to a sequence.
struct AppendPlan {
  uint32_t sinks;      // before
  uint32_t new_sinks;  // of the new tokens
  uint32_t open;       // before, sinks left out
  uint32_t total;      // open and new ones together
  uint32_t pages;      // to seal
  uint32_t first;      // of the new tokens

  __device__ AppendPlan(const SealFormat& format, uint32_t open_tokens, uint32_t n,
                        uint32_t first_token)
      : first(first_token) {
    const uint32_t count = n - first_token;
    sinks = min(open_tokens, format.sink_tokens);
    new_sinks = min(count, format.sink_tokens - sinks);
    open = open_tokens - sinks;
    total = open + count - new_sinks;
    pages = total >= kPageTokens + format.reserve ? (total - format.reserve) / kPageTokens : 0;
  }
};

struct AppendArgs {
  SealFormat format;
  SequenceState state;
  const uint8_t* k;
  const uint8_t* v;
  RowStrides strides;  // in bytes
  const int32_t* begins;
  uint32_t n;
  uint32_t row_bytes;

  __device__ AppendPlan Plan(uint32_t seq) const {
    const uint32_t first = begins == nullptr ? 0 : min(static_cast<uint32_t>(begins[seq]), n);
    return AppendPlan(format, static_cast<uint32_t>(state.open_tokens[seq]), n, first);
  }
  __device__ uint8_t* OpenRow(uint32_t seq, uint32_t head, bool is_value, uint32_t token) const {
    auto* open = static_cast<uint8_t*>(is_value ? state.open_v : state.open_k);
    const size_t row =
        (static_cast<size_t>(seq) * state.open_capacity + token) * format.num_kv_heads + head;
    return open + row * row_bytes;
  }
  __device__ const uint8_t* NewRow(uint32_t seq, uint32_t head, bool is_value,
                                   uint32_t token) const {
    return (is_value ? v : k) + seq * strides.seq + head * strides.head + token * strides.token;
  }
  // Row i of the open and the new tokens together, sinks left out.
  __device__ const uint8_t* Row(const AppendPlan& plan, uint32_t seq, uint32_t head, bool is_value,
                                uint32_t i) const {
    if (i < plan.open) return OpenRow(seq, head, is_value, plan.sinks + i);
    return NewRow(seq, head, is_value, plan.first + plan.new_sinks + i - plan.open);
  }
};

}  // namespace quash::cuda
