#include "libquashdb/gpu_scan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "libquashdb/executor_parallel.h"

namespace quash {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr uint32_t kSampleBlocks = 2048;
// Candidates of a query, at least; four times the survivors wanted if more.
constexpr size_t kLeastCapacity = 16384;
constexpr size_t kMostCapacity = 1 << 18;

#define QUASH_RETURN_IF_GPU_ERROR(what, expression)                         \
  do {                                                                      \
    if (const char* gpu_error_ = (expression); gpu_error_ != nullptr)       \
      return Error(QUASH_INTERNAL, "GPU: {} failed: {}", what, gpu_error_); \
  } while (0)

// Where in a sample of this share of the rows a value lies that at least `wanted`
// rows of all reach: five standard errors below, and a few.
uint32_t SampleRank(size_t wanted, double share) {
  const double expected = static_cast<double>(wanted) * share;
  return static_cast<uint32_t>(std::ceil(expected + 5 * std::sqrt(expected) + 5));
}

}  // namespace

std::unique_ptr<GpuScan> GpuScan::Begin(const Snapshot& snapshot, const MatchingRows& matching,
                                        bool has_filter, const Widths& widths, size_t threads,
                                        std::string* note) {
  if (snapshot.gpu == nullptr) return nullptr;
  const CodeLayout& layout = snapshot.quantizer->layout();
  if (layout.dim > cuda::kScanDimMax) {
    *note = fmt::format("dim is {}, the GPU takes up to {}", layout.dim, cuda::kScanDimMax);
    return nullptr;
  }
  if (widths.planes != 1) {
    *note = "two planes are scanned on the CPU";
    return nullptr;
  }
  const size_t capacity = std::max(kLeastCapacity, 4 * widths.capacity);
  if (capacity > kMostCapacity) {
    *note = fmt::format("{} candidates are wanted, the GPU lists up to {}", widths.capacity,
                        kMostCapacity / 4);
    return nullptr;
  }
  std::shared_ptr<const GpuView> view;
  if (const Status status = snapshot.gpu->View(snapshot, &view); !status.ok()) {
    *note = status.message();
    return nullptr;
  }
  if (view->num_blocks == 0) {
    *note = "no sealed segment is on the GPU";
    return nullptr;
  }
  std::unique_ptr<GpuScan> scan(new GpuScan(snapshot, matching, std::move(view)));
  scan->has_filter_ = has_filter;
  scan->threads_ = threads;
  scan->capacity_ = static_cast<uint32_t>(capacity);
  const bool has_tier = snapshot.spec->rerank != QUASH_RERANK_NONE;
  scan->final_ = scan->view_->level >= (has_tier ? GpuLevel::kTier : GpuLevel::kCodes);
  return scan;
}

Status GpuScan::UploadMasks() {
  std::vector<uint32_t> masks(view_->num_blocks);
  for (size_t i = 0; i < view_->segments.size(); ++i) {
    const uint32_t* mask = matching_.mask(view_->segments[i]);
    if (mask == nullptr) continue;
    std::copy_n(mask, view_->held[i]->arrays.blocks, masks.begin() + view_->first_blocks[i]);
  }
  const size_t bytes = masks.size() * sizeof(uint32_t);
  QUASH_RETURN_IF_GPU_ERROR("allocating", pass_.masks.Reserve(bytes));
  QUASH_RETURN_IF_GPU_ERROR("uploading",
                            pass_.stream.Upload(masks.data(), bytes, pass_.masks.as<void>()));
  return Status();
}

Status GpuScan::Launch(std::span<const PreparedQuery> queries,
                       std::span<const cuda::ScanQuery> scan, uint32_t sample_blocks) {
  using Place = cuda::Buffer::Place;
  const auto nq = static_cast<uint32_t>(queries.size());
  const size_t dim = snapshot_.spec->dim;
  const size_t padded = snapshot_.quantizer->layout().plane_bytes() * 8;
  const bool has_tier = snapshot_.spec->rerank != QUASH_RERANK_NONE;
  // All that the kernels read of the queries goes over in one copy.
  size_t bytes = 0;
  const auto place = [&](size_t size) {
    return std::exchange(bytes, (bytes + size + kAlignment - 1) / kAlignment * kAlignment);
  };
  const size_t scan_at = place(scan.size_bytes());
  const size_t weights_at = place(cuda::ScanWeightWords(dim, nq) * sizeof(uint32_t));
  const size_t offsets_at = place(nq * sizeof(int32_t));
  const size_t vectors_at = place(has_tier ? nq * dim * sizeof(float) : 0);
  const size_t values_at = place(has_tier ? 0 : nq * padded * sizeof(int16_t));
  const size_t list = size_t{nq} * capacity_;
  const std::pair<cuda::Buffer*, size_t> on_device[] = {
      {&pass_.input, bytes},
      {&pass_.sample, cuda::ScanSampleFloats(nq, sample_blocks) * sizeof(float) + 1},
      {&pass_.limits, nq * 2 * sizeof(float)},
      {&pass_.counts, nq * sizeof(uint32_t)},
      {&pass_.kept_counts, nq * sizeof(uint32_t)},
      {&pass_.candidates, list * 4 * sizeof(uint32_t)},
      {&pass_.kept, list * 2 * sizeof(uint32_t)}};
  for (const auto& [buffer, size] : on_device) {
    QUASH_RETURN_IF_GPU_ERROR("allocating", buffer->Reserve(size));
  }
  const std::pair<cuda::Buffer*, size_t> pinned[] = {
      {&pass_.staged, bytes},
      {&pass_.scored, list * sizeof(cuda::Scored)},
      {&pass_.summaries, nq * sizeof(cuda::ScanSummary)}};
  for (const auto& [buffer, size] : pinned) {
    QUASH_RETURN_IF_GPU_ERROR("allocating pinned memory", buffer->Reserve(size, Place::kPinned));
  }

  auto* staged = pass_.staged.as<uint8_t>();
  std::memcpy(staged + scan_at, scan.data(), scan.size_bytes());
  auto* weights = reinterpret_cast<uint32_t*>(staged + weights_at);
  QUASH_RETURN_IF_ERROR(ParallelFor(nq, nq >= 4 ? threads_ : 1, [&](size_t q) {
    const PreparedQuery& query = queries[q];
    cuda::PackScanWeights(query.lut().weights, static_cast<uint32_t>(q), nq, dim, weights);
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
  auto* input = pass_.input.as<uint8_t>();
  QUASH_RETURN_IF_GPU_ERROR("uploading", pass_.stream.Upload(staged, bytes, input));
  QUASH_RETURN_IF_GPU_ERROR("clearing",
                            pass_.stream.Zero(pass_.counts.as<void>(), nq * sizeof(uint32_t)));

  const cuda::ScanArgs args{
      .segments = view_->device_segments.as<cuda::ScanSegment>(),
      .num_segments = static_cast<uint32_t>(view_->segments.size()),
      .num_blocks = view_->num_blocks,
      .masks = has_filter_ ? pass_.masks.as<uint32_t>() : view_->live.as<uint32_t>(),
      .dim = snapshot_.spec->dim,
      .nq = nq,
      .queries = reinterpret_cast<const cuda::ScanQuery*>(input + scan_at),
      .weights = reinterpret_cast<const uint32_t*>(input + weights_at),
      .sample_blocks = sample_blocks,
      .sample = pass_.sample.as<float>(),
      .limits = pass_.limits.as<float>(),
      .capacity = capacity_,
      .counts = pass_.counts.as<uint32_t>(),
      .candidates = pass_.candidates.as<uint32_t>(),
      .summaries = pass_.summaries.as<cuda::ScanSummary>(),
      .kept_counts = pass_.kept_counts.as<uint32_t>(),
      .kept = pass_.kept.as<uint32_t>()};
  QUASH_RETURN_IF_GPU_ERROR("scanning", cuda::LaunchScan(args, pass_.stream.get()));
  constexpr cuda::TierType kTypes[] = {cuda::TierType::kNone, cuda::TierType::kInt8,
                                       cuda::TierType::kFloat16, cuda::TierType::kFloat32};
  cuda::FinishArgs finish{.segments = args.segments,
                          .num_segments = args.num_segments,
                          .num_blocks = args.num_blocks,
                          .dim = args.dim,
                          .bits = snapshot_.quantizer->layout().bits,
                          .nq = nq,
                          .weights = args.weights,
                          .offsets = reinterpret_cast<const int32_t*>(input + offsets_at),
                          .counts = args.kept_counts,
                          .capacity = capacity_,
                          .candidates = args.kept,
                          .final_scores = final_,
                          .tier = kTypes[snapshot_.spec->rerank],
                          .is_l2 = snapshot_.spec->metric == QUASH_METRIC_L2,
                          .vectors = reinterpret_cast<const float*>(input + vectors_at),
                          .values = reinterpret_cast<const int16_t*>(input + values_at),
                          .levels = {},
                          .scored = pass_.scored.as<cuda::Scored>()};
  std::copy_n(snapshot_.quantizer->codebook().levels, 16, finish.levels);
  QUASH_RETURN_IF_GPU_ERROR("scoring", cuda::LaunchFinish(finish, pass_.stream.get()));
  QUASH_RETURN_IF_GPU_ERROR("scanning", pass_.stream.Wait());
  return Status();
}

uint64_t GpuScan::RowIndexOf(uint32_t row) const {
  const uint32_t block = row / kBlockRows;
  const auto& first = view_->first_blocks;
  const size_t i = std::upper_bound(first.begin(), first.end(), block) - first.begin() - 1;
  return RowIndex(view_->segments[i], row - first[i] * static_cast<uint32_t>(kBlockRows));
}

void GpuScan::PushFound(size_t q, const PreparedQuery& query, CandidateSet* set) const {
  const PrefixModel& model = query.scanned();
  const bool is_l2 = snapshot_.spec->metric == QUASH_METRIC_L2;
  const uint32_t count = summaries_[q].kept;
  for (uint32_t i = 0; i < count; ++i) {
    const cuda::Scored& found = At(q, i);
    float dot = model.mul1 * static_cast<float>(found.sums);
    dot += model.add;
    const float unit = query.gain() * found.scale1;
    float estimate = unit * dot;
    if (is_l2) estimate -= found.norm_sq;
    set->Push({.estimate = estimate,
               .unit = unit,
               .dot1 = dot,
               .found = i,
               .row = RowIndexOf(found.row)});
  }
}

Status GpuScan::Scan(std::span<const PreparedQuery> queries, const Widths& widths, size_t k,
                     std::span<CandidateSet> sets, uint64_t* bytes) {
  QUASH_RETURN_IF_GPU_ERROR("choosing the device", cuda::UseDevice(snapshot_.gpu->device()));
  QUASH_RETURN_IF_GPU_ERROR("opening a stream", pass_.stream.Open());
  if (has_filter_) QUASH_RETURN_IF_ERROR(UploadMasks());
  const bool lists_all = matching_.count() <= capacity_ / 4 * 3;
  const uint32_t sample_blocks = lists_all ? 0 : std::min(view_->num_blocks, kSampleBlocks);
  const double share = static_cast<double>(sample_blocks) / view_->num_blocks;
  std::vector<cuda::ScanQuery> scan(queries.size());
  for (size_t q = 0; q < queries.size(); ++q) {
    scan[q] = MakeScanQuery(queries[q], sets[q]);
    scan[q].key_rank = SampleRank(widths.capacity, share);
    scan[q].estimate_rank = SampleRank(k, share);
    scan[q].key_limit = sets[q].lower();
    scan[q].estimate_limit = widths.adaptive && !lists_all ? -kInfinity : kInfinity;
    // A page's rows above its border are no part of the best k.
    if (widths.adaptive && !sets[q].has_upper()) {
      scan[q].k = static_cast<uint32_t>(k);
      // Keys of a range search have the wider margin of its bound here, and another
      // order: no width then.
      scan[q].width = sets[q].lower() == -kInfinity
                          ? static_cast<uint32_t>(std::min<size_t>(widths.capacity, capacity_))
                          : capacity_;
      scan[q].slack = sets[q].slack();
      scan[q].is_cosine = snapshot_.spec->metric == QUASH_METRIC_COSINE;
    }
  }
  QUASH_RETURN_IF_ERROR(Launch(queries, scan, sample_blocks));
  const auto* summaries = pass_.summaries.as<cuda::ScanSummary>();
  summaries_.assign(summaries, summaries + queries.size());
  QUASH_RETURN_IF_ERROR(
      ParallelFor(queries.size(), queries.size() >= 4 ? threads_ : 1, [&](size_t q) {
        PushFound(q, queries[q], &sets[q]);
        return Status();
      }));
  const size_t row_bytes = sizeof(float) * (snapshot_.spec->metric == QUASH_METRIC_L2 ? 2 : 1);
  *bytes += view_->num_blocks *
            (cuda::ScanPlaneBytes(snapshot_.spec->dim) + kBlockRows * row_bytes + sizeof(uint32_t));
  return Status();
}

cuda::ScanQuery GpuScan::MakeScanQuery(const PreparedQuery& query, const CandidateSet& set) const {
  cuda::ScanQuery made = {};
  made.gain = query.gain();
  made.mul = query.scanned().mul1;
  made.add = query.scanned().add;
  made.key_margin = set.margin();
  made.offset = query.lut().offset;
  return made;
}

bool GpuScan::Check(size_t q, CandidateSet* set) const {
  const cuda::ScanSummary& summary = summaries_[q];
  return summary.found <= capacity_ && set->Covers(summary.key_limit, summary.estimate_limit);
}

Status GpuScan::Repeat(std::span<const PreparedQuery> queries, size_t q, float key_limit,
                       float estimate_limit, CandidateSet* set) {
  // The others of the tile find nothing: what is known of them stays as it is.
  std::vector<cuda::ScanQuery> scan(queries.size());
  for (cuda::ScanQuery& one : scan) one.key_limit = one.estimate_limit = kInfinity;
  scan[q] = MakeScanQuery(queries[q], *set);
  scan[q].key_limit = key_limit;
  scan[q].estimate_limit = estimate_limit;
  QUASH_RETURN_IF_ERROR(Launch(queries, scan, 0));
  summaries_[q] = pass_.summaries.as<cuda::ScanSummary>()[q];
  PushFound(q, queries[q], set);
  return Status();
}

float GpuScan::FinalScore(size_t q, const PreparedQuery& query, uint32_t found) const {
  const cuda::Scored& scored = At(q, found);
  if (snapshot_.spec->rerank != QUASH_RERANK_NONE) return scored.score;
  const float unit = query.gain() * scored.scale_full;
  float internal = unit * (query.levels().scale * static_cast<float>(scored.dot));
  if (snapshot_.spec->metric == QUASH_METRIC_L2) internal -= scored.norm_sq;
  return internal - query.offset();
}

void GpuScan::Refine(size_t q, const PreparedQuery& query, Survivor* survivor) const {
  const cuda::Scored& scored = At(q, survivor->found);
  const LevelCodebook& codebook = snapshot_.quantizer->codebook();
  const float dot2 = query.lut().bias + query.lut().step * static_cast<float>(scored.sums2);
  survivor->unit = query.gain() * scored.scale2;
  survivor->estimate = survivor->unit * (codebook.m * survivor->dot1 + codebook.delta * dot2);
  if (snapshot_.spec->metric == QUASH_METRIC_L2) survivor->estimate -= scored.norm_sq;
}

}  // namespace quash
