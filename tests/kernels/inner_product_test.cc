#include "kernels/inner_product.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "kernels/theory.h"
#include "tests/kernels/test_vectors.h"

namespace quash {
namespace {

constexpr RotationKind kKinds[] = {RotationKind::kHadamard, RotationKind::kDense};

// Encodes one vector and estimates its inner product with a query.
class Estimator {
 public:
  explicit Estimator(const InnerProductQuantizer& quantizer)
      : quantizer_(quantizer),
        scratch_(quantizer.scratch_floats()),
        row_code_(quantizer.row_code_bytes()),
        prepared_(quantizer.query_floats()) {}

  double operator()(const float* query, const float* x) {
    quantizer_.EncodeRows(x, 1, scratch_.data(), row_code_.data(), scales_);
    quantizer_.PrepareQuery(query, scratch_.data(), prepared_.data());
    return quantizer_.Estimate(row_code_.data(), scales_, prepared_.data());
  }

 private:
  const InnerProductQuantizer& quantizer_;
  std::vector<float> scratch_;
  std::vector<uint8_t> row_code_;
  std::vector<float> prepared_;
  float scales_[2] = {};
};

TEST_CASE("estimates are unbiased with the variance of theorem 2") {
  constexpr uint32_t kDim = 64;
  constexpr size_t kSeeds = 40;
  constexpr size_t kPairs = 2600;  // 104,000 in all
  for (RotationKind kind : kKinds) {
    for (uint32_t bits = 2; bits <= 4; ++bits) {
      CAPTURE(static_cast<int>(kind));
      CAPTURE(bits);
      Moments errors;
      Moments along;  // error times <y, x>: a shrunk estimate shows here
      for (uint64_t seed = 0; seed < kSeeds; ++seed) {
        const InnerProductQuantizer quantizer(kDim, bits, kind, seed);
        Estimator estimate(quantizer);
        const std::vector<float> x = UnitVectors(kPairs, kDim, 1000 + seed);
        std::vector<float> y = UnitVectors(kPairs, kDim, 2000 + seed);
        for (size_t i = 0; i < kPairs; ++i) {
          float* query = y.data() + i * kDim;
          const float* row = x.data() + i * kDim;
          if (i % 2 == 0) {
            for (size_t j = 0; j < kDim; ++j) query[j] += row[j];
            NormalizeRow(query, kDim);
          }
          const double exact = Dot(query, row, kDim);
          const double error = estimate(query, row) - exact;
          errors.Add(error);
          along.Add(error * exact);
        }
      }
      CHECK(std::fabs(errors.mean()) < 3 * errors.standard_error());
      CHECK(std::fabs(along.mean()) < 3 * along.standard_error());
      CHECK(errors.variance() < InnerProductUpperBound(kDim, bits, 1));
      CHECK(errors.variance() > InnerProductLowerBound(kDim, bits, 1));
    }
  }
}

TEST_CASE("a fixed adversarial pair is unbiased over the rotations") {
  constexpr uint32_t kDim = 32;
  constexpr size_t kSeeds = 3000;
  const std::vector<NamedVector> inputs = AdversarialVectors(kDim);
  for (RotationKind kind : kKinds) {
    std::vector<Moments> errors(inputs.size());
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      const InnerProductQuantizer quantizer(kDim, 2, kind, seed);
      Estimator estimate(quantizer);
      for (size_t i = 0; i < inputs.size(); ++i) {
        // With itself plus the next one, so that <y, x> is not small.
        std::vector<float> query = inputs[i].values;
        const std::vector<float>& other = inputs[(i + 1) % inputs.size()].values;
        for (size_t j = 0; j < kDim; ++j) query[j] += other[j];
        NormalizeRow(query.data(), kDim);
        const float* x = inputs[i].values.data();
        errors[i].Add(estimate(query.data(), x) - Dot(query.data(), x, kDim));
      }
    }
    for (size_t i = 0; i < inputs.size(); ++i) {
      CAPTURE(static_cast<int>(kind));
      CAPTURE(inputs[i].name);
      // 16 means are looked at, hence 4 standard errors.
      CHECK(std::fabs(errors[i].mean()) < 4 * errors[i].standard_error());
      CHECK(errors[i].variance() < InnerProductUpperBound(kDim, 2, 1));
    }
  }
}

TEST_CASE("the estimate is the inner product with the decoded vector") {
  for (RotationKind kind : kKinds) {
    for (uint32_t dim : {1u, 2u, 5u, 16u, 31u, 100u, 130u}) {
      for (uint32_t bits = 2; bits <= 5; ++bits) {
        CAPTURE(dim);
        CAPTURE(bits);
        const InnerProductQuantizer quantizer(dim, bits, kind, 3);
        CHECK(quantizer.bits() == bits);
        constexpr size_t kRows = 4;
        const std::vector<float> x = GaussianVectors(kRows, dim, 5);
        const std::vector<float> query = UnitVectors(1, dim, 6);
        std::vector<float> scratch(quantizer.scratch_floats());
        std::vector<uint8_t> codes(kRows * quantizer.row_code_bytes());
        std::vector<float> scales(kRows * quantizer.scales_per_row());
        std::vector<float> decoded(kRows * dim);
        std::vector<float> prepared(quantizer.query_floats());
        quantizer.EncodeRows(x.data(), kRows, scratch.data(), codes.data(), scales.data());
        quantizer.Decode(codes.data(), scales.data(), kRows, scratch.data(), decoded.data());
        quantizer.PrepareQuery(query.data(), scratch.data(), prepared.data());
        for (size_t i = 0; i < kRows; ++i) {
          const float estimate = quantizer.Estimate(codes.data() + i * quantizer.row_code_bytes(),
                                                    scales.data() + i * 2, prepared.data());
          const double norm = std::sqrt(Dot(&decoded[i * dim], &decoded[i * dim], dim));
          CHECK(std::fabs(estimate - Dot(query.data(), &decoded[i * dim], dim)) < 1e-5 * norm);
        }
      }
    }
  }
}

TEST_CASE("zero vectors and bad arguments") {
  const InnerProductQuantizer quantizer(24, 3, RotationKind::kHadamard, 3);
  const std::vector<float> zero(24, 0.0f);
  const std::vector<float> query = UnitVectors(1, 24, 6);
  Estimator estimate(quantizer);
  CHECK(estimate(query.data(), zero.data()) == 0);
  for (uint32_t bits : {0u, 1u, 6u}) {
    CHECK_THROWS_AS(InnerProductQuantizer(24, bits, RotationKind::kHadamard, 3),
                    std::invalid_argument);
  }
  CHECK_THROWS_AS(InnerProductQuantizer(0, 3, RotationKind::kHadamard, 3), std::invalid_argument);
}

}  // namespace
}  // namespace quash
