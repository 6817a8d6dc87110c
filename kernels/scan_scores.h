// collect(), collect2() and best_of_blocks() of kernels/scan.h, compiled for each
// instruction set over its own two loops.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quash {
namespace {

// What rows are scored from; sums2 and mul2 with two planes only.
struct ScoreInputs {
  const uint16_t* sums1;
  const uint16_t* sums2;
  const float* scale;
  const float* norm_sq;
  float mul1, mul2, add;
};

// Those of the file that includes this.
template <bool kTwoPlanes, bool kNorms>
size_t CollectOf(const ScoreInputs& in, const uint32_t* mask, size_t nblocks, float threshold,
                 uint32_t* rows, float* scores);
template <bool kTwoPlanes, bool kNorms>
void BestOf(const ScoreInputs& in, const uint32_t* mask, size_t nblocks, float* best);

size_t Collect(const uint16_t* sums, const float* scale, const float* norm_sq, float mul, float add,
               const uint32_t* mask, size_t nblocks, float threshold, uint32_t* rows,
               float* scores) {
  const auto collect = norm_sq != nullptr ? CollectOf<false, true> : CollectOf<false, false>;
  return collect({sums, nullptr, scale, norm_sq, mul, 0, add}, mask, nblocks, threshold, rows,
                 scores);
}

size_t Collect2(const uint16_t* sums1, const uint16_t* sums2, const float* scale,
                const float* norm_sq, float mul1, float mul2, float add, const uint32_t* mask,
                size_t nblocks, float threshold, uint32_t* rows, float* scores) {
  const auto collect = norm_sq != nullptr ? CollectOf<true, true> : CollectOf<true, false>;
  return collect({sums1, sums2, scale, norm_sq, mul1, mul2, add}, mask, nblocks, threshold, rows,
                 scores);
}

void BestOfBlocks(const uint16_t* sums1, const uint16_t* sums2, const float* scale,
                  const float* norm_sq, float mul1, float mul2, float add, const uint32_t* mask,
                  size_t nblocks, float* best) {
  const bool norms = norm_sq != nullptr;
  const auto best_of = sums2 != nullptr ? (norms ? BestOf<true, true> : BestOf<true, false>)
                                        : (norms ? BestOf<false, true> : BestOf<false, false>);
  best_of({sums1, sums2, scale, norm_sq, mul1, mul2, add}, mask, nblocks, best);
}

}  // namespace
}  // namespace quash
