// Keeps the best `capacity` candidates of a stream of (score, row) pairs.
// Higher scores are better; ties go to the lower row, so the result does not
// depend on the order of arrival or the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

namespace quash {

struct Candidate {
  float score;
  uint64_t row;
};

inline bool Better(const Candidate& a, const Candidate& b) {
  return a.score != b.score ? a.score > b.score : a.row < b.row;
}

// Buffers 2 * capacity candidates in the caller's array and shrinks it by
// selection when full: amortised O(1) per push.
class TopK {
 public:
  //   buffer    [2 * capacity], the caller's for the life of this object
  //   capacity  at least 1
  TopK(Candidate* buffer, size_t capacity) : buffer_(buffer), capacity_(capacity) {}

  // Scores below this cannot enter (equal ones may, by row).
  float threshold() const { return threshold_; }

  // The score is not NaN.
  void Push(float score, uint64_t row) {
    if (score < threshold_) return;
    buffer_[size_++] = {score, row};
    if (size_ == 2 * capacity_) Shrink();
  }

  // Sorts best first and returns how many there are, at most capacity.
  size_t Finish();

 private:
  void Shrink();

  Candidate* buffer_;
  size_t capacity_;
  size_t size_ = 0;
  float threshold_ = -std::numeric_limits<float>::infinity();
};

}  // namespace quash
