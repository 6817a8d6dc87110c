// Sizes, shared memory and arguments of the decode kernel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/attend.h"
#include "kernels/cuda/decode_codes.cuh"
#include "kernels/cuda/page_copier.cuh"
#include "kernels/cuda/warp_rotation.cuh"

namespace quash::cuda {

constexpr int kMaxWarps = 16;      // of a block; 2 * kMaxWarps parts are one ballot
constexpr int kTileQueries = 4;    // of one product: 8 columns, high and low bytes
constexpr int kProbStride = 80;    // bytes per column of probabilities: 64 and padding
constexpr int kOpenChunk = 16;     // open tokens that are taken together
constexpr uint32_t kStartItems = 1;  // what a unit's start counts as, in pages
constexpr int kStages = 2;           // pages of a warp: one in use, one on its way
constexpr uint32_t kMaxSlots = 8;  // units whose queries are prepared together
constexpr float kLog2E = 1.4426950408889634f;

// In the place of bits: what the arguments say, in one band or two; the same, with K's
// second band a sketch.
constexpr int kBanded = 0, kSketched = -1;

// Bytes of a head page with both means, the most there are.
constexpr uint32_t HeadPageBytes(int k_bits, int v_bits, int dim) {
  // Up to 7.5 bits in three bands, or with a sketch up to 8 in three.
  const uint32_t eighths = k_bits == kBanded     ? 60
                           : k_bits == kSketched ? 64
                                                 : static_cast<uint32_t>(8 * (k_bits + v_bits));
  const uint32_t bands = k_bits > 0 ? 2 : 3;
  return kPageTokens * static_cast<uint32_t>(dim) * eighths / 64 + 2 * bands * kPageTokens +
         2 * static_cast<uint32_t>(dim);
}

// The rotated queries of a unit as bytes, in the order of the products: of one band, and
// of two, the second of which follows the first, in each thread's part or, of a
// sketch, after all of it.
template <int kQueries, int kDim>
struct alignas(16) UnitQuery {
  int8_t bytes[2 * kQueries][kDim];
  float scale[kQueries];
  int32_t sum[kQueries];
};
template <int kQueries, int kDim, bool kIsSketched>
struct alignas(16) BandedQuery {
  static constexpr int kBytes = kIsSketched ? 2 * kDim : kDim;
  int8_t bytes[2 * kQueries][kBytes];
  float scale[2][kQueries];
  int32_t sum[kQueries];  // of the first band
};

// What a block leaves of a unit, per query: sums of pages, of open tokens if it has any,
// max, sum, twice which of the sums it has.
__host__ __device__ constexpr uint32_t PartialFloats(uint32_t dim) { return 2 * dim + 4; }

// A unit is a sequence, a KV head and up to kQueries of the query vectors that
// read it (query tokens times heads of the group; more take several passes).
template <int kKBits, int kVBits, int kDim, int kTiles>
struct Shape {
  static constexpr int kQueries = kTileQueries * kTiles;
  static constexpr uint32_t kStageBytes = HeadPageBytes(kKBits, kVBits, kDim) + PageCopier::kExtra;
  static constexpr uint32_t kColumnBytes = 2 * kQueries * kProbStride;
  // Probabilities of a page; at other times one vector that is being rotated.
  static constexpr uint32_t kScratchBytes = kColumnBytes > 4 * kDim ? kColumnBytes : 4 * kDim;
  // With 8 no register is spilled and fewer pages are on their way at a time, which memory
  // serves sooner; where products are the limit, 12 make up for what one waits for.
  static constexpr bool kIsShort = kStageBytes < 5000;  // pages are
  static constexpr int kWarps = kIsShort && kTiles == 1 ? 12 : 8;

  static constexpr int kWalkWords = 9, kBatchWords = 11;

  using Rotation = WarpRotation<kDim, (kKBits <= 0)>;
  using Query = std::conditional_t<(kKBits > 0), UnitQuery<kQueries, kDim>,
                                   BandedQuery<kQueries, kDim, kKBits == kSketched>>;
  // A warp's sums of a unit: of pages, rotated, and of open tokens, as they were given.
  static constexpr int kPartStride = kDim + 8;  // of a query; whose sums thus lie in other banks
  static constexpr int kPartSums = kQueries * kPartStride;
  static constexpr uint32_t kPartBytes = 8 * kPartSums;
  // Pages in flight; later the warp's last part, and what it has taken of other blocks'.
  static constexpr uint32_t kNeeded = kPartBytes + 4 * PartialFloats(kDim);
  static constexpr uint32_t kStagesBytes =
      kNeeded > kStages* kStageBytes ? kNeeded : kStages* kStageBytes;
  static constexpr uint32_t kWarpBytes = kStagesBytes + kScratchBytes;
  // What the warps leave of units that others have parts of: their first unit's
  // part, and their last one's.
  struct alignas(16) Parts {
    uint16_t permutation[3][kDim];  // of V's rotation
    float factors[3][kDim];
    uint64_t barriers[kMaxWarps][kStages];
    float top[2][2 * kMaxWarps][kQueries], sum[2][2 * kMaxWarps][kQueries];
    float* out[2 * kMaxWarps];  // [2, kQueries, kPartStride]
    float alone_top[2][kMaxWarps][kQueries], alone_sum[2][kMaxWarps][kQueries];  // of whole units
    int32_t slot[2 * kMaxWarps];  // of the unit, times 4; with kPages and kGiven; -1: none
    uint32_t batch[kBatchWords];
    uint32_t walks[kMaxWarps][2][kWalkWords];  // where a warp's copies are, and its products
  };
  static constexpr size_t SharedBytes(uint32_t warps, uint32_t slots) {
    return sizeof(Parts) + slots * sizeof(Query) + size_t{warps} * kWarpBytes;
  }
};

// Division of numbers below 2^31 by one that the host knows.
class Divisor {
 public:
  Divisor() = default;
  explicit Divisor(uint32_t value) : value_(value) {
    while ((uint64_t{1} << shift_) < value) ++shift_;
    multiplier_ = static_cast<uint32_t>(
        (uint64_t{1} << 32) * ((uint64_t{1} << shift_) - value) / value + 1);
  }
  __device__ __forceinline__ uint32_t value() const { return value_; }
  __device__ __forceinline__ uint32_t Divide(uint32_t x) const {
    return (__umulhi(x, multiplier_) + x) >> shift_;
  }
  __device__ __forceinline__ uint32_t Rest(uint32_t x) const { return x - Divide(x) * value_; }

 private:
  uint32_t value_ = 1, multiplier_ = 0, shift_ = 0;
};

struct KernelArgs {
  DecodeArgs a;
  LevelTable k_table, v_table;
  LevelTable k_second_table, v_second_table;
  Divisor group;          // query heads of a KV head
  Divisor passes;         // over the queries of a KV head
  Divisor rows;           // num_kv_heads * passes: units of a sequence
  Divisor blocks, warps;  // of the launch, and of a block
  float cap, inverse_cap;  // of scores in log2 units; 0: none
  uint32_t slots;          // units prepared together, at most kMaxSlots
  float* partials;     // [blocks + units, kQueries, PartialFloats()]; zero between launches
  float* spill;        // [units, 2, kQueries, kPartStride]
};

// What a part of a unit has.
constexpr int kPages = 1, kGiven = 2;

}  // namespace quash::cuda
