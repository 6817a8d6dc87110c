// Decode attention for head_dim 128.
#include "kernels/cuda/decode_launch.cuh"

namespace quash::cuda {

const char* LaunchDecode128(const DecodeArgs& args, CUstream_st* stream) {
  return LaunchBits<128>(args, stream);
}

}  // namespace quash::cuda
