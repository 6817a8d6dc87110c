// Rows of a page in shared memory, a warp for each token: of formats with two bands,
// and of head_dim 256, whose rows do not fit in a thread's registers. Bits and bands
// are loops here, not instances. Float operations are those of kvcache/part_codec.cc
// in their order; compile without contraction to FMA.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/seal.h"
#include "kernels/cuda/warp_math.cuh"

namespace quash::cuda {

constexpr int kBandThreads = 256;
constexpr int kBandWarps = kBandThreads / 32;

// A band of one side of a format.
struct Band {
  uint32_t begin, dim;  // of a rotated row
  uint32_t bits, codes, scales;
  bool is_sketch;
  const int8_t* levels;
  const float* boundaries;

  static __device__ int Count(const SealFormat& format, bool is_value) {
    return (is_value ? format.v_second : format.k_second).bits != 0 ? 2 : 1;
  }
  __device__ Band(const SealFormat& format, bool is_value, int index) {
    const PageLayout& layout = format.layout;
    const SecondBand& second = is_value ? format.v_second : format.k_second;
    const bool is_halved = second.bits != 0 && (is_value || !format.is_sketched);
    dim = is_halved ? format.head_dim / 2 : format.head_dim;
    begin = index == 1 && is_halved ? dim : 0;
    is_sketch = index == 1 && !is_halved;
    if (index == 0) {
      bits = is_value ? format.v_bits : format.k_bits;
      codes = is_value ? layout.v_codes : layout.k_codes;
      scales = is_value ? layout.v_scales : layout.k_scales;
      levels = is_value ? format.v_levels : format.k_levels;
      boundaries = is_value ? format.v_boundaries : format.k_boundaries;
    } else {
      bits = second.bits, codes = second.codes, scales = second.scales;
      levels = second.levels;
      boundaries = is_value ? format.v_second_boundaries : format.k_second_boundaries;
    }
  }
};

// Rows of codes of a band in a page: tokens of keys, coordinates of values.
struct CodeRows {
  uint32_t count, codes, words;  // codes and words of a row

  __device__ CodeRows(const Band& band, bool is_value)
      : count(is_value ? band.dim : kPageTokens),
        codes(is_value ? kPageTokens : band.dim),
        words(codes * band.bits / 32) {}
};

__device__ __forceinline__ uint32_t NumbersOfVector(RowType type) {
  return type == RowType::kF32 ? 4 : 8;
}

// 16 bytes of a row to numbers and back; `numbers` are 16-byte aligned.
__device__ __forceinline__ void UnpackVector(RowType type, uint4 vector, float* numbers) {
  const uint32_t words[4] = {vector.x, vector.y, vector.z, vector.w};
  auto* to = reinterpret_cast<float4*>(numbers);
  if (type == RowType::kF32) {
    to[0] = make_float4(__uint_as_float(words[0]), __uint_as_float(words[1]),
                        __uint_as_float(words[2]), __uint_as_float(words[3]));
    return;
  }
  float values[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const auto bits = static_cast<uint16_t>(words[i / 2] >> 16 * (i % 2));
    values[i] = FromBits16(bits, type == RowType::kF16);
  }
  to[0] = make_float4(values[0], values[1], values[2], values[3]);
  to[1] = make_float4(values[4], values[5], values[6], values[7]);
}
__device__ __forceinline__ uint4 PackVector(RowType type, const float* numbers) {
  uint32_t words[4];
  if (type == RowType::kF32) {
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = __float_as_uint(numbers[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      words[i] = ToBits16(numbers[2 * i], type == RowType::kF16) |
                 static_cast<uint32_t>(ToBits16(numbers[2 * i + 1], type == RowType::kF16)) << 16;
    }
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

}  // namespace quash::cuda
