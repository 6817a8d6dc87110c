#include "libquashdb/partition_centroids.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

#include "kernels/dispatch.h"

namespace quash {
namespace {

constexpr size_t kChunkBlocks = 64;
// Of codes that rank about as vectors do, and are worth it.
constexpr size_t kLeastRankBits = 3;
constexpr size_t kLeastRankDim = 128;
constexpr size_t kFirstChunkBlocks = 4;  // as in a plane scan: until there is a threshold

struct Scratch {
  alignas(kAlignment) uint16_t sums[kPlaneSumsMaxQueries * kChunkBlocks * kBlockRows];
  alignas(kAlignment) uint32_t rows[kChunkBlocks * kBlockRows];
  alignas(kAlignment) float scores[kChunkBlocks * kBlockRows];
};

// A scored list as one number, larger for a better one: its score, then the lower list.
// Selecting among numbers costs a third of selecting among pairs.
uint64_t Key(float score, uint32_t list) {
  const auto bits = std::bit_cast<uint32_t>(score);
  const uint32_t ordered = bits >> 31 != 0 ? ~bits : bits | uint32_t{1} << 31;
  return uint64_t{ordered} << 32 | ~list;
}
uint32_t ListOf(uint64_t key) { return ~static_cast<uint32_t>(key); }
float ScoreOf(uint64_t key) {
  const auto ordered = static_cast<uint32_t>(key >> 32);
  return std::bit_cast<float>(ordered >> 31 != 0 ? ordered & ~(uint32_t{1} << 31) : ~ordered);
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
  void Push(float score, uint32_t list) { kept_.push_back(Key(score, list)); }
  // Often enough for a tight threshold, seldom enough to cost little.
  void Shrink() {
    if (kept_.size() > 2 * wanted_) Finish();
  }
  void Finish() {
    if (kept_.size() <= wanted_) return;
    std::nth_element(kept_.begin(), kept_.begin() + (wanted_ - 1), kept_.end(),
                     std::greater<>());
    threshold_ = ScoreOf(kept_[wanted_ - 1]);
    kept_.resize(wanted_);
  }
  std::vector<uint64_t>& kept() { return kept_; }

 private:
  size_t wanted_ = 0;
  float threshold_ = 0;
  std::vector<uint64_t> kept_;
};

}  // namespace

Centroids::Centroids(const CollectionSpec& spec, const Quantizer& quantizer, const float* vectors,
                     size_t n)
    : is_l2_(spec.metric == QUASH_METRIC_L2),
      dim_(spec.dim),
      bits_(quantizer.layout().bits),
      plane_bytes_(quantizer.layout().plane_bytes()),
      codebook_(quantizer.codebook()) {
  // Directions are what inner products cluster by: the norm of a row is in its scale.
  auto of_centroids = std::make_shared<CollectionSpec>(spec);
  of_centroids->rerank = QUASH_RERANK_F32;
  if (!is_l2_) of_centroids->metric = QUASH_METRIC_COSINE;
  run_ = std::make_unique<RowRun>(std::move(of_centroids), quantizer.layout(), n);
  run_->Encode(quantizer, vectors, 0, n);
  run_->SetRows(n);
  valid_.assign(NumBlocks(n), ~uint32_t{0});
  if (n % kBlockRows != 0) valid_.back() = (uint32_t{1} << n % kBlockRows) - 1;
  if (bits_ < kLeastRankBits || dim_ < kLeastRankDim) return;
  const size_t code_bytes = quantizer.layout().row_code_bytes();
  row_codes_.resize(n * code_bytes);
  for (size_t i = 0; i < n; ++i) {
    GatherRowCode(quantizer.layout(), run_->const_codes(), i, &row_codes_[i * code_bytes]);
  }
}

float Centroids::Score(const float* of, uint32_t list) const {
  const float dot = Kernels().dot_f32(vector(list), of, dim_);
  return is_l2_ ? 2 * dot - run_->const_codes().norm_sq[list] : dot;
}

float Centroids::ScoreByCode(const PreparedQuery& query, uint32_t list) const {
  const ConstCodeArrays codes = run_->const_codes();
  const int32_t sum =
      Kernels().code_dot(&row_codes_[list * bits_ * plane_bytes_], bits_, plane_bytes_,
                         codebook_.levels, query.levels().values);
  const float dot = codes.scale_full[list] * (query.levels().scale * static_cast<float>(sum));
  return is_l2_ ? 2 * dot - codes.norm_sq[list] : dot;
}

void Centroids::Nearest(std::span<const PreparedQuery> queries, size_t n, Rank rank,
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
      best[q].Finish();
      std::vector<uint64_t>& lists = best[q].kept();
      const bool by_code = rank == Rank::kCodes && !row_codes_.empty();
      for (uint64_t& one : lists) {
        const uint32_t list = ListOf(one);
        one = Key(by_code ? ScoreByCode(queries[first + q], list)
                          : Score(queries[first + q].vector(), list),
                  list);
      }
      std::partial_sort(lists.begin(), lists.begin() + n, lists.end(), std::greater<>());
      out[first + q].clear();
      for (size_t i = 0; i < n; ++i) {
        out[first + q].push_back({ScoreOf(lists[i]), ListOf(lists[i])});
      }
    }
  }
}

}  // namespace quash
