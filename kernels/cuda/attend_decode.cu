#include "kernels/cuda/attend.h"
#include "kernels/cuda/decode_launch.cuh"

namespace quash::cuda {

size_t DecodeWorkspaceBytes(uint32_t num_seqs, uint32_t num_q_heads, uint32_t head_dim,
                            uint32_t query_tokens) {
  if (head_dim != 64 && head_dim != 128 && head_dim != 256) return 0;
  // Units have room for 4 or 8 queries, of which at least half are used when there
  // are more than 2.
  const size_t queries = size_t{num_seqs} * num_q_heads * std::max(2 * query_tokens, 4u);
  const size_t partial = (head_dim + 4) * sizeof(float);
  return AlignUp(queries * sizeof(uint32_t)) + AlignUp(queries * partial) +
         AlignUp((8 * kMaxBlocks + queries) * partial);
}

const char* LaunchDecode(const DecodeArgs& args, CUstream_st* stream) {
  if (args.num_kv_heads == 0 || args.num_q_heads == 0 ||
      args.num_q_heads % args.num_kv_heads != 0) {
    return "num_q_heads is not a multiple of num_kv_heads";
  }
  if (args.num_seqs == 0 || args.num_seqs > 65535) return "num_seqs is not in 1..65535";
  if (args.query_tokens == 0 || args.query_tokens > 8) return "query_tokens is not in 1..8";
  if (args.window > INT32_MAX) return "window is above 2^31 - 1";
  if (args.k_bits < 2 || args.k_bits > 4 || args.v_bits < 2 || args.v_bits > 4) {
    return "k_bits and v_bits must be 2, 3 or 4";
  }
  switch (args.head_dim) {
    case 64:
      return LaunchDecode64(args, stream);
    case 128:
      return LaunchDecode128(args, stream);
    case 256:
      return LaunchDecode256(args, stream);
    default:
      return "head_dim is not 64, 128 or 256";
  }
}

}  // namespace quash::cuda
