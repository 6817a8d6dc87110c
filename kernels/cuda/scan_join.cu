#include "kernels/cuda/scan_join.h"

#include <cuda_runtime.h>

namespace quash::cuda {
namespace {

constexpr uint32_t kJoinThreads = 256;
constexpr uint32_t kBlockRows = 32;

// A row of a part in the numbering of all.
__device__ uint32_t JoinedRow(const JoinPart& part, uint32_t row) {
  const auto* first = reinterpret_cast<const uint2*>(part.first_blocks);
  uint32_t low = 0, high = part.num_segments - 1;
  while (low < high) {
    const uint32_t middle = (low + high + 1) / 2;
    if (first[middle].x * kBlockRows <= row) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return row + (first[low].y - first[low].x) * kBlockRows;
}

// blockIdx.x: a query.
__global__ void __launch_bounds__(kJoinThreads) Join(const __grid_constant__ JoinArgs args) {
  const uint32_t q = blockIdx.x;
  auto* out = reinterpret_cast<uint4*>(args.candidates) + size_t{q} * args.capacity;
  uint32_t count = 0;
  float key_limit = -INFINITY, estimate_limit = -INFINITY;
  for (uint32_t p = 0; p < args.num_parts; ++p) {
    const JoinPart& part = args.parts[p];
    const uint32_t found = part.counts[q];
    if (found > args.capacity - count) {
      count = args.capacity + 1;
      break;
    }
    const auto* from = reinterpret_cast<const uint4*>(part.candidates) + size_t{q} * args.capacity;
    for (uint32_t i = threadIdx.x; i < found; i += kJoinThreads) {
      uint4 one = from[i];
      one.x = JoinedRow(part, one.x);
      out[count + i] = one;
    }
    count += found;
    if (part.limits[2 * q] > -INFINITY) {  // else all its rows are listed
      key_limit = fmaxf(key_limit, part.limits[2 * q]);
      estimate_limit = fmaxf(estimate_limit, part.limits[2 * q + 1]);
    }
  }
  if (threadIdx.x == 0) {
    args.counts[q] = count;
    args.limits[2 * q] = key_limit;
    args.limits[2 * q + 1] = estimate_limit;
  }
}

}  // namespace

const char* LaunchJoin(const JoinArgs& args, CUstream_st* stream) {
  if (args.num_parts > kJoinMax) return "more than 64 devices";
  Join<<<args.nq, kJoinThreads, 0, stream>>>(args);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace quash::cuda
