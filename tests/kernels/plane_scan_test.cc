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

uint32_t NaiveSum(const uint8_t* plane, size_t plane_bytes, const uint8_t* lut, size_t row) {
  const uint8_t* block = plane + row / kBlockRows * plane_bytes * kBlockRows;
  uint32_t sum = 0;
  for (size_t c = 0; c < plane_bytes; ++c) {
    const uint8_t code = block[c * kBlockRows + row % kBlockRows];
    sum += lut[2 * c * 16 + (code & 15)] + lut[(2 * c + 1) * 16 + (code >> 4)];
  }
  return sum;
}

// Checks every query count over `nblocks` blocks of random codes against the
// naive sums and for writes outside the rows asked for.
void CheckPlaneSums(size_t dim, size_t nblocks, const std::vector<AlignedVector<uint8_t>>& tables) {
  CAPTURE(dim);
  CAPTURE(nblocks);
  const size_t plane_bytes = PlaneBytes(dim);
  const size_t rows = nblocks * kBlockRows;
  const std::vector<uint8_t> plane = RandomBytes(nblocks * plane_bytes * kBlockRows, dim + nblocks);
  const size_t stride = rows + 8;
  for (size_t nq = 1; nq <= kPlaneSumsMaxQueries; ++nq) {
    CAPTURE(nq);
    const uint8_t* luts[kPlaneSumsMaxQueries];
    for (size_t q = 0; q < nq; ++q) luts[q] = tables[q].data();
    std::vector<uint16_t> expected(nq * stride, kCanary);
    for (size_t q = 0; q < nq; ++q) {
      for (size_t row = 0; row < rows; ++row) {
        const uint32_t sum = NaiveSum(plane.data(), plane_bytes, luts[q], row);
        REQUIRE(sum <= 65535);
        expected[q * stride + row] = static_cast<uint16_t>(sum);
      }
    }
    std::vector<uint16_t> sums(nq * stride, kCanary);
    Kernels().plane_sums(plane.data(), nblocks, plane_bytes, luts, nq, sums.data(), stride);
    CHECK(sums == expected);
  }
}

std::vector<AlignedVector<uint8_t>> RandomTables(size_t dim) {
  const size_t most = PlaneLutMax(PlaneBytes(dim));
  Random random(dim);
  std::vector<AlignedVector<uint8_t>> tables(kPlaneSumsMaxQueries);
  for (auto& table : tables) {
    table.resize(2 * PlaneBytes(dim) * 16);
    for (uint8_t& entry : table) {
      entry = static_cast<uint8_t>(random.Below(static_cast<uint32_t>(most) + 1));
    }
  }
  return tables;
}

TEST_CASE("plane sums equal the sums of table entries") {
  for (size_t dim = 1; dim <= 200; ++dim) CheckPlaneSums(dim, 1 + dim % 7, RandomTables(dim));
  for (size_t dim : {384, 385, 767, 768, 1000, 1024, 1536, 3072, 4095, 4160, 4161, 4200}) {
    CheckPlaneSums(dim, 5, RandomTables(dim));
  }
  CheckPlaneSums(65536, 2, RandomTables(65536));
}

TEST_CASE("plane sums cover every number of blocks") {
  for (size_t nblocks = 0; nblocks <= 20; ++nblocks) {
    CheckPlaneSums(16, nblocks, RandomTables(16));
    CheckPlaneSums(100, nblocks, RandomTables(100));
  }
}

TEST_CASE("plane sums of the largest entries do not overflow") {
  for (size_t dim = 1; dim <= 4200; dim = dim * 3 / 2 + 1) {
    std::vector<AlignedVector<uint8_t>> tables(kPlaneSumsMaxQueries);
    const size_t most = PlaneLutMax(PlaneBytes(dim));
    for (auto& table : tables) {
      table.assign(2 * PlaneBytes(dim) * 16, static_cast<uint8_t>(most));
    }
    CheckPlaneSums(dim, 3, tables);
  }
  for (size_t dim : {4160, 4161, 8192, 20000, 65536}) {
    std::vector<AlignedVector<uint8_t>> tables(kPlaneSumsMaxQueries);
    const size_t most = PlaneLutMax(PlaneBytes(dim));
    CHECK(most >= 1);
    for (auto& table : tables) {
      table.assign(2 * PlaneBytes(dim) * 16, static_cast<uint8_t>(most));
    }
    CheckPlaneSums(dim, 1, tables);
  }
}

// Largest |S - (bias + step * entries)| over random codes, in steps.
double LargestErrorInSteps(const std::vector<float>& query, uint64_t seed) {
  const size_t dim = query.size();
  const size_t plane_bytes = PlaneBytes(dim);
  AlignedVector<uint8_t> table(2 * plane_bytes * 16);
  AlignedVector<int8_t> weights(plane_bytes * 8, 9);
  const PlaneLut lut = BuildPlaneLut(query.data(), dim, table.data(), weights.data());
  REQUIRE(lut.table == table.data());
  REQUIRE(lut.weights == weights.data());
  REQUIRE(*std::max_element(table.begin(), table.end()) <= PlaneLutMax(plane_bytes));
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
  AlignedVector<uint8_t> table(2 * PlaneBytes(query.size()) * 16);
  AlignedVector<int8_t> weights(padded);
  const PlaneLut lut = BuildPlaneLut(query.data(), query.size(), table.data(), weights.data());
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

TEST_CASE("a query that float32 cannot scan gives a table of zeros") {
  for (float value : {0.0f, -0.0f, 1e-44f, 3e38f}) {
    CAPTURE(value);
    const std::vector<float> query(20, value);
    AlignedVector<uint8_t> table(2 * PlaneBytes(20) * 16, 9);
    AlignedVector<int8_t> weights(PlaneBytes(20) * 8, 9);
    const PlaneLut lut = BuildPlaneLut(query.data(), 20, table.data(), weights.data());
    CHECK(lut.step == 0);
    CHECK(lut.bias == 0);
    CHECK(std::all_of(table.begin(), table.end(), [](uint8_t entry) { return entry == 0; }));
    CHECK(std::all_of(weights.begin(), weights.end(), [](int8_t weight) { return weight == 0; }));
  }
}

}  // namespace
}  // namespace quash
