// The plane scan for many queries: bits of 32 rows, as bytes, against 8 to 32
// queries in one product.
#include <cuda_runtime.h>

#include <cmath>
#include <cstring>

#include "kernels/cuda/scan.h"
#include "kernels/cuda/scan_bits.cuh"
#include "kernels/cuda/scan_launch.h"
#include "kernels/cuda/scan_layout.cuh"
#include "kernels/cuda/scan_limits.cuh"
#include "kernels/cuda/scan_walk.cuh"

namespace quash::cuda {
namespace {

constexpr uint32_t kBitQueries = 4;  // up to so many are scanned by their bits
constexpr uint32_t kDepth = 4;       // loads that a lane keeps in flight, of 16 bytes each

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
  ScanQuery query;
  float key_limit;
  float estimate_limit;
};
static_assert(sizeof(Epilogue) % sizeof(float4) == 0);

__device__ Epilogue MakeEpilogue(const ScanQuery& query, float key_limit, float estimate_limit) {
  Epilogue made = {};
  made.query = query;
  made.key_limit = key_limit;
  made.estimate_limit = estimate_limit;
  made.test_mul = 0.5f * query.mul;
  const auto offset = static_cast<float>(query.offset);
  const float add = query.mul * offset + query.add + query.key_margin;
  // Rounding: of the product with the base, which is less than two units of the sum,
  // and of everything else.
  const float slop = 2 * fabsf(query.mul) +
                     1e-5f * (fabsf(query.mul) * offset + fabsf(query.add) + query.key_margin);
  made.test_add = add - kSumBaseValue * made.test_mul + slop;
  made.test_limit = fminf(key_limit, estimate_limit) / query.gain;
  made.inverse_gain = 1 / query.gain;
  if (fabsf(made.test_limit) < INFINITY) {  // both terms a little low, for rounding
    made.test_limit -= 2e-6f * fabsf(made.test_limit);
    made.inverse_gain *= 1 - 2e-6f;
  }
  return made;
}

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

// A row that may reach a query's limit.
struct Contender {
  uint32_t row;
  int32_t query_and_sum;  // the query of the thread block in the lower 8 bits
  float scale;
  float norm_sq;
};

// Contenders of one warp, until there are enough for all of its lanes.
struct Queue {
  static constexpr uint32_t kRoom = 64;
  Contender* places;  // shared memory, [kRoom]
  uint32_t size = 0;
};

// In full: rows that reach a limit go to the lists. A function of its own, so that
// the loop stays short.
__device__ __noinline__ void Drain(const ScanArgs& args, const Epilogue* epilogues,
                                   uint32_t first_query, const Contender* places, uint32_t size) {
  for (uint32_t i = threadIdx.x % 32; i < size; i += 32) {
    const Contender one = places[i];
    const uint32_t q = one.query_and_sum & 0xff;
    const Epilogue& query = epilogues[q];
    const Estimate made = MakeEstimate(query.query, one.query_and_sum >> 8, one.scale, one.norm_sq);
    if (made.key >= query.key_limit || made.estimate >= query.estimate_limit) {
      List(args, first_query + q, one.row, made);
    }
  }
  __syncwarp();
}

// Bounds keys from the sums; what may reach a limit is queued.
template <uint32_t kTiles>
__device__ void Finish(const ScanArgs& args, uint32_t first_query, const Epilogue* epilogues,
                       const Fetched& fetched, const int (&sums)[kTiles][2][4], Queue* queue) {
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
    uint32_t reach = 0;  // bit 4 * column + j
#pragma unroll
    for (uint32_t column = 0; column < 2; ++column) {
      const float4 test =
          *reinterpret_cast<const float4*>(epilogues + tile * kTileQueries + lane % 4 * 2 + column);
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) {
        const float bound =
            fmaf(__int_as_float(sums[tile][j / 2][j % 2 * 2 + column]), test.x, test.y);
        const float limit = fmaf(test.z, inverse[j], test.w * shift[j]);
        // Not a number where a zero row meets a limit of zero: that passes.
        if (!(bound < limit)) reach |= 1 << (4 * column + j);
      }
    }
    if (!__any_sync(~0u, reach != 0)) continue;
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) {
      const uint32_t column = i / 4, j = i % 4, row = lane / 4 + 8 * j;
      const bool mine = (reach >> i & 1) != 0 && (fetched.mask >> row & 1) != 0;
      const uint32_t votes = __ballot_sync(~0u, mine);
      if (votes == 0) continue;
      const float scale = __shfl_sync(~0u, fetched.scale, row);
      const float norm_sq = __shfl_sync(~0u, fetched.norm_sq, row);
      if (mine) {
        const int sum = (sums[tile][j / 2][j % 2 * 2 + column] - kSumBase) / 2;  // even
        const uint32_t q = tile * kTileQueries + lane % 4 * 2 + column;
        queue->places[queue->size + __popc(votes & ((1u << lane) - 1))] = {
            fetched.block * 32 + row, sum * 256 + static_cast<int>(q), scale, norm_sq};
      }
      queue->size += __popc(votes);
      if (queue->size > Queue::kRoom - 32) {
        __syncwarp();
        Drain(args, epilogues, first_query, queue->places, queue->size);
        queue->size = 0;
      }
    }
  }
}

// Of a sample: the greatest key and estimate of every four rows.
template <uint32_t kTiles>
__device__ void SampleRows(const ScanArgs& args, uint32_t first_query, const Epilogue* epilogues,
                           const Fetched& fetched, const int (&sums)[kTiles][2][4],
                           uint32_t position) {
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
      if (first_query + q >= args.nq) continue;
      float key = -INFINITY, estimate = -INFINITY;
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) {
        if ((fetched.mask >> (lane / 4 + 8 * j) & 1) == 0) continue;
        const int sum = (sums[tile][j / 2][j % 2 * 2 + column] - kSumBase) >> 1;
        const Estimate made = MakeEstimate(epilogues[q].query, sum, scale[j], norm_sq[j]);
        key = fmaxf(key, made.key);
        estimate = fmaxf(estimate, made.estimate);
      }
      SampleGroup(args, first_query + q, position, lane / 4, key, estimate);
    }
  }
}

// The blocks of a warp with a chunk count known to the compiler: whole blocks are
// fetched ahead, each chunk's successor as soon as it is used.
template <uint32_t kChunks, uint32_t kTiles, bool kSample>
__device__ void ScanBlocks(const ScanArgs& args, uint32_t first_query, const Epilogue* epilogues,
                           const uint2* weights, uint32_t begin, uint32_t end, uint32_t stride,
                           Queue* queue) {
  constexpr uint32_t kAhead = kTiles > 1 ? 1 : kChunks == 1 ? 4 : kChunks <= 3 ? 2 : 1;
  Walker walker(args, begin, end, stride, threadIdx.x % 32);
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
      if constexpr (kSample) {
        SampleRows<kTiles>(args, first_query, epilogues, head, sums, head.block / stride);
      } else {
        Finish<kTiles>(args, first_query, epilogues, head, sums, queue);
      }
    }
  }
}

// Any number of chunks: kDepth of them are fetched ahead.
template <uint32_t kTiles, bool kSample>
__device__ void ScanChunksOfBlocks(const ScanArgs& args, uint32_t first_query,
                                   const Epilogue* epilogues, const uint2* weights, uint32_t begin,
                                   uint32_t end, uint32_t stride, Queue* queue) {
  const uint32_t chunks = Chunks(args.dim);
  Walker walker(args, begin, end, stride, threadIdx.x % 32);
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
        if constexpr (kSample) {
          SampleRows<kTiles>(args, first_query, epilogues, fetched, sums, fetched.block / stride);
        } else {
          Finish<kTiles>(args, first_query, epilogues, fetched, sums, queue);
        }
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
  auto* places = reinterpret_cast<Contender*>(epilogues + kTiles * kTileQueries);
  auto* weights = reinterpret_cast<uint2*>(places + kWarps * Queue::kRoom);
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
  Queue queue{places + threadIdx.x / 32 * Queue::kRoom};
  if constexpr (kChunks != 0) {
    ScanBlocks<kChunks, kTiles, kSample>(args, first_query, epilogues, lane_weights, begin, end,
                                         stride, &queue);
  } else {
    ScanChunksOfBlocks<kTiles, kSample>(args, first_query, epilogues, lane_weights, begin, end,
                                        stride, &queue);
  }
  __syncwarp();
  Drain(args, epilogues, first_query, queue.places, queue.size);
}

template <uint32_t kChunks, uint32_t kTiles, bool kSample>
const char* LaunchKernel(const ScanArgs& args, CUstream_st* stream) {
  const uint32_t chunks = Chunks(args.dim);
  const size_t shared =
      kTiles * (kTileQueries * sizeof(Epilogue) + size_t{chunks} * kSteps * 32 * sizeof(uint2)) +
      kWarps * Queue::kRoom * sizeof(Contender);
  const auto kernel = Scan<kChunks, kTiles, kSample>;
  static thread_local Residency residency;
  if (const char* error = residency.Find(kernel, shared); error != nullptr) return error;
  const uint32_t tiles = (args.nq + kTileQueries - 1) / kTileQueries;
  const uint32_t groups = (tiles + kTiles - 1) / kTiles;
  const uint32_t blocks = kSample ? args.sample_blocks : args.num_blocks;
  kernel<<<dim3(residency.Share(blocks, groups), groups), kThreads, shared, stream>>>(args);
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

// Few queries by their bits; more by bytes, as many tiles of queries at a time as
// shared memory holds.
const char* LaunchPass(const ScanArgs& args, CUstream_st* stream) {
  if (args.stage != ScanStage::kPlane1) return LaunchCodeScan(args, false, stream);
  const uint32_t tiles = (args.nq + kTileQueries - 1) / kTileQueries;
  const uint32_t chunks = Chunks(args.dim);
  if (args.nq == 1) return LaunchBitScan<1, false>(args, stream);
  if (args.nq == 2) return LaunchBitScan<2, false>(args, stream);
  if (args.nq <= kBitQueries) return LaunchBitScan<4, false>(args, stream);
  if (tiles > 2 && chunks <= 48) return LaunchTiles<4, false>(args, stream);
  if (tiles > 1 && chunks <= 96) return LaunchTiles<2, false>(args, stream);
  return LaunchTiles<1, false>(args, stream);
}

const char* LaunchSamplePass(const ScanArgs& args, CUstream_st* stream) {
  if (args.stage != ScanStage::kPlane1) return LaunchCodeScan(args, true, stream);
  if (args.nq > 2 * kTileQueries && Chunks(args.dim) <= 48) {
    return LaunchTiles<4, true>(args, stream);
  }
  return LaunchBitScan<4, true>(args, stream);
}

const char* Check(const ScanArgs& args) {
  if (args.nq == 0 || args.nq > kScanQueries) return "a scan takes 1 to 128 queries";
  if (args.dim == 0 || args.dim > kScanDimMax) return "a scan takes dimensions up to 16384";
  if (args.sample_blocks > min(kScanSampleBlocks, args.num_blocks)) {
    return "the sample has more blocks than there are, or than it may have";
  }
  return nullptr;
}

}  // namespace

void PackScanWeights(const int8_t* weights, uint32_t q, uint32_t nq, size_t dim, uint32_t* out) {
  const uint32_t tiles = (nq + kTileQueries - 1) / kTileQueries;
  const uint32_t chunks = ScanChunks(dim);
  uint32_t* bits = out + ScanByteWords(dim, nq);
  const uint32_t tile = q / kTileQueries;
  for (uint32_t w = 0; w < chunks * 4; ++w) {  // coordinates 32 w .. 32 w + 31
    alignas(8) int8_t own[32] = {};
    if (32 * w < dim) std::memcpy(own, weights + 32 * w, min(dim - 32 * w, size_t{32}));
    for (uint32_t step = 0; step < kSteps; ++step) {
      const uint32_t lane = q % kTileQueries * 4 + w % 4;
      uint32_t* at = out + WeightWord(w / 4 * kSteps + step, tiles, tile, lane);
      uint32_t low = 0, high = 0;
      for (uint32_t byte = 0; byte < 4; ++byte) {
        const int8_t* pair = own + 8 * byte + 2 * step;
        low |= uint32_t{static_cast<uint8_t>(2 * pair[0])} << 8 * byte;
        high |= uint32_t{static_cast<uint8_t>(pair[1])} << 8 * byte;
      }
      at[0] = low;
      at[1] = high;
      // Columns of no query.
      for (uint32_t empty = q + 1; q + 1 == nq && empty % kTileQueries != 0; ++empty) {
        uint32_t* other = at + (empty - q) * 8;
        other[0] = other[1] = 0;
      }
    }
    uint64_t eights[4];
    std::memcpy(eights, own, sizeof(own));
    for (uint32_t bit = 0; bit < 8; ++bit) {
      uint32_t word = 0;
      for (uint32_t byte = 0; byte < 4; ++byte) {  // one bit of eight weights, gathered on top
        const uint64_t spread = eights[byte] >> bit & 0x0101010101010101;
        word |= static_cast<uint32_t>(spread * 0x0102040810204080 >> 56) << 8 * byte;
      }
      bits[BitWord(chunks, q, w / 4, 4 * bit + w % 4)] = word;
    }
  }
}

const char* LaunchSample(const ScanArgs& args, CUstream_st* stream) {
  if (const char* error = Check(args); error != nullptr) return error;
  return LaunchSamplePass(args, stream);
}

const char* LaunchScanBySamples(const ScanArgs& args, const SampleSet& samples,
                                CUstream_st* stream) {
  SelectLimits<<<args.nq, kSelectThreads, 0, stream>>>(args, samples);
  const char* error = Text(cudaGetLastError());
  return error == nullptr ? LaunchPass(args, stream) : error;
}

const char* LaunchScan(const ScanArgs& args, CUstream_st* stream) {
  if (const char* error = Check(args); error != nullptr) return error;
  if (args.num_blocks == 0) return nullptr;
  if (args.sample_blocks != 0) {
    const char* error = LaunchSamplePass(args, stream);
    if (error != nullptr) return error;
    const SampleSet own = {.samples = {args.sample}, .blocks = {args.sample_blocks}, .count = 1};
    return LaunchScanBySamples(args, own, stream);
  }
  KnownLimits<<<1, args.nq, 0, stream>>>(args);
  const char* error = Text(cudaGetLastError());
  return error == nullptr ? LaunchPass(args, stream) : error;
}

const char* LaunchNarrow(const ScanArgs& args, CUstream_st* stream) {
  return LaunchNarrowByAll(args, args, stream);
}

const char* LaunchNarrowByAll(const ScanArgs& args, const ScanArgs& all, CUstream_st* stream) {
  NarrowCandidates<<<args.nq, kSelectThreads, 0, stream>>>(args, all);
  return Text(cudaGetLastError());
}

}  // namespace quash::cuda
