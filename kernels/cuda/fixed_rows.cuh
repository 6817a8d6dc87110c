// Rows of a page as they come, and put on the grid of kernels/fixed_point.h.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/append_plan.cuh"
#include "kernels/cuda/fixed_memory.cuh"

namespace quash::cuda {

struct FixedPlace {
  uint32_t seq, head;
  bool is_value;
};

template <bool kIsHalf>
__device__ __forceinline__ float2 ToFloats(uint32_t pair) {
  if constexpr (kIsHalf) {
    return __half22float2(*reinterpret_cast<const __half2*>(&pair));
  } else {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
  }
}

// From numbers in pairs to float16 on the grid in units of 2^-24: rounding to float16 is to
// the nearest of these.
//   shift_16  2^16. As a variable: multiply-adds are on another pipe than shifts, which is busy
template <bool kIsHalf>
struct ToFixed {
  using Pair = std::conditional_t<kIsHalf, __half2, __nv_bfloat162>;
  Pair factor, rest;  // a product may have no room for all of 2^(shift - 24)
  bool has_rest;

  // Numbers are rounded to multiples of 2^-shift.
  __device__ explicit ToFixed(int shift) {
    constexpr int kLeast = kIsHalf ? -24 : -126;
    const int all = shift - 24, most = max(all, kLeast);
    has_rest = all < kLeast;
    factor = Power(kIsHalf ? min(most, 15) : most);  // 15: all numbers are 0
    rest = Power(all - kLeast);                      // not used above 0
  }
  __device__ static Pair Power(int exponent) {
    if constexpr (kIsHalf) {
      return __float2half2_rn(__int_as_float((127 + exponent) << 23));
    } else {
      const uint32_t bits = static_cast<uint32_t>(127 + exponent) * 0x800080u;
      return *reinterpret_cast<const Pair*>(&bits);
    }
  }
  __device__ static uint32_t Times(uint32_t bits, Pair by) {
    const Pair product = __hmul2(*reinterpret_cast<const Pair*>(&bits), by);
    return *reinterpret_cast<const uint32_t*>(&product);
  }
  template <int kCount>
  __device__ void operator()(uint32_t (&numbers)[kCount], uint32_t shift_16) const {
    if (has_rest) {
#pragma unroll
      for (uint32_t& pair : numbers) pair = Times(pair, rest);
    }
#pragma unroll
    for (uint32_t& pair : numbers) {
      pair = Times(pair, factor);
      if constexpr (!kIsHalf) {
        const __half2 rounded = __floats2half2_rn(__uint_as_float(pair * shift_16),
                                                  __uint_as_float(pair & 0xffff0000u));
        pair = *reinterpret_cast<const uint32_t*>(&rounded);
      }
    }
  }
};

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

// Where this thread's numbers are: of a token of each half of a page. Rows of 16 bits come
// by asynchronous copies, those of a page while the one before is computed.
template <int kDim, RowType kType>
struct RawRows {
  static constexpr int kBytes = kType == RowType::kF32 ? 32 : 16;  // of eight numbers
  const uint8_t* rows[2];

  RawRows() = default;
  // Page `index` of what is to be sealed.
  __device__ RawRows(const AppendArgs& args, const AppendPlan& plan, const FixedPlace& place,
                     uint32_t index) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t token = index * kPageTokens + threadIdx.x / 32 * 8 + lane / 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      rows[i] =
          args.Row(plan, place.seq, place.head, place.is_value, token + i * 32) + lane % 4 * kBytes;
    }
  }
  __device__ const uint8_t* Eight(int i) const {
    return rows[i / (kDim / 32)] + i % (kDim / 32) * (4 * kBytes);
  }
  __device__ void Copy(FixedMemory<kDim>& memory) const {
    if constexpr (kType != RowType::kF32) {
#pragma unroll
      for (int i = 0; i < kDim / 16; ++i) {
        CopyAhead(&memory.numbers.Raw(i), Eight(i));
      }
      asm volatile("cp.async.commit_group;");
    }
  }
};

// This thread's rows as they come.
template <int kDim, RowType kType>
struct RawPage {
  static constexpr int kParts = 1;
  static constexpr bool kIsHalf = kType == RowType::kF16;
  uint4 eights[kDim / 16];  // [token][32 numbers]

  __device__ void Load(FixedMemory<kDim>& memory, const RawRows<kDim, kType>&) {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) eights[i] = memory.numbers.Raw(i);
  }
  // Bits of float.
  __device__ uint32_t Largest() const { return LargestOfPairs<kIsHalf>(eights); }
  // Vectors on the grid, to `use`.
  template <typename Use>
  __device__ void OnGrid(int shift, int, const Use& use) const {
    const ToFixed<kIsHalf> to_fixed(shift);
    uint32_t pairs[kDim / 4];
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
      const uint4& v = eights[i];
      pairs[4 * i] = v.x, pairs[4 * i + 1] = v.y, pairs[4 * i + 2] = v.z, pairs[4 * i + 3] = v.w;
    }
    to_fixed(pairs, blockDim.x * 512);
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
      use(i, make_uint4(pairs[4 * i], pairs[4 * i + 1], pairs[4 * i + 2], pairs[4 * i + 3]));
    }
  }
};
// Not held but read again, and in two parts: what float16 has no bits for is the second.
template <int kDim>
struct RawPage<kDim, RowType::kF32> {
  static constexpr int kParts = 2;
  RawRows<kDim, RowType::kF32> rows;

  __device__ void Load(FixedMemory<kDim>&, const RawRows<kDim, RowType::kF32>& from) {
    rows = from;
  }
  __device__ uint32_t Largest() const {
    float largest = 0;
    for (int i = 0; i < kDim / 16; ++i) {
      for (int pair = 0; pair < 4; ++pair) {
        const float2 two = reinterpret_cast<const float2*>(rows.Eight(i))[pair];
        largest = fmaxf(largest, fmaxf(fabsf(two.x), fabsf(two.y)));
      }
    }
    return __float_as_uint(largest);
  }
  template <typename Use>
  __device__ void OnGrid(int shift, int part, const Use& use) const {
    const float to_grid = __int_as_float((127 + shift) << 23);
    const auto fixed = [&](float x) {
      return (__fmaf_rn(x, to_grid, kWhole) - kWhole) * kFixedUnit;
    };
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
      uint32_t words[4];
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        const float2 two = reinterpret_cast<const float2*>(rows.Eight(i))[pair];
        const float x = fixed(two.x), y = fixed(two.y);
        __half2 rounded = __floats2half2_rn(x, y);
        if (part == 1) {
          rounded = __floats2half2_rn(x - __low2float(rounded), y - __high2float(rounded));
        }
        words[pair] = *reinterpret_cast<const uint32_t*>(&rounded);
      }
      use(i, make_uint4(words[0], words[1], words[2], words[3]));
    }
  }
};

}  // namespace quash::cuda
