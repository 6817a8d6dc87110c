#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/dispatch.h"
#include "kernels/scan.h"
#include "tests/kernels/scan_inputs.h"
#include "tests/kernels/test_vectors.h"

namespace quash {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Inputs {
  explicit Inputs(size_t blocks, uint64_t seed)
      : nblocks(blocks), mask(blocks), sums1(blocks * kBlockRows), sums2(sums1.size()) {
    Random random(seed);
    for (uint32_t& word : mask) word = static_cast<uint32_t>(random.Next() >> 32);
    for (uint16_t& sum : sums1) sum = static_cast<uint16_t>(random.Next() >> 48);
    for (uint16_t& sum : sums2) sum = static_cast<uint16_t>(random.Next() >> 48);
    scale = GaussianVectors(1, sums1.size(), seed + 1);
    norm_sq = GaussianVectors(1, sums1.size(), seed + 2);
  }
  size_t nblocks;
  std::vector<uint32_t> mask;
  std::vector<uint16_t> sums1, sums2;
  std::vector<float> scale, norm_sq;
  float mul1 = 0.0017f, mul2 = 0.00045f, add = -61.3f;
};

struct Kept {
  std::vector<uint32_t> rows;
  std::vector<float> scores;
  bool operator==(const Kept& other) const {
    return rows == other.rows && BitsOf(scores) == BitsOf(other.scores);
  }
};

Kept NaiveCollect(const Inputs& in, bool two_planes, bool l2, float threshold) {
  Kept kept;
  for (size_t row = 0; row < in.sums1.size(); ++row) {
    if ((in.mask[row / 32] >> row % 32 & 1) == 0) continue;
    float value = in.mul1 * static_cast<float>(in.sums1[row]);
    if (two_planes) value += in.mul2 * static_cast<float>(in.sums2[row]);
    float score = in.scale[row] * (value + in.add);
    if (l2) score = 2 * score - in.norm_sq[row];
    if (!(score >= threshold)) continue;
    kept.rows.push_back(static_cast<uint32_t>(row));
    kept.scores.push_back(score);
  }
  return kept;
}

Kept RunCollect(const ScanKernels& kernels, const Inputs& in, bool two_planes, bool l2,
                float threshold) {
  Kept kept;
  kept.rows.resize(in.sums1.size());
  kept.scores.resize(in.sums1.size());
  const float* norm_sq = l2 ? in.norm_sq.data() : nullptr;
  const size_t n =
      two_planes ? kernels.collect2(in.sums1.data(), in.sums2.data(), in.scale.data(), norm_sq,
                                    in.mul1, in.mul2, in.add, in.mask.data(), in.nblocks, threshold,
                                    kept.rows.data(), kept.scores.data())
                 : kernels.collect(in.sums1.data(), in.scale.data(), norm_sq, in.mul1, in.add,
                                   in.mask.data(), in.nblocks, threshold, kept.rows.data(),
                                   kept.scores.data());
  REQUIRE(n <= kept.rows.size());
  kept.rows.resize(n);
  kept.scores.resize(n);
  return kept;
}

// The best of each block is the best of what collect() keeps of it.
void CheckBest(const Inputs& in, bool two_planes, bool l2) {
  const Kept all = NaiveCollect(in, two_planes, l2, -kInfinity);
  std::vector<float> expected(in.nblocks, -kInfinity);
  for (size_t i = 0; i < all.rows.size(); ++i) {
    float& best = expected[all.rows[i] / kBlockRows];
    best = std::max(best, all.scores[i]);
  }
  for (const ScanKernels* kernels : {&Kernels(), ScalarKernels()}) {
    std::vector<float> best(in.nblocks, 7.0f);
    kernels->best_of_blocks(in.sums1.data(), two_planes ? in.sums2.data() : nullptr,
                            in.scale.data(), l2 ? in.norm_sq.data() : nullptr, in.mul1, in.mul2,
                            in.add, in.mask.data(), in.nblocks, best.data());
    CHECK(best == expected);
  }
}

void CheckAll(const Inputs& in) {
  CAPTURE(in.nblocks);
  for (bool two_planes : {false, true}) {
    for (bool l2 : {false, true}) {
      CAPTURE(two_planes);
      CAPTURE(l2);
      CheckBest(in, two_planes, l2);
    }
  }
  for (bool two_planes : {false, true}) {
    for (bool l2 : {false, true}) {
      for (float threshold : {-kInfinity, -1.0f, 0.0f, 0.5f, 40.0f, kInfinity}) {
        CAPTURE(two_planes);
        CAPTURE(l2);
        CAPTURE(threshold);
        const Kept kept = RunCollect(Kernels(), in, two_planes, l2, threshold);
        CHECK(kept == RunCollect(*ScalarKernels(), in, two_planes, l2, threshold));
        CHECK(kept == NaiveCollect(in, two_planes, l2, threshold));
      }
    }
  }
}

TEST_CASE("collect keeps the masked rows that reach the threshold, in order") {
  for (size_t nblocks : {0, 1, 2, 3, 7, 64}) CheckAll(Inputs(nblocks, nblocks + 11));
}

TEST_CASE("collect under every kind of mask") {
  for (uint32_t word : {0u, ~0u, 1u, 0x80000000u, 0x00FF00FFu, 0xFFFF0000u, 0x55555555u}) {
    CAPTURE(word);
    Inputs in(5, word);
    in.mask.assign(5, word);
    CheckAll(in);
    in.mask = {0, word, 0, 0, word};
    CheckAll(in);
  }
  for (int bit = 0; bit < 32; ++bit) {
    Inputs in(1, bit);
    in.mask = {1u << bit};
    CheckAll(in);
  }
}

TEST_CASE("collect keeps scores equal to the threshold") {
  Inputs in(3, 5);
  in.mask.assign(3, ~0u);
  in.mul1 = 1;
  in.add = 0;
  in.scale.assign(in.scale.size(), 1.0f);
  for (size_t row = 0; row < in.sums1.size(); ++row) in.sums1[row] = row % 3 == 0 ? 65535 : 65534;
  const Kept kept = RunCollect(Kernels(), in, false, false, 65535.0f);
  CHECK(kept.rows.size() == 32);
  CHECK(kept == NaiveCollect(in, false, false, 65535.0f));
}

TEST_CASE("collect never keeps a score that is not a number") {
  Inputs in(2, 6);
  in.mask.assign(2, ~0u);
  in.scale[3] = in.scale[40] = std::numeric_limits<float>::quiet_NaN();
  in.norm_sq[9] = kInfinity;  // -infinity, kept at threshold -infinity only
  for (float threshold : {-kInfinity, 0.0f}) {
    const Kept kept = RunCollect(Kernels(), in, true, true, threshold);
    CHECK(kept == NaiveCollect(in, true, true, threshold));
    for (uint32_t row : kept.rows) CHECK((row != 3 && row != 40));
  }
  CHECK(RunCollect(Kernels(), in, true, true, -kInfinity).rows.size() == 62);
}

}  // namespace
}  // namespace quash
