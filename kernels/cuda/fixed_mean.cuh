// The mean of a page's rotated rows, from sums of its numbers over all tokens while the rows are
// being transformed.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/fixed_memory.cuh"

namespace quash::cuda {

// The coordinate of this thread in the Walsh-Hadamard transform of SumTokens(): of its numbers it
// makes one of as many sums. Where kDim is 64, threads with bit 1 have what others have too.
template <int kDim>
__device__ __forceinline__ int SummedCoordinate() {
  return SummedNumber<kDim>(threadIdx.x % (kDim / 32));
}
// What number `i` of those is multiplied by, its sign by the rotation's factors included.
template <int kDim>
__device__ __forceinline__ float SignOfSum(const float* factors, int i) {
  const int number = SummedNumber<kDim>(i);
  const bool is_negative = (__popc(static_cast<uint32_t>(i) & threadIdx.x % (kDim / 32)) & 1) != 0;
  return (is_negative != (factors[number] < 0) ? -1 : 1) / kFixedUnit;
}
// The transform within each warp.
template <int kDim>
__device__ __forceinline__ int32_t TransformOfWarp(const float (&sums)[kDim / 32],
                                                   const float (&signs)[kDim / 32]) {
  float all = kWhole;
#pragma unroll
  for (int i = 0; i < kDim / 32; ++i) all = __fmaf_rn(sums[i], signs[i], all);
  int32_t number = __float_as_int(all) - __float_as_int(kWhole);
#pragma unroll
  for (int step = 4; step < 32; step *= 2) {
    const int sign = (threadIdx.x & step) != 0 ? -1 : 1;
    number = number * sign + __shfl_xor_sync(kAllLanes, number, step);
  }
  return number;
}

// Makes the columns of coordinate `coordinate` lose `mean`, a whole number below 2^22.
template <int kDim>
__device__ __forceinline__ void SetConstant(FixedMatrixMemory<kDim>& memory, int coordinate,
                                            float mean) {
  const float all = mean * -kFixedUnit;
  const __half most = __float2half_rn(all);
  const __half2 parts = __halves2half2(most, __float2half_rn(all - __half2float(most)));
  uint4& constants = memory.constants[FixedColumn(coordinate % (kDim / 2))];
  (&constants.x)[coordinate / (kDim / 2)] = *reinterpret_cast<const uint32_t*>(&parts);
}

// The mean of the rotated rows in int8 from SumTokens(), for AddConstants().
//   from_grid  to numbers of the rotated rows; to_grid is back
//   is_kept    whether there is one; otherwise it is 0, and not written
template <int kDim>
__device__ __forceinline__ void FixedMean(FixedMemory<kDim>& memory, const float (&sums)[kDim / 32],
                                          float from_grid, float to_grid, bool is_kept,
                                          int8_t* mean, __half* mean_scale) {
  constexpr float kTokens = kPageTokens;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  memory.sums[warp][lane] = TransformOfWarp<kDim>(sums, memory.signs[threadIdx.x]);
  __syncthreads();
  // Of the four warps, by each of them.
  int32_t row[kFixedWarps];
#pragma unroll
  for (int i = 0; i < kFixedWarps; ++i) row[i] = memory.sums[i][lane];
  HadamardOfThread(row);
  uint32_t largest = 0;
#pragma unroll
  for (const int32_t number : row) largest = max(largest, static_cast<uint32_t>(abs(number)));
  largest = MaxOfWarp(largest);
  if (!is_kept) largest = 0;
  const __half rounded = ToF16(static_cast<float>(largest) * (1 / (127 * kTokens)) * from_grid);
  const float step = __half2float(rounded) * to_grid;
  if (threadIdx.x == 0) *mean_scale = rounded;
  int32_t own = row[0];
#pragma unroll
  for (int i = 1; i < kFixedWarps; ++i) own = warp == i ? row[i] : own;
  const float steps = step > 0 ? rintf(Quotient(static_cast<float>(own), step * kTokens)) : 0.0f;
  const float cut = fminf(fmaxf(steps, -127.0f), 127.0f);
  const int coordinate = SummedCoordinate<kDim>();
  if (is_kept) mean[coordinate] = static_cast<int8_t>(cut);
  SetConstant(memory.products, coordinate, rintf(step * cut));
  ShowToProducts();
  __syncthreads();
}

}  // namespace quash::cuda
