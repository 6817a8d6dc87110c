#include "libquashdb/executor_probe.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/dispatch.h"
#include "libquashdb/recall_curve.h"
#include "libquashdb/segment_codes.h"

namespace quash {
namespace {

constexpr size_t kChunkBlocks = 32;
constexpr size_t kFirstChunkBlocks = 1;  // every row survives until there is a threshold
// With a filter the nearest matching rows lie farther away: up to so many times
// the lists are probed.
constexpr double kMostWidening = 16;
// As kScanSigmas, against a k-th best that is nearly exact.
constexpr float kProbeSigmas = 2.5f;
constexpr size_t kCodesAhead = 6;   // whole codes on their way
constexpr size_t kPlacesAhead = 4;  // what tells where a row is
// With a larger share of the rows in no list, an index in the making saves nothing.
constexpr double kMostOutside = 0.25;

struct Scratch {
  alignas(kAlignment) uint16_t sums[kChunkBlocks * kBlockRows];
  alignas(kAlignment) uint32_t rows[kChunkBlocks * kBlockRows];
  alignas(kAlignment) float scores[kChunkBlocks * kBlockRows];
  Survivor survivors[kChunkBlocks * kBlockRows];
};

// Not inlined: its address would be asked for in every loop that uses it.
[[gnu::noinline]] Scratch& ThreadScratch() {
  static thread_local Scratch scratch;
  return scratch;
}

void Prefetch(const uint8_t* data, size_t bytes) {
  for (size_t i = 0; i < bytes; i += kAlignment) __builtin_prefetch(data + i);
}

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
  // Measured as far as lists are worth it: every row.
  if (!curve.empty() && static_cast<double>(curve.back().nprobe) >=
                            kMostProbed * static_cast<double>(lists)) {
    return lists;
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
  if (plan.nprobe == 0 && widened > kMostProbed * static_cast<double>(index->num_lists())) return;
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
  if (plan.nprobe == 0 && static_cast<double>(rows_outside_) >
                              kMostOutside * static_cast<double>(snapshot.live_rows)) {
    index_ = nullptr;
  }
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
    *threshold -= margin * model.typical_scale * CosineShrink(*threshold);
  }
  *threshold -= 1e-6f * (std::fabs(*threshold) + query.offset());
}

// Not rows that were deleted or do not match, nor those of segments that are scanned too.
Status Probe::FindRow(uint64_t slot, size_t segment, uint64_t* row, bool* found) const {
  QUASH_RETURN_IF_ERROR(LocateIn(snapshot_, segment, slot, row, found));
  if (!*found) return Status();
  const uint32_t* mask =
      SegmentOf(*row) < indexed_segments_ ? matching_.mask(SegmentOf(*row)) : nullptr;
  *found = mask != nullptr && (mask[RowOf(*row) / kBlockRows] >> RowOf(*row) % kBlockRows & 1) != 0;
  return Status();
}

// Plane 1 of a run of blocks; `take` has the rows that reach the threshold so far.
//   mask    [blocks] rows that count; null: all
//   take    (number of the row in the run, survivor by plane 1 without its row)
//   settle  () before the threshold is looked at again
template <typename Prepare, typename Take, typename Settle>
Status Probe::ScanPlane(const PreparedQuery& query, const ConstCodeArrays& codes, size_t blocks,
                        const uint32_t* mask, const CandidateSet& set, size_t* chunk_blocks,
                        const Prepare& prepare, const Take& take, const Settle& settle) const {
  Scratch& scratch = ThreadScratch();
  const CodeLayout& layout = snapshot_.quantizer->layout();
  const ScanKernels& kernels = Kernels();
  const PlaneLut& lut = query.lut();
  const uint8_t* table = lut.table;
  for (size_t begin = 0, n = 0; begin < blocks; begin += n) {
    n = std::min(*chunk_blocks, blocks - begin);
    *chunk_blocks = std::min(2 * *chunk_blocks, kChunkBlocks);
    const size_t first = begin * kBlockRows;
    const float* norm_sq = codes.norm_sq != nullptr ? codes.norm_sq + first : nullptr;
    const float* scale = codes.scale1 + first;
    float threshold = 0, add = 0;
    PlaneThreshold(query, set, &threshold, &add);
    kernels.plane_sums(codes.plane1 + begin * layout.block_bytes(), n, layout.plane_bytes(),
                       &table, 1, scratch.sums, n * kBlockRows);
    const size_t kept = kernels.collect(scratch.sums, scale, norm_sq, lut.step, add,
                                        mask != nullptr ? mask + begin : AllRows(), n, threshold,
                                        scratch.rows, scratch.scores);
    for (size_t i = 0; i < std::min(kept, kCodesAhead); ++i) prepare(first + scratch.rows[i]);
    for (size_t i = 0; i < kept; ++i) {
      if (i + kCodesAhead < kept) prepare(first + scratch.rows[i + kCodesAhead]);
      const uint32_t r = scratch.rows[i];
      const float dot = lut.step * scratch.sums[r] + lut.bias;
      QUASH_RETURN_IF_ERROR(
          take(first + r, Survivor{.estimate = 0,
                                   .unit = query.gain() * scale[r],
                                   .dot1 = dot,
                                   .row = 0}));
    }
    QUASH_RETURN_IF_ERROR(settle());
  }
  return Status();
}

// A survivor's estimate by its whole code.
void Probe::ScoreCode(const PreparedQuery& query, const uint8_t* row_code, float scale,
                      Survivor* survivor) const {
  const CodeLayout& layout = snapshot_.quantizer->layout();
  const int32_t dot =
      Kernels().code_dot(row_code, layout.bits, layout.plane_bytes(),
                         snapshot_.quantizer->codebook().levels, query.levels().values);
  survivor->dot1 = query.levels().scale * static_cast<float>(dot);
  survivor->unit = query.gain() * scale;
}

uint64_t Probe::PlaneBytes(size_t blocks) const {
  const size_t floats = snapshot_.spec->metric == QUASH_METRIC_L2 ? 2 : 1;
  return blocks * (snapshot_.quantizer->layout().block_bytes() +
                   floats * kBlockRows * sizeof(float));
}

Status Probe::ScanList(const PartitionList& list, const PreparedQuery& query,
                       size_t* chunk_blocks, CandidateSet* set, Counts* counts) const {
  const size_t code_bytes = snapshot_.quantizer->layout().row_code_bytes();
  ListRows rows;
  Pin pin;
  QUASH_RETURN_IF_ERROR(list.Read(&rows, &pin));
  const size_t blocks = NumBlocks(rows.rows);
  counts->rows += rows.rows;
  counts->bytes += PlaneBytes(blocks);
  const auto prepare = [&](size_t at) {
    if (rows.row_codes == nullptr) return;
    Prefetch(rows.row_codes + at * code_bytes, code_bytes);
    __builtin_prefetch(rows.scale_full + at);
  };
  // Finding a row takes as long as scoring it. Most rows are refused before, the more so
  // as the best of a chunk raise the bar for its others.
  Survivor* const survivors = ThreadScratch().survivors;  // .row: the number in the list
  size_t kept = 0;
  const auto take = [&](size_t at, Survivor survivor) -> Status {
    if (at >= rows.rows) return Status();  // padding
    if (rows.row_codes != nullptr) {
      ScoreCode(query, rows.row_codes + at * code_bytes, rows.scale_full[at], &survivor);
      ++counts->coded_rows;
    }
    survivor.estimate = survivor.unit * survivor.dot1;
    if (rows.codes.norm_sq != nullptr) survivor.estimate -= rows.codes.norm_sq[at];
    if (set->Refuses(survivor)) return Status();
    __builtin_prefetch(&rows.slots[at]);
    survivor.row = at;
    survivors[kept++] = survivor;
    return Status();
  };
  const auto settle = [&]() -> Status {
    std::sort(survivors, survivors + kept, [](const Survivor& a, const Survivor& b) {
      return a.estimate != b.estimate ? a.estimate > b.estimate : a.row < b.row;
    });
    const size_t n = std::exchange(kept, 0);
    size_t segments[kPlacesAhead];
    for (size_t i = 0; i < n + kPlacesAhead; ++i) {
      size_t& segment = segments[i % kPlacesAhead];
      if (i >= kPlacesAhead) {
        Survivor& survivor = survivors[i - kPlacesAhead];
        if (!set->Refuses(survivor)) {
          bool counted = false;
          QUASH_RETURN_IF_ERROR(
              FindRow(rows.slots[survivor.row], segment, &survivor.row, &counted));
          if (counted) set->Push(survivor);
        }
      }
      if (i < n) segment = FetchPlace(snapshot_, rows.slots[survivors[i].row]);
    }
    return Status();
  };
  return ScanPlane(query, rows.codes, blocks, nullptr, *set, chunk_blocks, prepare, take, settle);
}

Status Probe::ScanOthers(const PreparedQuery& query, CandidateSet* set, Counts* counts) const {
  static thread_local ScratchBuffer buffer;
  const CodeLayout& layout = snapshot_.quantizer->layout();
  auto* row_code = static_cast<uint8_t*>(buffer.Reserve(layout.row_code_bytes()));
  size_t chunk_blocks = kFirstChunkBlocks;
  for (size_t s = indexed_segments_; s < snapshot_.segments.size(); ++s) {
    const uint32_t* mask = matching_.mask(s);
    if (mask == nullptr) continue;
    const Segment& segment = *snapshot_.segments[s].segment;
    SegmentCodes codes;  // the other planes only if a row comes as far
    QUASH_RETURN_IF_ERROR(segment.Codes(SegmentPart::kPlane1, &codes.arrays, &codes.pins[0]));
    counts->other_bytes += PlaneBytes(segment.num_blocks());
    const float* norm_sq = codes.arrays.norm_sq;
    const auto take = [&](size_t at, Survivor survivor) -> Status {
      if (coded()) {
        if (codes.scale == nullptr) QUASH_RETURN_IF_ERROR(codes.Read(segment, layout.bits));
        GatherRowCode(layout, codes.arrays, at, row_code);
        ScoreCode(query, row_code, codes.scale[at], &survivor);
        ++counts->other_coded_rows;
      }
      survivor.estimate = survivor.unit * survivor.dot1;
      if (norm_sq != nullptr) survivor.estimate -= norm_sq[at];
      survivor.row = RowIndex(static_cast<uint32_t>(s), static_cast<uint32_t>(at));
      set->Push(survivor);
      return Status();
    };
    QUASH_RETURN_IF_ERROR(ScanPlane(query, codes.arrays, segment.num_blocks(), mask, *set,
                                    &chunk_blocks, [](size_t) {}, take,
                                    [] { return Status(); }));
  }
  return Status();
}

Status Probe::Scan(const PreparedQuery& query, size_t nprobe, CandidateSet* set,
                   Counts* counts) const {
  static thread_local std::vector<Centroids::Scored> nearest;
  index_->centroids().Nearest({&query, 1}, nprobe, Centroids::Rank::kCodes, &nearest);
  size_t chunk_blocks = kFirstChunkBlocks;
  const auto list_of = [&](size_t i) {
    return i < nearest.size() ? index_->lists()[nearest[i].list].get() : nullptr;
  };
  for (size_t i = 0; i < nearest.size(); ++i) {
    // What leads to a list's rows is a chain of cache misses: its links are fetched while
    // the lists before are scanned.
    if (const PartitionList* after = list_of(i + 2); after != nullptr) after->FetchPlace();
    if (const PartitionList* next = list_of(i + 1); next != nullptr) next->FetchRows();
    const PartitionList* list = list_of(i);
    if (list == nullptr) continue;
    QUASH_RETURN_IF_ERROR(ScanList(*list, query, &chunk_blocks, set, counts));
  }
  // Last, as few of them compete with the rows of the nearest lists.
  return ScanOthers(query, set, counts);
}

}  // namespace quash
