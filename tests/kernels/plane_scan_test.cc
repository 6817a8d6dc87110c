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

constexpr uint16_t kCanary = 0xBEEF;

using Weights = std::vector<int8_t>;  // [plane_bytes * 8]

// Of the weights of set bits, less that of the worst row.
uint32_t NaiveSum(const uint8_t* plane, size_t plane_bytes, const Weights& weights, size_t row) {
  const uint8_t* block = plane + row / kBlockRows * plane_bytes * kBlockRows;
  int32_t sum = 0;
  for (size_t j = 0; j < plane_bytes * 8; ++j) {
    const bool set = block[j / 8 * kBlockRows + row % kBlockRows] >> (j % 8) & 1;
    sum += std::max(-int32_t{weights[j]}, 0) + (set ? weights[j] : 0);
  }
  return static_cast<uint32_t>(sum);
}

// Checks every query count over `nblocks` blocks of random codes against the
// naive sums and for writes outside the rows asked for.
void CheckPlaneSums(size_t dim, size_t nblocks, const std::vector<Weights>& weights) {
  CAPTURE(dim);
  CAPTURE(nblocks);
  const size_t plane_bytes = PlaneBytes(dim);
  const size_t rows = nblocks * kBlockRows;
  const std::vector<uint8_t> plane = RandomBytes(nblocks * plane_bytes * kBlockRows, dim + nblocks);
  const size_t stride = rows + 8;
  std::vector<AlignedVector<uint8_t>> tables(weights.size());
  for (size_t q = 0; q < weights.size(); ++q) {
    tables[q].resize(Kernels().plane_table_bytes(plane_bytes));
    Kernels().plane_table(weights[q].data(), plane_bytes, tables[q].data());
  }
  for (size_t nq = 1; nq <= kPlaneSumsMaxQueries; ++nq) {
    CAPTURE(nq);
    const uint8_t* luts[kPlaneSumsMaxQueries];
    for (size_t q = 0; q < nq; ++q) luts[q] = tables[q].data();
    std::vector<uint16_t> expected(nq * stride, kCanary);
    for (size_t q = 0; q < nq; ++q) {
      for (size_t row = 0; row < rows; ++row) {
        const uint32_t sum = NaiveSum(plane.data(), plane_bytes, weights[q], row);
        REQUIRE(sum <= 65535);
        expected[q * stride + row] = static_cast<uint16_t>(sum);
      }
    }
    std::vector<uint16_t> sums(nq * stride, kCanary);
    Kernels().plane_sums(plane.data(), nblocks, plane_bytes, luts, nq, sums.data(), stride);
    CHECK(sums == expected);
  }
}

// Magnitudes that reach the limits: of every nibble as far as its group allows it.
// The share of a nibble that one coordinate has is random, and so are the signs.
Weights WidestWeights(size_t plane_bytes, Random* random) {
  const size_t most = PlaneLutMax(plane_bytes);
  Weights weights(plane_bytes * 8);
  size_t left = 0;  // of the group
  for (size_t j = 0; j < weights.size(); j += 4) {
    if (j % (kPlaneGroupBytes * 8) == 0) left = kPlaneGroupMax;
    size_t of_nibble = std::min(most, left);
    left -= of_nibble;
    for (size_t i = 0; i < 4; ++i) {
      const size_t magnitude =
          i == 3 ? of_nibble : random->Below(static_cast<uint32_t>(of_nibble) + 1);
      of_nibble -= magnitude;
      weights[j + i] = static_cast<int8_t>(magnitude);
      if (random->Below(2) == 1) weights[j + i] = static_cast<int8_t>(-weights[j + i]);
    }
  }
  return weights;
}

std::vector<Weights> RandomWeights(size_t dim) {
  Random random(dim);
  std::vector<Weights> weights(kPlaneSumsMaxQueries);
  for (Weights& one : weights) {
    one = WidestWeights(PlaneBytes(dim), &random);
    for (int8_t& weight : one) {
      weight = static_cast<int8_t>(weight * static_cast<int>(random.Below(5)) / 4);
    }
  }
  return weights;
}

TEST_CASE("plane sums equal the sums of weights") {
  for (size_t dim = 1; dim <= 200; ++dim) CheckPlaneSums(dim, 1 + dim % 7, RandomWeights(dim));
  for (size_t dim : {384, 385, 767, 768, 1000, 1024, 1536, 3072, 4095, 4160, 4161, 4200}) {
    CheckPlaneSums(dim, 5, RandomWeights(dim));
  }
  CheckPlaneSums(65536, 2, RandomWeights(65536));
}

TEST_CASE("plane sums cover every number of blocks") {
  for (size_t nblocks = 0; nblocks <= 20; ++nblocks) {
    CheckPlaneSums(16, nblocks, RandomWeights(16));
    CheckPlaneSums(100, nblocks, RandomWeights(100));
  }
}

TEST_CASE("plane sums of the largest entries do not overflow") {
  for (size_t dim = 1; dim <= 65536;
       dim = dim < 65536 ? std::min<size_t>(dim * 3 / 2 + 1, 65536) : dim + 1) {
    CHECK(PlaneLutMax(PlaneBytes(dim)) >= 1);
    Random random(dim);
    std::vector<Weights> weights(kPlaneSumsMaxQueries);
    for (Weights& one : weights) {
      one = WidestWeights(PlaneBytes(dim), &random);
      // Of one sign, so that rows of one byte repeated have nothing or all of it.
      for (int8_t& weight : one) weight = static_cast<int8_t>(std::abs(weight));
    }
    CheckPlaneSums(dim, 3, weights);
  }
}

void CheckWithinLimits(const int8_t* weights, size_t plane_bytes) {
  for (size_t n : {size_t{4}, kPlaneGroupBytes * 8}) {
    const size_t most = n == 4 ? PlaneLutMax(plane_bytes) : kPlaneGroupMax;
    for (size_t begin = 0; begin < plane_bytes * 8; begin += n) {
      size_t sum = 0;
      for (size_t j = begin; j < std::min(begin + n, plane_bytes * 8); ++j) {
        sum += static_cast<size_t>(std::abs(weights[j]));
      }
      REQUIRE(sum <= most);
    }
  }
}

// Largest |S - (bias + step * entries)| over random codes, in steps.
double LargestErrorInSteps(const std::vector<float>& query, uint64_t seed) {
  const size_t dim = query.size();
  const size_t plane_bytes = PlaneBytes(dim);
  AlignedVector<uint8_t> table(Kernels().plane_table_bytes(plane_bytes));
  AlignedVector<int8_t> weights(plane_bytes * 8, 9);
  const PlaneLut lut = BuildPlaneLut(Kernels(), query.data(), dim, table.data(), weights.data());
  REQUIRE(lut.table == table.data());
  REQUIRE(lut.weights == weights.data());
  CheckWithinLimits(weights.data(), plane_bytes);
  std::vector<uint8_t> plane = RandomBytes(plane_bytes * kBlockRows, seed);
  for (size_t j = dim; j < plane_bytes * 8; ++j) {  // padding bits are zero
    for (size_t r = 0; r < kBlockRows; ++r) {
      plane[j / 8 * kBlockRows + r] &= static_cast<uint8_t>(~(1u << j % 8));
    }
  }
  std::vector<uint16_t> sums(kBlockRows);
  const uint8_t* luts[] = {lut.table};
  Kernels().plane_sums(plane.data(), 1, plane_bytes, luts, 1, sums.data(), kBlockRows);
  double worst = 0;
  for (size_t r = 0; r < kBlockRows; ++r) {
    double exact = 0;
    int32_t linear = lut.offset;
    for (size_t j = 0; j < dim; ++j) {
      const bool set = plane[j / 8 * kBlockRows + r] >> (j % 8) & 1;
      exact += set ? query[j] : -static_cast<double>(query[j]);
      if (set) linear += weights[j];
    }
    REQUIRE(sums[r] == linear);
    worst = std::max(worst, std::fabs(exact - (lut.bias + double{lut.step} * sums[r])));
  }
  return worst / lut.step;
}

TEST_CASE("bias + step * sum is the signed sum within a quarter step per coordinate") {
  for (size_t dim : {1, 2, 3, 4, 5, 15, 16, 17, 100, 384, 768, 1000, 4160, 4200}) {
    CAPTURE(dim);
    const auto nibbles = static_cast<double>((dim + 3) / 4);
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      const double error = LargestErrorInSteps(GaussianVectors(1, dim, seed), seed);
      CHECK(error <= nibbles + 0.01);
      // Roundings of coordinates are independent: 12 standard deviations.
      CHECK(error <= 12 * std::sqrt(nibbles / 12) + 0.5);
    }
  }
}

TEST_CASE("a table holds the sums of its nibble's weights, none above the limit") {
  const std::vector<float> query = {1, 2, 4, 8, 0, 0, 0, 0, -1, -2, -4, -8};
  const size_t padded = PlaneBytes(query.size()) * 8;
  AlignedVector<uint8_t> table(NibbleTableBytes(PlaneBytes(query.size())));
  AlignedVector<int8_t> weights(padded);
  const PlaneLut lut =
      BuildPlaneLut(*ScalarKernels(), query.data(), query.size(), table.data(), weights.data());
  // 63 / 15 * {1, 2, 4, 8} rounds to {4, 8, 17, 34}, which add up to 63.
  CHECK(lut.step == doctest::Approx(30.0 / 63));
  CHECK(lut.bias == doctest::Approx(-63 * 30.0 / 63));
  CHECK(lut.offset == 63);
  for (size_t j = 0; j < padded; ++j) {
    const int expected = j < query.size() ? std::lround(query[j] * 63.0 / 15) : 0;
    CHECK(weights[j] == expected);
  }
  for (size_t v = 0; v < 16; ++v) {
    int sum = 0;
    for (size_t i = 0; i < 4; ++i) sum += (v >> i & 1) != 0 ? weights[i] : 0;
    CHECK(table[v] == sum);
    CHECK(table[16 + v] == 0);
    CHECK(table[32 + v] == 63 - sum);
    CHECK(table[48 + v] == 0);  // padding
  }
}

TEST_CASE("the widest three bytes of a row set the step where they need more room than a nibble") {
  std::vector<float> query(48, 1.0f);  // 24 of 1 add up to six nibbles of 4
  for (size_t j = 24; j < 48; ++j) query[j] = 0.5f;
  const size_t plane_bytes = PlaneBytes(query.size());
  AlignedVector<uint8_t> table(Kernels().plane_table_bytes(plane_bytes));
  AlignedVector<int8_t> weights(plane_bytes * 8);
  const PlaneLut lut =
      BuildPlaneLut(Kernels(), query.data(), query.size(), table.data(), weights.data());
  CheckWithinLimits(weights.data(), plane_bytes);
  CHECK(weights[0] == 10);  // 255 / 24, and not 63 / 4
  CHECK(weights[47] == 5);
  CHECK(lut.step == doctest::Approx(0.2).epsilon(0.1));
}

TEST_CASE("a query that float32 cannot scan gives a table of zeros") {
  for (float value : {0.0f, -0.0f, 1e-44f, 3e38f}) {
    CAPTURE(value);
    const std::vector<float> query(20, value);
    AlignedVector<uint8_t> table(Kernels().plane_table_bytes(PlaneBytes(20)), 9);
    AlignedVector<int8_t> weights(PlaneBytes(20) * 8, 9);
    const PlaneLut lut = BuildPlaneLut(Kernels(), query.data(), 20, table.data(), weights.data());
    CHECK(lut.step == 0);
    CHECK(lut.bias == 0);
    CHECK(std::all_of(table.begin(), table.end(), [](uint8_t entry) { return entry == 0; }));
    CHECK(std::all_of(weights.begin(), weights.end(), [](int8_t weight) { return weight == 0; }));
  }
}

}  // namespace
}  // namespace quash
