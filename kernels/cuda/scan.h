// Plane scan of packed codes on NVIDIA GPUs (sm_80 and newer). Sums of table
// entries are the integers of kernels/scan.h, so whoever goes on with them gets
// the estimates that a scan on the CPU gives, bit for bit.
//
// All pointers are device memory unless said otherwise. Launches go to `stream`
// and never synchronise. They return null, or a static text that says what failed.
#pragma once

#include <cstddef>
#include <cstdint>

struct CUstream_st;

namespace quash::cuda {

// A pass serves so many queries at a time.
inline constexpr uint32_t kScanQueries = 128;
// Coordinates that a warp multiplies at a time; planes are padded to whole chunks.
inline constexpr uint32_t kChunkDims = 128;

inline constexpr uint32_t ScanChunks(size_t dim) {
  return static_cast<uint32_t>((dim + kChunkDims - 1) / kChunkDims);
}
// Bytes of one plane of one block of 32 rows.
inline constexpr size_t ScanPlaneBytes(size_t dim) { return ScanChunks(dim) * size_t{512}; }
// Queries of one pass must fit in shared memory.
inline constexpr uint32_t kScanDimMax = 16384;
// Blocks of 32 rows that limits are taken from, at most.
inline constexpr uint32_t kScanSampleBlocks = 2048;

// One segment of codes. Arrays but the planes are as in kernels/layout.h. Members
// that are not needed are null.
struct ScanSegment {
  const uint32_t* planes[4];  // of LaunchRepackPlane(), the first `bits` of them
  const float* scale1;
  const float* scale2;
  const float* scale_full;  // of whole codes, at any number of bits
  const float* norm_sq;
  const void* tier;         // rerank tier [rows, dim], its type in FinishArgs
  const float* tier_scale;  // [rows], int8 only
  const int64_t* ids;       // [rows], or null: ranked rows come without
  uint32_t first_block;     // blocks of all segments are numbered through
  uint32_t blocks;
};

// Where byte c of row r of block b of a plane lies in an array of kernels/layout.h:
// at b * block + r * row + c * byte.
struct PlaneStrides {
  uint32_t block;
  uint32_t row;
  uint32_t byte;
};

// Such a plane -> [nblocks][chunks][32][4] u32: what each lane of a warp multiplies,
// 16 bytes together.
const char* LaunchRepackPlane(const uint8_t* plane, PlaneStrides strides, uint32_t nblocks,
                              uint32_t plane_bytes, uint32_t* out, CUstream_st* stream);

// What a scan reads of every row, and the integers that come of it.
enum class ScanStage : uint32_t {
  kPlane1,     // the sum of plane 1 (PlaneLut)
  kTwoPlanes,  // the sums of planes 1 and 2, in the lower and the upper half
  kCodes       // whole codes: the exact dot of kernels/scan.h, code_dot
};

// One query of a pass. In float32, rounded after every operation, with the scale of
// the stage and `sums` the integers
//   unit = gain * scale, estimate = unit * (mul * sums [+ mul2 * sums2] + add) - norm_sq
//   key = estimate + key_margin * unit
struct ScanQuery {
  float gain;
  float mul;
  float mul2;  // of plane 2, kTwoPlanes only
  float add;
  float key_margin;
  // Of PlaneLut; of whole codes what CodeOffset() gives.
  int32_t offset;
  // Ranks in the sample that the limits are taken from, from 0.
  uint32_t key_rank;
  uint32_t estimate_rank;
  // Limits that the caller knows; the larger of these and the sample's count.
  float key_limit;
  float estimate_limit;
  // For the limits once all rows are seen: rows below them cannot matter to a
  // search that wants the best k and at most `width` by key.
  uint32_t k;  // 0: leaves the limits as they are
  uint32_t width;
  float slack;  // cosine: how far below the k-th estimate a key may be at most
  uint32_t is_cosine;
};

// What the host learns of a query.
struct ScanSummary {
  uint32_t found;  // rows listed; more than the capacity: some are missing
  uint32_t kept;   // of these, after the limits rose
  float key_limit;
  float estimate_limit;
};

inline constexpr uint32_t kCodeFunctions = 8;

struct ScanArgs {
  const ScanSegment* segments;
  uint32_t num_segments;
  uint32_t num_blocks;    // of all segments
  const uint32_t* masks;  // [num_blocks] rows that may be returned
  uint32_t dim;
  ScanStage stage;
  uint32_t bits;                          // of a code, for kCodes
  int32_t code_weights[kCodeFunctions];   // of MakeCodeWeights(), for kCodes
  uint32_t nq;                            // 1..kScanQueries
  const ScanQuery* queries;               // [nq]
  const uint32_t* weights;                // of PackScanWeights() or PackCodeValues()
  uint32_t sample_blocks;    // 0: none, limits are those of the queries; else at most
                             // kScanSampleBlocks and num_blocks
  float* sample;             // ScanSampleFloats(), scratch
  float* limits;             // [nq][2] out: key and estimate limits used
  uint32_t capacity;         // of each query's candidates
  uint32_t* counts;          // [nq] zero, scratch
  uint32_t* candidates;      // [nq][capacity][4] scratch: row, sums, estimate, key
  ScanSummary* summaries;    // [nq] out, may be pinned host memory
  uint32_t* kept_counts;     // [nq] out
  uint32_t* kept;            // [nq][capacity][2] out: row, sums; in no order
};

// The greatest key and estimate of every four sampled rows.
inline constexpr size_t ScanSampleFloats(uint32_t nq, uint32_t sample_blocks) {
  return size_t{nq} * 2 * sample_blocks * 8;
}

// Words that PackScanWeights() fills: bytes, in tiles of eight queries, and bits.
inline constexpr size_t ScanByteWords(size_t dim, uint32_t nq) {
  return ScanChunks(dim) * 4 * ((nq + 7) / 8) * size_t{64};
}
inline constexpr size_t ScanWeightWords(size_t dim, uint32_t nq) {
  return ScanByteWords(dim, nq) + ScanChunks(dim) * nq * size_t{32};
}
// Arranges the weights of query q of nq (kernels/scan.h, PlaneLut) for the scan. Host
// memory; queries may be arranged at the same time.
//   weights  [padded dim] i8
//   out      [ScanWeightWords()] of all queries
void PackScanWeights(const int8_t* weights, uint32_t q, uint32_t nq, size_t dim, uint32_t* out);

// The same for whole codes: the values of LevelQuery as 16 bits each.
//   values  [padded dim] i16
//   out     [CodeValueWords()] of all queries
inline constexpr size_t CodeValueWords(size_t dim, uint32_t nq) {
  return ScanChunks(dim) * nq * size_t{64};
}
void PackCodeValues(const int16_t* values, uint32_t q, uint32_t nq, size_t dim, uint32_t* out);

// Levels as a sum of functions of a code's bits (scan_codes.cuh) that are 0 or 1:
//   level of a code = sum_i weights[i] * function_i - level of the last code
//   levels   [2^bits] odd, levels[i] = -levels[2^bits - 1 - i]
//   weights  [kCodeFunctions] out, zero past 2^(bits - 1)
// False if the levels are no such sum.
bool MakeCodeWeights(const int8_t* levels, uint32_t bits, int32_t* weights);
// ScanQuery::offset of a query's values; wraps around as the sums do.
int32_t CodeOffset(const int16_t* values, size_t dim, int32_t last_level);

// Rows of `masks` whose key reaches the key limit or whose estimate reaches the
// estimate limit. Limits come from a sample of blocks, so that about as many rows
// are listed as the ranks ask for.
const char* LaunchScan(const ScanArgs& args, CUstream_st* stream);

// Raises the limits to what the listed rows show: the k-th estimate less the slack,
// and the key that follows the best `width`.
const char* LaunchNarrow(const ScanArgs& args, CUstream_st* stream);

// A candidate with all that the later stages of a search may ask of it.
struct Scored {
  uint32_t row;   // block * 32 + row of the block
  uint32_t sums;  // of the scan
  float scale;    // of the scan's stage
  float norm_sq;   // 0 if there is none
  uint32_t sums2;  // of plane 2, if the scan was one of plane 1 and it is there
  float scale2;
  // With a tier the final score, as the CPU computes it. Without, the sum of
  // values times levels, an int32.
  union {
    float score;
    int32_t dot;
  };
  float scale_full;  // of the whole code
};

enum class TierType : uint32_t { kNone, kFloat32, kFloat16, kInt8 };

// Adds to candidates what their segment has: plane 2 after a scan of plane 1, and
// the final score or dot if `final_scores`.
struct FinishArgs {
  ScanStage stage;
  const ScanSegment* segments;
  uint32_t num_segments;
  uint32_t num_blocks;
  uint32_t dim;
  uint32_t bits;
  uint32_t nq;
  const uint32_t* weights;  // as for the scan; read for plane 2 only
  const int32_t* offsets;   // [nq] of PlaneLut
  const uint32_t* counts;   // [nq] kept_counts of the scan
  uint32_t capacity;
  const uint32_t* candidates;  // [nq][capacity][2] kept of the scan
  bool final_scores;
  TierType tier;
  bool is_l2;
  const float* vectors;   // [nq, dim] queries, for the tier
  const int16_t* values;  // [nq, plane_bytes * 8] of LevelQuery, without a tier
  int8_t levels[16];
  Scored* scored;  // [nq][capacity] out, may be pinned host memory
};

const char* LaunchFinish(const FinishArgs& args, CUstream_st* stream);

}  // namespace quash::cuda
