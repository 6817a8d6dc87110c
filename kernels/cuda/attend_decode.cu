#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/attend.h"
#include "kernels/cuda/decode_pages.cuh"

namespace quash::cuda {
namespace {

// Where this block's stretch of items begins: by one warp, over the sequences.
template <typename Shared>
__device__ void LocateStretch(const KernelArgs& args, uint32_t rows, Shared& shared) {
  const uint32_t lane = threadIdx.x % 32;
  const auto items_of = [&](uint32_t seq) -> uint64_t {
    if (seq >= args.a.num_seqs) return 0;
    return static_cast<uint64_t>(rows) * (__ldg(args.a.num_pages + seq) + kOpenItems);
  };
  uint64_t total = 0;
  for (uint32_t seq = lane; seq < args.a.num_seqs; seq += 32) total += items_of(seq);
  for (int step = 1; step < 32; step *= 2) total += __shfl_xor_sync(kAllLanes, total, step);
  const uint64_t begin = total * blockIdx.x / gridDim.x;
  uint64_t before = 0;
  for (uint32_t first = 0; first < args.a.num_seqs; first += 32) {
    const uint64_t items = items_of(first + lane);
    uint64_t sum = items;  // inclusive prefix
    for (int step = 1; step < 32; step *= 2) {
      const uint64_t other = __shfl_up_sync(kAllLanes, sum, step);
      if (lane >= step) sum += other;
    }
    const unsigned here = __ballot_sync(kAllLanes, before + sum > begin);
    if (here != 0) {
      const int found = __ffs(here) - 1;
      const uint64_t end = __shfl_sync(kAllLanes, sum, found);
      const uint64_t own = __shfl_sync(kAllLanes, items, found);
      if (lane == 0) {
        shared.items = total;
        shared.first_seq = first + found;
        shared.seq_begin = before + end - own;
      }
      return;
    }
    before += __shfl_sync(kAllLanes, sum, 31);
  }
}

template <int kKBits, int kVBits, int kDim, int kTiles>
__global__ void __launch_bounds__(kThreads, kTiles == 1 ? 3 : 2)
    DecodeKernel(const __grid_constant__ KernelArgs args) {
  using D = Decoder<kKBits, kVBits, kDim, kTiles>;
  extern __shared__ __align__(16) uint8_t memory[];
  auto& shared = *reinterpret_cast<typename D::Shared*>(memory);
  constexpr size_t kPartial = D::kHeads * PartialFloats<kDim>();
  const uint32_t rows = args.a.num_kv_heads * args.passes;
  if (threadIdx.x < kWarps * kStages) PageCopier::Initialise(&shared.barriers[0][threadIdx.x]);
  if (threadIdx.x < 32) LocateStretch(args, rows, shared);
  uint32_t phase = 0;
  __syncthreads();
  const uint64_t total = shared.items;
  const auto begin_of = [&](uint64_t block) { return total * block / gridDim.x; };
  const auto block_of = [&](uint64_t item) { return ((item + 1) * gridDim.x - 1) / total; };
  uint64_t item = begin_of(blockIdx.x);
  const uint64_t end = begin_of(blockIdx.x + 1);
  uint64_t seq_begin = shared.seq_begin;

  Segment segment = {shared.first_seq, 0, 0, 0, false};
  while (item < end) {
    const uint32_t pages = __ldg(args.a.num_pages + segment.seq);
    const uint32_t of_unit = pages + kOpenItems;
    segment.row = static_cast<uint32_t>((item - seq_begin) / of_unit);
    const uint64_t unit_begin = seq_begin + static_cast<uint64_t>(segment.row) * of_unit;
    const uint64_t unit_end = unit_begin + of_unit;
    const uint64_t segment_end = unit_end < end ? unit_end : end;
    segment.begin = min(static_cast<uint32_t>(item - unit_begin), pages);
    segment.end = min(static_cast<uint32_t>(segment_end - unit_begin), pages);
    segment.has_open = segment_end == unit_end;
    const uint64_t unit = static_cast<uint64_t>(segment.seq) * rows + segment.row;

    D decoder(args, shared, segment);
    decoder.Pages(segment.begin, segment.end, phase);
    decoder.StorePartial(args.partials + (blockIdx.x + unit) * kPartial);
    if (segment.has_open) {
      __syncthreads();
      decoder.OpenTokens();
      decoder.StorePartial(args.open + unit * kPartial);
    }
    // The last block to arrive has everyone's results in sight.
    const uint64_t first_block = block_of(unit_begin);
    const uint32_t parts = static_cast<uint32_t>(block_of(unit_end - 1) - first_block) + 1;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
      const uint32_t arrived = atomicAdd(args.counters + unit, 1u) + 1;
      shared.is_last = arrived == parts;
      if (shared.is_last) args.counters[unit] = 0;
    }
    __syncthreads();
    if (shared.is_last) {
      __threadfence();
      decoder.Merge(args.partials + (first_block + unit) * kPartial, parts,
                    args.open + unit * kPartial);
      __syncthreads();
    }
    item = segment_end;
    if (item == seq_begin + static_cast<uint64_t>(rows) * of_unit) {
      ++segment.seq;
      seq_begin = item;
    }
  }
}

uint32_t QueryTiles(uint32_t group) { return group <= 4 ? 1 : 2; }
uint32_t Passes(uint32_t group) {
  const uint32_t heads = kTileHeads * QueryTiles(group);
  return (group + heads - 1) / heads;
}

constexpr uint32_t kMaxBlocks = 2048;  // of one wave

size_t AlignUp(size_t bytes) { return (bytes + 255) / 256 * 256; }

template <int kKBits, int kVBits, int kDim, int kTiles>
const char* Launch(const DecodeArgs& args, CUstream_st* stream) {
  auto* kernel = &DecodeKernel<kKBits, kVBits, kDim, kTiles>;
  constexpr size_t kShared = sizeof(SharedState<kKBits, kVBits, kDim, kTiles>);
  constexpr size_t kPartial = kTileHeads * kTiles * PartialFloats<kDim>() * sizeof(float);
  static const uint32_t wave = [&]() -> uint32_t {
    int device = 0, processors = 0, blocks = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) !=
            cudaSuccess ||
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared) !=
            cudaSuccess ||
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kThreads, kShared) !=
            cudaSuccess) {
      return 0;
    }
    return std::min(static_cast<uint32_t>(processors * blocks), kMaxBlocks);
  }();
  if (wave == 0) return "the device cannot run the kernel";
  KernelArgs kernel_args = {};
  kernel_args.a = args;
  kernel_args.passes = Passes(args.num_q_heads / args.num_kv_heads);
  const size_t units = size_t{args.num_seqs} * args.num_kv_heads * kernel_args.passes;
  auto* memory = static_cast<uint8_t*>(args.workspace);
  kernel_args.counters = reinterpret_cast<uint32_t*>(memory);
  memory += AlignUp(units * sizeof(uint32_t));
  kernel_args.open = reinterpret_cast<float*>(memory);
  memory += AlignUp(units * kPartial);
  kernel_args.partials = reinterpret_cast<float*>(memory);
  // Short contexts: a stretch is a few pages for each warp.
  const size_t items = units * (args.max_pages + kOpenItems);
  const auto blocks = static_cast<uint32_t>(std::clamp<size_t>(items / (2 * kWarps), 1, wave));
  kernel<<<blocks, kThreads, kShared, stream>>>(kernel_args);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

template <int kKBits, int kVBits>
const char* LaunchDim(const DecodeArgs& args, CUstream_st* stream) {
  const bool one_tile = QueryTiles(args.num_q_heads / args.num_kv_heads) == 1;
  if (args.head_dim == 64) {
    return one_tile ? Launch<kKBits, kVBits, 64, 1>(args, stream)
                    : Launch<kKBits, kVBits, 64, 2>(args, stream);
  }
  return one_tile ? Launch<kKBits, kVBits, 128, 1>(args, stream)
                  : Launch<kKBits, kVBits, 128, 2>(args, stream);
}

template <int kKBits>
const char* LaunchV(const DecodeArgs& args, CUstream_st* stream) {
  switch (args.v_bits) {
    case 2:
      return LaunchDim<kKBits, 2>(args, stream);
    case 3:
      return LaunchDim<kKBits, 3>(args, stream);
    default:
      return LaunchDim<kKBits, 4>(args, stream);
  }
}

}  // namespace

size_t DecodeWorkspaceBytes(uint32_t num_seqs, uint32_t num_q_heads, uint32_t head_dim) {
  if (head_dim != 64 && head_dim != 128) return 0;
  // Units are at most one per query head.
  const size_t units = size_t{num_seqs} * num_q_heads;
  const size_t partial = 2 * kTileHeads * (head_dim + 2) * sizeof(float);
  return AlignUp(units * sizeof(uint32_t)) + AlignUp(units * partial) +
         AlignUp((kMaxBlocks + units) * partial);
}

const char* LaunchDecode(const DecodeArgs& args, CUstream_st* stream) {
  if (args.head_dim != 64 && args.head_dim != 128) return "head_dim is not 64 or 128";
  if (args.num_kv_heads == 0 || args.num_q_heads == 0 ||
      args.num_q_heads % args.num_kv_heads != 0) {
    return "num_q_heads is not a multiple of num_kv_heads";
  }
  if (args.num_seqs == 0 || args.num_seqs > 65535) return "num_seqs is not in 1..65535";
  switch (args.k_bits) {
    case 2:
      return LaunchV<2>(args, stream);
    case 3:
      return LaunchV<3>(args, stream);
    case 4:
      return LaunchV<4>(args, stream);
    default:
      return "k_bits and v_bits must be 2, 3 or 4";
  }
}

}  // namespace quash::cuda
