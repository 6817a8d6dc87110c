#include "libquashdb/executor_candidates.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace quash {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

void KthBest::Reset(size_t k) {
  k_ = k;
  threshold_ = -kInfinity;
  scores_.clear();
}

void KthBest::Shrink() {
  std::nth_element(scores_.begin(), scores_.begin() + (k_ - 1), scores_.end(), std::greater<>());
  Raise(scores_[k_ - 1]);
  scores_.resize(k_);
}

void KthBest::PushAll(std::span<const float> scores) {
  // Of interleaved groups the k-th best of their best is not above the k-th best of all,
  // and what is above it is in fewer than k groups.
  constexpr size_t kGroups = 64;
  const size_t grouped = scores.size() / kGroups * kGroups;
  if (k_ <= kGroups / 4 && grouped >= 4 * kGroups) {
    float best[kGroups], ordered[kGroups];
    std::copy_n(scores.begin(), kGroups, best);
    for (size_t i = kGroups; i < grouped; i += kGroups) {
      const float* row = scores.data() + i;
      for (size_t group = 0; group < kGroups; ++group) {
        best[group] = row[group] > best[group] ? row[group] : best[group];
      }
    }
    std::copy_n(best, kGroups, ordered);
    std::nth_element(ordered, ordered + (k_ - 1), ordered + kGroups, std::greater<>());
    Raise(ordered[k_ - 1]);
    for (size_t group = 0; group < kGroups; ++group) {
      for (size_t i = group; best[group] > threshold_ && i < grouped; i += kGroups) {
        Push(scores[i]);
      }
    }
    scores = scores.subspan(grouped);
  }
  for (float score : scores) Push(score);
  Finish();
}

void KthBest::Merge(const KthBest& other) {
  Raise(other.threshold_);
  for (float score : other.scores_) Push(score);
}

void KthBest::Finish() {
  if (scores_.size() >= k_) Shrink();
}

void CandidateSet::Reset(const PreparedQuery& query, const PrefixModel& model, const Widths& widths,
                         size_t k, float lower, float upper, bool is_cosine) {
  adaptive_ = widths.adaptive;
  is_cosine_ = is_cosine;
  capacity_ = widths.capacity;
  lower_ = lower;
  upper_ = upper;
  bound_margin_ = model.Margin(kBoundSigmas);
  // Unit vectors have nearly equal scales: one slack for all keeps the order
  // by estimate. Otherwise a row's margin grows with its norm.
  const float margin = model.Margin(kScanSigmas * widths.margin_scale);
  key_margin_ = adaptive_ && !is_cosine ? margin : 0;
  slack_ = adaptive_ && is_cosine ? margin * model.typical_scale : 0;
  collect_margin_ = lower_ > -kInfinity ? std::max(key_margin_, bound_margin_) : key_margin_;
  slop_ = query.offset();
  floor_ = -kInfinity;
  cut_ = -kInfinity;
  complete_ = true;
  kth_.Reset(k);
  expected_.Reset(k);
  rows_.clear();
  above_.clear();
}

bool CandidateSet::expects() const {
  return adaptive_ && lower_ == -kInfinity && !has_upper();
}

void CandidateSet::Expect(std::span<const float> best) {
  expected_.PushAll(best);
  kth_.Raise(expected_.threshold());
  UpdateFloor();
}

void CandidateSet::UpdateFloor() {
  floor_ = kth_.threshold();
  if (!is_cosine_ || floor_ == -kInfinity) return;
  floor_ -= slack_ * CosineShrink(floor_);
}

float CandidateSet::threshold() const {
  float threshold = std::max(lower_, floor_);
  if (!adaptive_) threshold = std::max(threshold, cut_);
  // collect() adds in another order than Push().
  return threshold - 1e-6f * (std::fabs(threshold) + slop_);
}

void CandidateSet::Push(const Survivor& survivor) {
  const float bound = bound_margin_ * survivor.unit;
  if (survivor.estimate + bound < lower_) return;
  if (survivor.estimate > upper_) {
    if (survivor.estimate - bound <= upper_) above_.push_back(survivor);
    return;
  }
  if (adaptive_) {
    if (kth_.Push(survivor.estimate)) UpdateFloor();
    if (Key(survivor) < floor_) {
      complete_ = false;
      return;
    }
  }
  if (Key(survivor) < cut_) {
    complete_ = false;
    return;
  }
  rows_.push_back(survivor);
  if (rows_.size() >= 2 * capacity_) Shrink(capacity_);
}

// Applies the floor, then keeps the best `limit` by key, ties to the lower row.
void CandidateSet::Shrink(size_t limit) {
  if (floor_ > -kInfinity &&
      std::erase_if(rows_, [&](const Survivor& s) { return Key(s) < floor_; }) != 0) {
    complete_ = false;
  }
  if (rows_.size() <= limit) return;
  const auto better = [&](const Survivor& a, const Survivor& b) {
    const float key_a = Key(a), key_b = Key(b);
    return key_a != key_b ? key_a > key_b : a.row < b.row;
  };
  std::nth_element(rows_.begin(), rows_.begin() + (limit - 1), rows_.end(), better);
  cut_ = Key(rows_[limit - 1]);
  rows_.resize(limit);
  complete_ = false;
}

void CandidateSet::Merge(CandidateSet&& other) {
  complete_ = complete_ && other.complete_;
  kth_.Merge(other.kth_);
  cut_ = std::max(cut_, other.cut_);
  above_.insert(above_.end(), other.above_.begin(), other.above_.end());
  rows_.insert(rows_.end(), other.rows_.begin(), other.rows_.end());
}

const std::vector<Survivor>& CandidateSet::Finish() {
  kth_.Finish();
  if (adaptive_) UpdateFloor();
  Shrink(capacity_);
  // collect() drops rows below a floor that exceeds the caller's bound unseen.
  if (floor_ > lower_) complete_ = false;
  rows_.insert(rows_.end(), above_.begin(), above_.end());
  const auto by_row = [](const Survivor& a, const Survivor& b) { return a.row < b.row; };
  if (!std::is_sorted(rows_.begin(), rows_.end(), by_row)) {
    std::sort(rows_.begin(), rows_.end(), by_row);
  }
  return rows_;
}

float CandidateSet::needed_key() const {
  float needed = std::max(lower_, cut_);
  if (adaptive_) needed = std::max(needed, floor_);
  return std::min(needed, upper_);
}

float CandidateSet::needed_estimate() const { return adaptive_ ? kth_.threshold() : kInfinity; }

bool CandidateSet::Covers(float key_limit, float estimate_limit) {
  if (key_limit <= lower_) return true;
  complete_ = false;
  return key_limit <= needed_key() && estimate_limit <= needed_estimate();
}

void CandidateSet::Trim(size_t kept_rows) {
  if (rows_.capacity() > kept_rows) rows_ = {};
  if (above_.capacity() > kept_rows) above_ = {};
}

}  // namespace quash
