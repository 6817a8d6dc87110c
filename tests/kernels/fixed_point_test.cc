#include "kernels/fixed_point.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

#include "kernels/attend.h"
#include "kernels/codebook.h"
#include "kernels/cuda/fixed_matrix.h"
#include "kernels/random.h"

namespace quash {
namespace {

std::vector<const AttendKernels*> Tables() {
  std::vector<const AttendKernels*> tables;
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kNeon}) {
    if (const AttendKernels* kernels = AttendKernelsFor(isa)) tables.push_back(kernels);
  }
  return tables;
}

// Whole numbers as rotated rows are, and rows of few different ones.
std::vector<float> WholeRow(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> row(n);
  const double scale = std::exp2(2 + static_cast<double>(seed % 19));
  for (float& x : row) x = static_cast<float>(std::nearbyint(random.Gaussian() * scale));
  if (seed % 5 == 1) {
    for (float& x : row) x = x < 0 ? -3.0f : 3.0f;
  }
  if (seed % 5 == 2) {
    for (size_t i = 0; i < n; ++i) row[i] = i == seed % n ? 100 * row[i] : 0.0f;
  }
  return row;
}

// What the header says, in the plainest way.
int CodeOf(float v, float norm, const FixedPointCode& code) {
  const int half = 1 << (code.bits - 1);
  const float a = std::min(1.0f, std::fabs(v) * (code.reach / norm));
  const float f = std::fma(std::fma(a, code.curve[2], code.curve[1]), a, code.curve[0]);
  const int magnitude = static_cast<int>(std::floor(double{a} * double{f}));  // exact
  return v < 0 ? half - 1 - magnitude : half + magnitude;
}

TEST_CASE("codes and norms of whole numbers are equal on every instruction set") {
  for (const uint32_t dim : {64u, 128u}) {
    for (const uint32_t bits : {2u, 3u, 4u}) {
      const FixedPointCode code = MakeFixedPointCode(dim, bits);
      for (uint64_t seed = 0; seed < 400; ++seed) {
        CAPTURE(dim);
        CAPTURE(bits);
        CAPTURE(seed);
        const std::vector<float> row = WholeRow(dim, seed);
        double square = 0;
        for (const float x : row) square += double{x} * x;
        std::vector<uint8_t> expected(dim);
        const float norm =
            ScalarAttendKernels()->fixed_point_codes(row.data(), dim, code, expected.data());
        CHECK(std::fabs(norm - std::sqrt(square)) <= 1e-6 * std::sqrt(square));
        bool is_right = true;
        for (uint32_t i = 0; i < dim; ++i) {
          is_right = is_right && (norm == 0 ? expected[i] == 1 << (bits - 1)
                                            : expected[i] == CodeOf(row[i], norm, code));
        }
        CHECK(is_right);
        for (const AttendKernels* kernels : Tables()) {
          CAPTURE(kernels->name);
          std::vector<uint8_t> codes(dim, 0xff);
          CHECK(kernels->fixed_point_codes(row.data(), dim, code, codes.data()) == norm);
          CHECK(codes == expected);
        }
      }
    }
  }
}

TEST_CASE("the curve costs next to nothing against the codebook's boundaries") {
  constexpr size_t kRows = 4000;
  for (const uint32_t dim : {64u, 128u}) {
    for (const uint32_t bits : {2u, 3u, 4u}) {
      CAPTURE(dim);
      CAPTURE(bits);
      const FixedPointCode code = MakeFixedPointCode(dim, bits);
      const LevelCodebook codebook = MakeLevelCodebook(GetCodebook(dim, bits));
      Random random(dim + bits);
      std::vector<float> row(dim);
      std::vector<uint8_t> codes(dim);
      double curve = 0, boundaries = 0, all = 0;
      for (size_t r = 0; r < kRows; ++r) {
        for (float& x : row) x = static_cast<float>(std::nearbyint(random.Gaussian() * 1e5));
        const float norm = Attend().fixed_point_codes(row.data(), dim, code, codes.data());
        double levels = 0;
        for (const uint8_t c : codes) levels += codebook.levels[c] * codebook.levels[c];
        const double scale =
            norm * (double{code.scale_base} + double{code.scale_part} / levels);
        double dot = 0, square = 0;
        std::vector<int> nearest(dim);
        for (uint32_t i = 0; i < dim; ++i) {
          const double error = scale * codebook.levels[codes[i]] - row[i];
          curve += error * error;
          all += double{row[i]} * row[i];
          int c = 0;
          while (c < (1 << bits) - 1 && row[i] / norm > codebook.boundaries[c]) ++c;
          nearest[i] = codebook.levels[c];
          dot += double{row[i]} * nearest[i];
          square += nearest[i] * nearest[i];
        }
        for (uint32_t i = 0; i < dim; ++i) {
          const double error = dot / square * nearest[i] - row[i];
          boundaries += error * error;
        }
      }
      CHECK(curve < 1.006 * boundaries);  // the second has the best scale of each row
      CHECK(curve < 1.02 * GetCodebook(dim, bits).MseCost() * all);
    }
  }
}

TEST_CASE("the grid holds the largest number") {
  for (const float largest :
       {1e-45f, 1e-38f, 3e-30f, 0.99f, 1.0f, 1.5f, 65504.0f, 3e38f,
        std::numeric_limits<float>::max(), std::numeric_limits<float>::infinity()}) {
    CAPTURE(largest);
    const int shift = FixedPointShift(largest);
    CHECK(shift <= 113);
    CHECK(shift >= -114);
    if (std::isfinite(largest)) {
      CHECK(std::ldexp(double{largest}, shift) <= 16384);
      if (shift < 113) CHECK(std::ldexp(double{largest}, shift) >= 8192);
    }
  }
  CHECK(FixedPointShift(0) == 113);
}

TEST_CASE("other sizes have no fixed-point code") {
  CHECK_THROWS_AS(MakeFixedPointCode(96, 4), std::invalid_argument);
  CHECK_THROWS_AS(MakeFixedPointCode(128, 1), std::invalid_argument);
  CHECK_THROWS_AS(MakeFixedPointCode(64, 5), std::invalid_argument);
}

TEST_CASE("products with the matrix of the device are the transform") {
  for (const int dim : {64, 128}) {
    CAPTURE(dim);
    const int half = dim / 2;
    Random random(static_cast<uint64_t>(dim));
    std::vector<float> factors(dim), row(dim);
    for (float& x : factors) x = random.Gaussian() < 0 ? -0.5f : 0.5f;
    for (float& x : row) x = static_cast<float>(std::nearbyint(random.Gaussian() * 1000));
    const std::vector<uint16_t> matrix = cuda::FixedMatrix(factors.data(), dim);
    REQUIRE(matrix.size() == static_cast<size_t>(dim) * half);
    std::vector<float> of_half[2], rotated(dim, NAN);
    for (int h = 0; h < 2; ++h) {
      of_half[h].assign(half, 0.0f);
      for (int in = 0; in < half; ++in) {
        const int step = in / cuda::kFixedDepth, inner = in % cuda::kFixedDepth;
        for (int column = 0; column < half; ++column) {
          const int eights = ((h * (dim / 32) + step) * 2 + inner / 8) * half + column;
          const uint16_t bits = matrix[8 * eights + inner % 8];
          REQUIRE((bits == 0x3c00 || bits == 0xbc00));
          of_half[h][column] += (bits == 0x3c00 ? 1 : -1) * row[h * half + in];
        }
      }
    }
    for (int column = 0; column < half; ++column) {
      const int out = cuda::FixedOutput(column);
      rotated[out] = of_half[0][column] + of_half[1][column];
      rotated[half + out] = of_half[0][column] - of_half[1][column];
    }
    for (int out = 0; out < dim; ++out) {
      CAPTURE(out);
      float expected = 0;
      for (int in = 0; in < dim; ++in) {
        const bool is_negative =
            (std::popcount(static_cast<uint32_t>(in & out)) % 2 != 0) != (factors[in] < 0);
        expected += is_negative ? -row[in] : row[in];
      }
      CHECK(rotated[out] == expected);
    }
  }
}

}  // namespace
}  // namespace quash
