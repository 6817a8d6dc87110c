// Packed pages on the device: new tokens into the open part of sequences, full
// pages sealed on the way, and pages back to keys and values. Bytes are those of
// kvcache/part_codec.cc, bit by bit, and values those of quash_kv_read().
//
// Counts are in device memory and only kernels change them, so that a step of
// decoding, append and attention, can be captured in a CUDA graph and replayed.
// All pointers are device memory unless said otherwise; launches go to `stream`
// and never synchronise. On sm_90 appending lets a kernel start early that was launched so
// (programmatic dependent launch), such as attention (attend.h), and that then waits itself.
#pragma once

#include <cstdint>

#include "kernels/cuda/attend.h"
#include "kernels/fixed_point.h"

namespace quash::cuda {

enum class RowType : uint32_t { kF32 = 0, kF16 = 1, kBf16 = 2 };

// How pages of a cache are made; a row of head_dim numbers per token and KV head.
struct SealFormat {
  uint32_t num_kv_heads, head_dim;  // head_dim 64, 128 or 256
  uint32_t k_bits, v_bits;          // of first bands: 2, 3 or 4, before a sketch 1, 2 or 3
  RowType type;                     // of open and of new tokens
  uint32_t sink_tokens;             // first ones of a sequence, never sealed
  uint32_t reserve;                 // newest ones, not sealed yet
  PageLayout layout;                // k_mean or v_mean 0: no mean of that side
  RotationTables k_rotation, v_rotation;
  int8_t k_levels[16], v_levels[16];         // ascending, of LevelCodebook
  float k_boundaries[16], v_boundaries[16];  // its boundaries, 2^bits - 1
  SecondBand k_second, v_second;
  float k_second_boundaries[16], v_second_boundaries[16];
  // K's second band is a sketch: of the first, level * k_step is a coordinate of the
  // row over its norm, and the rest of that is rotated by `sketch`.
  bool is_sketched;
  RotationTables sketch;
  float k_step, sketch_factor;
  // Both rotations are those of default_rotation.h, and tables are not read.
  bool has_default_rotations;
  // Sealed in fixed point. The factors of a rotation's first round are those of its only
  // one; matrices are those of fixed_matrix.h, in device memory.
  bool is_fixed_point;
  FixedPointCode k_fixed, v_fixed;
  const uint16_t *k_matrix, *v_matrix;

  // Whether seal_bands.cu and read_bands.cu have to take it.
  bool IsBanded() const { return head_dim > 128 || k_second.bits != 0 || v_second.bits != 0; }
};

// Of a row of norm 1, the line slope * (2^bits - 2) * x through the middle boundary,
// cut off at the first and the last, is within half a step of the place of each
// boundary, so that x is compared with one boundary only. 0 if there is no such line,
// which no codebook of 2 to 4 bits is without.
float GuessSlope(const float* boundaries, uint32_t bits);

// Sequences of one layer, as DecodeArgs has them. The open part holds the sink
// tokens first: open_capacity >= sink_tokens + kPageTokens + reserve.
struct SequenceState {
  uint32_t num_seqs;
  uint8_t* pages;              // [pool pages, page_bytes], zeroed once by the caller
  const int32_t* block_table;  // [num_seqs, max_pages], pages to be filled included
  uint32_t max_pages;
  int32_t* num_pages;  // [num_seqs]
  void* open_k;        // [num_seqs, open_capacity, num_kv_heads, head_dim]
  void* open_v;
  int32_t* open_tokens;  // [num_seqs]
  uint32_t open_capacity;
  // [num_seqs + 1], zeroed once by the caller. The last becomes 1 if tokens were
  // lost because max_pages pages were full.
  uint32_t* arrivals;
};

// Rows of a batch: element (seq, head, token, d) at seq * seq_stride + head *
// head_stride + token * token_stride + d, in elements. Rows are 16-byte aligned.
struct RowStrides {
  int64_t seq, head, token;
};

// Appends tokens begins[seq]..n-1 of k and v, of format.type, to each sequence
// (null: all n). Two launches; one if n is at most kPageTokens.
const char* LaunchAppend(const SealFormat& format, const SequenceState& state, const void* k,
                         const void* v, uint32_t n, RowStrides strides, const int32_t* begins,
                         CUstream_st* stream);

// Tokens first.. of all sequences as attention sees them: token i of a sequence goes
// to place begins[seq] + i - first (null: i - first). k and v are of type `type`.
//   first  a multiple of kPageTokens
//   n      a multiple of kPageTokens, unless no sequence has more than first + n tokens
const char* LaunchRead(const SealFormat& format, const SequenceState& state, uint32_t first,
                       uint32_t n, RowType type, void* k, void* v, RowStrides strides,
                       const int32_t* begins, CUstream_st* stream);

}  // namespace quash::cuda
