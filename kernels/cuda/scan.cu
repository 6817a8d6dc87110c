// The plane scan: bits of 32 rows against 8 to 32 queries in one product.
#include <cuda_runtime.h>

#include <cmath>
#include <cstring>

#include "kernels/cuda/scan.h"
#include "kernels/cuda/scan_layout.cuh"

namespace quash::cuda {
namespace {

constexpr uint32_t kWarps = 8;
constexpr uint32_t kThreads = kWarps * 32;
constexpr uint32_t kDepth = 4;  // loads that a lane keeps in flight, of 16 bytes each

__device__ void MultiplyAdd(int (&sum)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                            uint2 b) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b.x), "r"(b.y));
}

// A shift to the right that the multiplier does: the logic unit is the busy one.
template <uint32_t kShift>
__device__ uint32_t ShiftRight(uint32_t value) {
  if constexpr (kShift == 0) return value;
  return __umulhi(value, 1u << (32 - kShift));
}

// What the epilogue needs of a query.
struct Epilogue {
  float mul;
  float add;
  float gain;
  float offset;
  float margin;
  float key_limit;
  float estimate_limit;
  float unused;
};

struct Estimate {
  float sums;  // an integer
  float estimate;
  float key;
};

// In the order of operations of the search on the CPU, nothing contracted.
__device__ Estimate MakeEstimate(const float4& query, float margin, int twice, float scale,
                                 float norm_sq) {
  Estimate made;
  made.sums = fmaf(0.5f, static_cast<float>(twice), query.w);  // exact
  const float dot = __fadd_rn(__fmul_rn(query.x, made.sums), query.y);
  const float unit = __fmul_rn(query.z, scale);
  made.estimate = __fsub_rn(__fmul_rn(unit, dot), norm_sq);
  made.key = __fadd_rn(made.estimate, __fmul_rn(margin, unit));
  return made;
}

// One lane's share of 32 rows by a chunk, with what their epilogue needs.
struct Fetched {
  uint4 words;
  float scale;  // of row `lane`, with the last chunk of a block only
  float norm_sq;
  uint32_t mask;
  uint32_t block;
};

// Walks the blocks of a warp: first, first + kWarps, ... before `end`, each
// `stride` blocks apart in the collection.
class Walker {
 public:
  __device__ Walker(const ScanArgs& args, uint32_t first, uint32_t end, uint32_t stride)
      : args_(args), index_(first), end_(end), stride_(stride), lane_(threadIdx.x % 32) {
    chunks_ = Chunks(args.dim);
    if (index_ < end_) {
      segment_ = SegmentOfBlock(args.segments, args.num_segments, index_ * stride);
      EnterSegment();
      EnterBlock();
    }
  }

  __device__ bool done() const { return index_ >= end_; }

  __device__ Fetched Next() {
    Fetched fetched;
    fetched.words = __ldcs(words_);
    words_ += 32;
    if (++chunk_ == chunks_) {
      const uint32_t local = block_ - first_block_;
      fetched.scale = __ldcs(scale_ + local * 32 + lane_);
      fetched.norm_sq = norm_sq_ == nullptr ? 0 : __ldcs(norm_sq_ + local * 32 + lane_);
      fetched.mask = args_.masks[block_];
      fetched.block = block_;
      index_ += kWarps;
      if (index_ < end_) EnterBlock();
    }
    return fetched;
  }

 private:
  __device__ void EnterSegment() {
    const ScanSegment& segment = args_.segments[segment_];
    plane_ = reinterpret_cast<const uint4*>(segment.plane1);
    scale_ = segment.scale1;
    norm_sq_ = segment.norm_sq;
    first_block_ = segment.first_block;
    last_block_ = segment.first_block + segment.blocks;
  }

  __device__ void EnterBlock() {
    block_ = index_ * stride_;
    while (block_ >= last_block_) {
      ++segment_;
      EnterSegment();
    }
    words_ = plane_ + (size_t{block_ - first_block_} * chunks_) * 32 + lane_;
    chunk_ = 0;
  }

  const ScanArgs& args_;
  uint32_t index_, end_, stride_, lane_;
  uint32_t chunks_, chunk_ = 0, segment_ = 0, block_ = 0, first_block_ = 0, last_block_ = 0;
  const uint4* plane_ = nullptr;
  const uint4* words_ = nullptr;
  const float* scale_ = nullptr;
  const float* norm_sq_ = nullptr;
};

template <uint32_t kTiles>
__device__ void MultiplyChunk(const uint4& words, const uint2* weights, int (&sums)[kTiles][2][4]) {
  const auto step = [&](uint32_t x, uint32_t y, uint32_t z, uint32_t w, uint32_t i) {
    const uint2* b = weights + i * kTiles * 32;
#pragma unroll
    for (uint32_t tile = 0; tile < kTiles; ++tile) {
      const uint2 column = b[tile * 32];
      MultiplyAdd(sums[tile][0], x & kLowBits, y & kLowBits, x & kHighBits, y & kHighBits, column);
      MultiplyAdd(sums[tile][1], z & kLowBits, w & kLowBits, z & kHighBits, w & kHighBits, column);
    }
  };
  step(words.x, words.y, words.z, words.w, 0);
  step(ShiftRight<2>(words.x), ShiftRight<2>(words.y), ShiftRight<2>(words.z),
       ShiftRight<2>(words.w), 1);
  step(ShiftRight<4>(words.x), ShiftRight<4>(words.y), ShiftRight<4>(words.z),
       ShiftRight<4>(words.w), 2);
  step(ShiftRight<6>(words.x), ShiftRight<6>(words.y), ShiftRight<6>(words.z),
       ShiftRight<6>(words.w), 3);
}

// Sums to keys; rows that reach a limit to the lists, or all to the sample.
template <uint32_t kTiles, bool kSample>
__device__ void Finish(const ScanArgs& args, uint32_t first_query, const Epilogue* epilogues,
                       const Fetched& fetched, uint32_t stride, int (&sums)[kTiles][2][4]) {
  const uint32_t lane = threadIdx.x % 32;
  float scale[4], norm_sq[4];
#pragma unroll
  for (uint32_t j = 0; j < 4; ++j) {
    scale[j] = __shfl_sync(~0u, fetched.scale, lane / 4 + 8 * j);
    norm_sq[j] = __shfl_sync(~0u, fetched.norm_sq, lane / 4 + 8 * j);
  }
#pragma unroll
  for (uint32_t tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (uint32_t column = 0; column < 2; ++column) {
      const uint32_t q = tile * kTileQueries + lane % 4 * 2 + column;
      const Epilogue& epilogue = epilogues[q];
      const float4 query = *reinterpret_cast<const float4*>(&epilogue);
      const float4 limits = *(reinterpret_cast<const float4*>(&epilogue) + 1);
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) {
        int& sum = sums[tile][j / 2][j % 2 * 2 + column];
        const Estimate made = MakeEstimate(query, limits.x, sum, scale[j], norm_sq[j]);
        const uint32_t row = lane / 4 + 8 * j;
        const bool masked = fetched.mask >> row & 1;
        if constexpr (kSample) {
          if (first_query + q < args.nq) {
            float* sample = args.sample + size_t{first_query + q} * 2 * args.sample_blocks * 32;
            const uint32_t at = fetched.block / stride * 32 + row;
            sample[at] = masked ? made.key : -INFINITY;
            sample[args.sample_blocks * 32 + at] = masked ? made.estimate : -INFINITY;
          }
        } else if (masked && (made.key >= limits.y || made.estimate >= limits.z)) {
          const uint32_t at = atomicAdd(args.counts + first_query + q, 1u);
          if (at < args.capacity) {
            const uint2 found = {fetched.block * 32 + row, static_cast<uint32_t>(made.sums)};
            reinterpret_cast<uint2*>(
                args.candidates)[size_t{first_query + q} * args.capacity + at] = found;
          }
        }
        sum = 0;
      }
    }
  }
}

// blockIdx.y: kTiles * 8 queries. Each block has an equal stretch of blocks.
template <uint32_t kTiles, bool kSample>
__global__ void __launch_bounds__(kThreads, kTiles == 1 ? 3 : 2) Scan(ScanArgs args) {
  extern __shared__ uint4 shared[];
  const uint32_t chunks = Chunks(args.dim);
  const uint32_t all_tiles = (args.nq + kTileQueries - 1) / kTileQueries;
  const uint32_t first_tile = blockIdx.y * kTiles;
  const uint32_t first_query = first_tile * kTileQueries;
  auto* epilogues = reinterpret_cast<Epilogue*>(shared);
  auto* weights = reinterpret_cast<uint2*>(epilogues + kTiles * kTileQueries);
  for (uint32_t q = threadIdx.x; q < kTiles * kTileQueries; q += kThreads) {
    Epilogue made = {0, 0, 0, 0, 0, INFINITY, INFINITY, 0};
    if (first_query + q < args.nq) {
      const ScanQuery& query = args.queries[first_query + q];
      made = {query.mul,        query.add, query.gain, static_cast<float>(query.offset),
              query.key_margin, INFINITY,  INFINITY,   0};
      if (!kSample) {
        made.key_limit = args.limits[2 * (first_query + q)];
        made.estimate_limit = args.limits[2 * (first_query + q) + 1];
      }
    }
    epilogues[q] = made;
  }
  const auto* packed = reinterpret_cast<const uint2*>(args.weights);
  for (uint32_t i = threadIdx.x; i < chunks * kSteps * kTiles * 32; i += kThreads) {
    const uint32_t step = i / (kTiles * 32), tile = first_tile + i / 32 % kTiles;
    weights[i] =
        tile < all_tiles ? packed[WeightWord(step, all_tiles, tile, i % 32) / 2] : uint2{0, 0};
  }
  __syncthreads();

  const uint32_t stride = kSample ? args.num_blocks / args.sample_blocks : 1;
  const uint64_t total = kSample ? args.sample_blocks : args.num_blocks;
  const auto begin = static_cast<uint32_t>(total * blockIdx.x / gridDim.x);
  const auto end = static_cast<uint32_t>(total * (blockIdx.x + 1) / gridDim.x);
  Walker walker(args, begin + threadIdx.x / 32, end, stride);
  Fetched ring[kDepth];
  uint32_t items = 0;  // fetched and not used yet
#pragma unroll
  for (uint32_t slot = 0; slot < kDepth; ++slot) {
    if (!walker.done()) {
      ring[slot] = walker.Next();
      ++items;
    }
  }
  int sums[kTiles][2][4] = {};
  uint32_t chunk = 0;
  const uint2* lane_weights = weights + threadIdx.x % 32;
  while (items != 0) {
#pragma unroll
    for (uint32_t slot = 0; slot < kDepth; ++slot) {
      if (items == 0) break;
      const Fetched fetched = ring[slot];
      if (walker.done()) {
        --items;
      } else {
        ring[slot] = walker.Next();
      }
      MultiplyChunk<kTiles>(fetched.words, lane_weights + chunk * kSteps * kTiles * 32, sums);
      if (++chunk == chunks) {
        Finish<kTiles, kSample>(args, first_query, epilogues, fetched, stride, sums);
        chunk = 0;
      }
    }
  }
}

// Order of floats as unsigned integers.
__device__ uint32_t Ordered(float value) {
  const uint32_t bits = __float_as_uint(value);
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
}

__device__ float Unordered(uint32_t ordered) {
  return __uint_as_float(ordered & 0x80000000u ? ordered ^ 0x80000000u : ~ordered);
}

// blockIdx.x: a query; blockIdx.y: keys or estimates. The value of a rank from
// the top by four passes over 8 bits each.
__global__ void __launch_bounds__(1024) SelectLimits(ScanArgs args) {
  __shared__ uint32_t counts[256];
  __shared__ uint32_t prefix, rank;
  const ScanQuery& query = args.queries[blockIdx.x];
  const uint32_t n = args.sample_blocks * 32;
  const float* values = args.sample + (size_t{blockIdx.x} * 2 + blockIdx.y) * n;
  if (threadIdx.x == 0) {
    prefix = 0;
    rank = min(blockIdx.y == 0 ? query.key_rank : query.estimate_rank, n - 1);
  }
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) counts[threadIdx.x] = 0;
    __syncthreads();
    const uint32_t above = shift == 24 ? 0 : ~0u << (shift + 8), wanted = prefix;
    for (uint32_t i = threadIdx.x; i < n; i += 1024) {
      const uint32_t ordered = Ordered(values[i]);
      if ((ordered & above) == wanted) atomicAdd(&counts[ordered >> shift & 255], 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      uint32_t digit = 255;
      for (; digit > 0 && rank >= counts[digit]; --digit) rank -= counts[digit];
      prefix = wanted | digit << shift;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    const float known = blockIdx.y == 0 ? query.key_limit : query.estimate_limit;
    args.limits[2 * blockIdx.x + blockIdx.y] = fmaxf(known, Unordered(prefix));
  }
}

__global__ void KnownLimits(ScanArgs args) {
  const ScanQuery& query = args.queries[threadIdx.x];
  args.limits[2 * threadIdx.x] = query.key_limit;
  args.limits[2 * threadIdx.x + 1] = query.estimate_limit;
}

const char* Text(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

template <uint32_t kTiles, bool kSample>
const char* LaunchTiles(const ScanArgs& args, CUstream_st* stream) {
  const uint32_t chunks = Chunks(args.dim);
  const size_t shared =
      kTiles * (kTileQueries * sizeof(Epilogue) + size_t{chunks} * kSteps * 32 * sizeof(uint2));
  const auto kernel = Scan<kTiles, kSample>;
  const char* error = Text(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                static_cast<int>(shared)));
  if (error != nullptr) return error;
  int device = 0, processors = 0, resident = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  error = Text(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, kThreads, shared));
  if (error != nullptr) return error;
  const uint32_t tiles = (args.nq + kTileQueries - 1) / kTileQueries;
  const uint32_t groups = (tiles + kTiles - 1) / kTiles;
  const uint32_t blocks = kSample ? args.sample_blocks : args.num_blocks;
  uint32_t grid = static_cast<uint32_t>(processors * (resident > 0 ? resident : 1));
  if (grid > (blocks + kWarps - 1) / kWarps) grid = (blocks + kWarps - 1) / kWarps;
  kernel<<<dim3(grid, groups), kThreads, shared, stream>>>(args);
  return Text(cudaGetLastError());
}

// As many tiles of queries at a time as shared memory holds.
template <bool kSample>
const char* LaunchPass(const ScanArgs& args, CUstream_st* stream) {
  const uint32_t tiles = (args.nq + kTileQueries - 1) / kTileQueries;
  const uint32_t chunks = Chunks(args.dim);
  if (tiles > 2 && chunks <= 48) return LaunchTiles<4, kSample>(args, stream);
  if (tiles > 1 && chunks <= 96) return LaunchTiles<2, kSample>(args, stream);
  return LaunchTiles<1, kSample>(args, stream);
}

}  // namespace

void PackScanWeights(const int8_t* const* weights, uint32_t nq, size_t dim, uint32_t* out) {
  const uint32_t tiles = (nq + kTileQueries - 1) / kTileQueries;
  std::memset(out, 0, ScanWeightWords(dim, nq) * sizeof(uint32_t));
  for (uint32_t q = 0; q < nq; ++q) {
    for (uint32_t j = 0; j < dim; ++j) {
      const uint32_t chunk = j / kChunkDims, t = j / 32 % 4, byte = j / 8 % 4, bit = j % 8;
      const uint32_t step = chunk * kSteps + bit / 2;
      const uint32_t lane = q % kTileQueries * 4 + t;
      const int weight = bit % 2 == 0 ? 2 * weights[q][j] : weights[q][j];
      out[WeightWord(step, tiles, q / kTileQueries, lane) + bit % 2] |=
          static_cast<uint32_t>(static_cast<uint8_t>(weight)) << 8 * byte;
    }
  }
}

const char* LaunchScan(const ScanArgs& args, CUstream_st* stream) {
  if (args.nq == 0 || args.nq > kScanQueries) return "a scan takes 1 to 32 queries";
  if (args.dim == 0 || args.dim > kScanDimMax) return "a scan takes dimensions up to 16384";
  if (args.num_blocks == 0) return nullptr;
  if (args.sample_blocks != 0) {
    const char* error = LaunchPass<true>(args, stream);
    if (error != nullptr) return error;
    SelectLimits<<<dim3(args.nq, 2), 1024, 0, stream>>>(args);
  } else {
    KnownLimits<<<1, args.nq, 0, stream>>>(args);
  }
  const char* error = Text(cudaGetLastError());
  return error != nullptr ? error : LaunchPass<false>(args, stream);
}

}  // namespace quash::cuda
