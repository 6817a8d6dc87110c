// Decode attention for head_dim 256.
#include "kernels/cuda/decode_launch.cuh"

namespace quash::cuda {

const char* LaunchDecode256(const DecodeArgs& args, CUstream_st* stream) {
  return LaunchBits<256>(args, stream);
}

}  // namespace quash::cuda
