// A unit's queries: which they are, what they see, and their preparation.
#pragma once

#include <cstdint>

#include "kernels/cuda/decode_codes.cuh"
#include "kernels/cuda/decode_state.cuh"
#include "kernels/cuda/decode_work.cuh"
#include "kernels/cuda/warp_math.cuh"
#include "kernels/cuda/warp_rotation.cuh"

namespace quash::cuda {

// Query x of a unit; those past the last are zero and thrown away at the end.
template <int kQueries>
struct UnitQueries {
  const KernelArgs& args;
  uint32_t seq, kv_head, first;

  // row  KV head and pass
  __device__ UnitQueries(const KernelArgs& args, uint32_t seq, uint32_t row)
      : args(args),
        seq(seq),
        kv_head(args.passes.Divide(row)),
        first(args.passes.Rest(row) * kQueries) {}

  __device__ bool Exists(int x) const { return first + x < args.group.value() * args.a.query_tokens; }
  __device__ uint32_t Token(int x) const { return args.group.Divide(first + x); }
  // Of q, out and lse.
  __device__ size_t Row(int x) const {
    return (static_cast<size_t>(seq) * args.a.query_tokens + Token(x)) * args.a.num_q_heads +
           kv_head * args.group.value() + args.group.Rest(first + x);
  }
  // Positions [begin, end) that query token `token` sees, of a sequence of `length`.
  struct Range {
    int begin, end;
  };
  __device__ Range Sees(uint32_t token, uint32_t length) const {
    const int end = static_cast<int>(length) - static_cast<int>(args.a.query_tokens - 1 - token);
    const int window = static_cast<int>(args.a.window);
    return {window != 0 && end > window ? end - window : 0, end};
  }
};

// A query's numbers 32 i + lane, times scale * log2(e).
template <int kDim>
struct QueryRow {
  static constexpr int kPer = kDim / 32;
  uint16_t bits[kPer];

  template <int kQueries>
  __device__ QueryRow(const UnitQueries<kQueries>& unit, int x, int lane) {
    const uint16_t* row = unit.Exists(x) ? unit.args.a.q + unit.Row(x) * kDim : nullptr;
#pragma unroll
    for (int i = 0; i < kPer; ++i) bits[i] = row != nullptr ? __ldg(row + 32 * i + lane) : 0;
  }
};

// The query's numbers 32 i + lane, rotated; they are in scratch too.
template <int kDim, typename Tables>
__device__ __forceinline__ void RotateQuery(const DecodeArgs& args, const QueryRow<kDim>& row,
                                            const Tables& tables, int lane, float* scratch,
                                            float (*rotated)[kDim / 32]) {
  const float scale = args.scale * kLog2E;
#pragma unroll
  for (int i = 0; i < kDim / 32; ++i) {
    scratch[32 * i + lane] = FromBits16(row.bits[i], args.is_half) * scale;
  }
  Tables::Rotation::Apply(scratch, tables, lane);
#pragma unroll
  for (int i = 0; i < kDim / 32; ++i) (*rotated)[i] = scratch[32 * i + lane];
}

// Numbers kFirst.. of `rotated`, 32 i + lane of a band of kN, as integers of 15 bits at
// 4 bits and 16 below, split in bytes: high * 256 + low. At 4 bits that is twice the
// query: its products are with the halved levels, to which the sum is added.
//   high, low  in the order of the products
template <int kBits, int kN, int kFirst, int kPer>
__device__ __forceinline__ void QuantizeQuery(const float (&rotated)[kPer], int lane, int8_t* high,
                                              int8_t* low, float* scale, int32_t* sum) {
  constexpr int kCount = kN / 32;
  float largest = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) largest = fmaxf(largest, fabsf(rotated[kFirst + i]));
  largest = ReduceWarp(largest, Max());
  constexpr int kLow = kBits == 4 ? 128 : 256;
  constexpr float kLimit = 127.0f * kLow;
  const float inverse = largest > 0 ? __fdividef(kLimit, largest) : 0.0f;
  int total = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int value = __float2int_rn(rotated[kFirst + i] * inverse);
    const int of_high = (value + kLow / 2) >> (kBits == 4 ? 7 : 8);
    const int of_low = value - of_high * kLow;
    const int at = OperandOffset<kBits, kN>(32 * i + lane);
    high[at] = static_cast<int8_t>(of_high);
    low[at] = static_cast<int8_t>(kBits == 4 ? 2 * of_low : of_low);
    total += value;
  }
  total = ReduceWarp(total, Add());
  if (lane == 0) {
    *scale = largest / kLimit;
    if (sum != nullptr) *sum = total;
  }
}

// Query x of a unit, rotated.
template <int kKBits, int kDim, int kQueries, typename Tables>
__device__ __forceinline__ void PrepareQuery(const DecodeArgs& args, const QueryRow<kDim>& row,
                                             const Tables& tables, int lane, int x, float* scratch,
                                             UnitQuery<kQueries, kDim>* to) {
  float rotated[kDim / 32];
  RotateQuery(args, row, tables, lane, scratch, &rotated);
  QuantizeQuery<kKBits, kDim, 0>(rotated, lane, to->bytes[2 * x], to->bytes[2 * x + 1],
                                 to->scale + x, to->sum + x);
  __syncwarp();
}
}  // namespace quash::cuda
