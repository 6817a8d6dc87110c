#include "libquashdb/measure.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include "libquashdb/executor.h"
#include "libquashdb/executor_plan.h"
#include "libquashdb/executor_rows.h"
#include "libquashdb/row_reader.h"

namespace quash {
namespace {

constexpr uint64_t kNoRow = std::numeric_limits<uint64_t>::max();

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  const size_t middle = values.size() / 2;
  std::nth_element(values.begin(), values.begin() + middle, values.end());
  return values[middle];
}

// Distinct live rows, uniform, ascending.
std::vector<uint64_t> SampleRows(const Snapshot& snapshot, size_t sample, uint64_t seed) {
  const uint64_t live = snapshot.live_rows;
  sample = std::min<uint64_t>(sample, live);
  std::mt19937_64 random(seed);
  std::set<uint64_t> ranks;  // Floyd's algorithm
  for (uint64_t j = live - sample; j < live; ++j) {
    const uint64_t rank = random() % (j + 1);
    if (!ranks.insert(rank).second) ranks.insert(j);
  }
  std::vector<uint64_t> rows;
  auto next = ranks.begin();
  uint64_t passed = 0;
  for (uint32_t i = 0; i < snapshot.segments.size() && next != ranks.end(); ++i) {
    const SegmentView& view = snapshot.segments[i];
    for (uint32_t b = 0; b < view.live->size() && next != ranks.end(); ++b) {
      uint32_t word = (*view.live)[b];
      const uint64_t after = passed + std::popcount(word);
      for (uint64_t rank = passed; next != ranks.end() && *next < after; ++rank) {
        if (rank == *next) {
          rows.push_back(RowIndex(i, b * kBlockRows + std::countr_zero(word)));
          ++next;
        }
        word &= word - 1;
      }
      passed = after;
    }
  }
  return rows;
}

class Measurement {
 public:
  Measurement(const Snapshot& snapshot, const MeasureRequest& request,
              const std::function<bool(uint64_t, uint64_t)>& progress)
      : snapshot_(snapshot), request_(request), progress_(progress) {}

  Status Prepare();
  Status Run(MeasureReport* report);

 private:
  struct Outcome {
    std::vector<double> recalls;  // per query
    double recall = 0;            // mean
    double search_us = 0;
    SearchWidths used;
  };

  Status SearchOne(size_t q, const SearchPlan& plan, std::vector<Hit>* hits, SearchStats* stats);
  Status FindTruth();
  Status Evaluate(const SearchWidths& widths, Outcome* outcome);
  Status FindCandidates(uint32_t planes, SearchWidths* widths, Outcome* outcome);
  SearchWidths WidthsInForce() const;

  const Snapshot& snapshot_;
  const MeasureRequest& request_;
  const std::function<bool(uint64_t, uint64_t)>& progress_;
  std::vector<float> sampled_;
  const float* queries_ = nullptr;
  size_t nq_ = 0;
  std::vector<uint64_t> own_row_;  // [nq] left out of the results, or kNoRow
  std::vector<float> kth_score_;   // [nq] least score that counts as found
  std::vector<size_t> wanted_;     // [nq] results there are, at most k
  std::vector<double> exact_us_;
  uint64_t done_ = 0;
  uint64_t expected_ = 0;
};

Status Measurement::Prepare() {
  if (request_.queries != nullptr) {
    queries_ = request_.queries;
    nq_ = request_.nq;
    own_row_.assign(nq_, kNoRow);
  } else {
    own_row_ = SampleRows(snapshot_, request_.sample, request_.seed);
    nq_ = own_row_.size();
    const size_t dim = snapshot_.spec->dim;
    sampled_.resize(nq_ * dim);
    for (size_t q = 0; q < nq_; ++q) {
      QUASH_RETURN_IF_ERROR(ReadVector(snapshot_, SegmentOf(own_row_[q]), RowOf(own_row_[q]),
                                       sampled_.data() + q * dim));
    }
    queries_ = sampled_.data();
  }
  if (nq_ == 0) return Error(QUASH_INVALID, "no queries to measure with, expected at least 1");
  // Doubling and bisecting take about ten rounds for each number of planes.
  const uint64_t rounds = request_.target_recall > 0 ? 20 : 1;
  expected_ = nq_ * (1 + rounds);
  return Status();
}

Status Measurement::SearchOne(size_t q, const SearchPlan& plan, std::vector<Hit>* hits,
                              SearchStats* stats) {
  if (progress_ && progress_(done_, std::max(expected_, done_ + 1))) {
    return Error(QUASH_CANCELLED, "measuring was cancelled after {} searches", done_);
  }
  ++done_;
  std::vector<std::vector<Hit>> lists;
  QUASH_RETURN_IF_ERROR(
      Search(snapshot_, queries_ + q * snapshot_.spec->dim, 1, plan, &lists, stats));
  *hits = std::move(lists[0]);
  if (own_row_[q] != kNoRow) {
    std::erase_if(*hits,
                  [&](const Hit& hit) { return RowIndex(hit.segment, hit.row) == own_row_[q]; });
  }
  if (hits->size() > request_.k) hits->resize(request_.k);
  return Status();
}

Status Measurement::FindTruth() {
  SearchPlan plan;
  plan.k = request_.k + (request_.queries == nullptr ? 1 : 0);
  plan.exact = true;
  plan.threads = request_.threads;
  for (size_t q = 0; q < nq_; ++q) {
    std::vector<Hit> hits;
    SearchStats stats;
    QUASH_RETURN_IF_ERROR(SearchOne(q, plan, &hits, &stats));
    kth_score_.push_back(hits.empty() ? 0 : hits.back().score);
    wanted_.push_back(hits.size());
    exact_us_.push_back(stats.elapsed_us);
  }
  return Status();
}

Status Measurement::Evaluate(const SearchWidths& widths, Outcome* outcome) {
  *outcome = Outcome();
  SearchPlan plan;
  plan.k = request_.k + (request_.queries == nullptr ? 1 : 0);
  plan.widths = widths;
  plan.threads = request_.threads;
  std::vector<double> times, candidates, rerank_candidates;
  for (size_t q = 0; q < nq_; ++q) {
    std::vector<Hit> hits;
    SearchStats stats;
    QUASH_RETURN_IF_ERROR(SearchOne(q, plan, &hits, &stats));
    const auto found = std::count_if(hits.begin(), hits.end(),
                                     [&](const Hit& hit) { return hit.score >= kth_score_[q]; });
    const double recall =
        wanted_[q] == 0 ? 1.0
                        : static_cast<double>(std::min<size_t>(found, wanted_[q])) / wanted_[q];
    outcome->recalls.push_back(recall);
    outcome->recall += recall;
    times.push_back(stats.elapsed_us);
    candidates.push_back(stats.widths.candidates);
    rerank_candidates.push_back(stats.widths.rerank_candidates);
    outcome->used.planes = stats.widths.planes;
  }
  outcome->recall /= nq_;
  outcome->search_us = Median(std::move(times));
  outcome->used.candidates = static_cast<uint32_t>(Median(std::move(candidates)));
  outcome->used.rerank_candidates = static_cast<uint32_t>(Median(std::move(rerank_candidates)));
  return Status();
}

// The fewest candidates that reach the target, to about 5 %.
Status Measurement::FindCandidates(uint32_t planes, SearchWidths* widths, Outcome* outcome) {
  const auto evaluate = [&](uint32_t candidates, Outcome* result) {
    *widths = SearchWidths();
    widths->candidates = widths->rerank_candidates = candidates;
    widths->planes = planes;
    return Evaluate(*widths, result);
  };
  const auto all = static_cast<uint32_t>(
      std::min<uint64_t>(snapshot_.live_rows, std::numeric_limits<uint32_t>::max()));
  uint32_t enough = static_cast<uint32_t>(request_.k) + 1;
  uint32_t too_few = enough - 1;
  QUASH_RETURN_IF_ERROR(evaluate(enough, outcome));
  while (outcome->recall < request_.target_recall && enough < all) {
    too_few = enough;
    enough = enough < all / 2 ? 2 * enough : all;
    QUASH_RETURN_IF_ERROR(evaluate(enough, outcome));
  }
  while (enough - too_few > std::max(1u, enough / 20)) {
    const uint32_t middle = too_few + (enough - too_few) / 2;
    Outcome tried;
    QUASH_RETURN_IF_ERROR(evaluate(middle, &tried));
    if (tried.recall < request_.target_recall) {
      too_few = middle;
    } else {
      enough = middle;
      *outcome = std::move(tried);
    }
  }
  widths->candidates = widths->rerank_candidates = enough;
  return Status();
}

// Lower end of the 95 % Wilson interval, with as many trials as give the
// spread seen between queries: neighbours of one query are not independent.
double LowEnd(const std::vector<double>& recalls, double mean, size_t k) {
  const auto n = static_cast<double>(recalls.size());
  double variance = 0;
  for (double recall : recalls) variance += (recall - mean) * (recall - mean) / n;
  double trials = n;
  if (variance > 0) trials = std::min(n * k, n * mean * (1 - mean) / variance);
  constexpr double kZ = 1.96;
  const double z2 = kZ * kZ / trials;
  const double low = (mean + z2 / 2 - std::sqrt(z2 * (mean * (1 - mean) + z2 / 4))) / (1 + z2);
  return std::clamp(low, 0.0, mean);
}

// What a search without widths of its own would use, in terms of this k.
SearchWidths Measurement::WidthsInForce() const {
  SearchPlan plan;
  plan.k = request_.k;
  const Widths chosen = ChooseWidths(snapshot_, plan, plan.k);
  SearchWidths widths = snapshot_.widths;
  if (!chosen.adaptive) {
    widths.candidates = static_cast<uint32_t>(chosen.capacity);
    widths.rerank_candidates = static_cast<uint32_t>(chosen.rerank_candidates);
  }
  return widths;
}

Status Measurement::Run(MeasureReport* report) {
  QUASH_RETURN_IF_ERROR(FindTruth());
  Outcome outcome;
  if (request_.target_recall > 0) {
    QUASH_RETURN_IF_ERROR(FindCandidates(1, &report->widths, &outcome));
    if (snapshot_.spec->bits >= 2) {
      SearchWidths two_planes;
      Outcome other;
      QUASH_RETURN_IF_ERROR(FindCandidates(2, &two_planes, &other));
      const bool reaches = other.recall >= request_.target_recall;
      if (reaches &&
          (outcome.recall < request_.target_recall || other.search_us < outcome.search_us)) {
        report->widths = two_planes;
        outcome = std::move(other);
      }
    }
    report->keep = report->widths;
  } else {
    QUASH_RETURN_IF_ERROR(Evaluate(SearchWidths(), &outcome));
    report->widths = outcome.used;
    report->keep = WidthsInForce();
  }
  report->recall = outcome.recall;
  report->recall_low = LowEnd(outcome.recalls, outcome.recall, request_.k);
  report->exact_us = Median(exact_us_);
  report->search_us = outcome.search_us;
  report->queries = nq_;
  for (SearchWidths* widths : {&report->widths, &report->keep}) {
    widths->measured_k = static_cast<uint32_t>(request_.k);
    widths->measured_recall = outcome.recall;
  }
  return Status();
}

}  // namespace

Status Measure(const Snapshot& snapshot, const MeasureRequest& request,
               const std::function<bool(uint64_t, uint64_t)>& progress, MeasureReport* report) {
  if (snapshot.spec->rerank == QUASH_RERANK_NONE) {
    return Error(QUASH_INVALID, "measuring needs a rerank tier, \"{}\" has rerank none",
                 snapshot.spec->name);
  }
  if (snapshot.live_rows == 0) {
    return Error(QUASH_INVALID, "\"{}\" is empty, expected rows to measure", snapshot.spec->name);
  }
  if (request.k == 0) return Error(QUASH_INVALID, "k is 0, expected 1 to {}", QUASH_K_MAX);
  if (!(request.target_recall >= 0 && request.target_recall <= 1)) {
    return Error(QUASH_INVALID, "target_recall is {}, expected 0 to 1", request.target_recall);
  }
  Measurement measurement(snapshot, request, progress);
  QUASH_RETURN_IF_ERROR(measurement.Prepare());
  MeasureReport result;
  QUASH_RETURN_IF_ERROR(measurement.Run(&result));
  *report = result;
  return Status();
}

}  // namespace quash
