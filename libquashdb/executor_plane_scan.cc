#include "libquashdb/executor_plane_scan.h"

#include <algorithm>
#include <bit>
#include <iterator>

#include "kernels/dispatch.h"
#include "libquashdb/executor_staged.h"
#include "libquashdb/segment_codes.h"

namespace quash {
namespace {

// Sums and scales of a chunk stay in L1, its plane in L2 up to a few hundred dimensions.
constexpr size_t kChunkBlocks = 32;
// Sums are kept for a window of several chunks, and rows taken from it only when the
// best of all its blocks have told how good they must be. Shared by the queries; a plane
// of all takes 1 MiB.
constexpr size_t kWindowBlocks = 16384;
// Of a plane: the parts of a window stay in memory, whether the budget keeps them or not.
constexpr size_t kWindowBytes = 4 << 20;
// Without that (bounds, fixed widths) every row of a chunk survives until some rows are
// seen: the first is small and each next one doubles, up to this.
constexpr size_t kFirstChunkBlocks = 4;
static_assert(kWindowBlocks % kMaxTileQueries == 0);

// A run of blocks, none of them masked out.
struct Chunk {
  uint32_t segment;
  uint32_t first_row;
  uint32_t blocks;
  const uint32_t* mask;
  const uint8_t* plane1;
  const uint8_t* plane2;  // null: one plane
  const float* scale;     // of the planes scanned
  const float* norm_sq;   // null unless L2
  size_t at;              // its first block's place in the window
};

// A block of a chunk.
struct Place {
  const Chunk* chunk;
  uint32_t block;
};

struct Scratch {
  ScratchBuffer buffer;  // of the four that follow
  uint16_t* sums1;       // [queries][window rows]
  uint16_t* sums2;       // [queries][window rows], for two planes
  float* best;           // [queries][window blocks]
  float* keys;           // [window blocks]
  alignas(kAlignment) uint32_t rows[kChunkBlocks * kBlockRows];
  alignas(kAlignment) float scores[kChunkBlocks * kBlockRows];
  std::vector<Chunk> chunks;  // of the window
  std::vector<Pin> pins;      // of their arrays
  std::vector<Place> places;  // of one query, blocks worth another look
  bool backward = false;      // the order of the last scan
};

// Sums of one query over a window.
struct WindowSums {
  const uint16_t* sums1;
  const uint16_t* sums2;
};

class PlaneScan {
 public:
  //   blocks  to scan at most
  PlaneScan(size_t plane_bytes, size_t planes, size_t blocks,
            std::span<const PreparedQuery> queries, std::span<CandidateSet> sets, Scratch* scratch)
      : plane_bytes_(plane_bytes),
        queries_(queries),
        sets_(sets),
        scratch_(scratch),
        expects_(sets[0].expects()),  // all have the bounds of one plan
        window_blocks_(
            std::min({kWindowBlocks / queries.size(), std::max<size_t>(blocks, 1),
                      std::max(kChunkBlocks, kWindowBytes / (plane_bytes * kBlockRows))})),
        chunk_blocks_(std::min(expects_ ? kChunkBlocks : kFirstChunkBlocks, window_blocks_)),
        chunks_(scratch->chunks),
        pins_(scratch->pins) {
    scratch->backward = !scratch->backward;
    const size_t of_window = window_blocks_ * queries.size();
    const size_t sums = of_window * kBlockRows;
    const size_t bytes =
        planes * sums * sizeof(uint16_t) + (of_window + window_blocks_) * sizeof(float);
    scratch->sums1 = static_cast<uint16_t*>(scratch->buffer.Reserve(bytes));
    scratch->sums2 = scratch->sums1 + sums;
    scratch->best = reinterpret_cast<float*>(scratch->sums1 + planes * sums);
    scratch->keys = scratch->best + of_window;
  }
  ~PlaneScan() { Clear(); }
  PlaneScan(const PlaneScan&) = delete;

  // Blocks that the next chunk may have.
  size_t room() const { return std::min(chunk_blocks_, window_blocks_ - used_); }
  // At most room() blocks; `pins` keep the arrays valid.
  void Add(Chunk chunk, const Pin (&pins)[2]);
  // Takes rows from what was added since.
  void Flush();

 private:
  void Clear();
  void SumUp();
  void SumUp(const Chunk& chunk);
  void TakeRows(size_t q);
  void Fetch(const Place& place, size_t q) const;
  void Collect(const Chunk& chunk, size_t begin, size_t end, size_t q);
  void BestOf(const Chunk& chunk, size_t q, float margin, float* best) const;
  WindowSums SumsOf(const Chunk& chunk, size_t q) const {
    const size_t at = (q * window_blocks_ + chunk.at) * kBlockRows;
    return {scratch_->sums1 + at, chunk.plane2 != nullptr ? scratch_->sums2 + at : nullptr};
  }

  const size_t plane_bytes_;
  const std::span<const PreparedQuery> queries_;
  const std::span<CandidateSet> sets_;
  Scratch* const scratch_;
  const bool expects_;
  const size_t window_blocks_;
  size_t chunk_blocks_;
  size_t used_ = 0;  // blocks of the window
  std::vector<Chunk>& chunks_;
  std::vector<Pin>& pins_;
};

void PlaneScan::Add(Chunk chunk, const Pin (&pins)[2]) {
  chunk.at = used_;
  used_ += chunk.blocks;
  if (chunks_.empty() || chunks_.back().segment != chunk.segment) {
    pins_.insert(pins_.end(), std::begin(pins), std::end(pins));
  }
  chunks_.push_back(chunk);
  if (!expects_) chunk_blocks_ = std::min({2 * chunk_blocks_, kChunkBlocks, window_blocks_});
  if (!expects_ || used_ == window_blocks_) Flush();
}

// Every other scan of a thread begins with the last chunk: what the scan before left in
// the cache is read before anything pushes it out.
void PlaneScan::SumUp() {
  const size_t last = chunks_.size() - 1;
  for (size_t i = 0; i <= last; ++i) {
    const Chunk& chunk = chunks_[scratch_->backward ? last - i : i];
    SumUp(chunk);
    for (size_t q = 0; expects_ && q < queries_.size(); ++q) {
      BestOf(chunk, q, 0, scratch_->best + q * window_blocks_ + chunk.at);
    }
  }
}

void PlaneScan::SumUp(const Chunk& chunk) {
  const ScanKernels& kernels = Kernels();
  // Read by the time the sums are there.
  for (size_t row = 0; row < chunk.blocks * kBlockRows; row += kAlignment / sizeof(float)) {
    __builtin_prefetch(chunk.scale + row);
    if (chunk.norm_sq != nullptr) __builtin_prefetch(chunk.norm_sq + row);
  }
  const size_t stride = window_blocks_ * kBlockRows;
  for (size_t first = 0; first < queries_.size(); first += kPlaneSumsMaxQueries) {
    const size_t nq = std::min(kPlaneSumsMaxQueries, queries_.size() - first);
    const uint8_t* luts[kPlaneSumsMaxQueries];
    for (size_t i = 0; i < nq; ++i) luts[i] = queries_[first + i].lut().table;
    const size_t at = first * stride + chunk.at * kBlockRows;
    kernels.plane_sums(chunk.plane1, chunk.blocks, plane_bytes_, luts, nq, scratch_->sums1 + at,
                       stride);
    if (chunk.plane2 != nullptr) {
      kernels.plane_sums(chunk.plane2, chunk.blocks, plane_bytes_, luts, nq, scratch_->sums2 + at,
                         stride);
    }
  }
}

// The best score of each block, with a margin added to its dot.
void PlaneScan::BestOf(const Chunk& chunk, size_t q, float margin, float* best) const {
  const PrefixModel& model = queries_[q].scanned();
  const WindowSums sums = SumsOf(chunk, q);
  Kernels().best_of_blocks(sums.sums1, sums.sums2, chunk.scale, chunk.norm_sq, model.mul1,
                           model.mul2, model.add + margin, chunk.mask, chunk.blocks, best);
}

void PlaneScan::Flush() {
  if (chunks_.empty()) return;
  SumUp();
  for (size_t q = 0; q < queries_.size(); ++q) TakeRows(q);
  Clear();
}

void PlaneScan::Clear() {
  used_ = 0;
  chunks_.clear();
  pins_.clear();
}

void PlaneScan::TakeRows(size_t q) {
  CandidateSet& set = sets_[q];
  if (!expects_) {
    for (const Chunk& chunk : chunks_) Collect(chunk, 0, chunk.blocks, q);
    return;
  }
  const float* keys = scratch_->best + q * window_blocks_;
  set.Expect({keys, used_});
  if (set.margin() != 0) {
    for (const Chunk& chunk : chunks_) {
      BestOf(chunk, q, set.margin(), scratch_->keys + chunk.at);
    }
    keys = scratch_->keys;
  }
  // Blocks with a row that reaches the threshold, which rises meanwhile.
  const float threshold = set.threshold();
  std::vector<Place>& places = scratch_->places;
  places.resize(used_);
  size_t n = 0;
  for (const Chunk& chunk : chunks_) {
    for (uint32_t block = 0; block < chunk.blocks; ++block) {
      places[n] = {&chunk, block};
      n += keys[chunk.at + block] >= threshold;
    }
  }
  constexpr size_t kAhead = 8;
  for (size_t i = 0; i < std::min(kAhead, n); ++i) Fetch(places[i], q);
  for (size_t i = 0, run = 0; i < n; i += run) {
    const auto [chunk, block] = places[i];
    for (run = 1; i + run < n && run < kAhead; ++run) {
      if (places[i + run].chunk != chunk || places[i + run].block != block + run) break;
    }
    for (size_t ahead = i + kAhead; ahead < std::min(i + kAhead + run, n); ++ahead) {
      Fetch(places[ahead], q);
    }
    Collect(*chunk, block, block + run, q);
  }
}

// Brings what Collect() reads of a block into the caches.
void PlaneScan::Fetch(const Place& place, size_t q) const {
  const size_t first = size_t{place.block} * kBlockRows;
  const WindowSums sums = SumsOf(*place.chunk, q);
  __builtin_prefetch(sums.sums1 + first);
  if (sums.sums2 != nullptr) __builtin_prefetch(sums.sums2 + first);
  for (const float* of_rows : {place.chunk->scale, place.chunk->norm_sq}) {
    if (of_rows == nullptr) continue;
    __builtin_prefetch(of_rows + first);
    __builtin_prefetch(of_rows + first + kAlignment / sizeof(float));
  }
}

// Pushes rows of blocks [begin, end) of a chunk.
void PlaneScan::Collect(const Chunk& chunk, size_t begin, size_t end, size_t q) {
  const PreparedQuery& query = queries_[q];
  CandidateSet& set = sets_[q];
  const PrefixModel& model = query.scanned();
  const float add = model.add + set.margin();
  const bool two = chunk.plane2 != nullptr;
  const size_t first = begin * kBlockRows;
  WindowSums sums = SumsOf(chunk, q);
  sums.sums1 += first;
  if (two) sums.sums2 += first;
  const float* scale = chunk.scale + first;
  const float* norm_sq = chunk.norm_sq != nullptr ? chunk.norm_sq + first : nullptr;
  const uint32_t* mask = chunk.mask + begin;
  uint32_t* rows = scratch_->rows;
  const size_t n =
      two ? Kernels().collect2(sums.sums1, sums.sums2, scale, norm_sq, model.mul1, model.mul2, add,
                               mask, end - begin, set.threshold(), rows, scratch_->scores)
          : Kernels().collect(sums.sums1, scale, norm_sq, model.mul1, add, mask, end - begin,
                              set.threshold(), rows, scratch_->scores);
  const float gain = query.gain();
  for (size_t i = 0; i < n; ++i) {
    const uint32_t r = rows[i];
    float dot = model.mul1 * sums.sums1[r];
    if (two) dot += model.mul2 * sums.sums2[r];
    dot += model.add;
    const float unit = gain * scale[r];
    float estimate = unit * dot;
    if (norm_sq != nullptr) estimate -= norm_sq[r];
    set.Push({.estimate = estimate,
              .unit = unit,
              .dot1 = dot,
              .row = RowIndex(chunk.segment, chunk.first_row + static_cast<uint32_t>(first) + r)});
  }
}

// Scores every matching row of `ranges` by its whole code.
Status ScanCodes(const Snapshot& snapshot, const MatchingRows& matching,
                 std::span<const BlockRange> ranges, std::span<const PreparedQuery> queries,
                 std::span<CandidateSet> sets, uint64_t* bytes) {
  static thread_local ScratchBuffer buffer;
  const CodeLayout& layout = snapshot.quantizer->layout();
  const int8_t* levels = snapshot.quantizer->codebook().levels;
  const ScanKernels& kernels = Kernels();
  auto* row_code = static_cast<uint8_t*>(buffer.Reserve(layout.row_code_bytes()));
  for (const BlockRange& range : ranges) {
    const Segment& segment = *snapshot.segments[range.segment].segment;
    const uint32_t* mask = matching.mask(range.segment);
    SegmentCodes codes;
    QUASH_RETURN_IF_ERROR(codes.Read(segment, layout.bits));
    const float* norm_sq = codes.arrays.norm_sq;
    for (uint32_t block = range.begin; block < range.end; ++block) {
      for (uint32_t word = mask[block]; word != 0; word &= word - 1) {
        const uint32_t row = block * kBlockRows + std::countr_zero(word);
        GatherRowCode(layout, codes.arrays, row, row_code);
        *bytes += layout.row_code_bytes() + sizeof(float);
        for (size_t q = 0; q < queries.size(); ++q) {
          const LevelQuery& level_query = queries[q].levels();
          const float dot = level_query.scale *
                            static_cast<float>(kernels.code_dot(row_code, layout.bits,
                                                                layout.plane_bytes(), levels,
                                                                level_query.values));
          const float unit = queries[q].gain() * codes.scale[row];
          float estimate = unit * dot;
          if (norm_sq != nullptr) estimate -= norm_sq[row];
          sets[q].Push({.estimate = estimate,
                        .unit = unit,
                        .dot1 = dot,
                        .row = RowIndex(range.segment, row)});
        }
      }
    }
  }
  return Status();
}

}  // namespace

Status ScanPlanes(const Snapshot& snapshot, const MatchingRows& matching,
                  std::span<const BlockRange> ranges, std::span<const PreparedQuery> queries,
                  size_t planes, std::span<CandidateSet> sets, uint64_t* bytes) {
  if (planes == kAllPlanes) return ScanCodes(snapshot, matching, ranges, queries, sets, bytes);
  static thread_local Scratch scratch;
  const CodeLayout& layout = snapshot.quantizer->layout();
  const size_t block_bytes = layout.block_bytes();
  size_t blocks = 0;
  for (const BlockRange& range : ranges) blocks += range.end - range.begin;
  PlaneScan scan(layout.plane_bytes(), planes, blocks, queries, sets, &scratch);
  for (const BlockRange& range : ranges) {
    const Segment& segment = *snapshot.segments[range.segment].segment;
    const uint32_t* mask = matching.mask(range.segment);
    ConstCodeArrays codes;
    Pin pins[2];
    QUASH_RETURN_IF_ERROR(segment.Codes(SegmentPart::kPlane1, &codes, &pins[0]));
    if (planes == 2) {
      QUASH_RETURN_IF_ERROR(segment.Codes(SegmentPart::kPlane2, &codes, &pins[1]));
    }
    const float* scale = planes == 2 ? codes.scale2 : codes.scale1;
    for (uint32_t begin = range.begin; begin < range.end;) {
      if (mask[begin] == 0) {
        ++begin;
        continue;
      }
      uint32_t end = begin + 1;
      while (end < range.end && end - begin < scan.room() && mask[end] != 0) ++end;
      const size_t first_row = begin * kBlockRows;
      scan.Add({.segment = range.segment,
                .first_row = static_cast<uint32_t>(first_row),
                .blocks = end - begin,
                .mask = mask + begin,
                .plane1 = codes.plane1 + begin * block_bytes,
                .plane2 = planes == 2 ? codes.plane2 + begin * block_bytes : nullptr,
                .scale = scale + first_row,
                .norm_sq = codes.norm_sq != nullptr ? codes.norm_sq + first_row : nullptr,
                .at = 0},
               pins);
      *bytes += (end - begin) * (planes * block_bytes +
                                 kBlockRows * sizeof(float) * (codes.norm_sq != nullptr ? 2 : 1));
      begin = end;
    }
  }
  scan.Flush();
  return Status();
}

}  // namespace quash
