#include "libquashdb/gpu_launch.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "libquashdb/executor_parallel.h"
#include "libquashdb/gpu_status.h"

namespace quash {
namespace {

// Where in a sample of this share of the rows a value lies that at least `wanted`
// rows of all reach: five standard errors below, and a few.
uint32_t SampleRank(size_t wanted, double share) {
  const double expected = static_cast<double>(wanted) * share;
  return static_cast<uint32_t>(std::ceil(expected + 5 * std::sqrt(expected) + 5));
}

}  // namespace

cuda::ScanStage StageOf(size_t planes) {
  return planes == 1   ? cuda::ScanStage::kPlane1
         : planes == 2 ? cuda::ScanStage::kTwoPlanes
                       : cuda::ScanStage::kCodes;
}

Status UploadMasks(const MatchingRows& matching, const GpuView& view, GpuPass* pass) {
  std::vector<uint32_t> masks(view.num_blocks);
  for (size_t i = 0; i < view.segments.size(); ++i) {
    const uint32_t* mask = matching.mask(view.segments[i]);
    if (mask == nullptr) continue;
    std::copy_n(mask, view.held[i]->arrays.blocks, masks.begin() + view.first_blocks[i]);
  }
  const size_t bytes = masks.size() * sizeof(uint32_t);
  QUASH_RETURN_IF_GPU_ERROR("allocating", pass->masks.Reserve(bytes));
  QUASH_RETURN_IF_GPU_ERROR("uploading",
                            pass->stream.Upload(masks.data(), bytes, pass->masks.as<void>()));
  return Status();
}

GpuSample SampleBlocks(std::span<const GpuPart> parts, const MatchingRows& matching,
                       uint32_t capacity) {
  GpuSample sample;
  sample.blocks.resize(parts.size());
  if (matching.count() <= capacity / 4 * 3) return sample;
  uint64_t blocks = 0, sampled = 0;
  for (const GpuPart& part : parts) blocks += part.view->num_blocks;
  // Small parts are rounded up, to one block.
  const uint64_t wanted =
      std::min<uint64_t>(blocks, cuda::kScanSampleBlocks - (parts.size() - 1));
  for (size_t i = 0; i < parts.size(); ++i) {
    const uint64_t own = wanted * parts[i].view->num_blocks / blocks;
    sample.blocks[i] = static_cast<uint32_t>(std::max<uint64_t>(own, 1));
    sampled += sample.blocks[i];
  }
  sample.share = static_cast<double>(sampled) / static_cast<double>(blocks);
  return sample;
}

void SetRanks(const GpuSample& sample, size_t wanted, size_t k, cuda::ScanQuery* query) {
  query->key_rank = SampleRank(wanted, sample.share);
  query->estimate_rank = SampleRank(k, sample.share);
}

cuda::ScanQuery MakeScanQuery(const Snapshot& snapshot, cuda::ScanStage stage,
                              const PreparedQuery& query, const CandidateSet& set) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  cuda::ScanQuery made = {};
  made.gain = query.gain();
  made.key_margin = set.margin();
  made.key_limit = made.estimate_limit = kInfinity;
  if (stage == cuda::ScanStage::kCodes) {
    const LevelCodebook& codebook = snapshot.quantizer->codebook();
    made.mul = query.levels().scale;
    made.offset = cuda::CodeOffset(query.levels().values, snapshot.spec->dim,
                                   codebook.levels[(1 << codebook.bits) - 1]);
  } else {
    made.mul = query.scanned().mul1;
    made.mul2 = query.scanned().mul2;
    made.add = query.scanned().add;
    made.offset = query.lut().offset;
  }
  return made;
}

Status StageQueries(const GpuLaunch& launch, size_t num_queries, const PrepareQuery& prepare,
                    uint32_t sample_blocks, GpuArgs* args) {
  using Place = cuda::Buffer::Place;
  const Snapshot& snapshot = *launch.snapshot;
  GpuPass& pass = *launch.pass;
  const auto nq = static_cast<uint32_t>(num_queries);
  const size_t dim = snapshot.spec->dim;
  const CodeLayout& layout = snapshot.quantizer->layout();
  const size_t padded = layout.plane_bytes() * 8;
  const bool has_tier = snapshot.spec->rerank != QUASH_RERANK_NONE;
  const bool codes = launch.stage == cuda::ScanStage::kCodes;
  // All that the kernels read of the queries goes over in one copy.
  size_t bytes = 0;
  const auto place = [&](size_t size) {
    return std::exchange(bytes, (bytes + size + kAlignment - 1) / kAlignment * kAlignment);
  };
  const size_t scan_at = place(nq * sizeof(cuda::ScanQuery));
  const size_t rank_at = place(launch.ranks ? nq * sizeof(cuda::RankQuery) : 0);
  const size_t weights_at = place((codes ? cuda::CodeValueWords(dim, nq)
                                         : cuda::ScanWeightWords(dim, nq)) *
                                  sizeof(uint32_t));
  const size_t offsets_at = place(nq * sizeof(int32_t));
  const size_t vectors_at = place(has_tier ? nq * dim * sizeof(float) : 0);
  const size_t values_at = place(has_tier ? 0 : nq * padded * sizeof(int16_t));
  const std::pair<cuda::Buffer*, size_t> on_device[] = {
      {&pass.input, bytes},
      {&pass.sample, cuda::ScanSampleFloats(nq, sample_blocks) * sizeof(float) + 1},
      {&pass.limits, nq * 2 * sizeof(float)},
      {&pass.counts, nq * sizeof(uint32_t)},
      {&pass.candidates, size_t{nq} * launch.capacity * 4 * sizeof(uint32_t)}};
  for (const auto& [buffer, size] : on_device) {
    QUASH_RETURN_IF_GPU_ERROR("allocating", buffer->Reserve(size));
  }
  if (launch.staged == nullptr) {
    QUASH_RETURN_IF_GPU_ERROR("allocating pinned memory",
                              pass.staged.Reserve(bytes, Place::kPinned));
    auto* staged = pass.staged.as<uint8_t>();
    auto* scan = reinterpret_cast<cuda::ScanQuery*>(staged + scan_at);
    auto* rank = reinterpret_cast<cuda::RankQuery*>(staged + rank_at);
    auto* weights = reinterpret_cast<uint32_t*>(staged + weights_at);
    QUASH_RETURN_IF_ERROR(ParallelFor(nq, nq >= 4 ? launch.threads : 1, [&](size_t q) {
      const PreparedQuery& query = prepare(q, scan + q, launch.ranks ? rank + q : nullptr);
      if (codes) {
        cuda::PackCodeValues(query.levels().values, static_cast<uint32_t>(q), nq, dim, weights);
      } else {
        cuda::PackScanWeights(query.lut().weights, static_cast<uint32_t>(q), nq, dim, weights);
      }
      reinterpret_cast<int32_t*>(staged + offsets_at)[q] = query.lut().offset;
      if (has_tier) {
        std::memcpy(staged + vectors_at + q * dim * sizeof(float), query.vector(),
                    dim * sizeof(float));
      } else {
        std::memcpy(staged + values_at + q * padded * sizeof(int16_t), query.levels().values,
                    padded * sizeof(int16_t));
      }
      return Status();
    }));
  }
  const GpuPass& from = launch.staged != nullptr ? *launch.staged : pass;
  auto* input = pass.input.as<uint8_t>();
  QUASH_RETURN_IF_GPU_ERROR("uploading", pass.stream.Upload(from.staged.as<void>(), bytes, input));
  QUASH_RETURN_IF_GPU_ERROR("clearing",
                            pass.stream.Zero(pass.counts.as<void>(), nq * sizeof(uint32_t)));

  *args = {};
  args->rank = reinterpret_cast<const cuda::RankQuery*>(input + rank_at);
  args->scan = {.segments = launch.view->device_segments.as<cuda::ScanSegment>(),
                .num_segments = static_cast<uint32_t>(launch.view->segments.size()),
                .num_blocks = launch.view->num_blocks,
                .masks = launch.masked ? pass.masks.as<uint32_t>()
                                       : launch.view->live.as<uint32_t>(),
                .dim = snapshot.spec->dim,
                .stage = launch.stage,
                .bits = layout.bits,
                .code_weights = {},
                .nq = nq,
                .queries = reinterpret_cast<const cuda::ScanQuery*>(input + scan_at),
                .weights = reinterpret_cast<const uint32_t*>(input + weights_at),
                .sample_blocks = sample_blocks,
                .sample = pass.sample.as<float>(),
                .limits = pass.limits.as<float>(),
                .capacity = launch.capacity,
                .counts = pass.counts.as<uint32_t>(),
                .candidates = pass.candidates.as<uint32_t>(),
                .summaries = pass.summaries.as<cuda::ScanSummary>(),
                .kept_counts = pass.kept_counts.as<uint32_t>(),
                .kept = pass.kept.as<uint32_t>()};
  const LevelCodebook& codebook = snapshot.quantizer->codebook();
  if (codes && !cuda::MakeCodeWeights(codebook.levels, layout.bits, args->scan.code_weights)) {
    return Error(QUASH_CORRUPT, "the codebook's levels are not odd and antisymmetric");
  }
  constexpr cuda::TierType kTypes[] = {cuda::TierType::kNone, cuda::TierType::kInt8,
                                       cuda::TierType::kFloat16, cuda::TierType::kFloat32};
  args->finish = {.stage = launch.stage,
                  .segments = args->scan.segments,
                  .num_segments = args->scan.num_segments,
                  .num_blocks = args->scan.num_blocks,
                  .dim = args->scan.dim,
                  .bits = layout.bits,
                  .nq = nq,
                  .weights = args->scan.weights,
                  .offsets = reinterpret_cast<const int32_t*>(input + offsets_at),
                  .counts = args->scan.kept_counts,
                  .capacity = launch.capacity,
                  .candidates = args->scan.kept,
                  .final_scores = launch.has_final,
                  .tier = kTypes[snapshot.spec->rerank],
                  .is_l2 = snapshot.spec->metric == QUASH_METRIC_L2,
                  .vectors = reinterpret_cast<const float*>(input + vectors_at),
                  .values = reinterpret_cast<const int16_t*>(input + values_at),
                  .levels = {},
                  .scored = pass.scored.as<cuda::Scored>()};
  std::copy_n(codebook.levels, 16, args->finish.levels);
  return Status();
}

}  // namespace quash
