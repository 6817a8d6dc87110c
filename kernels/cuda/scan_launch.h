// Between the files of the scan.
#pragma once

#include "kernels/cuda/scan.h"

namespace quash::cuda {

// The rows that reach their limits, or the sample: two planes and whole codes.
const char* LaunchCodeScan(const ScanArgs& args, bool sample, CUstream_st* stream);

}  // namespace quash::cuda
