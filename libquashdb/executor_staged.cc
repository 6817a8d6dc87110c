#include "libquashdb/executor_staged.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <span>

#include "libquashdb/executor_candidates.h"
#include "libquashdb/executor_exact.h"
#include "libquashdb/executor_merge.h"
#include "libquashdb/executor_parallel.h"
#include "libquashdb/executor_plane_scan.h"
#include "libquashdb/executor_query.h"
#include "libquashdb/executor_score.h"
#include "libquashdb/gpu_scan.h"

namespace quash {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Reused between searches of a thread, so that a search allocates little.
struct Workspace {
  std::vector<PreparedQuery> queries;
  std::vector<CandidateSet> sets;  // [parts][nq]
  std::vector<Survivor> rest;
  std::vector<uint64_t> rows;
  std::vector<uint32_t> found;  // [rows] Survivor::found, or empty: none
  std::vector<float> scores;
  std::vector<float> units;

  // Gives back what only an unusually wide search needed.
  void Trim() {
    constexpr size_t kKeptRows = 1 << 16;
    for (CandidateSet& set : sets) set.Trim(kKeptRows);
    if (rest.capacity() > kKeptRows) rest = {};
    if (rows.capacity() > kKeptRows) rows = {};
    if (found.capacity() > kKeptRows) found = {};
    if (scores.capacity() > kKeptRows) scores = {};
    if (units.capacity() > kKeptRows) units = {};
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
  Tile(const Snapshot& snapshot, const MatchingRows& matching, const SearchPlan& plan,
       size_t threads, StagedCounts* counts)
      : snapshot_(snapshot),
        matching_(matching),
        plan_(plan),
        threads_(threads),
        has_tier_(snapshot.spec->rerank != QUASH_RERANK_NONE),
        is_cosine_(snapshot.spec->metric == QUASH_METRIC_COSINE),
        counts_(counts) {}

  ~Tile() { work_.Trim(); }
  Tile(const Tile&) = delete;

  // `complete[q]`: a larger attempt would not find more hits for query q.
  Status Run(const float* queries, size_t nq, Attempt attempt, std::vector<Hit>* hits,
             bool* complete);

 private:
  void ResetSet(const PreparedQuery& query, const PrefixModel& model, const Widths& widths,
                size_t k, CandidateSet* set) const;
  Status Scan(size_t nq, size_t k);
  Status ScanOnCpu(size_t first, size_t nq, size_t k, const std::vector<bool>* without);
  Status FinishSet(size_t q, size_t k);
  Status ScoreSurvivors(size_t q, size_t k, std::vector<Hit>* hits);
  Status ScoreAdaptively(size_t q, const std::vector<Survivor>& survivors, size_t k, TopHits* best);
  Status NarrowByCodes(size_t q, const std::vector<Survivor>& survivors, size_t k, TopHits* best);
  Status ScoreRows(size_t q, TopHits* best);
  Status Refine(size_t q, std::vector<Survivor>* rows);
  void TakeRow(const Survivor& survivor) {
    work_.rows.push_back(survivor.row);
    if (gpu_ != nullptr) work_.found.push_back(survivor.found);
  }
  void ClearRows() {
    work_.rows.clear();
    work_.found.clear();
  }
  bool RefinePays(const std::vector<Survivor>& rows) const;

  const Snapshot& snapshot_;
  const MatchingRows& matching_;
  const SearchPlan& plan_;
  const size_t threads_;
  const bool has_tier_;
  const bool is_cosine_;
  StagedCounts* counts_;
  Widths widths_;
  size_t nq_ = 0;                 // of this attempt
  bool narrowed_ = false;         // the whole codes left rows out
  std::unique_ptr<GpuScan> gpu_;  // of this attempt, null: all on the CPU
  Workspace& work_ = ThreadWorkspace();

  static Workspace& ThreadWorkspace() {
    static thread_local Workspace workspace;
    return workspace;
  }
};

void Tile::ResetSet(const PreparedQuery& query, const PrefixModel& model, const Widths& widths,
                    size_t k, CandidateSet* set) const {
  const float lower = plan_.min_score == -std::numeric_limits<double>::infinity()
                          ? -kInfinity
                          : static_cast<float>(plan_.min_score) + query.offset();
  const float upper = plan_.has_cursor ? plan_.cursor_score + query.offset() : kInfinity;
  set->Reset(query, model, widths, k, lower, upper, is_cosine_);
}

// Queries first .. first + nq of the tile over all segments but some.
Status Tile::ScanOnCpu(size_t first, size_t nq, size_t k, const std::vector<bool>* without) {
  // What a GPU leaves is often little: a thread for so many blocks.
  constexpr uint64_t kBlocksPerThread = 1024;
  const size_t threads =
      without == nullptr
          ? threads_
          : std::clamp<uint64_t>(matching_.Blocks(without) / kBlocksPerThread, 1, threads_);
  const auto parts = matching_.Partition(threads, without);
  if (work_.sets.size() < parts.size() * nq_) work_.sets.resize(parts.size() * nq_);
  std::vector<uint64_t> bytes(parts.size());
  const std::span<const PreparedQuery> queries(work_.queries.data() + first, nq);
  const std::span<CandidateSet> all_sets(work_.sets);
  QUASH_RETURN_IF_ERROR(ParallelFor(parts.size(), threads, [&](size_t i) {
    const std::span<CandidateSet> sets = all_sets.subspan(i * nq_ + first, nq);
    for (size_t q = 0; q < nq; ++q) {
      ResetSet(queries[q], queries[q].scanned(), widths_, k, &sets[q]);
    }
    return ScanPlanes(snapshot_, matching_, parts[i], queries, widths_.planes, sets, &bytes[i]);
  }));
  for (size_t i = 1; i < parts.size(); ++i) {
    for (size_t q = first; q < first + nq; ++q) {
      work_.sets[q].Merge(std::move(work_.sets[i * nq_ + q]));
    }
  }
  for (uint64_t read : bytes) counts_->plane_scan.bytes += read;
  return Status();
}

Status Tile::Scan(size_t nq, size_t k) {
  counts_->plane_scan.rows_in += nq * matching_.count();
  const std::span<const PreparedQuery> queries(work_.queries.data(), nq);
  for (size_t q = 0; q < nq; ++q) {
    ResetSet(queries[q], queries[q].scanned(), widths_, k, &work_.sets[q]);
  }
  gpu_ = GpuScan::Begin(snapshot_, matching_, plan_.filter != nullptr, widths_, &counts_->gpu_note);
  if (gpu_ == nullptr) return ScanOnCpu(0, nq, k, nullptr);
  QUASH_RETURN_IF_ERROR(ScanOnCpu(0, nq, k, &gpu_->resident()));
  const Status status =
      gpu_->Scan(queries, widths_, k, std::span(work_.sets).first(nq), &counts_->plane_scan.bytes);
  if (!status.ok()) {
    counts_->gpu_note = status.message();
    gpu_ = nullptr;
    return ScanOnCpu(0, nq, k, nullptr);
  }
  counts_->gpu_queries += nq;
  return Status();
}

// The survivors of a query; again where the limits of a scan on the GPU, which
// come from a sample of rows, prove too high.
Status Tile::FinishSet(size_t q, size_t k) {
  CandidateSet* set = &work_.sets[q];
  set->Finish();
  if (gpu_ == nullptr || gpu_->Check(q, set)) return Status();
  const float key = set->needed_key(), estimate = set->needed_estimate();
  const std::span<const PreparedQuery> queries(work_.queries.data(), nq_);
  ResetSet(queries[q], queries[q].scanned(), widths_, k, set);
  QUASH_RETURN_IF_ERROR(ScanOnCpu(q, 1, k, &gpu_->resident()));
  Status status = gpu_->Repeat(queries, q, key, estimate, set);
  set->Finish();
  if (status.ok() && gpu_->Check(q, set)) return Status();
  counts_->gpu_note = status.ok() ? "more rows compete than the GPU lists" : status.message();
  --counts_->gpu_queries;
  QUASH_RETURN_IF_ERROR(ScanOnCpu(q, 1, k, nullptr));
  set->Finish();
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
  nq_ = nq;
  if (work_.queries.size() < nq) work_.queries.resize(nq);
  if (work_.sets.size() < nq) work_.sets.resize(nq);
  for (size_t q = 0; q < nq; ++q) {
    work_.queries[q].Prepare(snapshot_, queries + q * snapshot_.spec->dim, widths_.planes,
                             PreparedQuery::Against::kPlanes);
  }
  QUASH_RETURN_IF_ERROR(Scan(nq, attempt.k));
  for (size_t q = 0; q < nq; ++q) {
    narrowed_ = false;
    QUASH_RETURN_IF_ERROR(FinishSet(q, attempt.k));
    QUASH_RETURN_IF_ERROR(ScoreSurvivors(q, attempt.k, &hits[q]));
    complete[q] = hits[q].size() >= std::min<uint64_t>(plan_.k, matching_.count()) ||
                  (work_.sets[q].complete() && !narrowed_);
  }
  gpu_ = nullptr;
  return Status();
}

Status Tile::ScoreSurvivors(size_t q, size_t k, std::vector<Hit>* hits) {
  const std::vector<Survivor>& survivors = work_.sets[q].survivors();
  counts_->plane_scan.rows_out += survivors.size();
  TopHits best(snapshot_, plan_);
  if (widths_.adaptive) {
    QUASH_RETURN_IF_ERROR(ScoreAdaptively(q, survivors, k, &best));
  } else if (has_tier_ && widths_.rerank_candidates != 0 &&
             survivors.size() > widths_.rerank_candidates) {
    QUASH_RETURN_IF_ERROR(NarrowByCodes(q, survivors, k, &best));
  } else {
    ClearRows();
    for (const Survivor& s : survivors) TakeRow(s);
    QUASH_RETURN_IF_ERROR(ScoreRows(q, &best));
  }
  return best.Finish(hits);
}

// Final scores of work_.rows, those that the GPU has from there.
Status Tile::ScoreRows(size_t q, TopHits* best) {
  const PreparedQuery& query = work_.queries[q];
  const std::vector<uint64_t>& rows = work_.rows;
  work_.scores.resize(rows.size());
  if (gpu_ == nullptr || !gpu_->has_final()) {
    QUASH_RETURN_IF_ERROR(ScoreFinal(snapshot_, query, rows, threads_, work_.scores.data()));
  } else {
    std::vector<uint64_t> others;  // of the tail, and of segments that are not resident
    for (size_t i = 0; i < rows.size(); ++i) {
      if (work_.found[i] == kNotOnGpu) {
        others.push_back(rows[i]);
      } else {
        work_.scores[i] = gpu_->FinalScore(q, query, work_.found[i]);
      }
    }
    std::vector<float> scores(others.size());
    QUASH_RETURN_IF_ERROR(ScoreFinal(snapshot_, query, others, threads_, scores.data()));
    for (size_t i = 0, other = 0; i < rows.size() && other < others.size(); ++i) {
      if (work_.found[i] == kNotOnGpu) work_.scores[i] = scores[other++];
    }
  }
  for (size_t i = 0; i < rows.size(); ++i) best->Push(work_.scores[i], rows[i]);
  counts_->final.rows_in += rows.size();
  counts_->final.bytes += rows.size() * FinalRowBytes(snapshot_);
  return Status();
}

// Estimates of two planes instead of one.
Status Tile::Refine(size_t q, std::vector<Survivor>* rows) {
  const PreparedQuery& query = work_.queries[q];
  uint64_t* bytes = &counts_->refine.bytes;
  if (gpu_ == nullptr || !gpu_->has_plane2()) {
    return RefineWithPlane2(snapshot_, query, *rows, bytes);
  }
  std::vector<Survivor> others;
  for (Survivor& s : *rows) {
    if (s.found == kNotOnGpu) {
      others.push_back(s);
    } else {
      gpu_->Refine(q, query, &s);
      *bytes += snapshot_.quantizer->layout().plane_bytes();
    }
  }
  QUASH_RETURN_IF_ERROR(RefineWithPlane2(snapshot_, query, others, bytes));
  size_t other = 0;
  for (Survivor& s : *rows) {
    if (s.found == kNotOnGpu) s = others[other++];
  }
  return Status();
}

// A refining pass reads whole blocks; a final score reads one row, with a cache
// miss or more, and whole codes lie scattered over their block.
bool Tile::RefinePays(const std::vector<Survivor>& rows) const {
  const CodeLayout& layout = snapshot_.quantizer->layout();
  if (widths_.planes == 2 || layout.bits < (has_tier_ ? 2 : 3) || rows.size() < 256) return false;
  size_t blocks = 0;
  uint64_t last = std::numeric_limits<uint64_t>::max();
  for (const Survivor& s : rows) {
    blocks += s.row / kBlockRows != last;
    last = s.row / kBlockRows;
  }
  constexpr uint64_t kRowOverheadBytes = 512;  // of a final score, in time
  const uint64_t row_cost =
      kRowOverheadBytes + (has_tier_ ? FinalRowBytes(snapshot_) : 64 * layout.plane_bytes());
  const uint64_t block_cost = kRowOverheadBytes + layout.block_bytes() / 2;
  return blocks * block_cost < rows.size() * row_cost;
}

// The best few by estimate give a k-th final score; of the rest only rows that
// may still reach it are scored.
Status Tile::ScoreAdaptively(size_t q, const std::vector<Survivor>& survivors, size_t k,
                             TopHits* best) {
  const PreparedQuery& query = work_.queries[q];
  const size_t first = 2 * k + 16;
  const float upper = plan_.has_cursor ? plan_.cursor_score + query.offset() : kInfinity;
  std::vector<float>& estimates = work_.scores;
  estimates.clear();
  for (const Survivor& s : survivors) {
    if (s.estimate <= upper) estimates.push_back(s.estimate);
  }
  ClearRows();
  std::vector<Survivor>& rest = work_.rest;
  rest.clear();
  if (estimates.size() <= first) {
    for (const Survivor& s : survivors) TakeRow(s);
    return ScoreRows(q, best);
  }
  std::nth_element(estimates.begin(), estimates.begin() + (first - 1), estimates.end(),
                   std::greater<>());
  const float least = estimates[first - 1];
  for (const Survivor& s : survivors) {
    if (s.estimate >= least && s.estimate <= upper) {
      TakeRow(s);
    } else {
      rest.push_back(s);
    }
  }
  QUASH_RETURN_IF_ERROR(ScoreRows(q, best));

  KthBest kth;
  kth.Reset(k);
  for (float score : work_.scores) {
    if (!plan_.has_cursor || score < plan_.cursor_score) kth.Push(score);
  }
  kth.Finish();
  const float reach = kth.threshold() + query.offset();
  float shrink = 1;  // as in CandidateSet
  if (is_cosine_) {
    const float cosine = std::clamp(reach, 0.0f, 1.0f);
    shrink = std::sqrt(std::max(0.25f, 1 - cosine * cosine));
  }
  const auto drop_hopeless = [&](const PrefixModel& model) {
    const float margin = shrink * model.Margin(kRerankSigmas);
    std::erase_if(rest, [&](const Survivor& s) { return s.estimate + margin * s.unit < reach; });
  };
  drop_hopeless(query.scanned());
  if (RefinePays(rest)) {
    counts_->refine.rows_in += rest.size();
    QUASH_RETURN_IF_ERROR(Refine(q, &rest));
    drop_hopeless(query.two_planes());
    counts_->refine.rows_out += rest.size();
  }
  ClearRows();
  for (const Survivor& s : rest) TakeRow(s);
  return ScoreRows(q, best);
}

// Whole codes choose which survivors are worth the rerank tier.
Status Tile::NarrowByCodes(size_t q, const std::vector<Survivor>& survivors, size_t k,
                           TopHits* best) {
  const PreparedQuery& query = work_.queries[q];
  std::vector<uint64_t>& rows = work_.rows;
  ClearRows();
  for (const Survivor& s : survivors) rows.push_back(s.row);
  work_.scores.resize(rows.size());
  work_.units.resize(rows.size());
  QUASH_RETURN_IF_ERROR(
      ScoreFromCodes(snapshot_, query, rows, work_.scores.data(), work_.units.data()));
  CandidateSet set;
  Widths widths = widths_;
  widths.capacity = widths_.rerank_candidates;
  ResetSet(query, query.full(), widths, k, &set);
  for (size_t i = 0; i < rows.size(); ++i) {
    set.Push({.estimate = work_.scores[i] + query.offset(),
              .unit = work_.units[i],
              .dot1 = 0,
              .found = survivors[i].found,
              .row = rows[i]});
  }
  counts_->full_code.rows_in += rows.size();
  counts_->full_code.bytes += rows.size() * snapshot_.quantizer->layout().row_code_bytes();
  ClearRows();
  for (const Survivor& s : set.Finish()) TakeRow(s);
  narrowed_ = !set.complete();
  counts_->full_code.rows_out += rows.size();
  return ScoreRows(q, best);
}

void AddStage(const StageStats& from, StageStats* to) {
  to->rows_in += from.rows_in;
  to->rows_out += from.rows_out;
  to->bytes += from.bytes;
}

}  // namespace

void StagedCounts::Add(const StagedCounts& other) {
  AddStage(other.plane_scan, &plane_scan);
  AddStage(other.refine, &refine);
  AddStage(other.full_code, &full_code);
  AddStage(other.final, &final);
  gpu_queries += other.gpu_queries;
  if (gpu_note.empty()) gpu_note = other.gpu_note;
}

Status SearchStagedTile(const Snapshot& snapshot, const MatchingRows& matching,
                        const float* queries, size_t nq, const SearchPlan& plan, size_t threads,
                        std::vector<Hit>* hits, StagedCounts* counts) {
  Tile tile(snapshot, matching, plan, threads, counts);
  bool complete[kMaxTileQueries];
  QUASH_RETURN_IF_ERROR(tile.Run(queries, nq, {.k = plan.k}, hits, complete));
  const bool is_range = plan.min_score != -std::numeric_limits<double>::infinity();
  for (size_t q = 0; q < nq; ++q) {
    for (size_t k = plan.k; !complete[q];) {
      k *= 4;
      const Attempt attempt{.k = k, .unbounded = is_range || k >= matching.count()};
      QUASH_RETURN_IF_ERROR(
          tile.Run(queries + q * snapshot.spec->dim, 1, attempt, &hits[q], &complete[q]));
    }
    counts->final.rows_out += hits[q].size();
  }
  return Status();
}

}  // namespace quash
