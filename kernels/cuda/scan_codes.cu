// The scan of two planes and of whole codes, by binary products as in scan_bits.cuh:
// one query's weights are the columns of one product, values of 16 bits those of two.
#include "kernels/cuda/scan_codes.cuh"

#include <cuda_runtime.h>

#include <cmath>
#include <cstring>

#include "kernels/cuda/scan.h"
#include "kernels/cuda/scan_bits.cuh"
#include "kernels/cuda/scan_launch.h"
#include "kernels/cuda/scan_layout.cuh"
#include "kernels/cuda/scan_walk.cuh"

namespace quash::cuda {
namespace {

// Queries that share what is read.
constexpr uint32_t kSharedQueries = 4;

// Blocks of a warp, one after the other: planes are read when their turn comes, with
// enough warps on a multiprocessor that some always wait for memory.
template <uint32_t kPlanes>
class CodeWalker {
 public:
  __device__ CodeWalker(const ScanArgs& args, uint32_t first, uint32_t end, uint32_t stride)
      : args_(args), chunks_(Chunks(args.dim)), index_(first), end_(end), stride_(stride) {
    if (index_ >= end_) return;
    segment_ = SegmentOfBlock(args.segments, args.num_segments, args.num_blocks, index_ * stride);
    EnterSegment();
  }

  __device__ bool Next() {
    if (index_ >= end_) return false;
    block_ = index_ * stride_;
    index_ += kWarps;
    while (block_ >= last_block_) {
      ++segment_;
      EnterSegment();
    }
    const uint32_t local = block_ - first_block_;
    at_ = size_t{local} * chunks_ * 32 + threadIdx.x % 32;
    // This lane's row, as QuadRowSum() has it.
    const uint32_t row = local * 32 + threadIdx.x % 32 / 4 + 8 * (threadIdx.x % 4);
    scale = __ldcs(scale_ + row);
    norm_sq = norm_sq_ == nullptr ? 0 : __ldcs(norm_sq_ + row);
    mask = __ldg(args_.masks + block_);
    return true;
  }

  __device__ uint4 Words(uint32_t plane, uint32_t chunk) const {
    return __ldcs(planes_[plane] + at_ + chunk * 32);
  }
  __device__ uint32_t block() const { return block_; }

  float scale, norm_sq;
  uint32_t mask;

 private:
  __device__ void EnterSegment() {
    const ScanSegment& segment = args_.segments[segment_];
#pragma unroll
    for (uint32_t p = 0; p < kPlanes; ++p) {
      planes_[p] = reinterpret_cast<const uint4*>(segment.planes[p]);
    }
    scale_ = args_.stage == ScanStage::kTwoPlanes ? segment.scale2 : segment.scale_full;
    norm_sq_ = segment.norm_sq;
    first_block_ = segment.first_block;
    last_block_ = segment.first_block + segment.blocks;
  }

  const ScanArgs& args_;
  uint32_t chunks_, index_, end_, stride_;
  uint32_t segment_ = 0, block_ = 0, first_block_ = 0, last_block_ = 0;
  size_t at_ = 0;
  const uint4* planes_[kPlanes];
  const float* scale_ = nullptr;
  const float* norm_sq_ = nullptr;
};

// What is scanned: kTwo: planes 1 and 2, else whole codes of kPlanes bits.
template <uint32_t kPlanes, bool kTwo>
struct Shape {
  static constexpr uint32_t kFunctions = kTwo ? 2 : 1u << (kPlanes - 1);
  static constexpr uint32_t kTiles = kTwo ? 1 : 2;   // of eight bits of a weight
  static constexpr uint32_t kTotals = kTwo ? 2 : 1;  // that a row ends with
};

template <uint32_t kPlanes, uint32_t kGroup>
__device__ void Evaluate(uint32_t function, const uint4 (&words)[kPlanes][kGroup],
                         uint4 (&out)[kGroup]) {
#pragma unroll
  for (uint32_t c = 0; c < kGroup; ++c) {
    uint32_t x[kPlanes], y[kPlanes], z[kPlanes], w[kPlanes];
#pragma unroll
    for (uint32_t p = 0; p < kPlanes; ++p) {
      x[p] = words[p][c].x;
      y[p] = words[p][c].y;
      z[p] = words[p][c].z;
      w[p] = words[p][c].w;
    }
    out[c] = {CodeFunction<kPlanes>(function, x), CodeFunction<kPlanes>(function, y),
              CodeFunction<kPlanes>(function, z), CodeFunction<kPlanes>(function, w)};
  }
}

// Counts of a group of chunks against one tile of bits.
//   bits  of the group's first chunk, for this lane
template <uint32_t kGroup>
__device__ BitCounts Count(const uint4 (&words)[kGroup], const uint32_t* bits) {
  BitCounts counts;
#pragma unroll
  for (uint32_t c = 0; c < kGroup; c += 2) {
    if (c + 1 < kGroup) {
      counts.Add(words[c], words[(c + 1) % kGroup], bits[c * 32], bits[c * 32 + 32]);
    } else {
      counts.Add(words[c], bits[c * 32]);
    }
  }
  return counts;
}

// Adds weight * (two columns of counts) to the parts of rows g, g + 8, g + 16, g + 24.
//   high  of the second column, in units of the first
__device__ void AddParts(const BitCounts& counts, uint32_t weight, uint32_t high,
                         uint32_t (&totals)[4]) {
  totals[0] += weight * (counts.upper[0] + high * counts.upper[1]);
  totals[1] += weight * (counts.upper[2] + high * counts.upper[3]);
  totals[2] += weight * (counts.lower[0] + high * counts.lower[1]);
  totals[3] += weight * (counts.lower[2] + high * counts.lower[3]);
}

// blockIdx.y: kQueries queries. Each block has an equal stretch of blocks. Chunks are
// taken kGroup at a time, which divides their number.
//   packed  the queries' bits
template <uint32_t kPlanes, bool kTwo, uint32_t kGroup, uint32_t kQueries, bool kSample>
__global__ void __launch_bounds__(kThreads, 2) ScanCodes(ScanArgs args, const uint32_t* packed) {
  using Of = Shape<kPlanes, kTwo>;
  extern __shared__ uint32_t code_bits[];
  __shared__ BitQuery queries[kQueries];
  const uint32_t chunks = Chunks(args.dim);
  const uint32_t first_query = blockIdx.y * kQueries;
  const uint32_t active = min(kQueries, args.nq - first_query);
  const uint32_t query_words = Of::kTiles * chunks * 32;
  for (uint32_t i = threadIdx.x; i < active * query_words; i += kThreads) {
    code_bits[i] = packed[first_query * query_words + i];
  }
  if (threadIdx.x < active) {
    queries[threadIdx.x] = MakeBitQuery<kSample>(args, first_query + threadIdx.x);
  }
  __syncthreads();
  const uint32_t lane = threadIdx.x % 32, t = lane % 4;
  // Of the first column, modulo 2^32, and of the second in units of it: in the
  // uppermost bits the last is the sign's.
  const uint32_t low = 1u << 2 * t, sign = t == 3 ? -2u : 2u;
  const uint32_t stride = kSample ? args.num_blocks / args.sample_blocks : 1;
  const uint64_t blocks = kSample ? args.sample_blocks : args.num_blocks;
  const auto begin = static_cast<uint32_t>(blocks * blockIdx.x / gridDim.x) + threadIdx.x / 32;
  const auto end = static_cast<uint32_t>(blocks * (blockIdx.x + 1) / gridDim.x);
  CodeWalker<kPlanes> walker(args, begin, end, stride);
  while (walker.Next()) {
    uint32_t totals[kQueries][Of::kTotals][4] = {};
    for (uint32_t group = 0; group < chunks; group += kGroup) {
      uint4 words[kPlanes][kGroup];
#pragma unroll
      for (uint32_t p = 0; p < kPlanes; ++p) {
#pragma unroll
        for (uint32_t c = 0; c < kGroup; ++c) words[p][c] = walker.Words(p, group + c);
      }
      const uint32_t* bits = code_bits + group * 32 + lane;
#pragma unroll
      for (uint32_t f = 0; f < Of::kFunctions; ++f) {
        uint4 values[kGroup];
        Evaluate<kPlanes, kGroup>(f, words, values);
#pragma unroll
        for (uint32_t q = 0; q < kQueries; ++q) {
          if (q >= active) break;
          const uint32_t* own = bits + q * query_words;
          if constexpr (kTwo) {
            AddParts(Count<kGroup>(values, own), low, sign, totals[q][f]);
          } else {
            const uint32_t weight = static_cast<uint32_t>(args.code_weights[f]) * low;
            AddParts(Count<kGroup>(values, own), weight, 2, totals[q][0]);
            AddParts(Count<kGroup>(values, own + chunks * 32), weight << 8, sign, totals[q][0]);
          }
        }
      }
    }
#pragma unroll
    for (uint32_t q = 0; q < kQueries; ++q) {
      if (q >= active) break;
      const ScanQuery& query = queries[q].query;
      Estimate made;
      if constexpr (kTwo) {
        made = MakeEstimate2(query, QuadRowSum(totals[q][0]), QuadRowSum(totals[q][1]),
                             walker.scale, walker.norm_sq);
      } else {
        made = MakeEstimate(query, QuadRowSum(totals[q][0]), walker.scale, walker.norm_sq);
      }
      TakeRow<kSample>(args, queries[q], first_query + q, made, walker.mask, walker.block(),
                       walker.block() / stride);
    }
  }
}

template <uint32_t kPlanes, bool kTwo, uint32_t kGroup, uint32_t kQueries, bool kSample>
const char* Launch(const ScanArgs& args, CUstream_st* stream) {
  const auto kernel = ScanCodes<kPlanes, kTwo, kGroup, kQueries, kSample>;
  const size_t shared =
      size_t{kQueries} * Shape<kPlanes, kTwo>::kTiles * Chunks(args.dim) * 32 * sizeof(uint32_t);
  static thread_local Residency residency;
  if (const char* error = residency.Find(kernel, shared); error != nullptr) return error;
  const uint32_t groups = (args.nq + kQueries - 1) / kQueries;
  const uint32_t blocks = kSample ? args.sample_blocks : args.num_blocks;
  const uint32_t grid = min(residency.blocks, (blocks + kWarps - 1) / kWarps);
  const size_t first_word = kTwo ? ScanByteWords(args.dim, args.nq) : 0;
  kernel<<<dim3(grid, groups), kThreads, shared, stream>>>(args, args.weights + first_word);
  return Text(cudaGetLastError());
}

template <uint32_t kPlanes, bool kTwo, uint32_t kGroup>
const char* LaunchGroup(const ScanArgs& args, bool sample, CUstream_st* stream) {
  constexpr uint32_t kChunksShared = 48;  // more fill shared memory with one query
  if (args.nq == 1 || Chunks(args.dim) > kChunksShared) {
    return sample ? Launch<kPlanes, kTwo, kGroup, 1, true>(args, stream)
                  : Launch<kPlanes, kTwo, kGroup, 1, false>(args, stream);
  }
  return sample ? Launch<kPlanes, kTwo, kGroup, kSharedQueries, true>(args, stream)
                : Launch<kPlanes, kTwo, kGroup, kSharedQueries, false>(args, stream);
}

template <uint32_t kPlanes, bool kTwo>
const char* LaunchShape(const ScanArgs& args, bool sample, CUstream_st* stream) {
  const uint32_t chunks = Chunks(args.dim);
  if (chunks % 3 == 0) return LaunchGroup<kPlanes, kTwo, 3>(args, sample, stream);
  if (chunks % 2 == 0) return LaunchGroup<kPlanes, kTwo, 2>(args, sample, stream);
  return LaunchGroup<kPlanes, kTwo, 1>(args, sample, stream);
}

// Bits [first_bit, first_bit + 8) of 32 values a word, as BitWord() has them.
void PackBits(const int16_t* own, uint32_t first_bit, uint32_t chunk, uint32_t w, uint32_t* out) {
  for (uint32_t bit = 0; bit < 8; ++bit) {
    uint32_t word = 0;
    for (uint32_t j = 0; j < 32; ++j) {
      word |= (static_cast<uint32_t>(own[j]) >> (first_bit + bit) & 1) << j;
    }
    out[chunk * 32 + 4 * bit + w % 4] = word;
  }
}

template <uint32_t kBits>
bool SolveWeights(const int8_t* levels, int32_t* weights) {
  constexpr int kSize = 1 << (kBits - 1);
  double rows[kSize][kSize + 1];
  for (int i = 0; i < kSize; ++i) {
    const uint32_t code = kSize + i;
    uint32_t planes[kBits];
    for (uint32_t p = 0; p < kBits; ++p) planes[p] = code >> (kBits - 1 - p) & 1;
    for (uint32_t f = 0; f < kSize; ++f) rows[i][f] = CodeFunction<kBits>(f, planes) ? 1 : -1;
    rows[i][kSize] = levels[code];
    if (levels[code] != -levels[kSize - 1 - i]) return false;
  }
  for (int column = 0; column < kSize; ++column) {  // Gauss and Jordan, exact in double
    int pivot = column;
    for (int i = column; i < kSize; ++i) {
      if (std::fabs(rows[i][column]) > std::fabs(rows[pivot][column])) pivot = i;
    }
    for (int j = 0; j <= kSize; ++j) std::swap(rows[column][j], rows[pivot][j]);
    for (int i = 0; i < kSize; ++i) {
      if (i == column) continue;
      const double factor = rows[i][column] / rows[column][column];
      for (int j = column; j <= kSize; ++j) rows[i][j] -= factor * rows[column][j];
    }
  }
  for (int f = 0; f < kSize; ++f) {
    const double weight = 2 * rows[f][kSize] / rows[f][f];
    weights[f] = static_cast<int32_t>(std::lrint(weight));
  }
  for (int i = 0; i < kSize; ++i) {  // whether rounding changed anything
    const uint32_t code = kSize + i;
    uint32_t planes[kBits];
    for (uint32_t p = 0; p < kBits; ++p) planes[p] = code >> (kBits - 1 - p) & 1;
    int32_t level = -levels[2 * kSize - 1];
    for (uint32_t f = 0; f < kSize; ++f) level += CodeFunction<kBits>(f, planes) * weights[f];
    if (level != levels[code]) return false;
  }
  return true;
}

}  // namespace

const char* LaunchCodeScan(const ScanArgs& args, bool sample, CUstream_st* stream) {
  if (args.stage == ScanStage::kTwoPlanes) return LaunchShape<2, true>(args, sample, stream);
  switch (args.bits) {
    case 1:
      return LaunchShape<1, false>(args, sample, stream);
    case 2:
      return LaunchShape<2, false>(args, sample, stream);
    case 3:
      return LaunchShape<3, false>(args, sample, stream);
    case 4:
      return LaunchShape<4, false>(args, sample, stream);
    default:
      return "a scan takes codes of 1 to 4 bits";
  }
}

void PackCodeValues(const int16_t* values, uint32_t q, uint32_t /*nq*/, size_t dim,
                    uint32_t* out) {
  const uint32_t chunks = ScanChunks(dim);
  uint32_t* low = out + size_t{q} * 2 * chunks * 32;
  for (uint32_t w = 0; w < chunks * 4; ++w) {
    int16_t own[32] = {};
    if (32 * w < dim) {
      std::memcpy(own, values + 32 * w, min(dim - 32 * w, size_t{32}) * sizeof(int16_t));
    }
    PackBits(own, 0, w / 4, w, low);
    PackBits(own, 8, w / 4, w, low + chunks * 32);
  }
}

bool MakeCodeWeights(const int8_t* levels, uint32_t bits, int32_t* weights) {
  std::memset(weights, 0, kCodeFunctions * sizeof(int32_t));
  switch (bits) {
    case 1:
      return SolveWeights<1>(levels, weights);
    case 2:
      return SolveWeights<2>(levels, weights);
    case 3:
      return SolveWeights<3>(levels, weights);
    case 4:
      return SolveWeights<4>(levels, weights);
    default:
      return false;
  }
}

int32_t CodeOffset(const int16_t* values, size_t dim, int32_t last_level) {
  int64_t sum = 0;
  for (size_t j = 0; j < dim; ++j) sum += values[j];
  return static_cast<int32_t>(static_cast<uint32_t>(-sum * last_level));
}

}  // namespace quash::cuda
