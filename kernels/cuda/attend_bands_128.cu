// Decode attention of formats with two bands for head_dim 128.
#include "kernels/cuda/decode_bands.cuh"

namespace quash::cuda {

const char* LaunchBands128(const DecodeArgs& args, CUstream_st* stream) {
  return LaunchBands<128>(args, stream);
}

}  // namespace quash::cuda
