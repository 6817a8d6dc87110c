#include "libquashdb/partition_centroids.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/dispatch.h"

namespace quash {
namespace {

constexpr size_t kChunkBlocks = 64;
constexpr size_t kFirstChunkBlocks = 4;  // as in a plane scan: until there is a threshold

struct Scratch {
  alignas(kAlignment) uint16_t sums[kPlaneSumsMaxQueries * kChunkBlocks * kBlockRows];
  alignas(kAlignment) uint32_t rows[kChunkBlocks * kBlockRows];
  alignas(kAlignment) float scores[kChunkBlocks * kBlockRows];
};

bool IsBetter(const Centroids::Scored& a, const Centroids::Scored& b) {
  return a.score != b.score ? a.score > b.score : a.list < b.list;
}

// The best `wanted` of a stream. Reused, so that a search allocates little.
class Best {
 public:
  void Reset(size_t wanted) {
    wanted_ = wanted;
    threshold_ = -std::numeric_limits<float>::infinity();
    kept_.clear();
  }
  float threshold() const { return threshold_; }
  void Push(float score, uint32_t list) { kept_.push_back({score, list}); }
  void Shrink() {
    // Often enough for a tight threshold, seldom enough to cost little.
    if (kept_.size() <= 2 * wanted_) return;
    std::nth_element(kept_.begin(), kept_.begin() + (wanted_ - 1), kept_.end(), IsBetter);
    threshold_ = kept_[wanted_ - 1].score;
    kept_.resize(wanted_);
  }
  std::vector<Centroids::Scored>& kept() { return kept_; }

 private:
  size_t wanted_ = 0;
  float threshold_ = 0;
  std::vector<Centroids::Scored> kept_;
};

}  // namespace

Centroids::Centroids(const CollectionSpec& spec, const Quantizer& quantizer, const float* vectors,
                     size_t n)
    : is_l2_(spec.metric == QUASH_METRIC_L2),
      dim_(spec.dim),
      plane_bytes_(quantizer.layout().plane_bytes()) {
  // Directions are what inner products cluster by: the norm of a row is in its scale.
  auto of_centroids = std::make_shared<CollectionSpec>(spec);
  of_centroids->rerank = QUASH_RERANK_F32;
  if (!is_l2_) of_centroids->metric = QUASH_METRIC_COSINE;
  run_ = std::make_unique<RowRun>(std::move(of_centroids), quantizer.layout(), n);
  run_->Encode(quantizer, vectors, 0, n);
  run_->SetRows(n);
  valid_.assign(NumBlocks(n), ~uint32_t{0});
  if (n % kBlockRows != 0) valid_.back() = (uint32_t{1} << n % kBlockRows) - 1;
}

float Centroids::Score(const PreparedQuery& query, uint32_t list) const {
  const float dot = Kernels().dot_f32(vector(list), query.vector(), dim_);
  return is_l2_ ? 2 * dot - run_->const_codes().norm_sq[list] : dot;
}

void Centroids::Nearest(std::span<const PreparedQuery> queries, size_t n,
                        std::vector<Scored>* out) const {
  static thread_local Scratch scratch;
  static thread_local Best best[kPlaneSumsMaxQueries];
  const ScanKernels& kernels = Kernels();
  const ConstCodeArrays codes = run_->const_codes();
  n = std::min(n, size());
  const size_t wanted = std::min(size(), 2 * n + 14);
  const size_t block_bytes = plane_bytes_ * kBlockRows;
  for (size_t first = 0; first < queries.size(); first += kPlaneSumsMaxQueries) {
    const size_t nq = std::min(kPlaneSumsMaxQueries, queries.size() - first);
    const uint8_t* luts[kPlaneSumsMaxQueries];
    for (size_t q = 0; q < nq; ++q) {
      luts[q] = queries[first + q].lut().table;
      best[q].Reset(wanted);
    }
    size_t chunk = kFirstChunkBlocks;
    for (size_t begin = 0, blocks = 0; begin < valid_.size(); begin += blocks) {
      blocks = std::min(chunk, valid_.size() - begin);
      chunk = std::min(2 * chunk, kChunkBlocks);
      const size_t rows = blocks * kBlockRows, first_row = begin * kBlockRows;
      kernels.plane_sums(codes.plane1 + begin * block_bytes, blocks, plane_bytes_, luts, nq,
                         scratch.sums, rows);
      for (size_t q = 0; q < nq; ++q) {
        const PlaneLut& lut = queries[first + q].lut();
        const size_t kept = kernels.collect(
            scratch.sums + q * rows, codes.scale1 + first_row,
            is_l2_ ? codes.norm_sq + first_row : nullptr, lut.step, lut.bias,
            valid_.data() + begin, blocks, best[q].threshold(), scratch.rows, scratch.scores);
        for (size_t i = 0; i < kept; ++i) {
          best[q].Push(scratch.scores[i], static_cast<uint32_t>(first_row + scratch.rows[i]));
        }
        best[q].Shrink();
      }
    }
    for (size_t q = 0; q < nq; ++q) {
      std::vector<Scored>& lists = best[q].kept();
      if (lists.size() > wanted) {
        std::nth_element(lists.begin(), lists.begin() + wanted, lists.end(), IsBetter);
        lists.resize(wanted);
      }
      for (Scored& one : lists) one.score = Score(queries[first + q], one.list);
      std::partial_sort(lists.begin(), lists.begin() + n, lists.end(), IsBetter);
      out[first + q].assign(lists.begin(), lists.begin() + n);
    }
  }
}

}  // namespace quash
