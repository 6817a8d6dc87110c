// Decode attention for head_dim 64.
#include "kernels/cuda/decode_launch.cuh"

namespace quash::cuda {

const char* LaunchDecode64(const DecodeArgs& args, CUstream_st* stream) {
  return LaunchBits<64>(args, stream);
}

}  // namespace quash::cuda
