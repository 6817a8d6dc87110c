// Decode attention of formats with two bands for head_dim 256.
#include "kernels/cuda/decode_bands.cuh"

namespace quash::cuda {

const char* LaunchBands256(const DecodeArgs& args, CUstream_st* stream) {
  return LaunchBands<256>(args, stream);
}

}  // namespace quash::cuda
