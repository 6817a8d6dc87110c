// Decode attention over packed pages on NVIDIA GPUs (sm_80 and newer): one
// launch, split over pages, with the partial results merged by the block in which
// a (sequence, KV head) ends. Pages are those of kvcache/LAYOUT.md.
//
// All pointers are device memory unless said otherwise. Launches go to `stream`,
// never synchronise and read no host memory later, so they can be captured in a
// CUDA graph. Results do not depend on timing: splits are merged in order. On sm_90 a
// launch may start while the one before it on the stream ends (programmatic dependent
// launch); it waits for that one before it reads anything but rotations.
#pragma once

#include <cstddef>
#include <cstdint>

struct CUstream_st;

namespace quash::cuda {

inline constexpr uint32_t kPageTokens = 64;

// A rotation of a head, as tables: rounds of permute, multiply, Walsh-Hadamard
// (kernels/rotation.h, kind kHadamard, head_dim a power of two).
struct RotationTables {
  const uint16_t* permutation;  // [3, head_dim]
  const float* factors;         // [3, head_dim]
  // The transform is of both halves by themselves. Places are of the whole vector, in
  // the first round of the vector as given, so that bands may have any coordinates.
  bool is_halved;
};

// A side's second band (kvcache/LAYOUT.md): half of the coordinates, the first band
// having the others, or a sketch of what the first one leaves of all.
struct SecondBand {
  uint32_t bits;           // 1 to 3; 0: there is none
  uint32_t codes, scales;  // offsets in a head page
  int8_t levels[16];       // ascending, of LevelCodebook
};

// Where a page keeps what (kvcache/LAYOUT.md, of first bands). Offsets but the last
// are inside a head page; 0 means no mean is kept.
struct PageLayout {
  uint32_t page_bytes, head_page_bytes;
  uint32_t k_codes, k_scales, k_mean;
  uint32_t v_codes, v_scales, v_mean;
  uint32_t mean_scales;  // of the page: f16 [num_kv_heads][K, V]
};

struct DecodeArgs {
  uint32_t num_seqs, num_q_heads, num_kv_heads, head_dim;  // head_dim 64, 128 or 256
  uint32_t k_bits, v_bits;  // of first bands: 2, 3 or 4, before a sketch 1, 2 or 3
  uint32_t query_tokens;  // 1..8 of each sequence, its newest tokens; each sees those up to itself
  uint32_t window;        // a query token sees its last `window` tokens; 0: all
  float scale;            // of scores
  float softcap;          // scores become softcap * tanh(score / softcap); 0: off
  bool is_half;           // open tokens, queries and output are f16, not bf16
  PageLayout layout;
  RotationTables k_rotation, v_rotation;
  int8_t k_levels[16], v_levels[16];  // ascending, of LevelCodebook (host values)
  SecondBand k_second, v_second;
  bool is_sketched;        // K's second band is a sketch, of the query rotated again
  RotationTables sketch;

  const uint8_t* pages;        // [pool pages, page_bytes], 16-byte aligned
  const int32_t* block_table;  // [num_seqs, max_pages]
  const int32_t* num_pages;    // [num_seqs] sealed pages, all of 64 tokens
  uint32_t max_pages;          // of any sequence; splits are chosen from it
  // Uncompressed tokens of each sequence: sinks, which are the oldest, and those
  // that are newer than the pages.
  const uint16_t* open_k;  // [num_seqs, open_capacity, num_kv_heads, head_dim]
  const uint16_t* open_v;
  const int32_t* open_tokens;  // [num_seqs]
  uint32_t open_capacity;
  uint32_t sink_tokens;  // where a sequence has pages, so many of its open tokens are sinks

  const uint16_t* q;  // [num_seqs, query_tokens, num_q_heads, head_dim]
  uint16_t* out;      // the same
  float* lse;         // [num_seqs, query_tokens, num_q_heads] or null
  // DecodeWorkspaceBytes(), zeroed once by the caller, and again if a launch was cut off;
  // of one launch at a time. Launches of the same sizes leave it as they need it.
  void* workspace;

  uint32_t blocks, warps;  // of the launch; 0: chosen
};

// Enough for any DecodeArgs of these sizes; 0 for a head_dim that the kernels do
// not take.
size_t DecodeWorkspaceBytes(uint32_t num_seqs, uint32_t num_q_heads, uint32_t head_dim,
                            uint32_t query_tokens);

// Null, or what is wrong. Up to 8 (query token, head) pairs of a KV head share a
// pass over its pages.
const char* LaunchDecode(const DecodeArgs& args, CUstream_st* stream);

}  // namespace quash::cuda
