// Launching the decode kernel for the sizes that one file compiles.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <array>

#include "kernels/cuda/decode_kernel.cuh"
#include "kernels/cuda/launch_limits.cuh"

namespace quash::cuda {

constexpr uint32_t kMaxBlocks = 1024;

// The workspace is partials and then the spill, places that depend on nothing else: other
// memory must not be written where partials are to be zero.
inline size_t QueriesOf(uint32_t num_seqs, uint32_t num_q_heads, uint32_t query_tokens) {
  // Units have room for 4 or 8 queries, of which at least half are used when there
  // are more than 2.
  return size_t{num_seqs} * num_q_heads * std::max(2 * query_tokens, 4u);
}
inline size_t PartialsFloats(uint32_t num_seqs, uint32_t num_q_heads, uint32_t head_dim,
                             uint32_t query_tokens) {
  return (8 * kMaxBlocks + QueriesOf(num_seqs, num_q_heads, query_tokens)) *
         PartialFloats(head_dim);
}

// A block fills a multiprocessor, with as many warps as registers and shared
// memory allow.
struct LaunchSizes {
  uint32_t processors, warps, slots;  // 0 warps: the device cannot run the kernel
  bool can_start_early;
};

template <int kKBits, int kVBits, int kDim, int kTiles>
LaunchSizes SizesOnDevice(int device) {
  using S = Shape<kKBits, kVBits, kDim, kTiles>;
  int processors = 0, bytes = 0;
  if (cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) !=
          cudaSuccess ||
      cudaFuncSetAttribute(&DecodeKernel<kKBits, kVBits, kDim, kTiles>,
                           cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) != cudaSuccess) {
    return {};
  }
  const bool can_start_early = CanStartEarly(&DecodeKernel<kKBits, kVBits, kDim, kTiles>);
  const size_t available = bytes;
  for (uint32_t warps = S::kWarps; warps != 0; --warps) {
    if (S::SharedBytes(warps, 2) > available) continue;
    uint32_t slots = kMaxSlots;
    while (S::SharedBytes(warps, slots) > available) --slots;
    return {static_cast<uint32_t>(processors), warps, slots, can_start_early};
  }
  return {};
}

// As many blocks as there are or a few less: so many that units have whole numbers of blocks, or
// blocks of units, if sequences are of one length, since parts are what takes time at the end.
inline uint32_t EvenBlocks(uint32_t most, size_t units) {
  for (uint32_t blocks = most; blocks >= most - most / 32; --blocks) {
    if (units % blocks == 0 || blocks % units == 0) return blocks;
  }
  return most;
}

template <int kKBits, int kVBits, int kDim, int kTiles>
const char* Launch(const DecodeArgs& args, CUstream_st* stream) {
  using S = Shape<kKBits, kVBits, kDim, kTiles>;
  static thread_local LaunchSizes known[kMaxDevices];  // asked once of each
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= kMaxDevices) {
    return "there is no such device";
  }
  LaunchSizes& sizes = known[device];
  if (sizes.warps == 0) sizes = SizesOnDevice<kKBits, kVBits, kDim, kTiles>(device);
  if (sizes.warps == 0) return "the device cannot run the kernel";
  KernelArgs kernel_args = {};
  kernel_args.a = args;
  kernel_args.k_table = MakeLevelTable(args.k_bits, args.k_levels);
  kernel_args.v_table = MakeLevelTable(args.v_bits, args.v_levels);
  if (args.k_second.bits != 0) {
    kernel_args.k_second_table = MakeLevelTable(args.k_second.bits, args.k_second.levels);
  }
  if (args.v_second.bits != 0) {
    kernel_args.v_second_table = MakeLevelTable(args.v_second.bits, args.v_second.levels);
  }
  const uint32_t group = args.num_q_heads / args.num_kv_heads;
  const uint32_t passes = (group * args.query_tokens + S::kQueries - 1) / S::kQueries;
  const uint32_t rows = args.num_kv_heads * passes;
  kernel_args.group = Divisor(group);
  kernel_args.passes = Divisor(passes);
  kernel_args.rows = Divisor(rows);
  kernel_args.cap = args.softcap * kLog2E;
  kernel_args.inverse_cap = args.softcap != 0 ? 1 / kernel_args.cap : 0;
  kernel_args.slots = sizes.slots;
  const size_t units = size_t{args.num_seqs} * rows;
  kernel_args.partials = static_cast<float*>(args.workspace);
  kernel_args.spill =
      kernel_args.partials +
      PartialsFloats(args.num_seqs, args.num_q_heads, args.head_dim, args.query_tokens);

  const size_t chunks = (size_t{args.open_capacity} + kOpenChunk - 1) / kOpenChunk;
  const size_t items = units * (kStartItems + args.max_pages + chunks);
  if (items >= size_t{1} << 31) return "more than 2^31 pages of work";
  const uint32_t warps = args.warps != 0 ? std::min(args.warps, sizes.warps) : sizes.warps;
  const uint32_t most = static_cast<uint32_t>(
      std::clamp<size_t>(items / 2, 1, std::min(sizes.processors, kMaxBlocks)));
  const uint32_t blocks =
      args.blocks != 0 ? std::min(args.blocks, kMaxBlocks) : EvenBlocks(most, units);
  kernel_args.blocks = Divisor(blocks);
  kernel_args.warps = Divisor(warps);
  const cudaError_t error = LaunchDependent(
      &DecodeKernel<kKBits, kVBits, kDim, kTiles>, dim3(blocks), 32 * warps,
      S::SharedBytes(warps, sizes.slots), stream, sizes.can_start_early, kernel_args);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

template <int kKBits, int kVBits, int kDim>
const char* LaunchTiles(const DecodeArgs& args, CUstream_st* stream) {
  const bool is_small = args.num_q_heads / args.num_kv_heads * args.query_tokens <= kTileQueries;
  return is_small ? Launch<kKBits, kVBits, kDim, 1>(args, stream)
                  : Launch<kKBits, kVBits, kDim, 2>(args, stream);
}

template <int kDim>
const char* LaunchBits(const DecodeArgs& args, CUstream_st* stream) {
  using Function = const char* (*)(const DecodeArgs&, CUstream_st*);
  static constexpr std::array<Function, 9> kFunctions = {
      &LaunchTiles<2, 2, kDim>, &LaunchTiles<2, 3, kDim>, &LaunchTiles<2, 4, kDim>,
      &LaunchTiles<3, 2, kDim>, &LaunchTiles<3, 3, kDim>, &LaunchTiles<3, 4, kDim>,
      &LaunchTiles<4, 2, kDim>, &LaunchTiles<4, 3, kDim>, &LaunchTiles<4, 4, kDim>};
  return kFunctions[3 * (args.k_bits - 2) + args.v_bits - 2](args, stream);
}

// One file each.
const char* LaunchDecode64(const DecodeArgs& args, CUstream_st* stream);
const char* LaunchDecode128(const DecodeArgs& args, CUstream_st* stream);
const char* LaunchDecode256(const DecodeArgs& args, CUstream_st* stream);
// Of formats with two bands.
const char* LaunchBands64(const DecodeArgs& args, CUstream_st* stream);
const char* LaunchBands128(const DecodeArgs& args, CUstream_st* stream);
const char* LaunchBands256(const DecodeArgs& args, CUstream_st* stream);

}  // namespace quash::cuda
