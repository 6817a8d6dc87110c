#include "libquashdb/executor_staged.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "libquashdb/executor_candidates.h"
#include "libquashdb/executor_parallel.h"
#include "libquashdb/executor_plane_scan.h"
#include "libquashdb/executor_query.h"
#include "libquashdb/executor_rerank.h"
#include "libquashdb/executor_score.h"
#include "libquashdb/gpu_scan.h"

namespace quash {
namespace {

// Reused between searches of a thread, so that a search allocates little.
struct Workspace {
  std::vector<PreparedQuery> queries;
  std::vector<CandidateSet> sets;  // [parts][nq]

  // Gives back what only an unusually wide search needed.
  void Trim() {
    constexpr size_t kKeptRows = 1 << 16;
    for (CandidateSet& set : sets) set.Trim(kKeptRows);
  }
};

// One attempt at a query. More than one is needed only where a bound (range,
// page border) leaves fewer than k hits of those first looked at.
struct Attempt {
  size_t k;
  bool unbounded = false;  // keep whatever the bounds let through
};

class Tile {
 public:
  Tile(const StagedSearch& search, size_t threads, StagedCounts* counts)
      : snapshot_(search.snapshot),
        matching_(search.matching),
        probe_(search.probe),
        plan_(search.plan),
        threads_(threads),
        counts_(counts) {}

  ~Tile() { work_.Trim(); }
  Tile(const Tile&) = delete;

  // `complete[q]`: a larger attempt would not find more hits for query q.
  Status Run(const float* queries, size_t nq, Attempt attempt, std::vector<Hit>* hits,
             bool* complete);

 private:
  void Reset(size_t q, CandidateSet* set) const {
    const PreparedQuery& query = work_.queries[q];
    ResetSet(snapshot_, plan_, query, query.scanned(), widths_, k_, set);
  }
  Status Scan();
  Status ScanLists();
  Status ScanOnCpu(size_t first, size_t nq, const std::vector<bool>* without);
  Status Repeat(size_t q);
  Status Rerank(size_t q, size_t threads, std::vector<Hit>* hits, bool* complete,
                StagedCounts* counts);

  const Snapshot& snapshot_;
  const MatchingRows& matching_;
  const Probe& probe_;
  const SearchPlan& plan_;
  const size_t threads_;
  StagedCounts* counts_;
  // Of this attempt.
  Widths widths_;
  size_t nq_ = 0;
  size_t k_ = 0;
  bool probing_ = false;          // lists are read, not every row
  std::unique_ptr<GpuScan> gpu_;  // null: all on the CPU
  Workspace& work_ = ThreadWorkspace();

  static Workspace& ThreadWorkspace() {
    static thread_local Workspace workspace;
    return workspace;
  }
};

// Queries first .. first + nq of the tile over all segments but some, in addition
// to what their sets have.
Status Tile::ScanOnCpu(size_t first, size_t nq, const std::vector<bool>* without) {
  // What a GPU leaves is often little: a thread for so many blocks, or else for some
  // of the queries.
  constexpr uint64_t kBlocksPerThread = 1024;
  constexpr size_t kQueriesPerThread = 4;
  size_t threads = threads_, share = nq;
  if (without != nullptr) {
    threads = std::clamp<uint64_t>(matching_.Blocks(without) / kBlocksPerThread, 1, threads_);
    if (threads == 1) share = std::max((nq + threads_ - 1) / threads_, kQueriesPerThread);
  }
  const auto parts = matching_.Partition(threads, without);
  const size_t groups = (nq + share - 1) / share, tasks = parts.size() * groups;
  if (work_.sets.size() < parts.size() * nq_) work_.sets.resize(parts.size() * nq_);
  std::vector<uint64_t> bytes(tasks);
  const std::span<const PreparedQuery> queries(work_.queries);
  const std::span<CandidateSet> all_sets(work_.sets);
  QUASH_RETURN_IF_ERROR(ParallelFor(tasks, std::min(tasks, threads_), [&](size_t task) {
    const size_t part = task / groups, begin = first + task % groups * share;
    const size_t count = std::min(share, first + nq - begin);
    const std::span<CandidateSet> sets = all_sets.subspan(part * nq_ + begin, count);
    for (size_t q = 0; part != 0 && q < count; ++q) Reset(begin + q, &sets[q]);
    return ScanPlanes(snapshot_, matching_, parts[part], queries.subspan(begin, count),
                      widths_.planes, sets, &bytes[task]);
  }));
  for (size_t i = 1; i < parts.size(); ++i) {
    for (size_t q = first; q < first + nq; ++q) {
      work_.sets[q].Merge(std::move(work_.sets[i * nq_ + q]));
    }
  }
  for (uint64_t read : bytes) counts_->plane_scan.bytes += read;
  return Status();
}

// The nearest lists of each query, then the rows that are in no list yet.
Status Tile::ScanLists() {
  const size_t nprobe = probe_.nprobe((k_ + plan_.k - 1) / plan_.k);
  widths_.coded = probe_.coded();
  std::vector<Probe::Counts> counts(nq_);
  QUASH_RETURN_IF_ERROR(ParallelFor(nq_, std::min(threads_, nq_), [&](size_t q) {
    const PreparedQuery& query = work_.queries[q];
    CandidateSet* set = &work_.sets[q];
    ResetSet(snapshot_, plan_, query, widths_.coded ? query.full() : query.scanned(), widths_, k_,
             set);
    return probe_.Scan(query, nprobe, set, &counts[q]);
  }));
  const size_t code_bytes = snapshot_.quantizer->layout().row_code_bytes();
  for (const Probe::Counts& one : counts) {
    counts_->probe.rows_in += one.rows;
    counts_->probe.bytes += one.bytes;
    counts_->probe.rows_out += one.coded_rows;
    counts_->plane_scan.bytes += one.other_bytes;
    counts_->full_code.rows_in += one.coded_rows + one.other_coded_rows;
    counts_->full_code.bytes += (one.coded_rows + one.other_coded_rows) * code_bytes;
  }
  counts_->probed_lists += nprobe * nq_;
  counts_->plane_scan.rows_in += nq_ * probe_.rows_outside();
  return Status();
}

Status Tile::Scan() {
  if (probing_) return ScanLists();
  counts_->plane_scan.rows_in += nq_ * matching_.count();
  const std::span<const PreparedQuery> queries(work_.queries.data(), nq_);
  for (size_t q = 0; q < nq_; ++q) Reset(q, &work_.sets[q]);
  gpu_ = GpuScan::Begin(snapshot_, matching_, matching_.count() != snapshot_.live_rows, widths_,
                        threads_, &counts_->gpu_note);
  if (gpu_ == nullptr) return ScanOnCpu(0, nq_, nullptr);
  // The GPU first: few of the other rows compete with what it finds.
  const Status status = gpu_->Scan(queries, widths_, k_, std::span(work_.sets).first(nq_),
                                   &counts_->plane_scan.bytes);
  if (!status.ok()) {
    counts_->gpu_note = status.message();
    gpu_ = nullptr;
    for (size_t q = 0; q < nq_; ++q) Reset(q, &work_.sets[q]);
    return ScanOnCpu(0, nq_, nullptr);
  }
  counts_->gpu_queries += nq_;
  return ScanOnCpu(0, nq_, &gpu_->resident());
}

// Scans again for a query of which the limits of the GPU's scan, which come from a
// sample of rows, prove too high.
Status Tile::Repeat(size_t q) {
  CandidateSet* set = &work_.sets[q];
  const float key = set->needed_key(), estimate = set->needed_estimate();
  const std::span<const PreparedQuery> queries(work_.queries.data(), nq_);
  Reset(q, set);
  QUASH_RETURN_IF_ERROR(ScanOnCpu(q, 1, &gpu_->resident()));
  const Status status = gpu_->Repeat(queries, q, key, estimate, set);
  set->Finish();
  if (status.ok() && gpu_->Check(q, set)) return Status();
  counts_->gpu_note = status.ok() ? "more rows compete than the GPU lists" : status.message();
  --counts_->gpu_queries;
  Reset(q, set);
  QUASH_RETURN_IF_ERROR(ScanOnCpu(q, 1, nullptr));
  set->Finish();
  return Status();
}

Status Tile::Rerank(size_t q, size_t threads, std::vector<Hit>* hits, bool* complete,
                    StagedCounts* counts) {
  const CandidateSet& set = work_.sets[q];
  Reranker reranker(snapshot_, plan_, widths_, gpu_.get(), q, work_.queries[q], k_, threads,
                    counts);
  QUASH_RETURN_IF_ERROR(reranker.Run(set.survivors(), hits));
  *complete = hits->size() >= std::min<uint64_t>(plan_.k, matching_.count()) ||
              (set.complete() && !reranker.narrowed() && !probing_);
  return Status();
}

Status Tile::Run(const float* queries, size_t nq, Attempt attempt, std::vector<Hit>* hits,
                 bool* complete) {
  widths_ = ChooseWidths(snapshot_, plan_, attempt.k);
  if (attempt.unbounded) {
    widths_.adaptive = false;
    widths_.rerank_candidates = 0;
    widths_.capacity = std::max<size_t>(matching_.count(), 1);
  }
  probing_ = probe_.enabled() && !attempt.unbounded;
  if (probing_) {
    widths_.planes = 1;  // what lists have
    widths_.margin_scale = probe_.margin_scale();
  }
  nq_ = nq;
  k_ = attempt.k;
  if (work_.queries.size() < nq) work_.queries.resize(nq);
  if (work_.sets.size() < nq) work_.sets.resize(nq);
  // A row that is scored by the tier only needs no other form of the query.
  const bool needs_codes = snapshot_.spec->rerank == QUASH_RERANK_NONE || probing_ ||
                           !widths_.adaptive || widths_.planes == kAllPlanes ||
                           snapshot_.gpu != nullptr;
  const auto against = needs_codes ? PreparedQuery::Against::kPlanes
                                   : PreparedQuery::Against::kPlanesAlone;
  // With a scan on the GPU, what is left is work for each query by itself.
  const size_t threads = snapshot_.gpu != nullptr && nq >= 4 ? threads_ : 1;
  QUASH_RETURN_IF_ERROR(ParallelFor(nq, threads, [&](size_t q) {
    work_.queries[q].Prepare(snapshot_, queries + q * snapshot_.spec->dim, widths_.planes,
                             against);
    return Status();
  }));
  QUASH_RETURN_IF_ERROR(Scan());
  std::vector<StagedCounts> counts(nq);
  std::vector<uint8_t> uncovered(nq);
  QUASH_RETURN_IF_ERROR(ParallelFor(nq, threads, [&](size_t q) {
    CandidateSet* set = &work_.sets[q];
    set->Finish();
    uncovered[q] = gpu_ != nullptr && !gpu_->Check(q, set);
    if (uncovered[q]) return Status();
    return Rerank(q, threads == 1 ? threads_ : 1, &hits[q], &complete[q], &counts[q]);
  }));
  for (size_t q = 0; q < nq; ++q) {
    if (!uncovered[q]) continue;
    QUASH_RETURN_IF_ERROR(Repeat(q));
    QUASH_RETURN_IF_ERROR(Rerank(q, threads_, &hits[q], &complete[q], &counts[q]));
  }
  for (const StagedCounts& one : counts) counts_->Add(one);
  gpu_ = nullptr;
  return Status();
}

void AddStage(const StageStats& from, StageStats* to) {
  to->rows_in += from.rows_in;
  to->rows_out += from.rows_out;
  to->bytes += from.bytes;
}

}  // namespace

void StagedCounts::Add(const StagedCounts& other) {
  AddStage(other.probe, &probe);
  AddStage(other.plane_scan, &plane_scan);
  probed_lists += other.probed_lists;
  AddStage(other.refine, &refine);
  AddStage(other.full_code, &full_code);
  AddStage(other.final, &final);
  gpu_queries += other.gpu_queries;
  if (gpu_note.empty()) gpu_note = other.gpu_note;
}

Status SearchStagedTile(const StagedSearch& search, const float* queries, size_t nq,
                        size_t threads, std::vector<Hit>* hits, StagedCounts* counts) {
  const SearchPlan& plan = search.plan;
  Tile tile(search, threads, counts);
  bool complete[kMaxTileQueries];
  QUASH_RETURN_IF_ERROR(tile.Run(queries, nq, {.k = plan.k}, hits, complete));
  const bool is_range = plan.min_score != -std::numeric_limits<double>::infinity();
  for (size_t q = 0; q < nq; ++q) {
    for (size_t k = plan.k; !complete[q];) {
      k *= 4;
      const Attempt attempt{.k = k, .unbounded = is_range || k >= search.matching.count()};
      QUASH_RETURN_IF_ERROR(
          tile.Run(queries + q * search.snapshot.spec->dim, 1, attempt, &hits[q], &complete[q]));
    }
    counts->final.rows_out += hits[q].size();
  }
  return Status();
}

}  // namespace quash
