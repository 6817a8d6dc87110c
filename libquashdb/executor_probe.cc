#include "libquashdb/executor_probe.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/dispatch.h"
#include "libquashdb/recall_curve.h"

namespace quash {
namespace {

constexpr size_t kChunkBlocks = 32;
constexpr size_t kFirstChunkBlocks = 2;  // every row survives until there is a threshold
// With a filter the nearest matching rows lie farther away: up to so many times
// the lists are probed.
constexpr double kMostWidening = 16;
// As kScanSigmas, against a k-th best that is nearly exact.
constexpr float kProbeSigmas = 2.5f;
// Reading that share of all lists costs as much as reading all rows in order.
constexpr double kMostOfAll = 0.5;

struct Scratch {
  alignas(kAlignment) uint16_t sums[kChunkBlocks * kBlockRows];
  alignas(kAlignment) uint32_t rows[kChunkBlocks * kBlockRows];
  alignas(kAlignment) float scores[kChunkBlocks * kBlockRows];
};

const uint32_t* AllRows() {
  static const std::vector<uint32_t> all(kChunkBlocks, ~uint32_t{0});
  return all.data();
}

bool IsBounded(const SearchPlan& plan) {
  return plan.has_cursor || plan.min_score != -std::numeric_limits<double>::infinity();
}

}  // namespace

size_t ChooseNprobe(const Snapshot& snapshot, const SearchPlan& plan) {
  const size_t lists = snapshot.partitions->num_lists();
  if (plan.nprobe != 0) return std::min<size_t>(plan.nprobe, lists);
  // Margins have their share of what may be missed (MarginScale); the curve is of
  // full margins.
  constexpr double kOfLists = 0.8;
  const double target = 1 - kOfLists * (1 - RecallTarget(snapshot, plan));
  const std::vector<RecallPoint>& curve = snapshot.widths.recall_curve;
  if (const uint32_t measured = NprobeFor(curve, target); measured != 0) {
    return std::min<size_t>(measured, lists);
  }
  // Not measured, or not that far: errors fall about as a power of what is read.
  const double share = 0.004 / std::pow(std::max(1 - target, 1e-4), 0.7);
  const auto guess = static_cast<size_t>(std::max(16.0, share * static_cast<double>(lists)));
  const size_t least = curve.empty() ? 1 : curve.back().nprobe;
  return std::clamp(guess, std::min(least, lists), lists);
}

Probe::Probe(const Snapshot& snapshot, const SearchPlan& plan, const MatchingRows& matching)
    : snapshot_(snapshot), matching_(matching) {
  const PartitionIndex* index = snapshot.partitions.get();
  if (index == nullptr || index->num_rows() == 0 || IsBounded(plan)) return;
  if (plan.widths.planes == kAllPlanes) return;  // lists have the first plane
  const bool is_asked_for = plan.nprobe != 0 || plan.recall != 0;
  if (plan.nprobe == 0 && plan.recall >= 1) return;
  if (snapshot.gpu != nullptr && !is_asked_for) return;
  nprobe_ = ChooseNprobe(snapshot, plan);
  if (plan.nprobe == 0 || plan.recall > 0) {
    margin_scale_ = MarginScale(RecallTarget(snapshot, plan));
  }
  const double selectivity = static_cast<double>(std::max<uint64_t>(matching.count(), 1)) /
                             static_cast<double>(std::max<uint64_t>(snapshot.live_rows, 1));
  const double widened =
      static_cast<double>(nprobe_) * std::min(1 / selectivity, kMostWidening);
  nprobe_ = static_cast<size_t>(widened);
  if (plan.nprobe == 0 && widened > kMostOfAll * static_cast<double>(index->num_lists())) return;
  index_ = index;
  const std::vector<uint64_t>& first_slots = snapshot.first_slots;
  indexed_segments_ = static_cast<size_t>(
      std::lower_bound(first_slots.begin(), first_slots.end(), index->indexed_slots()) -
      first_slots.begin());
  // A segment that was written anew may reach over the border.
  while (indexed_segments_ > 0 && snapshot.segments[indexed_segments_ - 1].segment->last_slot() >=
                                      index->indexed_slots()) {
    --indexed_segments_;
  }
  for (size_t s = indexed_segments_; s < snapshot.segments.size(); ++s) {
    rows_outside_ += snapshot.segments[s].live_rows;
  }
}

std::vector<bool> Probe::in_lists() const {
  std::vector<bool> segments(snapshot_.segments.size());
  std::fill_n(segments.begin(), indexed_segments_, true);
  return segments;
}

size_t Probe::nprobe(size_t growth) const {
  return std::min(nprobe_ * std::max<size_t>(growth, 1), index_->num_lists());
}

bool Probe::coded() const { return snapshot_.spec->bits >= 2; }

// As in CandidateSet, but against the k-th best of better estimates.
void Probe::PlaneThreshold(const PreparedQuery& query, const CandidateSet& set, float* threshold,
                           float* add) const {
  const PrefixModel& model = query.scanned();
  *add = model.add;
  if (!coded()) {
    *add += set.margin();
    *threshold = set.threshold();
    return;
  }
  const float margin = model.Margin(kProbeSigmas * margin_scale_);
  *threshold = set.kth();
  if (snapshot_.spec->metric != QUASH_METRIC_COSINE) {
    *add += margin;
  } else if (*threshold > -std::numeric_limits<float>::infinity()) {
    const float cosine = std::clamp(*threshold, 0.0f, 1.0f);
    *threshold -= margin * model.typical_scale * std::sqrt(std::max(0.25f, 1 - cosine * cosine));
  }
  *threshold -= 1e-6f * (std::fabs(*threshold) + query.offset());
}

Status Probe::ScanList(const PartitionList& list, const PreparedQuery& query,
                       size_t* chunk_blocks, CandidateSet* set, Counts* counts) const {
  static thread_local Scratch scratch;
  const CodeLayout& layout = snapshot_.quantizer->layout();
  const int8_t* levels = snapshot_.quantizer->codebook().levels;
  const ScanKernels& kernels = Kernels();
  ListRows rows;
  Pin pin;
  QUASH_RETURN_IF_ERROR(list.Read(&rows, &pin));
  const float mul = query.lut().step, bias = query.lut().bias;
  const float gain = query.gain();
  const size_t blocks = NumBlocks(rows.rows);
  const uint8_t* lut = query.lut().table;
  for (size_t begin = 0, n = 0; begin < blocks; begin += n) {
    n = std::min(*chunk_blocks, blocks - begin);
    *chunk_blocks = std::min(2 * *chunk_blocks, kChunkBlocks);
    const size_t first = begin * kBlockRows;
    const float* norm_sq = rows.codes.norm_sq != nullptr ? rows.codes.norm_sq + first : nullptr;
    const float* scale = rows.codes.scale1 + first;
    float threshold = 0, add = 0;
    PlaneThreshold(query, *set, &threshold, &add);
    kernels.plane_sums(rows.codes.plane1 + begin * layout.block_bytes(), n, layout.plane_bytes(),
                       &lut, 1, scratch.sums, n * kBlockRows);
    const size_t kept = kernels.collect(scratch.sums, scale, norm_sq, mul, add, AllRows(), n,
                                        threshold, scratch.rows, scratch.scores);
    for (size_t i = 0; i < kept; ++i) {
      const uint32_t r = scratch.rows[i];
      const size_t at = first + r;
      if (at >= rows.rows) break;  // padding
      // Rows that were deleted or do not match; those of segments that are scanned too.
      uint64_t row = 0;
      bool found = false;
      QUASH_RETURN_IF_ERROR(Locate(snapshot_, rows.slots[at], &row, &found));
      if (!found || SegmentOf(row) >= indexed_segments_) continue;
      const uint32_t* mask = matching_.mask(SegmentOf(row));
      if (mask == nullptr) continue;
      if ((mask[RowOf(row) / kBlockRows] >> RowOf(row) % kBlockRows & 1) == 0) continue;
      float dot = mul * scratch.sums[r] + bias;
      float unit = gain * scale[r];
      if (rows.row_codes != nullptr) {
        const int32_t exact =
            kernels.code_dot(rows.row_codes + at * layout.row_code_bytes(), layout.bits,
                             layout.plane_bytes(), levels, query.levels().values);
        dot = query.levels().scale * static_cast<float>(exact);
        unit = gain * rows.scale_full[at];
        ++counts->coded_rows;
      }
      float estimate = unit * dot;
      if (norm_sq != nullptr) estimate -= norm_sq[r];
      set->Push({.estimate = estimate, .unit = unit, .dot1 = dot, .row = row});
    }
  }
  counts->rows += rows.rows;
  counts->bytes += blocks * (layout.block_bytes() +
                             kBlockRows * sizeof(float) * (rows.codes.norm_sq != nullptr ? 2 : 1));
  return Status();
}

Status Probe::Scan(const PreparedQuery& query, size_t nprobe, CandidateSet* set,
                   Counts* counts) const {
  static thread_local std::vector<Centroids::Scored> nearest;
  index_->centroids().Nearest({&query, 1}, nprobe, &nearest);
  size_t chunk_blocks = kFirstChunkBlocks;
  for (const Centroids::Scored& one : nearest) {
    const PartitionList* list = index_->lists()[one.list].get();
    if (list == nullptr) continue;
    QUASH_RETURN_IF_ERROR(ScanList(*list, query, &chunk_blocks, set, counts));
  }
  return Status();
}

}  // namespace quash
