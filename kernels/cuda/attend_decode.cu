#include "kernels/cuda/attend.h"
#include "kernels/cuda/decode_launch.cuh"

namespace quash::cuda {

size_t DecodeWorkspaceBytes(uint32_t num_seqs, uint32_t num_q_heads, uint32_t head_dim,
                            uint32_t query_tokens) {
  if (head_dim != 64 && head_dim != 128 && head_dim != 256) return 0;
  const size_t partials = PartialsFloats(num_seqs, num_q_heads, head_dim, query_tokens);
  const size_t spilled = 2 * QueriesOf(num_seqs, num_q_heads, query_tokens) * (head_dim + 8);
  return sizeof(float) * (partials + spilled);
}

namespace {

const char* CheckBits(const DecodeArgs& args) {
  // One band, or two with a bit more in the first.
  const auto fits = [](uint32_t first, uint32_t second) {
    if (second == 0) return first >= 2 && first <= 4;
    return (second == 2 || second == 3) && first == second + 1;
  };
  if (args.is_sketched) {
    if (args.k_bits < 1 || args.k_bits > 3 || args.k_second.bits != 1) {
      return "k_bits must be 1, 2 or 3 before a sketch of 1";
    }
  } else if (!fits(args.k_bits, args.k_second.bits)) {
    return "k_bits must be 2, 3 or 4 in one band, or 3 and 2 or 4 and 3 in two";
  }
  if (!fits(args.v_bits, args.v_second.bits)) {
    return "v_bits must be 2, 3 or 4 in one band, or 3 and 2 or 4 and 3 in two";
  }
  return nullptr;
}

}  // namespace

const char* LaunchDecode(const DecodeArgs& args, CUstream_st* stream) {
  if (args.num_kv_heads == 0 || args.num_q_heads == 0 ||
      args.num_q_heads % args.num_kv_heads != 0) {
    return "num_q_heads is not a multiple of num_kv_heads";
  }
  if (args.num_seqs == 0 || args.num_seqs > 65535) return "num_seqs is not in 1..65535";
  if (args.query_tokens == 0 || args.query_tokens > 8) return "query_tokens is not in 1..8";
  if (args.window > INT32_MAX) return "window is above 2^31 - 1";
  const bool is_banded = args.k_second.bits != 0 || args.v_second.bits != 0;
  if (const char* error = CheckBits(args)) return error;
  switch (args.head_dim) {
    case 64:
      return is_banded ? LaunchBands64(args, stream) : LaunchDecode64(args, stream);
    case 128:
      return is_banded ? LaunchBands128(args, stream) : LaunchDecode128(args, stream);
    case 256:
      return is_banded ? LaunchBands256(args, stream) : LaunchDecode256(args, stream);
    default:
      return "head_dim is not 64, 128 or 256";
  }
}

}  // namespace quash::cuda
