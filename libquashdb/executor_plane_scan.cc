#include "libquashdb/executor_plane_scan.h"

#include <algorithm>
#include <bit>

#include "kernels/dispatch.h"
#include "libquashdb/segment_codes.h"

namespace quash {
namespace {

// Sums of a chunk stay in L1, its plane in L2 up to a few hundred dimensions.
constexpr size_t kChunkBlocks = 64;
constexpr size_t kChunkRows = kChunkBlocks * kBlockRows;
// The first chunk is small and each next one doubles: until some rows are seen
// there is no threshold, and every row of a chunk survives.
constexpr size_t kFirstChunkBlocks = 4;

struct Scratch {
  alignas(kAlignment) uint16_t sums1[kPlaneSumsMaxQueries * kChunkRows];
  alignas(kAlignment) uint16_t sums2[kPlaneSumsMaxQueries * kChunkRows];
  alignas(kAlignment) uint32_t rows[kChunkRows];
  alignas(kAlignment) float scores[kChunkRows];
};

struct Chunk {
  uint32_t segment;
  uint32_t first_row;
  uint32_t blocks;
  const uint32_t* mask;
  const uint8_t* plane1;
  const uint8_t* plane2;  // null: one plane
  const float* scale;     // of the planes scanned
  const float* norm_sq;   // null unless L2
};

void Collect(const Chunk& chunk, const PreparedQuery& query, const uint16_t* sums1,
             const uint16_t* sums2, Scratch* scratch, CandidateSet* set) {
  const PrefixModel& model = query.scanned();
  const float add = model.add + set->margin();
  const bool two = chunk.plane2 != nullptr;
  const size_t n =
      two ? Kernels().collect2(sums1, sums2, chunk.scale, chunk.norm_sq, model.mul1, model.mul2,
                               add, chunk.mask, chunk.blocks, set->threshold(), scratch->rows,
                               scratch->scores)
          : Kernels().collect(sums1, chunk.scale, chunk.norm_sq, model.mul1, add, chunk.mask,
                              chunk.blocks, set->threshold(), scratch->rows, scratch->scores);
  const float gain = query.gain();
  for (size_t i = 0; i < n; ++i) {
    const uint32_t r = scratch->rows[i];
    float dot = model.mul1 * sums1[r];
    if (two) dot += model.mul2 * sums2[r];
    dot += model.add;
    const float unit = gain * chunk.scale[r];
    float estimate = unit * dot;
    if (chunk.norm_sq != nullptr) estimate -= chunk.norm_sq[r];
    set->Push({.estimate = estimate,
               .unit = unit,
               .dot1 = dot,
               .row = RowIndex(chunk.segment, chunk.first_row + r)});
  }
}

void ScanChunk(const Chunk& chunk, size_t plane_bytes, std::span<const PreparedQuery> queries,
               Scratch* scratch, std::span<CandidateSet> sets) {
  const ScanKernels& kernels = Kernels();
  const size_t stride = chunk.blocks * kBlockRows;
  for (size_t first = 0; first < queries.size(); first += kPlaneSumsMaxQueries) {
    const size_t nq = std::min(kPlaneSumsMaxQueries, queries.size() - first);
    const uint8_t* luts[kPlaneSumsMaxQueries];
    for (size_t i = 0; i < nq; ++i) luts[i] = queries[first + i].lut().table;
    kernels.plane_sums(chunk.plane1, chunk.blocks, plane_bytes, luts, nq, scratch->sums1, stride);
    if (chunk.plane2 != nullptr) {
      kernels.plane_sums(chunk.plane2, chunk.blocks, plane_bytes, luts, nq, scratch->sums2, stride);
    }
    for (size_t i = 0; i < nq; ++i) {
      Collect(chunk, queries[first + i], scratch->sums1 + i * stride, scratch->sums2 + i * stride,
              scratch, &sets[first + i]);
    }
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
  size_t chunk_blocks = kFirstChunkBlocks;
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
      while (end < range.end && end - begin < chunk_blocks && mask[end] != 0) ++end;
      const size_t first_row = begin * kBlockRows;
      ScanChunk({.segment = range.segment,
                 .first_row = static_cast<uint32_t>(first_row),
                 .blocks = end - begin,
                 .mask = mask + begin,
                 .plane1 = codes.plane1 + begin * block_bytes,
                 .plane2 = planes == 2 ? codes.plane2 + begin * block_bytes : nullptr,
                 .scale = scale + first_row,
                 .norm_sq = codes.norm_sq != nullptr ? codes.norm_sq + first_row : nullptr},
                layout.plane_bytes(), queries, &scratch, sets);
      *bytes += (end - begin) * (planes * block_bytes +
                                 kBlockRows * sizeof(float) * (codes.norm_sq != nullptr ? 2 : 1));
      begin = end;
      chunk_blocks = std::min(2 * chunk_blocks, kChunkBlocks);
    }
  }
  return Status();
}

}  // namespace quash
