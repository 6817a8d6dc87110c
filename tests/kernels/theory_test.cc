// The quantizers against the guarantees of the TurboQuant paper.
#include "kernels/theory.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "kernels/codebook.h"
#include "kernels/encode.h"
#include "tests/kernels/test_vectors.h"

namespace quash {
namespace {

// Encodes and decodes n vectors.
std::vector<float> RoundTrip(const Quantizer& quantizer, const std::vector<float>& vectors) {
  const size_t n = vectors.size() / quantizer.layout().dim;
  std::vector<float> scratch(quantizer.scratch_floats());
  std::vector<uint8_t> codes(n * quantizer.row_code_bytes());
  std::vector<float> scales(n);
  std::vector<float> decoded(vectors.size());
  quantizer.EncodeRows(vectors.data(), n, scratch.data(), codes.data(), scales.data());
  quantizer.Decode(codes.data(), scales.data(), n, scratch.data(), decoded.data());
  return decoded;
}

// Mean squared error of centroids alone, without the scale, in rotated space.
double CentroidMse(const Quantizer& quantizer, const std::vector<float>& vectors) {
  const LevelCodebook& codebook = quantizer.codebook();
  const size_t dim = quantizer.layout().dim;
  std::vector<float> rotated(vectors.size());
  std::vector<float> scratch(quantizer.scratch_floats());
  quantizer.rotation().Apply(vectors.data(), vectors.size() / dim, rotated.data(), scratch.data());
  double sum = 0;
  for (float value : rotated) {
    size_t code = 0;
    while (code + 1 < size_t{1} << codebook.bits && value > codebook.boundaries[code]) ++code;
    const double error = value - double{codebook.step} * codebook.levels[code];
    sum += error * error;
  }
  return sum / static_cast<double>(vectors.size() / dim);
}

TEST_CASE("unit vectors are quantized with the Lloyd-Max error") {
  for (uint32_t dim : {64u, 128u, 384u, 1536u}) {
    const size_t n = 200 + 256000 / dim;
    const std::vector<float> vectors = UnitVectors(n, dim, dim);
    for (uint32_t bits = 1; bits <= 4; ++bits) {
      for (RotationKind kind : {RotationKind::kHadamard, RotationKind::kDense}) {
        if (kind == RotationKind::kDense && dim > 128) continue;
        CAPTURE(dim);
        CAPTURE(bits);
        CAPTURE(static_cast<int>(kind));
        const Quantizer quantizer(dim, bits, kind, 11);
        const double expected = GetCodebook(dim, bits).MseCost();
        CHECK(CentroidMse(quantizer, vectors) == doctest::Approx(expected).epsilon(0.02));

        // Decode knows the scale too, which can only help.
        const std::vector<float> decoded = RoundTrip(quantizer, vectors);
        const double mse = SquaredDistance(decoded.data(), vectors.data(), vectors.size()) /
                           static_cast<double>(n);
        CHECK(mse < 1.02 * expected);
        CHECK(mse > 0.9 * expected);
        CHECK(mse > MseLowerBound(bits));
      }
    }
  }
}

TEST_CASE("the worst case stays within theorem 1") {
  constexpr int kSeeds = 24;
  struct Case {
    RotationKind kind;
    uint32_t dim;
  };
  for (const Case& c : {Case{RotationKind::kHadamard, 64}, Case{RotationKind::kHadamard, 100},
                        Case{RotationKind::kHadamard, 384}, Case{RotationKind::kHadamard, 1000},
                        Case{RotationKind::kDense, 64}, Case{RotationKind::kDense, 100}}) {
    const std::vector<NamedVector> inputs = AdversarialVectors(c.dim);
    for (uint32_t bits = 1; bits <= 4; ++bits) {
      std::vector<Moments> errors(inputs.size());
      for (int seed = 0; seed < kSeeds; ++seed) {
        const Quantizer quantizer(c.dim, bits, c.kind, seed);
        for (size_t i = 0; i < inputs.size(); ++i) {
          const std::vector<float> decoded = RoundTrip(quantizer, inputs[i].values);
          errors[i].Add(SquaredDistance(decoded.data(), inputs[i].values.data(), c.dim));
        }
      }
      for (size_t i = 0; i < inputs.size(); ++i) {
        CAPTURE(static_cast<int>(c.kind));
        CAPTURE(c.dim);
        CAPTURE(bits);
        CAPTURE(inputs[i].name);
        CHECK(errors[i].mean() < MseUpperBound(bits));
      }
    }
  }
}

TEST_CASE("a rotated adversarial vector looks like a random one") {
  for (uint32_t dim : {64u, 384u, 1000u}) {
    for (const NamedVector& input : AdversarialVectors(dim)) {
      // Of a random point, sum of the 4th powers is 3 / (dim + 2) on average; of
      // a flat vector 1 / dim, of a one-hot vector 1.
      Moments fourth;
      for (uint64_t seed = 0; seed < 40; ++seed) {
        const Rotation rotation(RotationKind::kHadamard, dim, seed);
        std::vector<float> rotated(dim);
        std::vector<float> scratch(dim);
        rotation.Apply(input.values.data(), 1, rotated.data(), scratch.data());
        double sum = 0;
        for (float value : rotated) sum += std::pow(static_cast<double>(value), 4);
        fourth.Add(sum);
      }
      CAPTURE(dim);
      CAPTURE(input.name);
      CHECK(fourth.mean() == doctest::Approx(3.0 / (dim + 2)).epsilon(0.1));
    }
  }
}

TEST_CASE("the scale makes estimates unbiased along x, for every prefix of planes") {
  for (uint32_t dim : {64u, 200u, 384u}) {
    const size_t n = 64;
    std::vector<float> vectors = GaussianVectors(n, dim, 5);
    for (uint32_t bits = 1; bits <= 4; ++bits) {
      CAPTURE(dim);
      CAPTURE(bits);
      const Quantizer quantizer(dim, bits, RotationKind::kHadamard, 3);
      const LevelCodebook& codebook = quantizer.codebook();
      std::vector<float> scratch(quantizer.scratch_floats());
      std::vector<float> rotated(dim);
      std::vector<uint8_t> row_code(quantizer.row_code_bytes());
      const size_t plane_bytes = quantizer.layout().plane_bytes();
      for (size_t i = 0; i < n; ++i) {
        const float* x = vectors.data() + i * dim;
        const Quantizer::RowScales scales = quantizer.EncodeRow(x, scratch.data(), row_code.data());
        quantizer.rotation().Apply(x, 1, rotated.data(), scratch.data());
        double s1 = 0;
        double s2 = 0;
        double full = 0;
        for (size_t j = 0; j < dim; ++j) {
          uint32_t code = 0;
          for (size_t plane = 0; plane < bits; ++plane) {
            code = 2 * code + ((row_code[plane * plane_bytes + j / 8] >> (j % 8)) & 1);
          }
          s1 += (code >> (bits - 1)) & 1 ? rotated[j] : -rotated[j];
          if (bits >= 2) s2 += (code >> (bits - 2)) & 1 ? rotated[j] : -rotated[j];
          full += double{rotated[j]} * codebook.levels[code];
        }
        const double norm_sq = Dot(x, x, dim);
        CHECK(scales.norm_sq == doctest::Approx(norm_sq).epsilon(1e-5));
        CHECK(scales.scale1 * s1 == doctest::Approx(norm_sq).epsilon(1e-5));
        if (bits >= 2) {
          CHECK(scales.scale2 * (codebook.m * s1 + codebook.delta * s2) ==
                doctest::Approx(norm_sq).epsilon(1e-5));
        }
        CHECK(scales.scale_full * full == doctest::Approx(norm_sq).epsilon(1e-5));
      }
    }
  }
}

TEST_CASE("estimates of tq_mse have no bias on pairs of vectors") {
  constexpr uint32_t kDim = 96;
  constexpr size_t kRows = 500;
  for (uint32_t bits = 1; bits <= 4; ++bits) {
    CAPTURE(bits);
    Moments bias;  // along <q, x>, where shrunk centroids would show it
    for (uint64_t seed = 0; seed < 20; ++seed) {
      const Quantizer quantizer(kDim, bits, RotationKind::kHadamard, seed);
      const std::vector<float> x = UnitVectors(kRows, kDim, 100 + seed);
      const std::vector<float> noise = UnitVectors(kRows, kDim, 200 + seed);
      std::vector<float> scratch(quantizer.scratch_floats());
      std::vector<uint8_t> codes(quantizer.row_code_bytes());
      std::vector<float> prepared(quantizer.query_floats());
      for (size_t i = 0; i < kRows; ++i) {
        std::vector<float> query(kDim);
        for (size_t j = 0; j < kDim; ++j) query[j] = x[i * kDim + j] + noise[i * kDim + j];
        float scale;
        quantizer.EncodeRows(x.data() + i * kDim, 1, scratch.data(), codes.data(), &scale);
        quantizer.PrepareQuery(query.data(), scratch.data(), prepared.data());
        const double exact = Dot(query.data(), x.data() + i * kDim, kDim);
        const double estimate = quantizer.Estimate(codes.data(), &scale, prepared.data());
        bias.Add((estimate - exact) * exact);
      }
    }
    CHECK(std::fabs(bias.mean()) < 3 * bias.standard_error());
  }
}

}  // namespace
}  // namespace quash
