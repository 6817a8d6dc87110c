// The plane scan: bits of 32 rows against 8 to 32 queries in one product.
#include <cuda_runtime.h>

#include <cmath>
#include <cstring>

#include "kernels/cuda/scan.h"
#include "kernels/cuda/scan_layout.cuh"
#include "kernels/cuda/scan_limits.cuh"

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

// Sums start here, so that their bits are those of the float 1.5 * 2^23 + sum.
constexpr int kSumBase = 0x4B400000;
constexpr float kSumBaseValue = 12582912.0f;

// What the epilogue needs of a query.
struct Epilogue {
  // A row can be dropped if value(sum) * test_mul + test_add, an upper bound of its
  // (key + norm_sq) / (gain * scale), is below test_limit / scale + norm_sq / (gain *
  // scale).
  float test_mul;
  float test_add;
  float test_limit;
  float inverse_gain;
  float gain;
  float mul;
  float add;
  float offset;
  float margin;
  float key_limit;
  float estimate_limit;
  float unused;
};

__device__ Epilogue MakeEpilogue(const ScanQuery& query, float key_limit, float estimate_limit) {
  Epilogue made = {};
  made.gain = query.gain;
  made.mul = query.mul;
  made.add = query.add;
  made.offset = static_cast<float>(query.offset);
  made.margin = query.key_margin;
  made.key_limit = key_limit;
  made.estimate_limit = estimate_limit;
  made.test_mul = 0.5f * query.mul;
  const float add = query.mul * made.offset + query.add + query.key_margin;
  // Rounding: of the product with the base, which is less than two units of the sum,
  // and of everything else.
  const float slop = 2 * fabsf(query.mul) +
                     1e-5f * (fabsf(query.mul) * made.offset + fabsf(query.add) + query.key_margin);
  made.test_add = add - kSumBaseValue * made.test_mul + slop;
  made.test_limit = fminf(key_limit, estimate_limit) / query.gain;
  made.inverse_gain = 1 / query.gain;
  if (fabsf(made.test_limit) < INFINITY) {  // both terms a little low, for rounding
    made.test_limit -= 2e-6f * fabsf(made.test_limit);
    made.inverse_gain *= 1 - 2e-6f;
  }
  return made;
}

struct Estimate {
  float sums;  // an integer
  float estimate;
  float key;
};

// In the order of operations of the search on the CPU, nothing contracted.
__device__ Estimate MakeEstimate(const Epilogue& query, int sum, float scale, float norm_sq) {
  Estimate made;
  made.sums = fmaf(0.5f, static_cast<float>(sum - kSumBase), query.offset);  // exact
  const float dot = __fadd_rn(__fmul_rn(query.mul, made.sums), query.add);
  const float unit = __fmul_rn(query.gain, scale);
  made.estimate = __fsub_rn(__fmul_rn(unit, dot), norm_sq);
  made.key = __fadd_rn(made.estimate, __fmul_rn(query.margin, unit));
  return made;
}

constexpr uint32_t kNoBlock = ~0u;

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

  // The words of this lane in the next block, null after the last; what the epilogue
  // needs goes to `head`.
  __device__ const uint4* NextBlock(Fetched* head) {
    if (index_ >= end_) {
      head->block = kNoBlock;
      return nullptr;
    }
    const uint32_t row = (block_ - first_block_) * 32 + lane_;
    head->scale = __ldcs(scale_ + row);
    head->norm_sq = norm_sq_ == nullptr ? 0 : __ldcs(norm_sq_ + row);
    head->mask = __ldg(args_.masks + block_);
    head->block = block_;
    const uint4* words = words_;
    index_ += kWarps;
    if (index_ < end_) EnterBlock();
    return words;
  }

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

template <uint32_t kTiles>
__device__ void ClearSums(int (&sums)[kTiles][2][4]) {
#pragma unroll
  for (uint32_t tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) sums[tile][i / 4][i % 4] = kSumBase;
  }
}

// The sums of 32 rows and a tile of queries, in full: rows that reach a limit to the
// lists, or all to the sample. A function of its own, for it is long and rarely run.
//   out       candidates of `size` each, or the sample of `size` blocks
//   position  of the block in the sample
template <bool kSample>
__device__ __noinline__ void Emit(void* out, uint32_t* counts, uint32_t size,
                                  const Epilogue* epilogues, uint32_t first_query, uint32_t nq,
                                  uint32_t block, uint32_t position, uint32_t mask, float own_scale,
                                  float own_norm_sq, int4 upper, int4 lower) {
  const uint32_t lane = threadIdx.x % 32;
  const int sums[2][4] = {{upper.x, upper.y, upper.z, upper.w},
                          {lower.x, lower.y, lower.z, lower.w}};
#pragma unroll
  for (uint32_t i = 0; i < 8; ++i) {
    const uint32_t column = i / 4, j = i % 4, row = lane / 4 + 8 * j;
    const float scale = __shfl_sync(~0u, own_scale, row);
    const float norm_sq = __shfl_sync(~0u, own_norm_sq, row);
    const Epilogue& query = epilogues[lane % 4 * 2 + column];
    const uint32_t q = first_query + lane % 4 * 2 + column;
    const Estimate made = MakeEstimate(query, sums[j / 2][j % 2 * 2 + column], scale, norm_sq);
    const bool masked = mask >> row & 1;
    if constexpr (kSample) {
      if (q < nq) {
        float* sample = static_cast<float*>(out) + size_t{q} * 2 * size * 32;
        sample[position * 32 + row] = masked ? made.key : -INFINITY;
        sample[(size + position) * 32 + row] = masked ? made.estimate : -INFINITY;
      }
    } else if (masked && (made.key >= query.key_limit || made.estimate >= query.estimate_limit)) {
      const uint32_t at = atomicAdd(counts + q, 1u);
      if (at < size) {
        static_cast<uint4*>(out)[size_t{q} * size + at] = {
            block * 32 + row, static_cast<uint32_t>(made.sums), __float_as_uint(made.estimate),
            __float_as_uint(made.key)};
      }
    }
  }
}

// Bounds keys from the sums; what may reach a limit goes on to Emit().
template <uint32_t kTiles, bool kSample>
__device__ void Finish(const ScanArgs& args, uint32_t first_query, const Epilogue* epilogues,
                       const Fetched& fetched, uint32_t stride, const int (&sums)[kTiles][2][4]) {
  const uint32_t lane = threadIdx.x % 32;
  const float own_inverse = 1 / fetched.scale;
  const float own_shift = fetched.norm_sq * own_inverse;
  float inverse[4], shift[4];
#pragma unroll
  for (uint32_t j = 0; j < 4; ++j) {
    inverse[j] = __shfl_sync(~0u, own_inverse, lane / 4 + 8 * j);
    shift[j] = __shfl_sync(~0u, own_shift, lane / 4 + 8 * j);
  }
#pragma unroll
  for (uint32_t tile = 0; tile < kTiles; ++tile) {
    bool may_reach = kSample;
    if constexpr (!kSample) {
#pragma unroll
      for (uint32_t column = 0; column < 2; ++column) {
        const float4 test = *reinterpret_cast<const float4*>(epilogues + tile * kTileQueries +
                                                             lane % 4 * 2 + column);
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
          const float bound =
              fmaf(__int_as_float(sums[tile][j / 2][j % 2 * 2 + column]), test.x, test.y);
          const float limit = fmaf(test.z, inverse[j], test.w * shift[j]);
          // Not a number where a zero row meets a limit of zero: that passes.
          may_reach |= !(bound < limit);
        }
      }
    }
    if (__any_sync(~0u, may_reach)) {
      const auto& own = sums[tile];
      Emit<kSample>(kSample ? static_cast<void*>(args.sample) : args.candidates, args.counts,
                    kSample ? args.sample_blocks : args.capacity, epilogues + tile * kTileQueries,
                    first_query + tile * kTileQueries, args.nq, fetched.block,
                    kSample ? fetched.block / stride : 0, fetched.mask, fetched.scale,
                    fetched.norm_sq, make_int4(own[0][0], own[0][1], own[0][2], own[0][3]),
                    make_int4(own[1][0], own[1][1], own[1][2], own[1][3]));
    }
  }
}

// The blocks of a warp with a chunk count known to the compiler: whole blocks are
// fetched ahead, each chunk's successor as soon as it is used.
template <uint32_t kChunks, uint32_t kTiles, bool kSample>
__device__ void ScanBlocks(const ScanArgs& args, uint32_t first_query, const Epilogue* epilogues,
                           const uint2* weights, uint32_t begin, uint32_t end, uint32_t stride) {
  constexpr uint32_t kAhead = kTiles > 1 ? 1 : kChunks == 1 ? 4 : kChunks <= 3 ? 2 : 1;
  Walker walker(args, begin, end, stride);
  Fetched heads[kAhead];  // `words` unused
  uint4 words[kAhead][kChunks];
  const uint4* next = nullptr;
#pragma unroll
  for (uint32_t slot = 0; slot < kAhead; ++slot) {
    next = walker.NextBlock(&heads[slot]);
    if (next == nullptr) continue;
#pragma unroll
    for (uint32_t c = 0; c < kChunks; ++c) words[slot][c] = __ldcs(next + c * 32);
  }
  while (true) {
#pragma unroll
    for (uint32_t slot = 0; slot < kAhead; ++slot) {
      const Fetched head = heads[slot];
      if (head.block == kNoBlock) return;
      next = walker.NextBlock(&heads[slot]);
      int sums[kTiles][2][4];
      ClearSums(sums);
#pragma unroll
      for (uint32_t c = 0; c < kChunks; ++c) {
        MultiplyChunk<kTiles>(words[slot][c], weights + c * kSteps * kTiles * 32, sums);
        if (next != nullptr) words[slot][c] = __ldcs(next + c * 32);
      }
      Finish<kTiles, kSample>(args, first_query, epilogues, head, stride, sums);
    }
  }
}

// Any number of chunks: kDepth of them are fetched ahead.
template <uint32_t kTiles, bool kSample>
__device__ void ScanChunksOfBlocks(const ScanArgs& args, uint32_t first_query,
                                   const Epilogue* epilogues, const uint2* weights, uint32_t begin,
                                   uint32_t end, uint32_t stride) {
  const uint32_t chunks = Chunks(args.dim);
  Walker walker(args, begin, end, stride);
  Fetched ring[kDepth];
  uint32_t items = 0;  // fetched and not used yet
#pragma unroll
  for (uint32_t slot = 0; slot < kDepth; ++slot) {
    if (!walker.done()) {
      ring[slot] = walker.Next();
      ++items;
    }
  }
  int sums[kTiles][2][4];
  ClearSums(sums);
  uint32_t chunk = 0;
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
      MultiplyChunk<kTiles>(fetched.words, weights + chunk * kSteps * kTiles * 32, sums);
      if (++chunk == chunks) {
        Finish<kTiles, kSample>(args, first_query, epilogues, fetched, stride, sums);
        ClearSums(sums);
        chunk = 0;
      }
    }
  }
}

// blockIdx.y: kTiles * 8 queries. Each block has an equal stretch of blocks.
template <uint32_t kChunks, uint32_t kTiles, bool kSample>
__global__ void __launch_bounds__(kThreads, kTiles == 1 && kChunks <= 4 ? 3 : 2)
    Scan(ScanArgs args) {
  extern __shared__ uint4 shared[];
  const uint32_t chunks = Chunks(args.dim);
  const uint32_t all_tiles = (args.nq + kTileQueries - 1) / kTileQueries;
  const uint32_t first_tile = blockIdx.y * kTiles;
  const uint32_t first_query = first_tile * kTileQueries;
  auto* epilogues = reinterpret_cast<Epilogue*>(shared);
  auto* weights = reinterpret_cast<uint2*>(epilogues + kTiles * kTileQueries);
  for (uint32_t q = threadIdx.x; q < kTiles * kTileQueries; q += kThreads) {
    Epilogue made = {};
    made.test_limit = made.key_limit = made.estimate_limit = INFINITY;
    if (first_query + q < args.nq) {
      const ScanQuery& query = args.queries[first_query + q];
      made = kSample ? MakeEpilogue(query, INFINITY, INFINITY)
                     : MakeEpilogue(query, args.limits[2 * (first_query + q)],
                                    args.limits[2 * (first_query + q) + 1]);
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
  const auto begin = static_cast<uint32_t>(total * blockIdx.x / gridDim.x) + threadIdx.x / 32;
  const auto end = static_cast<uint32_t>(total * (blockIdx.x + 1) / gridDim.x);
  const uint2* lane_weights = weights + threadIdx.x % 32;
  if constexpr (kChunks != 0) {
    ScanBlocks<kChunks, kTiles, kSample>(args, first_query, epilogues, lane_weights, begin, end,
                                         stride);
  } else {
    ScanChunksOfBlocks<kTiles, kSample>(args, first_query, epilogues, lane_weights, begin, end,
                                        stride);
  }
}

const char* Text(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

template <uint32_t kChunks, uint32_t kTiles, bool kSample>
const char* LaunchKernel(const ScanArgs& args, CUstream_st* stream) {
  const uint32_t chunks = Chunks(args.dim);
  const size_t shared =
      kTiles * (kTileQueries * sizeof(Epilogue) + size_t{chunks} * kSteps * 32 * sizeof(uint2));
  const auto kernel = Scan<kChunks, kTiles, kSample>;
  // Asking takes longer than launching: the answer is kept, by device and size.
  static thread_local struct {
    int device = -1;
    size_t shared = 0;
    int grid = 0;
  } known;
  int device = 0;
  cudaGetDevice(&device);
  if (known.device != device || known.shared != shared) {
    int processors = 0, resident = 0;
    const char* error = Text(cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
    if (error != nullptr) return error;
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    error =
        Text(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, kThreads, shared));
    if (error != nullptr) return error;
    known = {device, shared, processors * (resident > 0 ? resident : 1)};
  }
  const uint32_t tiles = (args.nq + kTileQueries - 1) / kTileQueries;
  const uint32_t groups = (tiles + kTiles - 1) / kTiles;
  const uint32_t blocks = kSample ? args.sample_blocks : args.num_blocks;
  auto grid = static_cast<uint32_t>(known.grid);
  if (grid > (blocks + kWarps - 1) / kWarps) grid = (blocks + kWarps - 1) / kWarps;
  kernel<<<dim3(grid, groups), kThreads, shared, stream>>>(args);
  return Text(cudaGetLastError());
}

// Dimensions that embeddings often have: 128, 256, 384, 512, 768, 1024, 1536.
template <uint32_t kTiles, bool kSample>
const char* LaunchTiles(const ScanArgs& args, CUstream_st* stream) {
  switch (Chunks(args.dim)) {
    case 1:
      return LaunchKernel<1, kTiles, kSample>(args, stream);
    case 2:
      return LaunchKernel<2, kTiles, kSample>(args, stream);
    case 3:
      return LaunchKernel<3, kTiles, kSample>(args, stream);
    case 4:
      return LaunchKernel<4, kTiles, kSample>(args, stream);
    case 6:
      return LaunchKernel<6, kTiles, kSample>(args, stream);
    case 8:
      return LaunchKernel<8, kTiles, kSample>(args, stream);
    case 12:
      return LaunchKernel<12, kTiles, kSample>(args, stream);
    default:
      return LaunchKernel<0, kTiles, kSample>(args, stream);
  }
}

// As many tiles of queries at a time as shared memory holds.
template <bool kSample>
const char* LaunchPass(const ScanArgs& args, CUstream_st* stream) {
  const uint32_t tiles = (args.nq + kTileQueries - 1) / kTileQueries;
  const uint32_t chunks = Chunks(args.dim);
  if (kSample) return LaunchKernel<0, 1, kSample>(args, stream);
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
    SelectLimits<<<dim3(args.nq, 2), kSelectThreads, 0, stream>>>(args);
  } else {
    KnownLimits<<<1, args.nq, 0, stream>>>(args);
  }
  const char* error = Text(cudaGetLastError());
  if (error == nullptr) error = LaunchPass<false>(args, stream);
  if (error != nullptr) return error;
  NarrowCandidates<<<args.nq, kSelectThreads, 0, stream>>>(args);
  return Text(cudaGetLastError());
}

}  // namespace quash::cuda
