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
#include "libquashdb/executor_probe.h"
#include "libquashdb/executor_rows.h"
#include "libquashdb/recall_curve.h"
#include "libquashdb/row_reader.h"

namespace quash {
namespace {

constexpr uint64_t kNoRow = std::numeric_limits<uint64_t>::max();
constexpr size_t kQueriesPerCall = 16;  // where calls are not timed

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
  Measurement(const Snapshot& snapshot, const MeasureRequest& request, const Progress& progress)
      : snapshot_(snapshot), request_(request), progress_(progress), adaptive_(snapshot) {
    adaptive_.widths = SearchWidths();
    adaptive_.widths.recall_curve = snapshot.widths.recall_curve;
  }

  Status Prepare(uint64_t rounds);
  // The exact results, of one query at a time for `exact_us_`, else of several in
  // a pass, which is faster.
  Status FindTruth(bool timed);
  Status Run(MeasureReport* report);
  Status FindCurve(std::vector<RecallPoint>* curve);

 private:
  // What a search is measured with.
  struct Setting {
    SearchWidths widths;    // zeros: chosen
    double recall = 0;      // as in SearchPlan
    bool adaptive = false;  // not by the widths that the snapshot keeps
  };
  struct Outcome {
    std::vector<double> recalls;  // per query
    double recall = 0;            // mean
    double search_us = 0;
    double nprobe = 0;  // mean
    SearchWidths used;
  };
  struct Found {
    Setting setting;
    Outcome outcome;
  };

  SearchPlan Plan() const;
  Status SearchSome(size_t first, size_t n, const SearchPlan& plan, bool adaptive,
                    std::vector<std::vector<Hit>>* hits, SearchStats* stats);
  double RecallOfHits(size_t q, const std::vector<Hit>& hits) const;
  Status Evaluate(const Setting& setting, Outcome* outcome);
  Status EvaluateProbes(uint32_t nprobe, double* recall, uint64_t* lists);
  Status FindCandidates(const Setting& base, Found* found);
  Status FindForEveryRow(Found* found);
  Status FindRecall(Found* found, bool* reached);
  Status FindForTarget(MeasureReport* report, Outcome* outcome);
  SearchWidths WidthsInForce() const;

  const Snapshot& snapshot_;
  const MeasureRequest& request_;
  const Progress& progress_;
  std::vector<float> sampled_;
  const float* queries_ = nullptr;
  size_t nq_ = 0;
  std::vector<uint64_t> own_row_;  // [nq] left out of the results, or kNoRow
  std::vector<float> kth_score_;   // [nq] least score that counts as found
  std::vector<size_t> wanted_;     // [nq] results there are, at most k
  std::vector<double> exact_us_;
  uint64_t done_ = 0;
  uint64_t expected_ = 0;
  Snapshot adaptive_;  // without kept widths and target
};

//   rounds  of searches expected after the exact ones
Status Measurement::Prepare(uint64_t rounds) {
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
  expected_ = nq_ * (1 + rounds);
  return Status();
}

SearchPlan Measurement::Plan() const {
  SearchPlan plan;
  plan.k = request_.k + (request_.queries == nullptr ? 1 : 0);
  plan.threads = request_.threads;
  return plan;
}

// Searches for queries first .. first + n, in one call.
Status Measurement::SearchSome(size_t first, size_t n, const SearchPlan& plan, bool adaptive,
                               std::vector<std::vector<Hit>>* hits, SearchStats* stats) {
  if (progress_ && progress_(done_, std::max(expected_, done_ + n))) {
    return Error(QUASH_CANCELLED, "measuring was cancelled after {} searches", done_);
  }
  done_ += n;
  QUASH_RETURN_IF_ERROR(Search(adaptive ? adaptive_ : snapshot_,
                               queries_ + first * snapshot_.spec->dim, n, plan, hits, stats));
  for (size_t i = 0; i < n; ++i) {
    std::vector<Hit>& of_query = (*hits)[i];
    const uint64_t own_row = own_row_[first + i];
    if (own_row != kNoRow) {
      std::erase_if(of_query,
                    [&](const Hit& hit) { return RowIndex(hit.segment, hit.row) == own_row; });
    }
    if (of_query.size() > request_.k) of_query.resize(request_.k);
  }
  return Status();
}

Status Measurement::FindTruth(bool timed) {
  SearchPlan plan = Plan();
  // Untimed for the curve: a search of every row is near enough, and reads a few rows
  // of the tier instead of all.
  plan.exact = timed && snapshot_.spec->rerank != QUASH_RERANK_NONE;
  plan.recall = 1;
  const size_t share = timed ? 1 : kQueriesPerCall;
  for (size_t first = 0; first < nq_; first += share) {
    const size_t n = std::min(share, nq_ - first);
    std::vector<std::vector<Hit>> hits;
    SearchStats stats;
    QUASH_RETURN_IF_ERROR(SearchSome(first, n, plan, /*adaptive=*/true, &hits, &stats));
    for (const std::vector<Hit>& of_query : hits) {
      kth_score_.push_back(of_query.empty() ? 0 : of_query.back().score);
      wanted_.push_back(of_query.size());
    }
    if (timed) exact_us_.push_back(stats.elapsed_us);
  }
  return Status();
}

double Measurement::RecallOfHits(size_t q, const std::vector<Hit>& hits) const {
  if (wanted_[q] == 0) return 1;
  const auto found = std::count_if(hits.begin(), hits.end(),
                                   [&](const Hit& hit) { return hit.score >= kth_score_[q]; });
  return static_cast<double>(std::min<size_t>(found, wanted_[q])) / wanted_[q];
}

Status Measurement::Evaluate(const Setting& setting, Outcome* outcome) {
  *outcome = Outcome();
  SearchPlan plan = Plan();
  plan.widths = setting.widths;
  plan.recall = setting.recall;
  if (!setting.adaptive) plan.recall = RecallInForce(snapshot_, plan);
  std::vector<double> times, candidates, rerank_candidates;
  for (size_t q = 0; q < nq_; ++q) {
    std::vector<std::vector<Hit>> hits;
    SearchStats stats;
    QUASH_RETURN_IF_ERROR(SearchSome(q, 1, plan, setting.adaptive, &hits, &stats));
    outcome->recalls.push_back(RecallOfHits(q, hits[0]));
    outcome->recall += outcome->recalls.back();
    times.push_back(stats.elapsed_us);
    candidates.push_back(stats.widths.candidates);
    rerank_candidates.push_back(stats.widths.rerank_candidates);
    outcome->nprobe += stats.nprobe;
    outcome->used.planes = stats.widths.planes;
  }
  outcome->recall /= nq_;
  outcome->nprobe /= nq_;
  outcome->search_us = Median(std::move(times));
  outcome->used.candidates = static_cast<uint32_t>(Median(std::move(candidates)));
  outcome->used.rerank_candidates = static_cast<uint32_t>(Median(std::move(rerank_candidates)));
  return Status();
}

// Mean recall of adaptive searches of `nprobe` lists.
//   lists  out: of the index, 0 if it was not used
Status Measurement::EvaluateProbes(uint32_t nprobe, double* recall, uint64_t* lists) {
  SearchPlan plan = Plan();
  plan.nprobe = nprobe;
  *recall = 0;
  for (size_t first = 0; first < nq_; first += kQueriesPerCall) {
    const size_t n = std::min(kQueriesPerCall, nq_ - first);
    std::vector<std::vector<Hit>> hits;
    SearchStats stats;
    QUASH_RETURN_IF_ERROR(SearchSome(first, n, plan, /*adaptive=*/true, &hits, &stats));
    *lists = stats.lists;
    if (stats.lists == 0) return Status();
    for (size_t i = 0; i < n; ++i) *recall += RecallOfHits(first + i, hits[i]) / nq_;
  }
  return Status();
}

Status Measurement::FindCurve(std::vector<RecallPoint>* curve) {
  constexpr double kFlat = 0.9995;  // no more lists are tried
  curve->clear();
  const auto refuse = [&] {
    return Error(QUASH_UNSUPPORTED, "\"{}\" has no partition index that searches use",
                 snapshot_.spec->name);
  };
  if (snapshot_.partitions == nullptr) return refuse();
  uint64_t lists = 1;
  for (uint64_t nprobe = 1; nprobe <= lists;) {
    double recall = 0;
    QUASH_RETURN_IF_ERROR(EvaluateProbes(static_cast<uint32_t>(nprobe), &recall, &lists));
    if (lists == 0) return refuse();
    // More lists cannot lose rows: what falls is noise of the stages behind.
    if (!curve->empty()) recall = std::max<double>(recall, curve->back().recall);
    curve->push_back({static_cast<uint32_t>(nprobe), static_cast<float>(recall)});
    // Beyond that share searches read every row instead.
    if (recall >= kFlat || static_cast<double>(nprobe) >= kMostProbed * static_cast<double>(lists)) {
      break;
    }
    const double step = recall > 0.8 && recall < 0.999 ? std::sqrt(2.0) : 2.0;
    const auto next = static_cast<uint64_t>(std::llround(nprobe * step));
    nprobe = std::min(std::max(nprobe + 1, next), lists);
  }
  return Status();
}

// The fewest candidates that reach the target with base.widths.planes, to about 5 %.
Status Measurement::FindCandidates(const Setting& base, Found* found) {
  const auto evaluate = [&](uint32_t candidates, Outcome* result) {
    found->setting = base;
    found->setting.widths.candidates = found->setting.widths.rerank_candidates = candidates;
    return Evaluate(found->setting, result);
  };
  Outcome* outcome = &found->outcome;
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
  found->setting.widths.candidates = found->setting.widths.rerank_candidates = enough;
  return Status();
}

Status Measurement::FindForEveryRow(Found* found) {
  Setting base;
  base.recall = 1;
  base.widths.planes = 1;
  QUASH_RETURN_IF_ERROR(FindCandidates(base, found));
  if (snapshot_.spec->bits < 2) return Status();
  base.widths.planes = 2;
  Found other;
  QUASH_RETURN_IF_ERROR(FindCandidates(base, &other));
  const bool reaches = other.outcome.recall >= request_.target_recall;
  if (reaches && (found->outcome.recall < request_.target_recall ||
                  other.outcome.search_us < found->outcome.search_us)) {
    *found = std::move(other);
  }
  return Status();
}

// The least recall to ask for, to about 5 % of what it leaves out, with which the
// search reaches the target: it decides how many lists are probed and how wide the
// stages are. *reached false: none below 1 does.
Status Measurement::FindRecall(Found* found, bool* reached) {
  double enough = 1, too_little = 0;
  double next = std::min(request_.target_recall, 0.9999);
  for (int round = 0; round < 12; ++round) {
    Found tried;
    tried.setting.recall = next;
    tried.setting.adaptive = true;
    QUASH_RETURN_IF_ERROR(Evaluate(tried.setting, &tried.outcome));
    if (tried.outcome.recall >= request_.target_recall) {
      enough = next;
      *found = std::move(tried);
    } else {
      too_little = next;
    }
    if (enough - too_little <= std::max(0.05 * (1 - enough), 0.002)) break;
    next = enough == 1 ? 1 - (1 - too_little) / 2 : (enough + too_little) / 2;
    if (next > 0.9999) break;
  }
  *reached = enough < 1;
  return Status();
}

// With a partition index, by recall; without one, or where no number of lists
// reaches the target, by narrow widths over every row.
Status Measurement::FindForTarget(MeasureReport* report, Outcome* outcome) {
  Found best;
  bool reached = false;
  std::vector<RecallPoint> curve;
  // A GPU scans every row.
  const bool probes = snapshot_.gpu == nullptr && snapshot_.partitions != nullptr;
  if (probes) {
    const Status status = FindCurve(&curve);
    if (!status.ok() && status.code() != QUASH_UNSUPPORTED) return status;
    if (status.ok()) {
      adaptive_.widths.recall_curve = curve;
      QUASH_RETURN_IF_ERROR(FindRecall(&best, &reached));
    }
  }
  if (!reached) {
    best = Found();
    QUASH_RETURN_IF_ERROR(FindForEveryRow(&best));
  }
  report->keep = best.setting.widths;
  report->keep.recall_curve = std::move(curve);
  report->keep.recall_target = probes ? best.setting.recall : snapshot_.widths.recall_target;
  report->widths = best.setting.adaptive ? best.outcome.used : best.setting.widths;
  *outcome = std::move(best.outcome);
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
  widths.recall_curve.clear();  // may be older than the collection's by now
  if (!chosen.adaptive) {
    widths.candidates = static_cast<uint32_t>(chosen.capacity);
    widths.rerank_candidates = static_cast<uint32_t>(chosen.rerank_candidates);
  }
  return widths;
}

Status Measurement::Run(MeasureReport* report) {
  Outcome outcome;
  if (request_.target_recall > 0) {
    QUASH_RETURN_IF_ERROR(FindForTarget(report, &outcome));
  } else {
    QUASH_RETURN_IF_ERROR(Evaluate(Setting(), &outcome));
    report->widths = outcome.used;
    report->keep = WidthsInForce();
  }
  report->recall = outcome.recall;
  report->recall_low = LowEnd(outcome.recalls, outcome.recall, request_.k);
  report->exact_us = Median(exact_us_);
  report->search_us = outcome.search_us;
  report->queries = nq_;
  report->nprobe = static_cast<uint64_t>(std::llround(outcome.nprobe));
  for (SearchWidths* widths : {&report->widths, &report->keep}) {
    widths->measured_k = static_cast<uint32_t>(request_.k);
    widths->measured_recall = outcome.recall;
  }
  return Status();
}

Status CheckRequest(const Snapshot& snapshot, const MeasureRequest& request) {
  if (snapshot.live_rows == 0) {
    return Error(QUASH_INVALID, "\"{}\" is empty, expected rows to measure", snapshot.spec->name);
  }
  if (request.k == 0) return Error(QUASH_INVALID, "k is 0, expected 1 to {}", QUASH_K_MAX);
  return Status();
}

}  // namespace

Status Measure(const Snapshot& snapshot, const MeasureRequest& request, const Progress& progress,
               MeasureReport* report) {
  if (snapshot.spec->rerank == QUASH_RERANK_NONE) {
    return Error(QUASH_INVALID, "measuring needs a rerank tier, \"{}\" has rerank none",
                 snapshot.spec->name);
  }
  QUASH_RETURN_IF_ERROR(CheckRequest(snapshot, request));
  if (!(request.target_recall >= 0 && request.target_recall <= 1)) {
    return Error(QUASH_INVALID, "target_recall is {}, expected 0 to 1", request.target_recall);
  }
  // Doubling and bisecting take about ten rounds for each number of planes or lists.
  const uint64_t rounds =
      request.target_recall == 0 ? 1 : snapshot.partitions == nullptr ? 20 : 40;
  Measurement measurement(snapshot, request, progress);
  QUASH_RETURN_IF_ERROR(measurement.Prepare(rounds));
  QUASH_RETURN_IF_ERROR(measurement.FindTruth(/*timed=*/true));
  MeasureReport result;
  QUASH_RETURN_IF_ERROR(measurement.Run(&result));
  *report = std::move(result);
  return Status();
}

Status MeasureRecallCurve(const Snapshot& snapshot, const MeasureRequest& request,
                          const Progress& progress, std::vector<RecallPoint>* curve) {
  QUASH_RETURN_IF_ERROR(CheckRequest(snapshot, request));
  if (snapshot.partitions == nullptr) {
    return Error(QUASH_UNSUPPORTED, "\"{}\" has no partition index", snapshot.spec->name);
  }
  Measurement measurement(snapshot, request, progress);
  QUASH_RETURN_IF_ERROR(measurement.Prepare(/*rounds=*/15));
  QUASH_RETURN_IF_ERROR(measurement.FindTruth(/*timed=*/false));
  std::vector<RecallPoint> result;
  QUASH_RETURN_IF_ERROR(measurement.FindCurve(&result));
  *curve = std::move(result);
  return Status();
}

}  // namespace quash
