#include "libquashdb/gpu_scan.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "libquashdb/executor_parallel.h"
#include "libquashdb/gpu_status.h"

namespace quash {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Candidates of a query, at least; four times the survivors wanted if more.
constexpr size_t kLeastCapacity = 16384;
constexpr size_t kMostCapacity = 1 << 18;

// Index in the snapshot of a row by its place on a device.
uint64_t RowIndexOf(const GpuView& view, uint32_t row) {
  const uint32_t block = row / kBlockRows;
  const auto& first = view.first_blocks;
  const size_t i = std::ranges::upper_bound(first, block) - first.begin() - 1;
  return RowIndex(view.segments[i], row - first[i] * static_cast<uint32_t>(kBlockRows));
}

}  // namespace

uint64_t GpuBlockBytes(const Snapshot& snapshot, cuda::ScanStage stage) {
  const uint64_t planes = stage == cuda::ScanStage::kPlane1      ? 1
                          : stage == cuda::ScanStage::kTwoPlanes ? 2
                                                                 : snapshot.spec->bits;
  const uint64_t row_bytes = sizeof(float) * (snapshot.spec->metric == QUASH_METRIC_L2 ? 2 : 1);
  return planes * cuda::ScanPlaneBytes(snapshot.spec->dim) + kBlockRows * row_bytes +
         sizeof(uint32_t);
}

std::vector<GpuPart> GpuParts(const Snapshot& snapshot, size_t planes, bool with_tail,
                              std::string* note) {
  std::vector<GpuPart> parts;
  if (snapshot.gpu == nullptr) return parts;
  const CodeLayout& layout = snapshot.quantizer->layout();
  if (layout.dim > cuda::kScanDimMax) {
    *note = fmt::format("dim is {}, the GPU takes up to {}", layout.dim, cuda::kScanDimMax);
    return parts;
  }
  std::vector<std::shared_ptr<const GpuView>> views;
  if (const Status status = snapshot.gpu->View(snapshot, with_tail, &views); !status.ok()) {
    *note = status.message();
    return parts;
  }
  for (size_t i = 0; i < views.size(); ++i) {
    if (views[i]->num_blocks == 0) continue;
    if (planes != 1 && views[i]->level < GpuLevel::kCodes) {
      *note = "the GPU's budget holds the first plane alone, a scan of more is asked for";
      parts.clear();
      return parts;
    }
    parts.push_back({snapshot.gpu->images()[i].get(), views[i]});
  }
  if (parts.empty()) *note = "no sealed segment is on the GPU";
  return parts;
}

bool HasFinalScores(const Snapshot& snapshot, const GpuView& view) {
  const bool has_tier = snapshot.spec->rerank != QUASH_RERANK_NONE;
  return view.level >= (has_tier ? GpuLevel::kTier : GpuLevel::kCodes);
}

std::unique_ptr<GpuScan> GpuScan::Begin(const Snapshot& snapshot, const MatchingRows& matching,
                                        bool has_filter, const Widths& widths, size_t threads,
                                        std::string* note) {
  if (snapshot.gpu == nullptr) return nullptr;
  const size_t capacity = std::max(kLeastCapacity, 4 * widths.capacity);
  if (capacity > kMostCapacity) {
    *note = fmt::format("{} candidates are wanted, the GPU lists up to {}", widths.capacity,
                        kMostCapacity / 4);
    return nullptr;
  }
  std::vector<GpuPart> parts = GpuParts(snapshot, widths.planes, /*with_tail=*/false, note);
  if (parts.empty()) return nullptr;
  std::unique_ptr<GpuScan> scan(new GpuScan(snapshot, matching));
  if (parts.size() > 1 && snapshot.gpu->shares_memory()) {
    if (const Status status = snapshot.gpu->Join(parts, &scan->joint_); !status.ok()) {
      *note = status.message();
      return nullptr;
    }
  }
  scan->stage_ = StageOf(widths.planes);
  scan->has_filter_ = has_filter;
  scan->threads_ = threads;
  scan->capacity_ = static_cast<uint32_t>(capacity);
  scan->resident_.resize(snapshot.segments.size());
  for (GpuPart& part : parts) {
    scan->has_final_ = scan->has_final_ && HasFinalScores(snapshot, *part.view);
    scan->has_plane2_ = scan->has_plane2_ && part.view->level >= GpuLevel::kCodes;
    for (uint32_t segment : part.view->segments) scan->resident_[segment] = true;
    scan->parts_.push_back(std::make_unique<Part>(std::move(part)));
  }
  return scan;
}

Status GpuScan::Stage(Part* part, std::span<const PreparedQuery> queries,
                      std::span<const cuda::ScanQuery> scan, const GpuPass* staged,
                      uint32_t sample_blocks) {
  using Place = cuda::Buffer::Place;
  GpuPass& pass = part->pass;
  const size_t nq = queries.size(), list = nq * capacity_;
  QUASH_RETURN_IF_GPU_ERROR("allocating", pass.kept_counts.Reserve(nq * sizeof(uint32_t)));
  QUASH_RETURN_IF_GPU_ERROR("allocating", pass.kept.Reserve(list * 2 * sizeof(uint32_t)));
  QUASH_RETURN_IF_GPU_ERROR("allocating pinned memory",
                            pass.scored.Reserve(list * sizeof(cuda::Scored), Place::kPinned));
  QUASH_RETURN_IF_GPU_ERROR(
      "allocating pinned memory",
      pass.summaries.Reserve(nq * sizeof(cuda::ScanSummary), Place::kPinned));
  QUASH_RETURN_IF_ERROR(StageQueries({.snapshot = &snapshot_,
                                      .view = part->view.get(),
                                      .pass = &pass,
                                      .stage = stage_,
                                      .capacity = capacity_,
                                      .masked = has_filter_,
                                      .has_final = HasFinalScores(snapshot_, *part->view),
                                      .ranks = false,
                                      .staged = staged,
                                      .threads = threads_},
                                     nq,
                                     [&](size_t q, cuda::ScanQuery* out, cuda::RankQuery*)
                                         -> const PreparedQuery& {
                                       *out = scan[q];
                                       return queries[q];
                                     },
                                     sample_blocks, &part->args));
  if (sample_blocks == 0) return Status();
  QUASH_RETURN_IF_GPU_ERROR("making an event", pass.sampled.Open());
  QUASH_RETURN_IF_GPU_ERROR("sampling", cuda::LaunchSample(part->args.scan, pass.stream.get()));
  QUASH_RETURN_IF_GPU_ERROR("recording", pass.stream.Record(pass.sampled));
  return Status();
}

Status GpuScan::Launch(const Part& part, const cuda::SampleSet& samples) {
  cuda::Stream& stream = part.pass.stream;
  QUASH_RETURN_IF_GPU_ERROR("choosing the device", cuda::UseDevice(part.image->device()));
  for (const auto& other : parts_) {
    if (samples.count > 1 && other.get() != &part) {
      QUASH_RETURN_IF_GPU_ERROR("waiting", stream.WaitFor(other->pass.sampled));
    }
  }
  const cuda::ScanArgs& args = part.args.scan;
  QUASH_RETURN_IF_GPU_ERROR("scanning",
                            samples.count != 0
                                ? cuda::LaunchScanBySamples(args, samples, stream.get())
                                : cuda::LaunchScan(args, stream.get()));
  if (joint_ == nullptr) return Status();
  QUASH_RETURN_IF_GPU_ERROR("making an event", part.pass.listed.Open());
  QUASH_RETURN_IF_GPU_ERROR("recording", stream.Record(part.pass.listed));
  return Status();
}

Status GpuScan::LaunchFinish() {
  std::vector<cuda::ScanArgs> scans;
  std::vector<GpuPass*> passes;
  for (const auto& part : parts_) {
    scans.push_back(part->args.scan);
    passes.push_back(&part->pass);
  }
  for (size_t i = 0; i < parts_.size(); ++i) {
    CUstream_st* stream = passes[i]->stream.get();
    QUASH_RETURN_IF_GPU_ERROR("choosing the device",
                              cuda::UseDevice(parts_[i]->image->device()));
    cuda::ScanArgs all = scans[i];
    if (joint_ != nullptr) QUASH_RETURN_IF_ERROR(JoinLists(*joint_, i, scans, passes, &all));
    QUASH_RETURN_IF_GPU_ERROR("narrowing", cuda::LaunchNarrowByAll(scans[i], all, stream));
    QUASH_RETURN_IF_GPU_ERROR("scoring", cuda::LaunchFinish(parts_[i]->args.finish, stream));
  }
  return Status();
}

Status GpuScan::Wait() {
  Status first;
  for (const auto& part : parts_) {  // all, whatever happens: their buffers are in use
    const char* error = cuda::UseDevice(part->image->device());
    if (error == nullptr) error = part->pass.stream.Wait();
    if (error != nullptr && first.ok()) {
      first = Error(QUASH_INTERNAL, "GPU: scanning failed: {}", error);
    }
  }
  return first;
}

void GpuScan::PushFound(size_t q, const PreparedQuery& query, CandidateSet* set) const {
  const PrefixModel& model = query.scanned();
  const bool is_l2 = snapshot_.spec->metric == QUASH_METRIC_L2;
  for (uint32_t p = 0; p < parts_.size(); ++p) {
    const Part& part = *parts_[p];
    const uint32_t count = part.summaries[q].kept;
    for (uint32_t i = 0; i < count; ++i) {
      const cuda::Scored& found = part.At(q, capacity_, i);
      float dot;
      if (stage_ == cuda::ScanStage::kCodes) {
        dot = query.levels().scale * static_cast<float>(static_cast<int32_t>(found.sums));
      } else if (stage_ == cuda::ScanStage::kTwoPlanes) {
        dot = model.mul1 * static_cast<float>(found.sums & 0xffff);
        dot += model.mul2 * static_cast<float>(found.sums >> 16);
        dot += model.add;
      } else {
        dot = model.mul1 * static_cast<float>(found.sums);
        dot += model.add;
      }
      const float unit = query.gain() * found.scale;
      float estimate = unit * dot;
      if (is_l2) estimate -= found.norm_sq;
      set->Push({.estimate = estimate,
                 .unit = unit,
                 .dot1 = dot,
                 .found = p << kPlaceBits | i,
                 .row = RowIndexOf(*part.view, found.row)});
    }
  }
}

Status GpuScan::Scan(std::span<const PreparedQuery> queries, const Widths& widths, size_t k,
                     std::span<CandidateSet> sets, uint64_t* bytes) {
  std::vector<cuda::ScanQuery> scan(queries.size());
  std::vector<GpuPart> all;
  for (const auto& part : parts_) all.push_back({part->image, part->view});
  const bool together = joint_ != nullptr || parts_.size() == 1;
  GpuSample sample = SampleBlocks(all, matching_, capacity_);
  // One sample of all parts, or one of each.
  std::vector<cuda::SampleSet> samples(together ? 1 : parts_.size());
  const auto stage = [&](size_t i) -> Status {
    Part* part = parts_[i].get();
    QUASH_RETURN_IF_GPU_ERROR("choosing the device", cuda::UseDevice(part->image->device()));
    QUASH_RETURN_IF_GPU_ERROR("opening a stream", part->pass.stream.Open());
    if (has_filter_) QUASH_RETURN_IF_ERROR(UploadMasks(matching_, *part->view, &part->pass));
    if (!together) sample = SampleBlocks(std::span(all).subspan(i, 1), matching_, capacity_);
    const uint32_t sample_blocks = sample.blocks[together ? i : 0];
    const GpuPass* staged = together && i != 0 ? &parts_[0]->pass : nullptr;
    for (size_t q = 0; staged == nullptr && q < queries.size(); ++q) {
      scan[q] = MakeScanQuery(snapshot_, stage_, queries[q], sets[q]);
      SetRanks(sample, widths.capacity, k, &scan[q]);
      scan[q].key_limit = sets[q].lower();
      scan[q].estimate_limit = widths.adaptive && sample_blocks != 0 ? -kInfinity : kInfinity;
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
    return Stage(part, queries, scan, staged, sample_blocks);
  };
  Status status;
  for (size_t i = 0; status.ok() && i < parts_.size(); ++i) {
    status = stage(i);
    const cuda::ScanArgs& args = parts_[i]->args.scan;
    if (!status.ok() || args.sample_blocks == 0) continue;
    cuda::SampleSet& set = samples[together ? 0 : i];
    set.samples[set.count] = args.sample;
    set.blocks[set.count++] = args.sample_blocks;
  }
  for (size_t i = 0; status.ok() && i < parts_.size(); ++i) {
    status = Launch(*parts_[i], samples[together ? 0 : i]);
  }
  if (status.ok()) status = LaunchFinish();
  if (const Status waited = Wait(); status.ok()) status = waited;
  QUASH_RETURN_IF_ERROR(status);
  for (const auto& part : parts_) {
    const auto* summaries = part->pass.summaries.as<cuda::ScanSummary>();
    part->summaries.assign(summaries, summaries + queries.size());
    *bytes += part->view->num_blocks * GpuBlockBytes(snapshot_, stage_);
  }
  return ParallelFor(queries.size(), queries.size() >= 4 ? threads_ : 1, [&](size_t q) {
    PushFound(q, queries[q], &sets[q]);
    return Status();
  });
}

bool GpuScan::Check(size_t q, CandidateSet* set) const {
  bool covered = true;
  for (const auto& part : parts_) {
    const cuda::ScanSummary& summary = part->summaries[q];
    covered = summary.found <= capacity_ && covered;
    covered = set->Covers(summary.key_limit, summary.estimate_limit) && covered;
  }
  return covered;
}

Status GpuScan::Repeat(std::span<const PreparedQuery> queries, size_t q, float key_limit,
                       float estimate_limit, CandidateSet* set) {
  // The others of the tile find nothing: what is known of them stays as it is.
  std::vector<cuda::ScanQuery> scan(queries.size());
  for (cuda::ScanQuery& one : scan) one.key_limit = one.estimate_limit = kInfinity;
  scan[q] = MakeScanQuery(snapshot_, stage_, queries[q], *set);
  scan[q].key_limit = key_limit;
  scan[q].estimate_limit = estimate_limit;
  Status status;
  for (const auto& part : parts_) {
    if (const char* error = cuda::UseDevice(part->image->device()); error != nullptr) {
      status = Error(QUASH_INTERNAL, "GPU: choosing the device failed: {}", error);
    }
    if (status.ok()) {
      status = Stage(part.get(), queries, scan,
                     part == parts_[0] ? nullptr : &parts_[0]->pass, 0);
    }
    if (status.ok()) status = Launch(*part, {});
    if (!status.ok()) break;
  }
  if (status.ok()) status = LaunchFinish();
  if (const Status waited = Wait(); status.ok()) status = waited;
  QUASH_RETURN_IF_ERROR(status);
  for (const auto& part : parts_) {
    part->summaries[q] = part->pass.summaries.as<cuda::ScanSummary>()[q];
  }
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
