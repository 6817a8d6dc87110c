#include "kernels/mixed_precision.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "kernels/codebook.h"
#include "kernels/theory.h"
#include "tests/kernels/test_vectors.h"

namespace quash {
namespace {

constexpr uint32_t kDim = 128;

// Vectors with most of their energy in every fourth coordinate.
std::vector<float> SkewedVectors(size_t n, uint64_t seed) {
  std::vector<float> vectors = GaussianVectors(n, kDim, seed);
  for (size_t i = 0; i < vectors.size(); ++i) {
    if (i % 4 == 3) vectors[i] *= 6;
  }
  return vectors;
}

// Squared error relative to the squared norm.
template <typename Q>
double RelativeError(const Q& quantizer, const std::vector<float>& vectors) {
  const size_t n = vectors.size() / kDim;
  std::vector<float> scratch(quantizer.scratch_floats());
  std::vector<uint8_t> codes(n * quantizer.row_code_bytes());
  std::vector<float> scales(n * quantizer.scales_per_row());
  std::vector<float> decoded(vectors.size());
  quantizer.EncodeRows(vectors.data(), n, scratch.data(), codes.data(), scales.data());
  quantizer.Decode(codes.data(), scales.data(), n, scratch.data(), decoded.data());
  return SquaredDistance(decoded.data(), vectors.data(), vectors.size()) /
         Dot(vectors.data(), vectors.data(), vectors.size());
}

TEST_CASE("effective bits count the codes") {
  CHECK(HalfBitOutliers(kDim) == 64);
  for (uint32_t bits : {2u, 3u}) {
    const MixedPrecisionQuantizer half(kDim, bits, HalfBitOutliers(kDim), RotationKind::kHadamard,
                                       1);
    CHECK(half.effective_bits() == bits + 0.5);
    CHECK(static_cast<double>(half.row_code_bytes() * 8) == (bits + 0.5) * kDim);
  }
  const MixedPrecisionQuantizer paper(kDim, 2, 32, RotationKind::kHadamard, 1);
  CHECK(paper.effective_bits() == 2.25);
  const MixedPrecisionInnerProductQuantizer prod(kDim, 3, 64, RotationKind::kHadamard, 1);
  CHECK(prod.effective_bits() == 3.5);
}

TEST_CASE("half a bit more lies between the whole bits") {
  const std::vector<float> vectors = UnitVectors(1000, kDim, 7);
  for (RotationKind kind : {RotationKind::kHadamard, RotationKind::kDense}) {
    for (uint32_t bits : {1u, 2u, 3u}) {
      CAPTURE(bits);
      const MixedPrecisionQuantizer mixed(kDim, bits, 64, kind, 5);
      const double expected =
          (GetCodebook(64, bits).MseCost() + GetCodebook(64, bits + 1).MseCost()) / 2;
      const double error = RelativeError(mixed, vectors);
      CHECK(error < expected * 1.02);
      CHECK(error > expected * 0.9);
      CHECK(error < RelativeError(Quantizer(kDim, bits, kind, 5), vectors));
      CHECK(error > RelativeError(Quantizer(kDim, bits + 1, kind, 5), vectors));
    }
  }
}

TEST_CASE("calibration finds the outliers and pays") {
  const std::vector<float> vectors = SkewedVectors(1000, 3);
  MixedPrecisionQuantizer mixed(kDim, 2, 32, RotationKind::kHadamard, 5);
  CHECK_FALSE(mixed.calibrated());
  const double before = RelativeError(mixed, vectors);
  mixed.Calibrate(SkewedVectors(200, 4).data(), 200);
  CHECK(mixed.calibrated());
  std::vector<uint32_t> expected;
  for (uint32_t j = 3; j < kDim; j += 4) expected.push_back(j);
  CHECK(mixed.outliers() == expected);
  const double after = RelativeError(mixed, vectors);
  CHECK(after < 0.6 * before);
  // 2.25 bits, with 92 % of the energy at 3: near 3 bits for everything.
  CHECK(after < 0.5 * RelativeError(Quantizer(kDim, 2, RotationKind::kHadamard, 5), vectors));
}

TEST_CASE("outliers can be set") {
  MixedPrecisionQuantizer mixed(8, 2, 3, RotationKind::kDense, 5);
  CHECK(mixed.outliers() == std::vector<uint32_t>{0, 1, 2});
  const uint32_t chosen[] = {7, 1, 4};
  mixed.SetOutliers(chosen);
  CHECK(mixed.outliers() == std::vector<uint32_t>{1, 4, 7});
  const uint32_t repeated[] = {1, 1, 4};
  const uint32_t outside[] = {1, 2, 8};
  CHECK_THROWS_AS(mixed.SetOutliers(repeated), std::invalid_argument);
  CHECK_THROWS_AS(mixed.SetOutliers(outside), std::invalid_argument);
  CHECK_THROWS_AS(mixed.Calibrate(nullptr, 0), std::invalid_argument);
  CHECK(mixed.outliers() == std::vector<uint32_t>{1, 4, 7});
}

TEST_CASE("bad sizes are refused") {
  using Mse = MixedPrecisionQuantizer;
  using Prod = MixedPrecisionInnerProductQuantizer;
  CHECK_THROWS_AS(Mse(8, 2, 0, RotationKind::kHadamard, 1), std::invalid_argument);
  CHECK_THROWS_AS(Mse(8, 2, 8, RotationKind::kHadamard, 1), std::invalid_argument);
  CHECK_THROWS_AS(Mse(0, 2, 0, RotationKind::kHadamard, 1), std::invalid_argument);
  CHECK_THROWS_AS(Mse(8, 4, 4, RotationKind::kHadamard, 1), std::invalid_argument);
  CHECK_THROWS_AS(Prod(8, 1, 4, RotationKind::kHadamard, 1), std::invalid_argument);
  CHECK_THROWS_AS(Prod(8, 5, 4, RotationKind::kHadamard, 1), std::invalid_argument);
}

template <typename Q>
void CheckUnbiased(double variance_bound) {
  Moments errors;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const Q quantizer(kDim, 2, 64, RotationKind::kHadamard, seed);
    const std::vector<float> x = UnitVectors(500, kDim, 50 + seed);
    const std::vector<float> y = UnitVectors(500, kDim, 90 + seed);
    std::vector<float> scratch(quantizer.scratch_floats());
    std::vector<uint8_t> code(quantizer.row_code_bytes());
    std::vector<float> scales(quantizer.scales_per_row());
    std::vector<float> prepared(quantizer.query_floats());
    for (size_t i = 0; i < 500; ++i) {
      std::vector<float> query(y.begin() + i * kDim, y.begin() + (i + 1) * kDim);
      for (size_t j = 0; j < kDim; ++j) query[j] += x[i * kDim + j];
      quantizer.EncodeRows(&x[i * kDim], 1, scratch.data(), code.data(), scales.data());
      quantizer.PrepareQuery(query.data(), scratch.data(), prepared.data());
      errors.Add(quantizer.Estimate(code.data(), scales.data(), prepared.data()) -
                 Dot(query.data(), &x[i * kDim], kDim));
    }
  }
  CHECK(std::fabs(errors.mean()) < 3 * errors.standard_error());
  CHECK(errors.variance() < variance_bound);
}

TEST_CASE("both forms estimate inner products without bias") {
  CheckUnbiased<MixedPrecisionQuantizer>(InnerProductUpperBound(kDim, 2, 2));
  CheckUnbiased<MixedPrecisionInnerProductQuantizer>(InnerProductUpperBound(kDim, 2, 2));
}

}  // namespace
}  // namespace quash
