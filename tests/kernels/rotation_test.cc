#include "kernels/rotation.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "kernels/random.h"
#include "tests/kernels/test_vectors.h"

namespace quash {
namespace {

constexpr RotationKind kKinds[] = {RotationKind::kHadamard, RotationKind::kDense,
                                   RotationKind::kRht};

bool Takes(RotationKind kind, uint32_t dim) {
  return kind != RotationKind::kRht || std::has_single_bit(dim);
}

std::vector<float> Rotated(const Rotation& rotation, const std::vector<float>& x) {
  std::vector<float> y(x.size());
  std::vector<float> scratch(rotation.dim());
  rotation.Apply(x.data(), x.size() / rotation.dim(), y.data(), scratch.data());
  return y;
}

std::vector<float> RotatedBack(const Rotation& rotation, const std::vector<float>& y) {
  std::vector<float> x(y.size());
  std::vector<float> scratch(rotation.dim());
  rotation.ApplyInverse(y.data(), y.size() / rotation.dim(), x.data(), scratch.data());
  return x;
}

TEST_CASE("the inverse gives the vector back") {
  for (RotationKind kind : kKinds) {
    for (uint32_t dim : {1u,  2u,  3u,   4u,   5u,   7u,   8u,   15u,  17u,  31u,
                         64u, 96u, 100u, 127u, 128u, 129u, 255u, 384u, 700u, 1536u}) {
      if (kind == RotationKind::kDense && dim > 400) continue;
      if (!Takes(kind, dim)) continue;
      CAPTURE(static_cast<int>(kind));
      CAPTURE(dim);
      const Rotation rotation(kind, dim, 99);
      const std::vector<float> x = UnitVectors(5, dim, dim);
      const std::vector<float> y = Rotated(rotation, x);
      const std::vector<float> back = RotatedBack(rotation, y);
      for (size_t i = 0; i < 5; ++i) {
        CHECK(std::fabs(Dot(&y[i * dim], &y[i * dim], dim) - 1) < 2e-6);
        CHECK(SquaredDistance(&back[i * dim], &x[i * dim], dim) < 1e-12);
      }
    }
  }
}

TEST_CASE("the matrix is orthogonal") {
  for (RotationKind kind : kKinds) {
    for (uint32_t dim : {1u, 2u, 3u, 6u, 33u, 64u, 130u}) {
      if (!Takes(kind, dim)) continue;
      CAPTURE(static_cast<int>(kind));
      CAPTURE(dim);
      const Rotation rotation(kind, dim, 5);
      std::vector<float> basis(size_t{dim} * dim, 0.0f);
      for (uint32_t i = 0; i < dim; ++i) basis[size_t{i} * dim + i] = 1;
      const std::vector<float> columns = Rotated(rotation, basis);
      const std::vector<float> rows = RotatedBack(rotation, basis);
      double worst = 0;
      double worst_transpose = 0;
      for (uint32_t i = 0; i < dim; ++i) {
        for (uint32_t j = 0; j < dim; ++j) {
          const double product = Dot(&columns[size_t{i} * dim], &columns[size_t{j} * dim], dim);
          worst = std::max(worst, std::fabs(product - (i == j)));
          worst_transpose =
              std::max(worst_transpose,
                       std::fabs(double{columns[size_t{i} * dim + j]} - rows[size_t{j} * dim + i]));
        }
      }
      CHECK(worst < 2e-6);
      CHECK(worst_transpose < 2e-6);
    }
  }
}

TEST_CASE("input and output may be one array, and rows do not mix") {
  for (RotationKind kind : kKinds) {
    for (uint32_t dim : {5u, 64u, 100u}) {
      if (!Takes(kind, dim)) continue;
      const Rotation rotation(kind, dim, 1);
      const std::vector<float> x = UnitVectors(3, dim, 8);
      const std::vector<float> y = Rotated(rotation, x);
      std::vector<float> scratch(dim);
      std::vector<float> in_place = x;
      rotation.Apply(in_place.data(), 3, in_place.data(), scratch.data());
      CHECK(in_place == y);
      rotation.ApplyInverse(in_place.data(), 3, in_place.data(), scratch.data());
      CHECK(in_place == RotatedBack(rotation, y));
      const std::vector<float> last(x.begin() + 2 * dim, x.end());
      CHECK(Rotated(rotation, last) == std::vector<float>(y.begin() + 2 * dim, y.end()));
    }
  }
}

TEST_CASE("a seed decides the rotation") {
  for (RotationKind kind : kKinds) {
    const std::vector<float> x = UnitVectors(1, 64, 3);
    const std::vector<float> y = Rotated(Rotation(kind, 64, 1), x);
    CHECK(Rotated(Rotation(kind, 64, 1), x) == y);
    CHECK(Rotated(Rotation(kind, 64, 2), x) != y);
  }
}

TEST_CASE("values are equal on every platform and instruction set") {
  // A changed value makes existing databases unreadable.
  struct Golden {
    RotationKind kind;
    uint32_t dim;
    uint64_t hash;
  };
  const Golden goldens[] = {
      {RotationKind::kHadamard, 1, 0x4CB8F67F9D721B95u},
      {RotationKind::kHadamard, 100, 0x8C69CE6B340FAB18u},
      {RotationKind::kHadamard, 128, 0x9A4BA8EEB6708F4Du},
      {RotationKind::kHadamard, 384, 0xB1DC9BA8212EB385u},
      {RotationKind::kHadamard, 1536, 0xFE5C952C5D4E0508u},
      {RotationKind::kDense, 3, 0x0DD7120FB65D313Eu},
      {RotationKind::kDense, 100, 0xA7E19459C7EB02C1u},
      {RotationKind::kDense, 128, 0x2CC4C6B2BA851F7Fu},
      {RotationKind::kRht, 64, 0x887508E0E936832Cu},
      {RotationKind::kRht, 128, 0x3698DAF412FCC8D0u},
  };
  for (const Golden& golden : goldens) {
    CAPTURE(static_cast<int>(golden.kind));
    CAPTURE(golden.dim);
    std::vector<float> x(golden.dim);
    for (uint32_t j = 0; j < golden.dim; ++j) {
      x[j] = static_cast<float>(j % 7) - 2.5f + static_cast<float>(j) / 64;
    }
    CHECK(HashOf(Rotated(Rotation(golden.kind, golden.dim, 42), x)) == golden.hash);
  }
}

TEST_CASE("bad arguments are refused") {
  CHECK_THROWS_AS(Rotation(RotationKind::kHadamard, 0, 1), std::invalid_argument);
  CHECK_THROWS_AS(Rotation(RotationKind::kDense, 0, 1), std::invalid_argument);
  CHECK_THROWS_AS(Rotation(RotationKind::kDense, 4097, 1), std::invalid_argument);
  CHECK_THROWS_AS(Rotation(static_cast<RotationKind>(7), 64, 1), std::invalid_argument);
}

TEST_CASE("the generator is xoshiro256++ and its numbers are fair") {
  // The test vector of other implementations seeded with SplitMix64 of 0.
  Random random(0);
  CHECK(random.Next() == 5987356902031041503u);
  CHECK(random.Next() == 7051070477665621255u);
  CHECK(random.Next() == 6633766593972829180u);
  for (double x : {1e-300, 0.25, 0.7, 1.0, 1.4142135, 2.0, 12345.678, 1e300}) {
    CHECK(Random::PortableLog(x) == doctest::Approx(std::log(x)).epsilon(1e-15));
  }
  Moments moments;
  Moments fourth;
  std::vector<int> counts(7, 0);
  constexpr int kDraws = 70000;
  for (int i = 0; i < kDraws; ++i) {
    const double value = random.Gaussian();
    moments.Add(value);
    fourth.Add(value * value * value * value);
    ++counts[random.Below(7)];
  }
  CHECK(std::fabs(moments.mean()) < 4 * moments.standard_error());
  CHECK(moments.variance() == doctest::Approx(1).epsilon(0.02));
  CHECK(fourth.mean() == doctest::Approx(3).epsilon(0.05));
  for (int count : counts) CHECK(std::abs(count - kDraws / 7) < 400);
}

}  // namespace
}  // namespace quash
