// New tokens into the open part, and the counts.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>

#include "kernels/cuda/append_plan.cuh"
#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/seal.h"
#include "kernels/cuda/seal_launch.h"

namespace quash::cuda {
namespace {

constexpr uint32_t kThreads = 128;

__global__ void __launch_bounds__(kThreads) AppendKernel(const __grid_constant__ AppendArgs args) {
  WaitForPrevious();  // for the kernel that seals
  LetNextStart();
  const uint32_t seq = blockIdx.y, head = blockIdx.x / 2;
  const bool is_value = blockIdx.x % 2 != 0;
  MoveOpenRows(args, args.Plan(seq), seq, head, is_value, gridDim.x);
}

size_t BytesOf(RowType type) { return type == RowType::kF32 ? 4 : 2; }

}  // namespace

float GuessSlope(const float* boundaries, uint32_t bits) {
  constexpr float kError = 0.45f;  // the rest is for rounding
  const int last = (1 << bits) - 2, middle = last / 2;
  float least = 0, most = INFINITY;
  for (int step = 1; step <= middle; ++step) {
    for (const float boundary : {boundaries[middle + step], -boundaries[middle - step]}) {
      least = std::max(least, (static_cast<float>(step) - kError) / boundary);
      if (step < middle) most = std::min(most, (static_cast<float>(step) + kError) / boundary);
    }
  }
  if (!(least > 0) || least > most || boundaries[middle] != 0) return 0;
  const float slope = most == INFINITY ? least * 1.5f : (least + most) / 2;
  return slope / static_cast<float>(last);
}

const char* LaunchAppend(const SealFormat& format, const SequenceState& state, const void* k,
                         const void* v, uint32_t n, RowStrides strides, const int32_t* begins,
                         CUstream_st* stream) {
  if (format.head_dim != 64 && format.head_dim != 128 && format.head_dim != 256) {
    return "head_dim is not 64, 128 or 256";
  }
  if (state.num_seqs == 0 || state.num_seqs > 65535) return "num_seqs is not in 1..65535";
  if (format.num_kv_heads == 0 || format.num_kv_heads > 32767) return "too many KV heads";
  if (state.open_capacity < format.sink_tokens + kPageTokens + format.reserve) {
    return "the open part is too small for sinks, a page and the reserve";
  }
  if (n == 0) return nullptr;
  const auto size = static_cast<int64_t>(BytesOf(format.type));
  AppendArgs args = {};
  args.format = format;
  args.state = state;
  args.k = static_cast<const uint8_t*>(k);
  args.v = static_cast<const uint8_t*>(v);
  args.strides = {strides.seq * size, strides.head * size, strides.token * size};
  args.begins = begins;
  args.n = n;
  args.row_bytes = static_cast<uint32_t>(format.head_dim * size);
  const auto is_aligned = [](int64_t value) { return value % 16 == 0; };
  if (!is_aligned(reinterpret_cast<int64_t>(k)) || !is_aligned(reinterpret_cast<int64_t>(v)) ||
      !is_aligned(args.strides.seq) || !is_aligned(args.strides.head) ||
      !is_aligned(args.strides.token)) {
    return "rows of keys and values are not 16-byte aligned";
  }
  if (!format.IsBanded() && !format.is_fixed_point) {
    args.k_guess = GuessSlope(format.k_boundaries, format.k_bits);
    args.v_guess = GuessSlope(format.v_boundaries, format.v_bits);
    if (!(args.k_guess > 0) || !(args.v_guess > 0)) return "boundaries are not those of a codebook";
  }
  if (n <= kPageTokens) {
    LaunchSealAndMove(args, stream);
  } else {
    LaunchSeal(args, stream);
  }
  cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess && n > kPageTokens) {
    const dim3 grid(2 * format.num_kv_heads, state.num_seqs);
    error = LaunchDependent(&AppendKernel, grid, kThreads, 0, stream, CanStartEarly(&AppendKernel),
                            args);
  }
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace quash::cuda
