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

namespace quash {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Reused between searches of a thread, so that a search allocates little.
struct Workspace {
  std::vector<PreparedQuery> queries;
  std::vector<CandidateSet> sets;  // [parts][nq]
  std::vector<Survivor> rest;
  std::vector<uint64_t> rows;
  std::vector<float> scores;
  std::vector<float> units;

  // Gives back what only an unusually wide search needed.
  void Trim() {
    constexpr size_t kKeptRows = 1 << 16;
    for (CandidateSet& set : sets) set.Trim(kKeptRows);
    if (rest.capacity() > kKeptRows) rest = {};
    if (rows.capacity() > kKeptRows) rows = {};
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
  Status ScoreSurvivors(const PreparedQuery& query, CandidateSet* set, size_t k,
                        std::vector<Hit>* hits);
  Status ScoreAdaptively(const PreparedQuery& query, const std::vector<Survivor>& survivors,
                         size_t k, TopHits* best);
  Status NarrowByCodes(const PreparedQuery& query, const std::vector<Survivor>& survivors, size_t k,
                       TopHits* best);
  Status ScoreRows(const PreparedQuery& query, TopHits* best);
  bool RefinePays(const std::vector<Survivor>& rows) const;

  const Snapshot& snapshot_;
  const MatchingRows& matching_;
  const SearchPlan& plan_;
  const size_t threads_;
  const bool has_tier_;
  const bool is_cosine_;
  StagedCounts* counts_;
  Widths widths_;
  bool narrowed_ = false;  // the whole codes left rows out
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

Status Tile::Scan(size_t nq, size_t k) {
  const auto parts = matching_.Partition(threads_);
  if (work_.sets.size() < parts.size() * nq) work_.sets.resize(parts.size() * nq);
  std::vector<uint64_t> bytes(parts.size());
  const std::span<const PreparedQuery> queries(work_.queries.data(), nq);
  const std::span<CandidateSet> all_sets(work_.sets);
  QUASH_RETURN_IF_ERROR(ParallelFor(parts.size(), threads_, [&](size_t i) {
    const std::span<CandidateSet> sets = all_sets.subspan(i * nq, nq);
    for (size_t q = 0; q < nq; ++q) {
      ResetSet(queries[q], queries[q].scanned(), widths_, k, &sets[q]);
    }
    return ScanPlanes(snapshot_, matching_, parts[i], queries, widths_.planes, sets, &bytes[i]);
  }));
  for (size_t i = 1; i < parts.size(); ++i) {
    for (size_t q = 0; q < nq; ++q) work_.sets[q].Merge(std::move(work_.sets[i * nq + q]));
  }
  counts_->plane_scan.rows_in += nq * matching_.count();
  for (uint64_t read : bytes) counts_->plane_scan.bytes += read;
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
  if (work_.queries.size() < nq) work_.queries.resize(nq);
  for (size_t q = 0; q < nq; ++q) {
    work_.queries[q].Prepare(snapshot_, queries + q * snapshot_.spec->dim, widths_.planes,
                             PreparedQuery::Against::kPlanes);
  }
  QUASH_RETURN_IF_ERROR(Scan(nq, attempt.k));
  for (size_t q = 0; q < nq; ++q) {
    narrowed_ = false;
    QUASH_RETURN_IF_ERROR(ScoreSurvivors(work_.queries[q], &work_.sets[q], attempt.k, &hits[q]));
    complete[q] = hits[q].size() >= std::min<uint64_t>(plan_.k, matching_.count()) ||
                  (work_.sets[q].complete() && !narrowed_);
  }
  return Status();
}

Status Tile::ScoreSurvivors(const PreparedQuery& query, CandidateSet* set, size_t k,
                            std::vector<Hit>* hits) {
  const std::vector<Survivor>& survivors = set->Finish();
  counts_->plane_scan.rows_out += survivors.size();
  TopHits best(snapshot_, plan_);
  if (widths_.adaptive) {
    QUASH_RETURN_IF_ERROR(ScoreAdaptively(query, survivors, k, &best));
  } else if (has_tier_ && widths_.rerank_candidates != 0 &&
             survivors.size() > widths_.rerank_candidates) {
    QUASH_RETURN_IF_ERROR(NarrowByCodes(query, survivors, k, &best));
  } else {
    work_.rows.clear();
    for (const Survivor& s : survivors) work_.rows.push_back(s.row);
    QUASH_RETURN_IF_ERROR(ScoreRows(query, &best));
  }
  return best.Finish(hits);
}

// Final scores of work_.rows.
Status Tile::ScoreRows(const PreparedQuery& query, TopHits* best) {
  const std::vector<uint64_t>& rows = work_.rows;
  work_.scores.resize(rows.size());
  QUASH_RETURN_IF_ERROR(ScoreFinal(snapshot_, query, rows, threads_, work_.scores.data()));
  for (size_t i = 0; i < rows.size(); ++i) best->Push(work_.scores[i], rows[i]);
  counts_->final.rows_in += rows.size();
  counts_->final.bytes += rows.size() * FinalRowBytes(snapshot_);
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
Status Tile::ScoreAdaptively(const PreparedQuery& query, const std::vector<Survivor>& survivors,
                             size_t k, TopHits* best) {
  const size_t first = 2 * k + 16;
  const float upper = plan_.has_cursor ? plan_.cursor_score + query.offset() : kInfinity;
  std::vector<float>& estimates = work_.scores;
  estimates.clear();
  for (const Survivor& s : survivors) {
    if (s.estimate <= upper) estimates.push_back(s.estimate);
  }
  work_.rows.clear();
  std::vector<Survivor>& rest = work_.rest;
  rest.clear();
  if (estimates.size() <= first) {
    for (const Survivor& s : survivors) work_.rows.push_back(s.row);
    return ScoreRows(query, best);
  }
  std::nth_element(estimates.begin(), estimates.begin() + (first - 1), estimates.end(),
                   std::greater<>());
  const float least = estimates[first - 1];
  for (const Survivor& s : survivors) {
    if (s.estimate >= least && s.estimate <= upper) {
      work_.rows.push_back(s.row);
    } else {
      rest.push_back(s);
    }
  }
  QUASH_RETURN_IF_ERROR(ScoreRows(query, best));

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
    QUASH_RETURN_IF_ERROR(RefineWithPlane2(snapshot_, query, rest, &counts_->refine.bytes));
    drop_hopeless(query.two_planes());
    counts_->refine.rows_out += rest.size();
  }
  work_.rows.clear();
  for (const Survivor& s : rest) work_.rows.push_back(s.row);
  return ScoreRows(query, best);
}

// Whole codes choose which survivors are worth the rerank tier.
Status Tile::NarrowByCodes(const PreparedQuery& query, const std::vector<Survivor>& survivors,
                           size_t k, TopHits* best) {
  std::vector<uint64_t>& rows = work_.rows;
  rows.clear();
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
    set.Push({work_.scores[i] + query.offset(), work_.units[i], 0, rows[i]});
  }
  counts_->full_code.rows_in += rows.size();
  counts_->full_code.bytes += rows.size() * snapshot_.quantizer->layout().row_code_bytes();
  rows.clear();
  for (const Survivor& s : set.Finish()) rows.push_back(s.row);
  narrowed_ = !set.complete();
  counts_->full_code.rows_out += rows.size();
  return ScoreRows(query, best);
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
}

Status SearchStagedTile(const Snapshot& snapshot, const MatchingRows& matching,
                        const float* queries, size_t nq, const SearchPlan& plan, size_t threads,
                        std::vector<Hit>* hits, StagedCounts* counts) {
  Tile tile(snapshot, matching, plan, threads, counts);
  bool complete[kTileQueries];
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
