#include "libquashdb/executor_rerank.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "libquashdb/executor_exact.h"
#include "libquashdb/executor_score.h"

namespace quash {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

void ResetSet(const Snapshot& snapshot, const SearchPlan& plan, const PreparedQuery& query,
              const PrefixModel& model, const Widths& widths, size_t k, CandidateSet* set) {
  const float lower = plan.min_score == -std::numeric_limits<double>::infinity()
                          ? -kInfinity
                          : static_cast<float>(plan.min_score) + query.offset();
  const float upper = plan.has_cursor ? plan.cursor_score + query.offset() : kInfinity;
  set->Reset(query, model, widths, k, lower, upper, snapshot.spec->metric == QUASH_METRIC_COSINE);
}

void Reranker::Scratch::Trim() {
  constexpr size_t kKeptRows = 1 << 16;
  if (rest.capacity() > kKeptRows) rest = {};
  if (rows.capacity() > kKeptRows) rows = {};
  if (found.capacity() > kKeptRows) found = {};
  if (scores.capacity() > kKeptRows) scores = {};
  if (units.capacity() > kKeptRows) units = {};
}

Status Reranker::Run(const std::vector<Survivor>& survivors, std::vector<Hit>* hits) {
  counts_->plane_scan.rows_out += survivors.size();
  if (has_tier_ && gpu_ == nullptr) FetchPlaces(survivors);
  TopHits best(snapshot_, plan_);
  if (widths_.adaptive) {
    QUASH_RETURN_IF_ERROR(ScoreAdaptively(survivors, &best));
  } else if (has_tier_ && widths_.rerank_candidates != 0 &&
             survivors.size() > widths_.rerank_candidates) {
    QUASH_RETURN_IF_ERROR(NarrowByCodes(survivors, &best));
  } else {
    ClearRows();
    for (const Survivor& s : survivors) TakeRow(s);
    QUASH_RETURN_IF_ERROR(ScoreRows(&best));
  }
  return best.Finish(hits);
}

// Most survivors will be scored by their row of the tier: what tells where it lies comes
// into the caches while they are sorted out.
void Reranker::FetchPlaces(const std::vector<Survivor>& survivors) const {
  constexpr size_t kMost = 256;
  for (size_t i = 0; i < std::min(survivors.size(), kMost); ++i) {
    const uint64_t row = survivors[i].row;
    snapshot_.segments[SegmentOf(row)].segment->FetchPlaceOfRow(RowOf(row));
  }
}

// Final scores of scratch_.rows, those that the GPU has from there.
Status Reranker::ScoreRows(TopHits* best) {
  const std::vector<uint64_t>& rows = scratch_.rows;
  scratch_.scores.resize(rows.size());
  if (gpu_ == nullptr || !gpu_->has_final()) {
    QUASH_RETURN_IF_ERROR(ScoreFinal(snapshot_, query_, rows, threads_, scratch_.scores.data()));
  } else {
    std::vector<uint64_t> others;  // of the tail, and of segments that are not resident
    for (size_t i = 0; i < rows.size(); ++i) {
      if (scratch_.found[i] == kNotOnGpu) {
        others.push_back(rows[i]);
      } else {
        scratch_.scores[i] = gpu_->FinalScore(q_, query_, scratch_.found[i]);
      }
    }
    std::vector<float> scores(others.size());
    QUASH_RETURN_IF_ERROR(ScoreFinal(snapshot_, query_, others, threads_, scores.data()));
    for (size_t i = 0, other = 0; i < rows.size() && other < others.size(); ++i) {
      if (scratch_.found[i] == kNotOnGpu) scratch_.scores[i] = scores[other++];
    }
  }
  for (size_t i = 0; i < rows.size(); ++i) best->Push(scratch_.scores[i], rows[i]);
  counts_->final.rows_in += rows.size();
  counts_->final.bytes += rows.size() * FinalRowBytes(snapshot_);
  return Status();
}

// Estimates of two planes instead of one.
Status Reranker::Refine(std::vector<Survivor>* rows) {
  uint64_t* bytes = &counts_->refine.bytes;
  if (gpu_ == nullptr || !gpu_->has_plane2()) {
    return RefineWithPlane2(snapshot_, query_, *rows, bytes);
  }
  std::vector<Survivor> others;
  for (Survivor& s : *rows) {
    if (s.found == kNotOnGpu) {
      others.push_back(s);
    } else {
      gpu_->Refine(q_, query_, &s);
      *bytes += snapshot_.quantizer->layout().plane_bytes();
    }
  }
  QUASH_RETURN_IF_ERROR(RefineWithPlane2(snapshot_, query_, others, bytes));
  size_t other = 0;
  for (Survivor& s : *rows) {
    if (s.found == kNotOnGpu) s = others[other++];
  }
  return Status();
}

bool CanRefine(const Snapshot& snapshot, const Widths& widths) {
  const bool has_tier = snapshot.spec->rerank != QUASH_RERANK_NONE;
  return widths.planes == 1 && !widths.coded && snapshot.spec->bits >= (has_tier ? 2 : 3);
}

// A refining pass reads whole blocks; a final score reads one row, with a cache
// miss or more, and whole codes lie scattered over their block.
RefineCosts RefineCostsOf(const Snapshot& snapshot) {
  constexpr uint64_t kRowOverheadBytes = 512;  // of a final score, in time
  const CodeLayout& layout = snapshot.quantizer->layout();
  const bool has_tier = snapshot.spec->rerank != QUASH_RERANK_NONE;
  return {.block = kRowOverheadBytes + layout.block_bytes() / 2,
          .row = kRowOverheadBytes +
                 (has_tier ? FinalRowBytes(snapshot) : 64 * layout.plane_bytes())};
}

bool Reranker::RefinePays(const std::vector<Survivor>& rows) const {
  if (!CanRefine(snapshot_, widths_) || rows.size() < kLeastRefined) return false;
  size_t blocks = 0;
  uint64_t last = std::numeric_limits<uint64_t>::max();
  for (const Survivor& s : rows) {
    blocks += s.row / kBlockRows != last;
    last = s.row / kBlockRows;
  }
  const RefineCosts costs = RefineCostsOf(snapshot_);
  return blocks * costs.block < rows.size() * costs.row;
}

// The best few by estimate give a k-th final score; of the rest only rows that
// may still reach it are scored.
Status Reranker::ScoreAdaptively(const std::vector<Survivor>& survivors, TopHits* best) {
  // Whole codes leave little doubt about the order.
  const size_t first = widths_.coded ? k_ + 6 : FirstScored(k_);
  const float upper = plan_.has_cursor ? plan_.cursor_score + query_.offset() : kInfinity;
  std::vector<float>& estimates = scratch_.scores;
  estimates.clear();
  for (const Survivor& s : survivors) {
    if (s.estimate <= upper) estimates.push_back(s.estimate);
  }
  ClearRows();
  std::vector<Survivor>& rest = scratch_.rest;
  rest.clear();
  if (estimates.size() <= first) {
    for (const Survivor& s : survivors) TakeRow(s);
    return ScoreRows(best);
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
  QUASH_RETURN_IF_ERROR(ScoreRows(best));

  KthBest kth;
  kth.Reset(k_);
  for (float score : scratch_.scores) {
    if (!plan_.has_cursor || score < plan_.cursor_score) kth.Push(score);
  }
  kth.Finish();
  const float reach = kth.threshold() + query_.offset();
  const float shrink = is_cosine_ ? CosineShrink(reach) : 1;
  const auto drop_hopeless = [&](const PrefixModel& model) {
    const float margin = shrink * model.Margin(kRerankSigmas * widths_.margin_scale);
    std::erase_if(rest, [&](const Survivor& s) { return s.estimate + margin * s.unit < reach; });
  };
  drop_hopeless(widths_.coded ? query_.full() : query_.scanned());
  if (RefinePays(rest)) {
    counts_->refine.rows_in += rest.size();
    QUASH_RETURN_IF_ERROR(Refine(&rest));
    drop_hopeless(query_.two_planes());
    counts_->refine.rows_out += rest.size();
  }
  ClearRows();
  for (const Survivor& s : rest) TakeRow(s);
  return ScoreRows(best);
}

// Whole codes choose which survivors are worth the rerank tier.
Status Reranker::NarrowByCodes(const std::vector<Survivor>& survivors, TopHits* best) {
  std::vector<uint64_t>& rows = scratch_.rows;
  ClearRows();
  for (const Survivor& s : survivors) rows.push_back(s.row);
  scratch_.scores.resize(rows.size());
  scratch_.units.resize(rows.size());
  QUASH_RETURN_IF_ERROR(
      ScoreFromCodes(snapshot_, query_, rows, scratch_.scores.data(), scratch_.units.data()));
  CandidateSet set;
  Widths widths = widths_;
  widths.capacity = widths_.rerank_candidates;
  ResetSet(snapshot_, plan_, query_, query_.full(), widths, k_, &set);
  for (size_t i = 0; i < rows.size(); ++i) {
    set.Push({.estimate = scratch_.scores[i] + query_.offset(),
              .unit = scratch_.units[i],
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
  return ScoreRows(best);
}

}  // namespace quash
