#include "kernels/encode.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "kernels/packing.h"
#include "tests/kernels/test_vectors.h"

namespace quash {
namespace {

struct Encoded {
  std::vector<uint8_t> row_codes;
  std::vector<Quantizer::RowScales> scales;
};

Encoded EncodeAll(const Quantizer& quantizer, const std::vector<float>& vectors) {
  const size_t dim = quantizer.layout().dim;
  const size_t n = vectors.size() / dim;
  std::vector<float> scratch(quantizer.scratch_floats());
  Encoded out;
  out.row_codes.resize(n * quantizer.row_code_bytes());
  for (size_t i = 0; i < n; ++i) {
    out.scales.push_back(
        quantizer.EncodeRow(vectors.data() + i * dim, scratch.data(),
                            out.row_codes.data() + i * quantizer.row_code_bytes()));
  }
  return out;
}

std::vector<float> DecodeAll(const Quantizer& quantizer, const Encoded& encoded) {
  const size_t n = encoded.scales.size();
  std::vector<float> scales;
  for (const Quantizer::RowScales& row : encoded.scales) scales.push_back(row.scale_full);
  std::vector<float> decoded(n * quantizer.layout().dim);
  std::vector<float> scratch(quantizer.scratch_floats());
  quantizer.Decode(encoded.row_codes.data(), scales.data(), n, scratch.data(), decoded.data());
  return decoded;
}

TEST_CASE("codes and scales are those of the plain definition") {
  for (RotationKind kind : {RotationKind::kHadamard, RotationKind::kDense}) {
    for (uint32_t dim : {1u, 2u, 3u, 9u, 16u, 31u, 33u, 100u, 384u}) {
      for (uint32_t bits = 1; bits <= 4; ++bits) {
        CAPTURE(static_cast<int>(kind));
        CAPTURE(dim);
        CAPTURE(bits);
        constexpr size_t kRows = 8;
        const Quantizer quantizer(dim, bits, kind, 17);
        const LevelCodebook& codebook = quantizer.codebook();
        const size_t plane_bytes = quantizer.layout().plane_bytes();
        const std::vector<float> vectors = GaussianVectors(kRows, dim, 21);
        const Encoded encoded = EncodeAll(quantizer, vectors);
        std::vector<float> rotated(dim);
        std::vector<float> scratch(dim);
        std::vector<uint8_t> codes(plane_bytes * 8);
        for (size_t i = 0; i < kRows; ++i) {
          const float* x = vectors.data() + i * dim;
          UnpackPlanes(encoded.row_codes.data() + i * quantizer.row_code_bytes(), bits, plane_bytes,
                       codes.data());
          quantizer.rotation().Apply(x, 1, rotated.data(), scratch.data());
          const double norm = std::sqrt(Dot(x, x, dim));
          double plane1 = 0;
          double plane2 = 0;
          double full = 0;
          for (size_t j = 0; j < dim; ++j) {
            const double unit = rotated[j] / norm;
            // A value within rounding of a boundary may go to either side.
            if (codes[j] > 0) CHECK(unit > codebook.boundaries[codes[j] - 1] - 1e-6);
            if (codes[j] + 1 < 1 << bits) CHECK(unit < codebook.boundaries[codes[j]] + 1e-6);
            const int top = codes[j] >> (bits - 1) & 1;
            plane1 += unit * (2 * top - 1);
            if (bits >= 2) {
              const int second = codes[j] >> (bits - 2) & 1;
              plane2 += unit * (double{codebook.m} * (2 * top - 1) +
                                double{codebook.delta} * (2 * second - 1));
            }
            full += unit * codebook.levels[codes[j]];
          }
          for (size_t j = dim; j < codes.size(); ++j) CHECK(codes[j] == 0);
          const Quantizer::RowScales& scales = encoded.scales[i];
          CHECK(scales.norm == doctest::Approx(norm).epsilon(1e-5));
          CHECK(scales.norm_sq == doctest::Approx(norm * norm).epsilon(1e-5));
          CHECK(scales.scale1 == doctest::Approx(norm / plane1).epsilon(1e-5));
          if (bits >= 2) CHECK(scales.scale2 == doctest::Approx(norm / plane2).epsilon(1e-5));
          CHECK(scales.scale_full == doctest::Approx(norm / full).epsilon(1e-5));
        }
      }
    }
  }
}

TEST_CASE("codes and scales are equal on every instruction set") {
  struct Golden {
    uint32_t dim;
    uint32_t bits;
    RotationKind kind;
    uint64_t hash;
  };
  const Golden goldens[] = {
      {17, 3, RotationKind::kHadamard, 0xA9D80771A6A420D2u},
      {100, 1, RotationKind::kHadamard, 0xBB4E09A0BEFB80D8u},
      {128, 4, RotationKind::kDense, 0x8933CD54E9715B9Eu},
      {384, 2, RotationKind::kHadamard, 0xAE33636E5B0926A5u},
      {384, 4, RotationKind::kHadamard, 0x306BE784F540C10Bu},
      {1000, 4, RotationKind::kHadamard, 0x5091FD65F379EDE9u},
  };
  for (const Golden& golden : goldens) {
    CAPTURE(golden.dim);
    CAPTURE(golden.bits);
    const Quantizer quantizer(golden.dim, golden.bits, golden.kind, 42);
    const Encoded encoded = EncodeAll(quantizer, GaussianVectors(50, golden.dim, 1));
    CHECK(HashOf(encoded.scales, HashOf(encoded.row_codes)) == golden.hash);
  }
}

TEST_CASE("a zero vector has scale 0 and decodes to zero") {
  const Quantizer quantizer(40, 4, RotationKind::kHadamard, 1);
  const Encoded encoded = EncodeAll(quantizer, std::vector<float>(40, 0.0f));
  CHECK(encoded.scales[0].scale1 == 0);
  CHECK(encoded.scales[0].scale2 == 0);
  CHECK(encoded.scales[0].scale_full == 0);
  CHECK(encoded.scales[0].norm_sq == 0);
  CHECK(DecodeAll(quantizer, encoded) == std::vector<float>(40, 0.0f));
}

TEST_CASE("the norm may be very small or very large") {
  const Quantizer quantizer(96, 4, RotationKind::kHadamard, 1);
  const std::vector<float> unit = UnitVectors(1, 96, 9);
  const Encoded expected = EncodeAll(quantizer, unit);
  for (int exponent : {-120, -70, -20, 20, 70, 120}) {
    CAPTURE(exponent);
    std::vector<float> scaled = unit;
    for (float& value : scaled) value = std::ldexp(value, exponent);
    const Encoded encoded = EncodeAll(quantizer, scaled);
    CHECK(encoded.row_codes == expected.row_codes);
    CHECK(encoded.scales[0].scale_full ==
          doctest::Approx(std::ldexp(expected.scales[0].scale_full, exponent)).epsilon(1e-5));
    CHECK(std::isfinite(encoded.scales[0].scale1));
    CHECK(encoded.scales[0].scale1 > 0);
  }
}

TEST_CASE("decoding restores the vector up to the error of its bits") {
  const double allowed[] = {0, 0.40, 0.13, 0.039, 0.0108};
  for (uint32_t dim : {64u, 100u, 384u}) {
    for (uint32_t bits = 1; bits <= 4; ++bits) {
      CAPTURE(dim);
      CAPTURE(bits);
      const Quantizer quantizer(dim, bits, RotationKind::kHadamard, 2);
      const std::vector<float> vectors = GaussianVectors(100, dim, 4);
      const std::vector<float> decoded = DecodeAll(quantizer, EncodeAll(quantizer, vectors));
      CHECK(SquaredDistance(decoded.data(), vectors.data(), vectors.size()) <
            allowed[bits] * Dot(vectors.data(), vectors.data(), vectors.size()));
    }
  }
}

TEST_CASE("a stored codebook gives the same quantizer") {
  const Quantizer computed(100, 4, RotationKind::kHadamard, 8);
  const Quantizer stored(100, computed.codebook(), RotationKind::kHadamard, 8);
  const std::vector<float> vectors = GaussianVectors(10, 100, 2);
  CHECK(EncodeAll(computed, vectors).row_codes == EncodeAll(stored, vectors).row_codes);
}

TEST_CASE("bad arguments and damaged codebooks are refused") {
  CHECK_THROWS_AS(Quantizer(0, 4, RotationKind::kHadamard, 1), std::invalid_argument);
  for (uint32_t bits : {0u, 5u, 8u}) {
    CHECK_THROWS_AS(Quantizer(64, bits, RotationKind::kHadamard, 1), std::invalid_argument);
  }
  const LevelCodebook good = MakeLevelCodebook(GetCodebook(64, 4));
  const auto refused = [](const LevelCodebook& codebook) {
    CHECK_THROWS_AS(Quantizer(64, codebook, RotationKind::kHadamard, 1), std::invalid_argument);
  };
  CHECK_NOTHROW(Quantizer(64, good, RotationKind::kHadamard, 1));
  CHECK_THROWS_AS(Quantizer(0, good, RotationKind::kHadamard, 1), std::invalid_argument);
  LevelCodebook bad = good;
  bad.bits = 5;
  refused(bad);
  bad = good;
  bad.levels[3] = bad.levels[4];
  refused(bad);
  bad = good;
  bad.levels[0] = -106;
  refused(bad);
  bad = good;
  bad.boundaries[7] = 0.01f;
  refused(bad);
  bad = good;
  bad.boundaries[2] = std::nanf("");
  refused(bad);
  bad = good;
  bad.m = 0;
  refused(bad);
  bad = good;
  bad.step = -1;
  refused(bad);
}

}  // namespace
}  // namespace quash
