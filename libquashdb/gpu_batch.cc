#include "libquashdb/gpu_batch.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <numeric>
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
constexpr size_t kQueriesPerThread = 8;  // fewer take no longer than waking one

class Batch {
 public:
  Batch(const Snapshot& snapshot, const MatchingRows& matching, const SearchPlan& plan,
        const Widths& widths, size_t threads, const GpuPart& part, StagedCounts* counts)
      : snapshot_(snapshot),
        matching_(matching),
        plan_(plan),
        widths_(widths),
        threads_(std::max<size_t>(threads / 2, 1)),
        view_(*part.view),
        lease_(part.image, kInFlight),
        stage_(StageOf(widths.planes)),
        counts_(counts) {}

  ~Batch() {  // nothing may be in flight when the buffers go back
    for (size_t i = 0; i < kInFlight; ++i) {
      if (lease_[i].stream.get() != nullptr) lease_[i].stream.Wait();
    }
  }
  Batch(const Batch&) = delete;

  Status Run(const float* queries, size_t nq, std::vector<Hit>* hits, std::vector<size_t>* open) {
    const bool masked = matching_.count() != snapshot_.live_rows;
    for (size_t i = 0; i < kInFlight; ++i) {
      QUASH_RETURN_IF_GPU_ERROR("opening a stream", lease_[i].stream.Open());
      if (masked) QUASH_RETURN_IF_ERROR(UploadMasks(matching_, view_, &lease_[i]));
    }
    masked_ = masked;
    // About equal passes, in whole tiles of the scan.
    constexpr size_t kTile = 32;
    const size_t passes = (nq + cuda::kScanQueries - 1) / cuda::kScanQueries;
    const size_t share = ((nq + passes - 1) / passes + kTile - 1) / kTile * kTile;
    size_t last = 0;  // first query of the pass before
    for (size_t first = 0; first < nq; first += share) {
      const size_t slot = first / share % kInFlight;
      QUASH_RETURN_IF_ERROR(Start(slot, queries + first * snapshot_.spec->dim,
                                  std::min(share, nq - first)));
      if (first != 0) {
        QUASH_RETURN_IF_ERROR(
            Collect((first / share - 1) % kInFlight, last, first - last, hits, open));
      }
      last = first;
    }
    return Collect(last / share % kInFlight, last, nq - last, hits, open);
  }

 private:
  static constexpr size_t kInFlight = 2;

  // Reused between searches of a thread.
  struct Slot {
    std::vector<PreparedQuery> queries;
    std::vector<CandidateSet> sets;
  };
  static Slot& ThreadSlot(size_t i) {
    static thread_local Slot slots[kInFlight];
    return slots[i];
  }

  Status Start(size_t slot, const float* queries, size_t nq);
  Status Collect(size_t slot, size_t first, size_t nq, std::vector<Hit>* hits,
                 std::vector<size_t>* open);

  const Snapshot& snapshot_;
  const MatchingRows& matching_;
  const SearchPlan& plan_;
  const Widths& widths_;
  // Not all: a pass is short, and one thread that waits for a processor that others use
  // would hold it up for longer than the rest takes.
  const size_t threads_;
  const GpuView& view_;
  GpuImage::PassLease lease_;
  const cuda::ScanStage stage_;
  StagedCounts* counts_;
  bool masked_ = false;
};

// Prepares a pass and gives it to the device.
Status Batch::Start(size_t slot, const float* queries, size_t nq) {
  using Place = cuda::Buffer::Place;
  Slot& own = ThreadSlot(slot);
  GpuPass& pass = lease_[slot];
  if (own.queries.size() < nq) own.queries.resize(nq);
  if (own.sets.size() < nq) own.sets.resize(nq);
  const uint32_t sample_blocks = SampleBlocks(view_, matching_, kCapacity);
  const bool is_cosine = snapshot_.spec->metric == QUASH_METRIC_COSINE;
  const auto prepare = [&](size_t q, cuda::ScanQuery* scan,
                           cuda::RankQuery* rank) -> const PreparedQuery& {
    PreparedQuery& query = own.queries[q];
    query.Prepare(snapshot_, queries + q * snapshot_.spec->dim, widths_.planes,
                  PreparedQuery::Against::kPlanes);
    CandidateSet& set = own.sets[q];  // for its margins only
    ResetSet(snapshot_, plan_, query, query.scanned(), widths_, plan_.k, &set);
    *scan = MakeScanQuery(snapshot_, stage_, query, set);
    SetRanks(view_, sample_blocks, widths_.capacity, plan_.k, scan);
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
  const uint32_t first = FirstScored(plan_.k);
  QUASH_RETURN_IF_GPU_ERROR("allocating",
                            pass.survivors.Reserve(nq * widths_.capacity * 4 * sizeof(uint32_t)));
  QUASH_RETURN_IF_GPU_ERROR(
      "allocating pinned memory",
      pass.summaries.Reserve(nq * sizeof(cuda::RankSummary), Place::kPinned));
  QUASH_RETURN_IF_GPU_ERROR(
      "allocating pinned memory",
      pass.ranked.Reserve(nq * (plan_.k + cuda::kRankTies) * sizeof(cuda::RankedRow),
                          Place::kPinned));
  GpuArgs args;
  QUASH_RETURN_IF_ERROR(StageQueries({.snapshot = &snapshot_,
                                      .view = &view_,
                                      .pass = &pass,
                                      .stage = stage_,
                                      .capacity = kCapacity,
                                      .masked = masked_,
                                      .has_final = true,
                                      .ranks = true,
                                      .threads = std::clamp<size_t>(nq / kQueriesPerThread, 1,
                                                                    threads_)},
                                     nq, prepare, sample_blocks, &args));
  const RefineCosts costs = RefineCostsOf(snapshot_);
  const LevelCodebook& codebook = snapshot_.quantizer->codebook();
  const cuda::RankArgs ranking{.scan = args.scan,
                               .finish = args.finish,
                               .queries = args.rank,
                               .k = static_cast<uint32_t>(plan_.k),
                               .width = static_cast<uint32_t>(widths_.capacity),
                               .first = first,
                               .m = codebook.m,
                               .delta = codebook.delta,
                               .refines = CanRefine(snapshot_, widths_),
                               .block_cost = static_cast<uint32_t>(costs.block),
                               .row_cost = static_cast<uint32_t>(costs.row),
                               .survivors = pass.survivors.as<uint32_t>(),
                               .summaries = pass.summaries.as<cuda::RankSummary>(),
                               .rows = pass.ranked.as<cuda::RankedRow>()};
  QUASH_RETURN_IF_GPU_ERROR("scanning", cuda::LaunchScan(args.scan, pass.stream.get()));
  QUASH_RETURN_IF_GPU_ERROR("ranking", cuda::LaunchRank(ranking, pass.stream.get()));
  return Status();
}

// Waits for a pass and orders its results.
Status Batch::Collect(size_t slot, size_t first, size_t nq, std::vector<Hit>* hits,
                      std::vector<size_t>* open) {
  GpuPass& pass = lease_[slot];
  QUASH_RETURN_IF_GPU_ERROR("scanning", pass.stream.Wait());
  const auto* summaries = pass.summaries.as<cuda::RankSummary>();
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
      TopHits best(snapshot_, plan_);
      const cuda::RankedRow* rows = pass.ranked.as<cuda::RankedRow>() + q * room;
      for (uint32_t row = 0; row < summaries[q].rows; ++row) {
        best.Push(rows[row].score, RowIndex(view_.segments[rows[row].segment], rows[row].row));
      }
      QUASH_RETURN_IF_ERROR(best.Finish(&hits[first + q]));
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
  counts_->plane_scan.bytes += view_.num_blocks * GpuBlockBytes(snapshot_, stage_);
  return Status();
}

bool AllResident(const Snapshot& snapshot, const MatchingRows& matching, const GpuView& view) {
  for (size_t i = 0; i < snapshot.segments.size(); ++i) {
    if (matching.mask(i) != nullptr && !view.resident[i]) return false;
  }
  return true;
}

}  // namespace

Status SearchBatchOnGpu(const Snapshot& snapshot, const MatchingRows& matching,
                        const float* queries, size_t nq, const SearchPlan& plan, size_t threads,
                        std::vector<Hit>* hits, StagedCounts* counts, std::vector<size_t>* open) {
  open->resize(nq);
  std::iota(open->begin(), open->end(), size_t{0});
  const Widths widths = ChooseWidths(snapshot, plan, plan.k);
  if (snapshot.gpu == nullptr || snapshot.gpu->images().size() != 1 || nq < kLeastQueries ||
      !widths.adaptive || plan.has_cursor ||
      plan.min_score != -std::numeric_limits<double>::infinity() || plan.k > cuda::kRankMax ||
      widths.capacity > cuda::kRankWidthMax) {
    return Status();
  }
  std::string note;
  const auto parts = GpuParts(snapshot, widths.planes, /*with_tail=*/true, &note);
  if (parts.empty() || !HasFinalScores(snapshot, *parts[0].view) ||
      !AllResident(snapshot, matching, *parts[0].view)) {
    return Status();
  }
  Status status;
  if (const char* error = cuda::UseDevice(parts[0].image->device()); error != nullptr) {
    counts->gpu_note = error;
    return Status();
  }
  {
    Batch batch(snapshot, matching, plan, widths, threads, parts[0], counts);
    open->clear();
    status = batch.Run(queries, nq, hits, open);
  }
  if (status.ok()) return status;
  *counts = {};
  counts->gpu_note = status.message();
  open->resize(nq);
  std::iota(open->begin(), open->end(), size_t{0});
  return Status();
}

}  // namespace quash
