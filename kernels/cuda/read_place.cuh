// What the kernels that read pages back are given, and where a block's rows are.
#pragma once

#include <cstdint>

#include "kernels/cuda/seal.h"

namespace quash::cuda {

struct ReadPlace;

// A grid of [sequences, sides and heads, 64 tokens].
struct ReadArgs {
  SealFormat format;
  SequenceState state;
  RowType type;
  uint8_t* k;
  uint8_t* v;
  RowStrides strides;  // in bytes
  const int32_t* begins;
  uint32_t first;  // token, a multiple of kPageTokens

  // Open row of token `i` of a block that has no page; null: there is none.
  __device__ const uint8_t* OpenRow(const ReadPlace& place, uint32_t i) const;
};

// One side of one head of 64 tokens of a sequence.
struct ReadPlace {
  uint32_t seq, head;
  bool is_value;
  uint32_t token;  // the first
  uint32_t pages, sinks, open_tokens;
  uint8_t* to;          // its row
  const uint8_t* page;  // null: the tokens are open

  __device__ explicit ReadPlace(const ReadArgs& args) {
    const uint32_t heads = args.format.num_kv_heads;
    seq = blockIdx.z, head = blockIdx.y % heads;
    is_value = blockIdx.y >= heads;
    pages = static_cast<uint32_t>(args.state.num_pages[seq]);
    open_tokens = static_cast<uint32_t>(args.state.open_tokens[seq]);
    sinks = min(open_tokens, args.format.sink_tokens);
    const int64_t begin = args.begins == nullptr ? 0 : args.begins[seq];
    token = args.first + blockIdx.x * kPageTokens;
    to = (is_value ? args.v : args.k) + seq * args.strides.seq + head * args.strides.head +
         (begin + token - args.first) * args.strides.token;
    page = nullptr;
    // Sinks are whole pages if anything is sealed.
    if (token < sinks || token >= sinks + pages * kPageTokens) return;
    const size_t at =
        static_cast<size_t>(seq) * args.state.max_pages + (token - sinks) / kPageTokens;
    page = args.state.pages +
           static_cast<size_t>(args.state.block_table[at]) * args.format.layout.page_bytes;
  }
};

__device__ __forceinline__ const uint8_t* ReadArgs::OpenRow(const ReadPlace& place,
                                                            uint32_t i) const {
  const uint32_t own = place.token + i;
  const uint32_t at = own < place.sinks ? own : own - place.pages * kPageTokens;
  if (at >= place.open_tokens) return nullptr;
  const auto* open = static_cast<const uint8_t*>(place.is_value ? state.open_v : state.open_k);
  const size_t row =
      (static_cast<size_t>(place.seq) * state.open_capacity + at) * format.num_kv_heads +
      place.head;
  return open + row * format.head_dim * (format.type == RowType::kF32 ? 4 : 2);
}

}  // namespace quash::cuda
