// Decode attention of formats with two bands for head_dim 64.
#include "kernels/cuda/decode_bands.cuh"

namespace quash::cuda {

const char* LaunchBands64(const DecodeArgs& args, CUstream_st* stream) {
  return LaunchBands<64>(args, stream);
}

}  // namespace quash::cuda
