// New tokens into the open part, and the counts.
#include <cuda_runtime.h>

#include "kernels/cuda/seal.h"
#include "kernels/cuda/seal_launch.h"
#include "kernels/cuda/seal_rows.cuh"

namespace quash::cuda {
namespace {

constexpr uint32_t kThreads = 128;

// One side of one head of one sequence: what is not sealed moves to the front.
__global__ void __launch_bounds__(kThreads) AppendKernel(const __grid_constant__ AppendArgs args) {
  const uint32_t seq = blockIdx.y, head = blockIdx.x / 2;
  const bool is_value = blockIdx.x % 2 != 0;
  const AppendPlan plan = args.Plan(seq);
  const uint32_t pages_before = static_cast<uint32_t>(args.state.num_pages[seq]);
  const uint32_t row_vectors = args.row_bytes / sizeof(uint4);

  for (uint32_t i = threadIdx.x; i < plan.new_sinks * row_vectors; i += kThreads) {
    const uint32_t token = i / row_vectors, vector = i % row_vectors;
    const auto* from =
        reinterpret_cast<const uint4*>(args.NewRow(seq, head, is_value, plan.first + token));
    auto* to = reinterpret_cast<uint4*>(args.OpenRow(seq, head, is_value, plan.sinks + token));
    to[vector] = from[vector];
  }
  const uint32_t sinks = plan.sinks + plan.new_sinks;
  const uint32_t sealed = plan.pages * kPageTokens;
  const uint32_t rest = plan.total - sealed;
  // Rows move towards the front, so a barrier between the loads and the stores of
  // a round is enough.
  const uint32_t begin = sealed == 0 ? plan.open : 0;
  for (uint32_t first = begin * row_vectors; first < rest * row_vectors; first += kThreads) {
    const uint32_t i = first + threadIdx.x;
    const uint32_t token = i / row_vectors, vector = i % row_vectors;
    uint4 value = {};
    if (token < rest) {
      value = reinterpret_cast<const uint4*>(
          args.Row(plan, seq, head, is_value, sealed + token))[vector];
    }
    __syncthreads();
    if (token < rest) {
      reinterpret_cast<uint4*>(args.OpenRow(seq, head, is_value, sinks + token))[vector] = value;
    }
  }
  // The last block to arrive changes the counts, which all others have read.
  __syncthreads();
  if (threadIdx.x != 0) return;
  __threadfence();
  if (atomicAdd(args.state.arrivals + seq, 1u) + 1 != gridDim.x) return;
  args.state.arrivals[seq] = 0;
  const uint32_t pages = pages_before + plan.pages;
  if (pages > args.state.max_pages) args.state.arrivals[args.state.num_seqs] = 1;
  args.state.num_pages[seq] = static_cast<int32_t>(min(pages, args.state.max_pages));
  args.state.open_tokens[seq] = static_cast<int32_t>(sinks + rest);
}

size_t BytesOf(RowType type) { return type == RowType::kF32 ? 4 : 2; }

}  // namespace

const char* LaunchAppend(const SealFormat& format, const SequenceState& state, const void* k,
                         const void* v, uint32_t n, RowStrides strides, const int32_t* begins,
                         CUstream_st* stream) {
  if (format.head_dim != 64 && format.head_dim != 128) return "head_dim is not 64 or 128";
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
  LaunchSeal(args, stream);
  cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) {
    const dim3 grid(2 * format.num_kv_heads, state.num_seqs);
    AppendKernel<<<grid, kThreads, 0, stream>>>(args);
    error = cudaGetLastError();
  }
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace quash::cuda
