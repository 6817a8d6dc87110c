#include "libquashdb/executor_score.h"

#include <algorithm>

#include "kernels/dispatch.h"
#include "libquashdb/executor_parallel.h"
#include "libquashdb/segment_codes.h"

namespace quash {
namespace {

constexpr size_t kCacheLine = 64;
constexpr size_t kRowsAhead = 8;        // rows whose bytes are on their way
constexpr size_t kPlacesAhead = 12;     // and before that, what tells where they are
constexpr size_t kCodesAhead = 1;       // whole codes on their way: each is many lines
constexpr size_t kRowsPerThread = 512;  // fewer are not worth another thread
constexpr size_t kRowsPinned = 256;     // pins are dropped after so many rows

void Prefetch(const void* data, size_t bytes) {
  const char* p = static_cast<const char*>(data);
  for (size_t i = 0; i < bytes; i += kCacheLine) __builtin_prefetch(p + i);
}

// The bytes of a whole code: those of planes 1 and 2 lie all over the row's block.
void PrefetchRowCode(const CodeLayout& layout, const ConstCodeArrays& codes, size_t row) {
  const size_t block = row / kBlockRows * layout.block_bytes();
  Prefetch(codes.plane1 + block, layout.block_bytes());
  if (layout.bits >= 2) Prefetch(codes.plane2 + block, layout.block_bytes());
  if (layout.bits >= 3) Prefetch(codes.rest + row * layout.rest_stride(), layout.rest_stride());
}

// Number of rows from `first` on in the same segment.
size_t SegmentRun(std::span<const uint64_t> rows, size_t first) {
  const uint64_t end = RowIndex(SegmentOf(rows[first]) + 1, 0);
  return std::lower_bound(rows.begin() + first, rows.end(), end) - rows.begin() - first;
}

}  // namespace

RerankScore::RerankScore(const Snapshot& snapshot, const PreparedQuery& query)
    : query_(query.vector()),
      dim_(snapshot.spec->dim),
      tier_(snapshot.spec->rerank),
      is_l2_(snapshot.spec->metric == QUASH_METRIC_L2),
      row_bytes_(dim_ * (tier_ == QUASH_RERANK_F32   ? sizeof(float)
                         : tier_ == QUASH_RERANK_F16 ? sizeof(uint16_t)
                                                     : sizeof(int8_t))) {}

float RerankScore::operator()(const void* row, float scale) const {
  const ScanKernels& kernels = Kernels();
  switch (tier_) {
    case QUASH_RERANK_F32: {
      const auto* values = static_cast<const float*>(row);
      return is_l2_ ? -kernels.l2_f32(values, query_, dim_) : kernels.dot_f32(values, query_, dim_);
    }
    case QUASH_RERANK_F16: {
      const auto* values = static_cast<const uint16_t*>(row);
      return is_l2_ ? -kernels.l2_f16(values, query_, dim_) : kernels.dot_f16(values, query_, dim_);
    }
    default: {
      const auto* values = static_cast<const int8_t*>(row);
      return is_l2_ ? -kernels.l2_i8(values, scale, query_, dim_)
                    : scale * kernels.dot_i8(values, query_, dim_);
    }
  }
}

Status ScoreFromRerank(const Snapshot& snapshot, const PreparedQuery& query,
                       std::span<const uint64_t> rows, float* scores) {
  struct Fetched {
    const void* data;
    float scale;
  };
  static thread_local std::vector<Pin> pins;
  const struct ClearAtExit {
    ~ClearAtExit() { pins.clear(); }
  } clear_at_exit;
  const RerankScore score(snapshot, query);
  Fetched ahead[kRowsAhead];
  const auto segment_of = [&](uint64_t row) -> const Segment& {
    return *snapshot.segments[SegmentOf(row)].segment;
  };
  for (size_t i = 0; i < std::min(rows.size(), 2 * kPlacesAhead); ++i) {
    segment_of(rows[i]).FetchPlaceOfRow(RowOf(rows[i]));
  }
  for (size_t i = 0; i < std::min(rows.size(), kPlacesAhead); ++i) {
    segment_of(rows[i]).FetchOwnerOfRow(RowOf(rows[i]));
  }
  for (size_t begin = 0; begin < rows.size(); begin += kRowsPinned) {
    const size_t end = std::min(begin + kRowsPinned, rows.size());
    for (size_t i = begin; i < end + kRowsAhead; ++i) {
      Fetched& slot = ahead[i % kRowsAhead];
      if (i >= begin + kRowsAhead) scores[i - kRowsAhead] = score(slot.data, slot.scale);
      if (i >= end) continue;
      if (const size_t next = i + 2 * kPlacesAhead; next < rows.size()) {
        segment_of(rows[next]).FetchPlaceOfRow(RowOf(rows[next]));
      }
      if (const size_t next = i + kPlacesAhead; next < rows.size()) {
        segment_of(rows[next]).FetchOwnerOfRow(RowOf(rows[next]));
      }
      QUASH_RETURN_IF_ERROR(
          segment_of(rows[i]).RerankRow(RowOf(rows[i]), &slot.data, &slot.scale, &pins));
      Prefetch(slot.data, score.row_bytes());
    }
    pins.clear();
  }
  return Status();
}

Status ScoreFromCodes(const Snapshot& snapshot, const PreparedQuery& query,
                      std::span<const uint64_t> rows, float* scores, float* units) {
  static thread_local ScratchBuffer buffer;
  const CodeLayout& layout = snapshot.quantizer->layout();
  const int8_t* levels = snapshot.quantizer->codebook().levels;
  const LevelQuery& level_query = query.levels();
  const ScanKernels& kernels = Kernels();
  auto* row_code = static_cast<uint8_t*>(buffer.Reserve(layout.row_code_bytes()));
  for (size_t begin = 0; begin < rows.size();) {
    const size_t end = begin + SegmentRun(rows, begin);
    const Segment& segment = *snapshot.segments[SegmentOf(rows[begin])].segment;
    SegmentCodes codes;
    QUASH_RETURN_IF_ERROR(codes.Read(segment, layout.bits));
    const float* norm_sq = codes.arrays.norm_sq;
    for (size_t i = begin; i < end; ++i) {
      const uint32_t row = RowOf(rows[i]);
      if (i + kCodesAhead < end) {
        PrefetchRowCode(layout, codes.arrays, RowOf(rows[i + kCodesAhead]));
        __builtin_prefetch(codes.scale + RowOf(rows[i + kCodesAhead]));
      }
      GatherRowCode(layout, codes.arrays, row, row_code);
      const int32_t dot =
          kernels.code_dot(row_code, layout.bits, layout.plane_bytes(), levels, level_query.values);
      const float unit = query.gain() * codes.scale[row];
      float internal = unit * (level_query.scale * static_cast<float>(dot));
      if (norm_sq != nullptr) internal -= norm_sq[row];
      scores[i] = internal - query.offset();
      if (units != nullptr) units[i] = unit;
    }
    begin = end;
  }
  return Status();
}

Status ScoreFinal(const Snapshot& snapshot, const PreparedQuery& query,
                  std::span<const uint64_t> rows, size_t threads, float* scores) {
  const bool has_tier = snapshot.spec->rerank != QUASH_RERANK_NONE;
  const size_t slices = std::clamp<size_t>(rows.size() / kRowsPerThread, 1, threads);
  const size_t slice = (rows.size() + slices - 1) / slices;
  return ParallelFor(slices, slices, [&](size_t i) {
    const size_t first = std::min(i * slice, rows.size());
    const auto part = rows.subspan(first, std::min(slice, rows.size() - first));
    return has_tier ? ScoreFromRerank(snapshot, query, part, scores + first)
                    : ScoreFromCodes(snapshot, query, part, scores + first, nullptr);
  });
}

Status RefineWithPlane2(const Snapshot& snapshot, const PreparedQuery& query,
                        std::span<Survivor> survivors, uint64_t* bytes) {
  const CodeLayout& layout = snapshot.quantizer->layout();
  const LevelCodebook& codebook = snapshot.quantizer->codebook();
  const ScanKernels& kernels = Kernels();
  const uint8_t* lut = query.lut().table;
  alignas(kAlignment) uint16_t sums[kBlockRows];
  for (size_t i = 0; i < survivors.size();) {
    const uint32_t segment_index = SegmentOf(survivors[i].row);
    const Segment& segment = *snapshot.segments[segment_index].segment;
    ConstCodeArrays codes;
    Pin pins[2];
    QUASH_RETURN_IF_ERROR(segment.Codes(SegmentPart::kPlane1, &codes, &pins[0]));
    QUASH_RETURN_IF_ERROR(segment.Codes(SegmentPart::kPlane2, &codes, &pins[1]));
    while (i < survivors.size() && SegmentOf(survivors[i].row) == segment_index) {
      const uint32_t block = RowOf(survivors[i].row) / kBlockRows;
      kernels.plane_sums(codes.plane2 + block * layout.block_bytes(), 1, layout.plane_bytes(), &lut,
                         1, sums, kBlockRows);
      *bytes += layout.block_bytes();
      for (; i < survivors.size() && survivors[i].row / kBlockRows ==
                                         RowIndex(segment_index, block * kBlockRows) / kBlockRows;
           ++i) {
        Survivor& s = survivors[i];
        const uint32_t row = RowOf(s.row);
        const float dot2 = query.lut().bias + query.lut().step * sums[row % kBlockRows];
        s.unit = query.gain() * codes.scale2[row];
        s.estimate = s.unit * (codebook.m * s.dot1 + codebook.delta * dot2);
        if (codes.norm_sq != nullptr) s.estimate -= codes.norm_sq[row];
      }
    }
  }
  return Status();
}

}  // namespace quash
