// What appending does to a sequence, and where its rows are.
#pragma once

#include <cstdint>

#include "kernels/cuda/seal.h"

namespace quash::cuda {

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
  float k_guess, v_guess;  // GuessSlope()

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

// One side of one head of one sequence, by a block: what is not sealed moves to the
// front, and the last of `parts` blocks to arrive changes the counts, which all
// others have read.
__device__ __forceinline__ void MoveOpenRows(const AppendArgs& args, const AppendPlan& plan,
                                             uint32_t seq, uint32_t head, bool is_value,
                                             uint32_t parts) {
  const uint32_t pages_before = static_cast<uint32_t>(args.state.num_pages[seq]);
  const uint32_t row_vectors = args.row_bytes / sizeof(uint4);
  for (uint32_t i = threadIdx.x; i < plan.new_sinks * row_vectors; i += blockDim.x) {
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
  for (uint32_t first = begin * row_vectors; first < rest * row_vectors; first += blockDim.x) {
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
  __syncthreads();
  if (threadIdx.x != 0) return;
  __threadfence();
  if (atomicAdd(args.state.arrivals + seq, 1u) + 1 != parts) return;
  args.state.arrivals[seq] = 0;
  const uint32_t pages = pages_before + plan.pages;
  if (pages > args.state.max_pages) args.state.arrivals[args.state.num_seqs] = 1;
  args.state.num_pages[seq] = static_cast<int32_t>(min(pages, args.state.max_pages));
  args.state.open_tokens[seq] = static_cast<int32_t>(sinks + rest);
}

}  // namespace quash::cuda
