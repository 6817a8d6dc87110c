// Loaded by scan.py: scans over synthetic codes in device memory.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/codebook.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/scan.h"
#include "kernels/cuda/scan_layout.cuh"
#include "kernels/cuda/scan_rank.h"
#include "kernels/scan.h"

namespace {

using quash::cuda::Buffer;

constexpr uint32_t kSegmentRows = 4096;
constexpr uint32_t kMostWords = 48;  // of 32 coordinates

struct Codes {
  uint32_t* planes[4];
  float* scales[3];
};

struct Boundaries {
  float boundaries[15];
  int8_t levels[16];
  float m, delta;
};

// A normal deviate for each pair of numbers.
__device__ float Gaussian(uint64_t row, uint32_t j) {
  uint64_t x = (row << 12 | j) * 0x9E3779B97F4A7C15ull + 0x632BE59BD9B4E019ull;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ x >> 27) * 0x94D049BB133111EBull;
  x ^= x >> 31;
  const float u = (static_cast<float>(x >> 40) + 0.5f) * 0x1p-24f;
  const float v = static_cast<float>(x & 0xffffff) * 0x1p-24f;
  return sqrtf(-2 * __logf(u)) * __cosf(6.2831853f * v);
}

__device__ float WarpSum(float value) {
  for (uint32_t other = 16; other > 0; other /= 2) value += __shfl_xor_sync(~0u, value, other);
  return value;
}

// A warp a row: unit vectors around centres, as float16 and as codes.
__global__ void Fill(uint64_t rows, uint32_t dim, uint32_t centres, float spread, uint64_t seed,
                     Boundaries code, Codes codes, __half* tier) {
  const uint64_t row = (uint64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  const uint32_t lane = threadIdx.x % 32, words = (dim + 31) / 32;
  if (row >= rows) return;
  const uint64_t centre = (row * 0x9E3779B97F4A7C15ull >> 20) % centres;
  float values[kMostWords], square = 0;
  for (uint32_t w = 0; w < words; ++w) {
    const uint32_t j = 32 * w + lane;
    values[w] = j >= dim ? 0
                         : Gaussian(centre + (1ull << 40), j) + spread * Gaussian(row + seed, j);
    square += values[w] * values[w];
  }
  const float inverse = rsqrtf(WarpSum(square));
  float dots[3] = {};
  const uint32_t chunks = quash::cuda::Chunks(dim);
  const auto block = static_cast<uint32_t>(row % kSegmentRows / 32);
  const uint64_t segment = row / kSegmentRows * (kSegmentRows * chunks * 4);
  for (uint32_t w = 0; w < words; ++w) {
    const uint32_t j = 32 * w + lane;
    const float unit = values[w] * inverse;
    uint32_t bits = 0;
    for (float boundary : code.boundaries) bits += unit > boundary;
    if (j >= dim) bits = 0;
    dots[0] += fabsf(unit);
    dots[1] += unit * ((bits & 8 ? code.m : -code.m) + (bits & 4 ? code.delta : -code.delta));
    dots[2] += unit * code.levels[bits];
    if (j < dim && tier != nullptr) tier[row * dim + j] = __float2half(unit);
    for (uint32_t p = 0; p < 4; ++p) {
      const uint32_t word = __ballot_sync(~0u, bits >> (3 - p) & 1);
      if (lane == p) {
        codes.planes[p][segment + quash::cuda::PlaneWord(chunks, block, row % 32, w)] = word;
      }
    }
  }
  for (uint32_t i = 0; i < 3; ++i) {
    const float dot = WarpSum(dots[i]);
    if (lane == i) codes.scales[i][row] = 1 / dot;
  }
}

}  // namespace

struct Bench {
  uint64_t rows;  // a multiple of 4096
  uint32_t dim;
  uint32_t stage;  // of ScanStage
  uint32_t nq;
  uint32_t k;
  uint32_t width;
  uint32_t rounds;
  uint32_t ranks;        // whether the device orders the results: few queries do without
  uint32_t* planes[4];   // device memory, of quash_gpu_scan_fill()
  float* scales[3];
  void* tier;            // [rows, dim] float16
  const float* queries;  // [nq, dim] of unit norm, host
  float* microseconds;   // [rounds] out: from the first kernel to the last
  float* scan_microseconds;  // [rounds] out: until the rows are listed
  uint32_t* kept;            // [nq] out: rows that were scored
  uint32_t* result_rows;     // [nq][k] out, best first
};

// Fills codes of 4 bits, their scales and the tier with unit vectors around centres.
extern "C" const char* quash_gpu_scan_fill(uint64_t rows, uint32_t dim, uint32_t centres,
                                           float spread, uint64_t seed, uint32_t* const* planes,
                                           float* const* scales, void* tier) {
  if (dim > 32 * kMostWords) return "dim is too large";
  const auto codebook = quash::MakeLevelCodebook(quash::GetCodebook(dim, 4));
  Boundaries code = {.boundaries = {}, .levels = {}, .m = codebook.m, .delta = codebook.delta};
  std::copy_n(codebook.boundaries, 15, code.boundaries);
  std::copy_n(codebook.levels, 16, code.levels);
  Codes codes = {};
  std::copy_n(planes, 4, codes.planes);
  std::copy_n(scales, 3, codes.scales);
  Fill<<<static_cast<uint32_t>((rows + 7) / 8), 256>>>(rows, dim, centres, spread, seed, code,
                                                       codes, static_cast<__half*>(tier));
  const cudaError_t error = cudaDeviceSynchronize();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// A search of nq queries, `rounds` times. Returns null, or what failed.
extern "C" const char* quash_gpu_scan_bench(const Bench* bench) {
  using namespace quash::cuda;
  constexpr uint32_t kCapacity = 16384, kSample = kScanSampleBlocks;
  const uint32_t nq = bench->nq, dim = bench->dim, k = bench->k, width = bench->width;
  const auto num_segments = static_cast<uint32_t>(bench->rows / kSegmentRows);
  const uint32_t segment_blocks = kSegmentRows / 32;
  const auto stage = static_cast<ScanStage>(bench->stage);
  const bool codes = stage == ScanStage::kCodes;
  const auto codebook = quash::MakeLevelCodebook(quash::GetCodebook(dim, 4));
  Buffer masks, segments, input, sample, limits, counts, candidates, kept_rows, kept_counts,
      survivors, scored, summaries, ranked;
  const char* error = nullptr;
  const auto reserve = [&](Buffer* buffer, size_t bytes,
                           Buffer::Place place = Buffer::Place::kDevice) {
    if (error == nullptr) error = buffer->Reserve(bytes, place);
  };
  reserve(&masks, bench->rows / 8);
  reserve(&segments, num_segments * sizeof(ScanSegment));
  reserve(&sample, ScanSampleFloats(nq, kSample) * sizeof(float));
  reserve(&limits, nq * 8);
  reserve(&counts, nq * 4);
  reserve(&candidates, size_t{nq} * kCapacity * 16);
  reserve(&kept_rows, size_t{nq} * kCapacity * 8);
  reserve(&kept_counts, nq * 4);
  reserve(&survivors, size_t{nq} * width * 16);
  reserve(&scored, size_t{nq} * kCapacity * sizeof(Scored), Buffer::Place::kPinned);
  reserve(&summaries, nq * sizeof(RankSummary), Buffer::Place::kPinned);
  reserve(&ranked, nq * (k + kRankTies) * sizeof(RankedRow), Buffer::Place::kPinned);

  // What libquashdb makes of unit queries in a cosine collection (executor_plan.h):
  // errors of an estimate by the angle between a row and its levels.
  constexpr double kMse[] = {0.3634, 0.1203, 0.0095};
  const double mse = kMse[bench->stage];
  const auto sigma = static_cast<float>(std::sqrt(mse / (1 - mse) / (dim - 1)));
  const auto sigma2 = static_cast<float>(std::sqrt(kMse[1] / (1 - kMse[1]) / (dim - 1)));
  const auto typical_scale = [&](double norm, double of) { return 1 / (norm * std::sqrt(1 - of)); };
  const double two_norm = std::sqrt(1 - kMse[1]) / codebook.step;
  const double norms[] = {std::sqrt(double{1} * dim), two_norm,
                          std::sqrt(1 - kMse[2]) / codebook.step};
  const double share = kSample / (bench->rows / 32.0);
  const auto rank_of = [&](double wanted) {
    return static_cast<uint32_t>(wanted * share + 5 * std::sqrt(wanted * share) + 5);
  };
  const size_t padded = quash::PlaneBytes(dim) * 8;
  std::vector<ScanQuery> queries(nq);
  std::vector<RankQuery> rank(nq);
  std::vector<int32_t> offsets(nq);
  std::vector<uint32_t> packed(codes ? CodeValueWords(dim, nq) : ScanWeightWords(dim, nq));
  std::vector<uint8_t> table(quash::NibbleTableBytes(quash::PlaneBytes(dim)));
  std::vector<int8_t> weights(padded);
  std::vector<int16_t> values(padded);
  for (uint32_t q = 0; q < nq; ++q) {
    const float* vector = bench->queries + size_t{q} * dim;
    const auto lut =
        quash::BuildPlaneLut(*quash::ScalarKernels(), vector, dim, table.data(), weights.data());
    const auto levels = quash::BuildLevelQuery(vector, dim, values.data());
    offsets[q] = lut.offset;
    ScanQuery& one = queries[q];
    one = {};
    one.gain = 1;
    if (codes) {
      one.mul = levels.scale;
      one.offset = CodeOffset(values.data(), dim, codebook.levels[15]);
      PackCodeValues(values.data(), q, nq, dim, packed.data());
    } else {
      const bool two = stage == ScanStage::kTwoPlanes;
      one.mul = lut.step * (two ? codebook.m : 1);
      one.mul2 = two ? lut.step * codebook.delta : 0;
      one.add = lut.bias * (two ? codebook.m + codebook.delta : 1);
      one.offset = lut.offset;
      PackScanWeights(weights.data(), q, nq, dim, packed.data());
    }
    one.key_rank = rank_of(width);
    one.estimate_rank = rank_of(k);
    one.key_limit = one.estimate_limit = -INFINITY;
    one.k = k;
    one.width = width;
    one.slack = 3.25f * sigma;
    one.is_cosine = 1;
    const double scale = typical_scale(norms[bench->stage], mse);
    const double scale2 = typical_scale(two_norm, kMse[1]);
    rank[q] = {.offset = 0,
               .margin = static_cast<float>(2.5 * sigma / scale),
               .margin2 = static_cast<float>(2.5 * sigma2 / scale2),
               .lut_step = lut.step,
               .lut_bias = lut.bias,
               .level_scale = levels.scale};
  }
  const auto aligned = [](size_t bytes) { return (bytes + 63) / 64 * 64; };
  const size_t rank_at = aligned(nq * sizeof(ScanQuery));
  const size_t weights_at = rank_at + aligned(nq * sizeof(RankQuery));
  const size_t offsets_at = weights_at + aligned(packed.size() * 4);
  const size_t vectors_at = offsets_at + aligned(nq * 4);
  reserve(&input, vectors_at + size_t{nq} * dim * 4);
  if (error != nullptr) return error;

  std::vector<ScanSegment> made(num_segments);
  for (uint32_t i = 0; i < num_segments; ++i) {
    made[i] = {};
    for (uint32_t p = 0; p < 4; ++p) {
      made[i].planes[p] = bench->planes[p] + size_t{i} * segment_blocks * ScanPlaneBytes(dim) / 4;
    }
    made[i].scale1 = bench->scales[0] + size_t{i} * kSegmentRows;
    made[i].scale2 = bench->scales[1] + size_t{i} * kSegmentRows;
    made[i].scale_full = bench->scales[2] + size_t{i} * kSegmentRows;
    made[i].tier = static_cast<uint8_t*>(bench->tier) + size_t{i} * kSegmentRows * dim * 2;
    made[i].first_block = i * segment_blocks;
    made[i].blocks = segment_blocks;
  }
  auto* at = input.as<uint8_t>();
  const auto upload = [](void* to, const void* from, size_t bytes) {
    cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice);
  };
  upload(segments.as<void>(), made.data(), made.size() * sizeof(ScanSegment));
  upload(at, queries.data(), nq * sizeof(ScanQuery));
  upload(at + rank_at, rank.data(), nq * sizeof(RankQuery));
  upload(at + weights_at, packed.data(), packed.size() * 4);
  upload(at + offsets_at, offsets.data(), nq * 4);
  upload(at + vectors_at, bench->queries, size_t{nq} * dim * 4);
  cudaMemset(masks.as<void>(), 0xFF, bench->rows / 8);

  ScanArgs args{.segments = segments.as<ScanSegment>(),
                .num_segments = num_segments,
                .num_blocks = num_segments * segment_blocks,
                .masks = masks.as<uint32_t>(),
                .dim = dim,
                .stage = stage,
                .bits = 4,
                .code_weights = {},
                .nq = nq,
                .queries = reinterpret_cast<const ScanQuery*>(at),
                .weights = reinterpret_cast<const uint32_t*>(at + weights_at),
                .sample_blocks = kSample,
                .sample = sample.as<float>(),
                .limits = limits.as<float>(),
                .capacity = kCapacity,
                .counts = counts.as<uint32_t>(),
                .candidates = candidates.as<uint32_t>(),
                .summaries = summaries.as<ScanSummary>(),
                .kept_counts = kept_counts.as<uint32_t>(),
                .kept = kept_rows.as<uint32_t>()};
  if (!MakeCodeWeights(codebook.levels, 4, args.code_weights)) return "levels without weights";
  FinishArgs finish{.stage = stage,
                    .segments = args.segments,
                    .num_segments = num_segments,
                    .num_blocks = args.num_blocks,
                    .dim = dim,
                    .bits = 4,
                    .nq = nq,
                    .weights = args.weights,
                    .offsets = reinterpret_cast<const int32_t*>(at + offsets_at),
                    .counts = args.kept_counts,
                    .capacity = kCapacity,
                    .candidates = args.kept,
                    .final_scores = true,
                    .tier = TierType::kFloat16,
                    .is_l2 = false,
                    .vectors = reinterpret_cast<const float*>(at + vectors_at),
                    .values = nullptr,
                    .levels = {},
                    .scored = scored.as<Scored>()};
  const RankArgs ranking{.scan = args,
                         .finish = finish,
                         .queries = reinterpret_cast<const RankQuery*>(at + rank_at),
                         .k = k,
                         .width = width,
                         .first = 2 * k + 16,
                         .m = codebook.m,
                         .delta = codebook.delta,
                         .refines = stage == ScanStage::kPlane1,
                         .block_cost = static_cast<uint32_t>(512 + quash::PlaneBytes(dim) * 16),
                         .row_cost = 512 + 2 * dim,
                         .survivors = survivors.as<uint32_t>(),
                         .summaries = summaries.as<RankSummary>(),
                         .rows = ranked.as<RankedRow>()};
  cudaEvent_t events[3];
  for (cudaEvent_t& event : events) cudaEventCreate(&event);
  for (uint32_t round = 0; round < bench->rounds && error == nullptr; ++round) {
    cudaEventRecord(events[0]);
    cudaMemsetAsync(counts.as<void>(), 0, nq * 4);
    error = LaunchScan(args, nullptr);
    cudaEventRecord(events[1]);
    if (bench->ranks) {
      if (error == nullptr) error = LaunchRank(ranking, nullptr);
    } else {
      if (error == nullptr) error = LaunchNarrow(args, nullptr);
      if (error == nullptr) error = LaunchFinish(finish, nullptr);
    }
    cudaEventRecord(events[2]);
    cudaEventSynchronize(events[2]);
    float milliseconds = 0;
    cudaEventElapsedTime(&milliseconds, events[0], events[2]);
    bench->microseconds[round] = milliseconds * 1000;
    cudaEventElapsedTime(&milliseconds, events[0], events[1]);
    bench->scan_microseconds[round] = milliseconds * 1000;
  }
  for (cudaEvent_t& event : events) cudaEventDestroy(event);
  const cudaError_t last = cudaGetLastError();
  if (error == nullptr && last != cudaSuccess) error = cudaGetErrorString(last);
  if (error != nullptr) return error;
  for (uint32_t q = 0; q < nq; ++q) {
    std::vector<RankedRow> rows;
    if (bench->ranks) {
      const RankSummary& summary = summaries.as<RankSummary>()[q];
      if (summary.status != RankSummary::kDone) return "a query was not ranked";
      bench->kept[q] = summary.scored;
      const auto* first = ranked.as<RankedRow>() + size_t{q} * (k + kRankTies);
      rows.assign(first, first + summary.rows);
    } else {
      bench->kept[q] = summaries.as<ScanSummary>()[q].kept;
      const auto* first = scored.as<Scored>() + size_t{q} * kCapacity;
      for (uint32_t i = 0; i < bench->kept[q]; ++i) {
        rows.push_back(
            {kNoId, first[i].row / kSegmentRows, first[i].row % kSegmentRows, first[i].score});
      }
    }
    if (rows.size() < k) return "fewer than k rows came back";
    std::partial_sort(rows.begin(), rows.begin() + k, rows.end(),
                      [](const RankedRow& a, const RankedRow& b) {
                        return a.score > b.score;
                      });
    for (uint32_t i = 0; i < k; ++i) {
      bench->result_rows[size_t{q} * k + i] = rows[i].segment * kSegmentRows + rows[i].row;
    }
  }
  return nullptr;
}
