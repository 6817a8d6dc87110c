#include "libquashdb/gpu_batch.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <numeric>
#include <span>
#include <utility>

#include "libquashdb/executor_exact.h"
#include "libquashdb/executor_merge.h"
#include "libquashdb/executor_parallel.h"
#include "libquashdb/executor_rerank.h"
#include "libquashdb/gpu_scan.h"
#include "libquashdb/gpu_status.h"

namespace quash {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr size_t kLeastQueries = 8;  // fewer are ranked sooner by more of the device
constexpr uint32_t kCapacity = 16384;
constexpr size_t kBatchQueries = 16384;  // some 50 ms of a million rows
constexpr size_t kQueriesPerThread = 8;  // fewer take no longer than waking one

class Batch {
 public:
  Batch(const Snapshot& snapshot, const MatchingRows& matching, const SearchPlan& plan,
        const Widths& widths, size_t threads, const GpuJoint& joint, StagedCounts* counts)
      : snapshot_(snapshot),
        matching_(matching),
        plan_(plan),
        widths_(widths),
        threads_(std::max<size_t>(threads / 2, 1)),
        joint_(joint),
        sample_(SampleBlocks(joint.parts, matching, kCapacity)),
        stage_(StageOf(widths.planes)),
        counts_(counts) {
    for (const GpuPart& part : joint.parts) parts_.push_back(std::make_unique<Part>(part));
  }

  ~Batch() {  // nothing may be in flight when the buffers go back
    for (const auto& part : parts_) {
      for (size_t i = 0; i < kInFlight; ++i) {
        if (part->lease[i].stream.get() != nullptr) part->lease[i].stream.Wait();
      }
    }
  }
  Batch(const Batch&) = delete;

  Status Run(const float* queries, size_t nq, std::vector<Hit>* hits, std::vector<size_t>* open) {
    masked_ = matching_.count() != snapshot_.live_rows;
    for (const auto& part : parts_) {
      QUASH_RETURN_IF_GPU_ERROR("choosing the device", part->Use());
      for (size_t i = 0; i < kInFlight; ++i) {
        QUASH_RETURN_IF_GPU_ERROR("opening a stream", part->lease[i].stream.Open());
        QUASH_RETURN_IF_GPU_ERROR("making an event", part->lease[i].sampled.Open());
        QUASH_RETURN_IF_GPU_ERROR("making an event", part->lease[i].listed.Open());
        if (masked_) QUASH_RETURN_IF_ERROR(UploadMasks(matching_, *part->view, &part->lease[i]));
      }
    }
    // About equal passes, in whole tiles of the scan.
    constexpr size_t kTile = 32;
    const size_t passes = (nq + cuda::kScanQueries - 1) / cuda::kScanQueries;
    const size_t share = ((nq + passes - 1) / passes + kTile - 1) / kTile * kTile;
    for (size_t first = 0, pass = 0; first < nq; first += share, ++pass) {
      QUASH_RETURN_IF_ERROR(
          Start(pass, queries + first * snapshot_.spec->dim, std::min(share, nq - first)));
      if (pass != 0) QUASH_RETURN_IF_ERROR(Collect(pass - 1, first - share, share, hits, open));
    }
    const size_t last = (nq - 1) / share;
    return Collect(last, last * share, nq - last * share, hits, open);
  }

 private:
  static constexpr size_t kInFlight = 2;

  // One device's.
  struct Part {
    explicit Part(const GpuPart& given)
        : image(given.image), view(given.view), lease(given.image, kInFlight) {}
    const char* Use() const { return cuda::UseDevice(image->device()); }

    GpuImage* image;
    std::shared_ptr<const GpuView> view;
    GpuImage::PassLease lease;
  };

  // Reused between searches of a thread.
  struct Slot {
    std::vector<PreparedQuery> queries;
    std::vector<CandidateSet> sets;
  };
  static Slot& ThreadSlot(size_t i) {
    static thread_local Slot slots[kInFlight];
    return slots[i];
  }

  // Devices take turns at ranking what all have listed.
  size_t RankingPart(size_t pass) const { return pass % parts_.size(); }

  Status Start(size_t pass, const float* queries, size_t nq);
  Status Stage(size_t pass, size_t part, const float* queries, size_t nq, GpuArgs* args);
  Status Rank(const GpuArgs& args, GpuPass* pass);
  Status TakeRanked(std::span<const cuda::RankedRow> rows, std::vector<Hit>* hits) const;
  Status Collect(size_t pass, size_t first, size_t nq, std::vector<Hit>* hits,
                 std::vector<size_t>* open);

  const Snapshot& snapshot_;
  const MatchingRows& matching_;
  const SearchPlan& plan_;
  const Widths& widths_;
  // Not all: a pass is short, and one thread that waits for a processor that others use
  // would hold it up for longer than the rest takes.
  const size_t threads_;
  const GpuJoint& joint_;
  std::vector<std::unique_ptr<Part>> parts_;
  const GpuSample sample_;
  const cuda::ScanStage stage_;
  StagedCounts* counts_;
  bool masked_ = false;
};

// Prepares a pass and gives it to the devices.
Status Batch::Start(size_t pass, const float* queries, size_t nq) {
  const size_t slot = pass % kInFlight;
  std::vector<GpuArgs> args(parts_.size());
  cuda::SampleSet samples = {};
  const bool has_sample = sample_.share != 0;
  for (size_t i = 0; i < parts_.size(); ++i) {
    GpuPass& own = parts_[i]->lease[slot];
    QUASH_RETURN_IF_GPU_ERROR("choosing the device", parts_[i]->Use());
    QUASH_RETURN_IF_ERROR(Stage(pass, i, queries, nq, &args[i]));
    if (!has_sample) continue;
    QUASH_RETURN_IF_GPU_ERROR("sampling", cuda::LaunchSample(args[i].scan, own.stream.get()));
    QUASH_RETURN_IF_GPU_ERROR("recording", own.stream.Record(own.sampled));
    samples.samples[i] = args[i].scan.sample;
    samples.blocks[i] = args[i].scan.sample_blocks;
    samples.count = static_cast<uint32_t>(i + 1);
  }
  for (size_t i = 0; i < parts_.size(); ++i) {
    cuda::Stream& stream = parts_[i]->lease[slot].stream;
    QUASH_RETURN_IF_GPU_ERROR("choosing the device", parts_[i]->Use());
    for (size_t j = 0; has_sample && j < parts_.size(); ++j) {
      if (j == i) continue;
      QUASH_RETURN_IF_GPU_ERROR("waiting", stream.WaitFor(parts_[j]->lease[slot].sampled));
    }
    QUASH_RETURN_IF_GPU_ERROR(
        "scanning", has_sample ? cuda::LaunchScanBySamples(args[i].scan, samples, stream.get())
                               : cuda::LaunchScan(args[i].scan, stream.get()));
    QUASH_RETURN_IF_GPU_ERROR("recording", stream.Record(parts_[i]->lease[slot].listed));
  }
  const size_t ranking = RankingPart(pass);
  QUASH_RETURN_IF_GPU_ERROR("choosing the device", parts_[ranking]->Use());
  if (parts_.size() > 1) {
    std::vector<cuda::ScanArgs> scans;
    std::vector<GpuPass*> passes;
    for (size_t i = 0; i < parts_.size(); ++i) {
      scans.push_back(args[i].scan);
      passes.push_back(&parts_[i]->lease[slot]);
    }
    QUASH_RETURN_IF_ERROR(JoinLists(joint_, ranking, scans, passes, &args[ranking].scan));
  }
  return Rank(args[ranking], &parts_[ranking]->lease[slot]);
}

// Queries of a pass for the scan of a part; the first makes them ready for all.
Status Batch::Stage(size_t pass, size_t part, const float* queries, size_t nq, GpuArgs* args) {
  using Place = cuda::Buffer::Place;
  Slot& slot = ThreadSlot(pass % kInFlight);
  const GpuView& view = *parts_[part]->view;
  const uint32_t sample_blocks = sample_.blocks[part];
  GpuPass& own = parts_[part]->lease[pass % kInFlight];
  const GpuPass* staged = part == 0 ? nullptr : &parts_[0]->lease[pass % kInFlight];
  if (slot.queries.size() < nq) slot.queries.resize(nq);
  if (slot.sets.size() < nq) slot.sets.resize(nq);
  const bool is_cosine = snapshot_.spec->metric == QUASH_METRIC_COSINE;
  const auto prepare = [&](size_t q, cuda::ScanQuery* scan,
                           cuda::RankQuery* rank) -> const PreparedQuery& {
    PreparedQuery& query = slot.queries[q];
    CandidateSet& set = slot.sets[q];  // for its margins only
    query.Prepare(snapshot_, queries + q * snapshot_.spec->dim, widths_.planes,
                  PreparedQuery::Against::kPlanes);
    ResetSet(snapshot_, plan_, query, query.scanned(), widths_, plan_.k, &set);
    *scan = MakeScanQuery(snapshot_, stage_, query, set);
    SetRanks(sample_, widths_.capacity, plan_.k, scan);
    scan->key_limit = -kInfinity;
    scan->estimate_limit = sample_blocks != 0 ? -kInfinity : kInfinity;
    scan->k = static_cast<uint32_t>(plan_.k);
    scan->width = static_cast<uint32_t>(widths_.capacity);
    scan->slack = set.slack();
    scan->is_cosine = is_cosine;
    *rank = {.offset = query.offset(),
             .margin = query.scanned().Margin(kRerankSigmas),
             .margin2 = query.two_planes().Margin(kRerankSigmas),
             .lut_step = query.lut().step,
             .lut_bias = query.lut().bias,
             .level_scale = query.levels().scale};
    return query;
  };
  if (part == RankingPart(pass)) {
    QUASH_RETURN_IF_GPU_ERROR("allocating",
                              own.survivors.Reserve(nq * widths_.capacity * 4 * sizeof(uint32_t)));
    QUASH_RETURN_IF_GPU_ERROR(
        "allocating pinned memory",
        own.summaries.Reserve(nq * sizeof(cuda::RankSummary), Place::kPinned));
    QUASH_RETURN_IF_GPU_ERROR(
        "allocating pinned memory",
        own.ranked.Reserve(nq * (plan_.k + cuda::kRankTies) * sizeof(cuda::RankedRow),
                           Place::kPinned));
  }
  return StageQueries({.snapshot = &snapshot_,
                       .view = &view,
                       .pass = &own,
                       .stage = stage_,
                       .capacity = kCapacity,
                       .masked = masked_,
                       .has_final = true,
                       .ranks = true,
                       .staged = staged,
                       .threads = std::clamp<size_t>(nq / kQueriesPerThread, 1, threads_)},
                      nq, prepare, sample_blocks, args);
}

Status Batch::Rank(const GpuArgs& args, GpuPass* pass) {
  const RefineCosts costs = RefineCostsOf(snapshot_);
  const LevelCodebook& codebook = snapshot_.quantizer->codebook();
  const cuda::RankArgs ranking{.scan = args.scan,
                               .finish = args.finish,
                               .queries = args.rank,
                               .k = static_cast<uint32_t>(plan_.k),
                               .width = static_cast<uint32_t>(widths_.capacity),
                               .first = FirstScored(plan_.k),
                               .m = codebook.m,
                               .delta = codebook.delta,
                               .refines = CanRefine(snapshot_, widths_),
                               .block_cost = static_cast<uint32_t>(costs.block),
                               .row_cost = static_cast<uint32_t>(costs.row),
                               .survivors = pass->survivors.as<uint32_t>(),
                               .summaries = pass->summaries.as<cuda::RankSummary>(),
                               .rows = pass->ranked.as<cuda::RankedRow>()};
  QUASH_RETURN_IF_GPU_ERROR("ranking", cuda::LaunchRank(ranking, pass->stream.get()));
  return Status();
}

// The best k of `rows`, which are in order but for ids of rows that tie.
Status Batch::TakeRanked(std::span<const cuda::RankedRow> rows, std::vector<Hit>* hits) const {
  const auto is_tied = [](const auto& a, const auto& b) { return a.score == b.score; };
  if (std::ranges::adjacent_find(rows, is_tied) != rows.end()) {
    TopHits best(snapshot_, plan_);
    for (const cuda::RankedRow& row : rows) {
      best.Push(row.score, RowIndex(joint_.segments[row.segment], row.row));
    }
    return best.Finish(hits);
  }
  static_assert(cuda::kNoId == Hit::kUnread);
  hits->clear();
  hits->reserve(rows.size());
  for (const cuda::RankedRow& row : rows.first(std::min(rows.size(), plan_.k))) {
    hits->push_back({row.score, joint_.segments[row.segment], row.row, row.id});
  }
  return Status();
}

// Waits for a pass and orders its results.
Status Batch::Collect(size_t pass, size_t first, size_t nq, std::vector<Hit>* hits,
                      std::vector<size_t>* open) {
  GpuPass& own = parts_[RankingPart(pass)]->lease[pass % kInFlight];
  QUASH_RETURN_IF_GPU_ERROR("scanning", own.stream.Wait());
  const auto* summaries = own.summaries.as<cuda::RankSummary>();
  const size_t room = plan_.k + cuda::kRankTies;
  const size_t wanted = std::min<uint64_t>(plan_.k, matching_.count());
  // Few and short lists: waking all threads would take longer.
  constexpr size_t kRowsPerThread = 1024;
  const size_t threads = std::clamp<size_t>(nq * plan_.k / kRowsPerThread, 1, threads_);
  std::vector<uint8_t> is_open(nq);
  QUASH_RETURN_IF_ERROR(ParallelFor(threads, threads, [&](size_t i) -> Status {
    for (size_t q = nq * i / threads; q < nq * (i + 1) / threads; ++q) {
      is_open[q] = summaries[q].status != cuda::RankSummary::kDone;
      if (is_open[q]) continue;
      QUASH_RETURN_IF_ERROR(
          TakeRanked(std::span(own.ranked.as<cuda::RankedRow>() + q * room, summaries[q].rows),
                     &hits[first + q]));
      is_open[q] = hits[first + q].size() < wanted;
    }
    return Status();
  }));
  const uint64_t code_bytes = snapshot_.quantizer->layout().plane_bytes();
  for (size_t q = 0; q < nq; ++q) {
    if (is_open[q]) {
      open->push_back(first + q);
      continue;
    }
    const cuda::RankSummary& summary = summaries[q];
    ++counts_->gpu_queries;
    counts_->plane_scan.rows_in += matching_.count();
    counts_->plane_scan.rows_out += summary.survivors;
    counts_->refine.rows_in += summary.refined;
    counts_->refine.rows_out += summary.refined_kept;
    counts_->refine.bytes += summary.refined * code_bytes;
    counts_->final.rows_in += summary.scored;
    counts_->final.rows_out += hits[first + q].size();
    counts_->final.bytes += summary.scored * FinalRowBytes(snapshot_);
  }
  counts_->plane_scan.bytes += joint_.num_blocks * GpuBlockBytes(snapshot_, stage_);
  return Status();
}

bool AllResident(const Snapshot& snapshot, const MatchingRows& matching,
                 const std::vector<GpuPart>& parts) {
  for (size_t i = 0; i < snapshot.segments.size(); ++i) {
    if (matching.mask(i) != nullptr &&
        std::ranges::none_of(parts, [&](const GpuPart& part) { return part.view->resident[i]; })) {
      return false;
    }
  }
  return std::ranges::all_of(
      parts, [&](const GpuPart& part) { return HasFinalScores(snapshot, *part.view); });
}

}  // namespace

Status SearchBatchOnGpu(const Snapshot& snapshot, const MatchingRows& matching,
                        const float* queries, size_t nq, const SearchPlan& plan, size_t threads,
                        QueryProgress* progress, std::vector<Hit>* hits, StagedCounts* counts,
                        std::vector<size_t>* open) {
  open->resize(nq);
  std::iota(open->begin(), open->end(), size_t{0});
  const Widths widths = ChooseWidths(snapshot, plan, plan.k);
  if (snapshot.gpu == nullptr || nq < kLeastQueries ||
      !widths.adaptive || plan.has_cursor ||
      plan.min_score != -std::numeric_limits<double>::infinity() || plan.k > cuda::kRankMax ||
      widths.capacity > cuda::kRankWidthMax) {
    return Status();
  }
  std::string note;
  std::vector<GpuPart> parts = GpuParts(snapshot, widths.planes, /*with_tail=*/true, &note);
  if (parts.empty() || (parts.size() > 1 && !snapshot.gpu->shares_memory()) ||
      !AllResident(snapshot, matching, parts)) {
    return Status();
  }
  std::shared_ptr<const GpuJoint> joint;
  Status status = snapshot.gpu->Join(std::move(parts), &joint);
  if (status.ok()) open->clear();
  for (size_t first = 0; status.ok() && first < nq; first += kBatchQueries) {
    const size_t count = std::min(kBatchQueries, nq - first);
    std::vector<size_t> left;
    {
      Batch batch(snapshot, matching, plan, widths, threads, *joint, counts);
      status = batch.Run(queries + first * snapshot.spec->dim, count, hits + first, &left);
    }
    for (const size_t q : left) open->push_back(first + q);
    // Between batches: the callback may search, which takes what a batch holds.
    if (status.ok()) status = progress->Add(count - left.size());
  }
  if (status.ok() || status.code() == QUASH_CANCELLED) return status;
  *counts = {};
  counts->gpu_note = status.message();
  open->resize(nq);
  std::iota(open->begin(), open->end(), size_t{0});
  return Status();
}

}  // namespace quash
