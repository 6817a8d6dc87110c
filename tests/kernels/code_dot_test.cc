#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "kernels/codebook.h"
#include "kernels/dispatch.h"
#include "kernels/scan.h"
#include "tests/kernels/scan_inputs.h"
#include "tests/kernels/test_vectors.h"

namespace quash {
namespace {

int64_t NaiveDot(const std::vector<uint8_t>& row_code, size_t bits, size_t plane_bytes,
                 const int8_t* levels, const int16_t* values) {
  int64_t sum = 0;
  for (size_t j = 0; j < plane_bytes * 8; ++j) {
    sum += int64_t{levels[CodeAt(row_code.data(), bits, plane_bytes, j)]} * values[j];
  }
  return sum;
}

std::vector<size_t> Dims() {
  std::vector<size_t> dims;
  for (size_t dim = 1; dim <= 300; ++dim) dims.push_back(dim);
  for (size_t dim : {384, 385, 511, 767, 768, 1000, 1536, 4095, 4200, 65536}) dims.push_back(dim);
  return dims;
}

TEST_CASE("code_dot is the exact sum over the levels") {
  for (size_t dim : Dims()) {
    const size_t plane_bytes = PlaneBytes(dim);
    const std::vector<float> query = GaussianVectors(1, dim, dim);
    AlignedVector<int16_t> values(plane_bytes * 8);
    BuildLevelQuery(query.data(), dim, values.data());
    for (uint32_t bits = 1; bits <= kMaxBits; ++bits) {
      CAPTURE(dim);
      CAPTURE(bits);
      const LevelCodebook codebook = MakeLevelCodebook(GetCodebook(384, bits));
      const std::vector<uint8_t> row_code = RandomBytes(bits * plane_bytes, dim * 7 + bits);
      const int64_t expected =
          NaiveDot(row_code, bits, plane_bytes, codebook.levels, values.data());
      const int32_t dot =
          Kernels().code_dot(row_code.data(), bits, plane_bytes, codebook.levels, values.data());
      REQUIRE(dot == expected);
    }
  }
}

TEST_CASE("code_dot of the largest sums does not overflow") {
  LevelCodebook codebook = MakeLevelCodebook(GetCodebook(384, 4));
  codebook.levels[0] = -107;
  codebook.levels[15] = 107;
  for (size_t dim : {16, 610, 612, 613, 4096, 65536}) {
    CAPTURE(dim);
    const size_t plane_bytes = PlaneBytes(dim);
    for (float sign : {1.0f, -1.0f}) {
      const std::vector<float> query(dim, sign);
      AlignedVector<int16_t> values(plane_bytes * 8);
      BuildLevelQuery(query.data(), dim, values.data());
      const std::vector<uint8_t> ones(4 * plane_bytes, 0xFF);
      const int64_t expected = NaiveDot(ones, 4, plane_bytes, codebook.levels, values.data());
      CHECK(std::llabs(expected) <= 2147483647);
      CHECK(Kernels().code_dot(ones.data(), 4, plane_bytes, codebook.levels, values.data()) ==
            expected);
    }
  }
}

TEST_CASE("a level query is the query within half a step, padded with zeros") {
  for (size_t dim : Dims()) {
    CAPTURE(dim);
    std::vector<float> query = GaussianVectors(1, dim, dim + 1);
    if (dim % 5 == 0) query[dim / 2] = 1000;  // one coordinate takes the whole range
    AlignedVector<int16_t> values(PlaneBytes(dim) * 8, 77);
    const LevelQuery level = BuildLevelQuery(query.data(), dim, values.data());
    REQUIRE(level.values == values.data());
    int64_t sum = 0;
    double worst = 0;
    for (size_t j = 0; j < dim; ++j) {
      sum += std::abs(values[j]);
      worst = std::max(worst, std::fabs(query[j] - static_cast<double>(values[j]) * level.scale));
    }
    CHECK(worst <= 0.502 * level.scale);  // half a step, and float32 rounding of 32,767 steps
    CHECK(107 * sum <= 2147483647);
    const int largest = std::abs(*std::max_element(
        values.begin(), values.end(), [](int a, int b) { return std::abs(a) < std::abs(b); }));
    CHECK((largest == 32767 || 107 * sum > 2147483647 - 107 * static_cast<int64_t>(dim + 1)));
    for (size_t j = dim; j < values.size(); ++j) REQUIRE(values[j] == 0);
  }
}

TEST_CASE("a zero query gives zero values and scale 0") {
  const std::vector<float> query(20, 0.0f);
  AlignedVector<int16_t> values(PlaneBytes(20) * 8, 77);
  CHECK(BuildLevelQuery(query.data(), 20, values.data()).scale == 0);
  CHECK(std::all_of(values.begin(), values.end(), [](int16_t value) { return value == 0; }));
}

}  // namespace
}  // namespace quash
