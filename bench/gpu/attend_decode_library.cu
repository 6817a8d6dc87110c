// The decode kernel behind a C call, for attend_decode.py.
#include "kernels/cuda/attend.h"

extern "C" __attribute__((visibility("default"))) const char* quash_bench_decode(
    const quash::cuda::DecodeArgs* args, void* stream) {
  return quash::cuda::LaunchDecode(*args, static_cast<CUstream_st*>(stream));
}

extern "C" __attribute__((visibility("default"))) size_t quash_bench_decode_workspace(
    uint32_t num_seqs, uint32_t num_q_heads, uint32_t head_dim, uint32_t query_tokens) {
  return quash::cuda::DecodeWorkspaceBytes(num_seqs, num_q_heads, head_dim, query_tokens);
}
