// The survivors of a plane scan for one query.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "libquashdb/executor_plan.h"
#include "libquashdb/executor_query.h"

namespace quash {

inline constexpr uint32_t kNotOnGpu = UINT32_MAX;

struct Survivor {
  float estimate;              // internal score (PreparedQuery::offset)
  float unit;                  // gain * row scale: turns an error of dot into one of the score
  float dot1;                  // of plane 1 alone: what a second plane adds to
  uint32_t found = kNotOnGpu;  // where the GPU left what it knows of the row
  uint64_t row;                // RowIndex
};

// The k-th best of a stream of scores, updated every k insertions.
class KthBest {
 public:
  void Reset(size_t k);
  // Returns whether threshold() rose.
  bool Push(float score) {
    if (score <= threshold_) return false;
    scores_.push_back(score);
    if (scores_.size() < 2 * k_) return false;
    Shrink();
    return true;
  }
  // Many at once; threshold() then is the k-th best.
  void PushAll(std::span<const float> scores);
  void Merge(const KthBest& other);
  // The k-th best is known not to be below `bound`.
  void Raise(float bound) { threshold_ = std::max(threshold_, bound); }
  // Not above the k-th best so far; -infinity before k scores.
  float threshold() const { return threshold_; }
  // Brings threshold() up to the k-th best.
  void Finish();

 private:
  void Shrink();

  size_t k_ = 1;
  float threshold_ = -std::numeric_limits<float>::infinity();
  std::vector<float> scores_;
};

// Which rows are kept does not depend on how the rows were divided between
// sets, so neither do results on the number of threads.
//
//   adaptive  rows whose estimate is within a margin of the k-th best, at most
//             `capacity`
//   fixed     the best `capacity` by estimate, ties to the lower row
//
// A cursor splits rows: estimates above it, within the margin of error, are all
// kept beside the `capacity` below, since only their final scores tell on which
// side they are; those further above were returned on an earlier page.
class CandidateSet {
 public:
  //   lower, upper  internal scores of min_score and the cursor, or infinite
  //   is_cosine     stored vectors have unit norm
  void Reset(const PreparedQuery& query, const PrefixModel& model, const Widths& widths, size_t k,
             float lower, float upper, bool is_cosine);

  // What collect() is called with: rows whose score with `margin` added to the
  // dot stays below the threshold would be refused.
  float margin() const { return collect_margin_; }
  float lower() const { return lower_; }
  // Not above the k-th best estimate so far.
  float kth() const { return kth_.threshold(); }
  bool has_upper() const { return upper_ < std::numeric_limits<float>::infinity(); }
  float slack() const { return slack_; }
  float threshold() const;

  // Whether it makes use of Expect(). Not where bounds of the plan take rows out.
  bool expects() const;
  // The best estimates of groups of rows, all of which are pushed afterwards if they reach
  // threshold(). Their k-th best is below that of the rows, and near it, as few of
  // the best rows share a group.
  void Expect(std::span<const float> best);

  void Push(const Survivor& survivor);
  // Whether Push() would drop it, so that who asks can spare himself finding the row.
  // complete() then says nothing.
  bool Refuses(const Survivor& s) const {
    return adaptive_ && s.estimate <= kth_.threshold() && Key(s) < floor_;
  }
  void Merge(CandidateSet&& other);

  // Drops what is below the final bounds. Ascending rows.
  const std::vector<Survivor>& Finish();

  // Frees the arrays if they hold more than `kept_rows`.
  void Trim(size_t kept_rows);

  const std::vector<Survivor>& survivors() const { return rows_; }  // after Finish()

  // After Finish(): whether rows that were never pushed cannot matter, if their
  // collect() scores are below `key_limit` and their estimates below
  // `estimate_limit`.
  bool Covers(float key_limit, float estimate_limit);
  // Limits that do, once every row that reaches them was pushed. They may be
  // lower than need be. After Finish().
  float needed_key() const;
  float needed_estimate() const;

  // No row was dropped that a larger k or width would have kept. After Finish().
  bool complete() const { return complete_; }

 private:
  float Key(const Survivor& s) const { return s.estimate + key_margin_ * s.unit; }
  void UpdateFloor();
  void Shrink(size_t limit);

  bool adaptive_ = true;
  bool is_cosine_ = false;
  size_t capacity_ = 0;
  float lower_ = 0;
  float upper_ = 0;
  float bound_margin_ = 0;    // of dot, for lower_ and upper_
  float key_margin_ = 0;      // of dot, in the order of rows
  float slack_ = 0;           // of the score, cosine
  float collect_margin_ = 0;  // of dot
  float slop_ = 0;            // float rounding of L2 scores
  float floor_ = 0;           // lowest key that may stay
  float cut_ = 0;             // lowest key kept when full
  bool complete_ = true;
  KthBest kth_;
  KthBest expected_;  // of the groups seen so far
  std::vector<Survivor> rows_;
  std::vector<Survivor> above_;
};

}  // namespace quash
