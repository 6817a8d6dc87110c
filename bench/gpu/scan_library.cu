// Loaded by scan.py: the plane scan over synthetic codes in device memory.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/scan.h"

namespace {

using quash::cuda::Buffer;

__global__ void FillRandom(uint32_t* words, size_t count, uint32_t seed) {
  const size_t stride = size_t{gridDim.x} * blockDim.x;
  for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    uint64_t x = (i + 1) * 0x9E3779B97F4A7C15ull + seed;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ x >> 27) * 0x94D049BB133111EBull;
    words[i] = static_cast<uint32_t>(x >> 32);
  }
}

__global__ void FillValue(float* values, size_t count, float value) {
  const size_t stride = size_t{gridDim.x} * blockDim.x;
  for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    values[i] = value;
  }
}

}  // namespace

// Scans `rows` random rows (a multiple of 4096) for nq queries of one pass, `rounds`
// times, and scores what is kept from a float16 tier.
//   microseconds  [rounds] out: from the first kernel to the last
//   kept          [nq] out
// Returns null, or what failed.
extern "C" const char* quash_gpu_scan_bench(uint64_t rows, uint32_t dim, uint32_t nq, uint32_t k,
                                            uint32_t width, uint32_t rounds, float* microseconds,
                                            uint32_t* kept) {
  using namespace quash::cuda;
  constexpr uint32_t kSegmentRows = 4096, kCapacity = 16384;
  const uint32_t num_segments = static_cast<uint32_t>(rows / kSegmentRows);
  const uint32_t segment_blocks = kSegmentRows / 32;
  Buffer planes, scales, masks, tier, segments, input, sample, limits, counts, candidates,
      kept_rows, kept_counts, scored, summaries;
  const char* error = nullptr;
  const auto reserve = [&](Buffer* buffer, size_t bytes,
                           Buffer::Place place = Buffer::Place::kDevice) {
    if (error == nullptr) error = buffer->Reserve(bytes, place);
  };
  const size_t plane_bytes = rows / 32 * ScanPlaneBytes(dim);
  reserve(&planes, plane_bytes);
  reserve(&scales, rows * sizeof(float));
  reserve(&masks, rows / 8);
  reserve(&tier, rows * dim * 2);
  reserve(&segments, num_segments * sizeof(ScanSegment));
  reserve(&sample, ScanSampleFloats(nq, 2048) * sizeof(float));
  reserve(&limits, nq * 8);
  reserve(&counts, nq * 4);
  reserve(&candidates, size_t{nq} * kCapacity * 16);
  reserve(&kept_rows, size_t{nq} * kCapacity * 8);
  reserve(&kept_counts, nq * 4);
  reserve(&scored, size_t{nq} * kCapacity * sizeof(Scored), Buffer::Place::kPinned);
  reserve(&summaries, nq * sizeof(ScanSummary), Buffer::Place::kPinned);

  // Gaussian queries as the search would prepare them: weights of a sigma of 10.
  std::mt19937_64 random(7);
  std::normal_distribution<float> gaussian(0, 10);
  std::vector<std::vector<int8_t>> weights(nq, std::vector<int8_t>(dim));
  std::vector<ScanQuery> queries(nq);
  std::vector<int32_t> offsets(nq);
  const double share = 2048.0 / (rows / 32);
  for (uint32_t q = 0; q < nq; ++q) {
    int magnitudes = 0, offset = 0;
    for (int8_t& weight : weights[q]) {
      weight = static_cast<int8_t>(std::clamp(std::lrint(gaussian(random)), -31l, 31l));
      magnitudes += std::abs(weight);
      offset += std::max<int>(-weight, 0);
    }
    offsets[q] = offset;
    queries[q] = {};
    queries[q].gain = 1;
    queries[q].mul = 0.01f;
    queries[q].add = -0.005f * static_cast<float>(magnitudes);
    queries[q].offset = offset;
    queries[q].key_rank = static_cast<uint32_t>(width * share + 5 * std::sqrt(width * share) + 5);
    queries[q].estimate_rank = static_cast<uint32_t>(k * share + 5 * std::sqrt(k * share) + 5);
    queries[q].key_limit = queries[q].estimate_limit = -INFINITY;
    queries[q].k = k;
    queries[q].width = width;
    queries[q].slack = 1e9f;  // random rows: the width decides
    queries[q].is_cosine = 1;
  }
  const size_t weight_words = ScanWeightWords(dim, nq);
  std::vector<uint32_t> packed(weight_words);
  for (uint32_t q = 0; q < nq; ++q) {
    PackScanWeights(weights[q].data(), q, nq, dim, packed.data());
  }
  const size_t query_bytes = (nq * sizeof(ScanQuery) + 63) / 64 * 64;
  const size_t weight_bytes = weight_words * 4;
  reserve(&input, query_bytes + weight_bytes + nq * 4 + size_t{nq} * dim * 4);
  if (error != nullptr) return error;

  std::vector<ScanSegment> made(num_segments);
  for (uint32_t i = 0; i < num_segments; ++i) {
    made[i] = {};
    made[i].plane1 = planes.as<uint32_t>() + size_t{i} * segment_blocks * ScanPlaneBytes(dim) / 4;
    made[i].scale1 = scales.as<float>() + size_t{i} * kSegmentRows;
    made[i].tier = tier.as<uint8_t>() + size_t{i} * kSegmentRows * dim * 2;
    made[i].first_block = i * segment_blocks;
    made[i].blocks = segment_blocks;
  }
  auto* at = input.as<uint8_t>();
  cudaMemcpy(segments.as<void>(), made.data(), made.size() * sizeof(ScanSegment),
             cudaMemcpyHostToDevice);
  cudaMemcpy(at, queries.data(), nq * sizeof(ScanQuery), cudaMemcpyHostToDevice);
  cudaMemcpy(at + query_bytes, packed.data(), weight_bytes, cudaMemcpyHostToDevice);
  cudaMemcpy(at + query_bytes + weight_bytes, offsets.data(), nq * 4, cudaMemcpyHostToDevice);
  cudaMemset(at + query_bytes + weight_bytes + nq * 4, 0, size_t{nq} * dim * 4);
  cudaMemset(masks.as<void>(), 0xFF, rows / 8);
  cudaMemset(tier.as<void>(), 0, rows * dim * 2);
  FillRandom<<<2048, 256>>>(planes.as<uint32_t>(), plane_bytes / 4, 1);
  FillValue<<<2048, 256>>>(scales.as<float>(), rows, 0.05f);

  const ScanArgs args{.segments = segments.as<ScanSegment>(),
                      .num_segments = num_segments,
                      .num_blocks = num_segments * segment_blocks,
                      .masks = masks.as<uint32_t>(),
                      .dim = dim,
                      .nq = nq,
                      .queries = reinterpret_cast<const ScanQuery*>(at),
                      .weights = reinterpret_cast<const uint32_t*>(at + query_bytes),
                      .sample_blocks = 2048,
                      .sample = sample.as<float>(),
                      .limits = limits.as<float>(),
                      .capacity = kCapacity,
                      .counts = counts.as<uint32_t>(),
                      .candidates = candidates.as<uint32_t>(),
                      .summaries = summaries.as<ScanSummary>(),
                      .kept_counts = kept_counts.as<uint32_t>(),
                      .kept = kept_rows.as<uint32_t>()};
  FinishArgs finish{};
  finish.segments = args.segments;
  finish.num_segments = num_segments;
  finish.num_blocks = args.num_blocks;
  finish.dim = dim;
  finish.bits = 1;
  finish.nq = nq;
  finish.weights = args.weights;
  finish.offsets = reinterpret_cast<const int32_t*>(at + query_bytes + weight_bytes);
  finish.counts = args.kept_counts;
  finish.capacity = kCapacity;
  finish.candidates = args.kept;
  finish.final_scores = true;
  finish.tier = TierType::kFloat16;
  finish.vectors = reinterpret_cast<const float*>(at + query_bytes + weight_bytes + nq * 4);
  finish.scored = scored.as<Scored>();
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  for (uint32_t round = 0; round < rounds && error == nullptr; ++round) {
    cudaEventRecord(begin);
    cudaMemsetAsync(counts.as<void>(), 0, nq * 4);
    error = LaunchScan(args, nullptr);
    if (error == nullptr) error = LaunchFinish(finish, nullptr);
    cudaEventRecord(end);
    cudaEventSynchronize(end);
    float milliseconds = 0;
    cudaEventElapsedTime(&milliseconds, begin, end);
    microseconds[round] = milliseconds * 1000;
  }
  for (uint32_t q = 0; q < nq; ++q) kept[q] = summaries.as<ScanSummary>()[q].kept;
  const cudaError_t last = cudaGetLastError();
  if (error == nullptr && last != cudaSuccess) error = cudaGetErrorString(last);
  return error;
}
