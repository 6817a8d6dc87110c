#include "kernels/codebook.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <stdexcept>
#include <thread>
#include <vector>

#include "kernels/theory.h"

namespace quash {
namespace {

constexpr uint32_t kAllBits[] = {1, 2, 3, 4, 8};

// Integral over [low, high] of g(t) times the density, by the midpoint rule in
// the angle: plain and slow, and nothing in common with the solver.
double Expect(uint32_t dim, double low, double high, const std::function<double(double)>& g) {
  constexpr int kSteps = 20000;
  const auto integrate = [&](double from, double to, const std::function<double(double)>& h) {
    const double width = (to - from) / kSteps;
    double sum = 0;
    for (int i = 0; i < kSteps; ++i) {
      const double angle = from + (i + 0.5) * width;
      sum += h(std::sin(angle)) * std::pow(std::cos(angle), dim - 2.0) * width;
    }
    return sum;
  };
  const double half_pi = std::acos(0.0);
  return integrate(std::asin(low), std::asin(high), g) /
         integrate(-half_pi, half_pi, [](double) { return 1.0; });
}

TEST_CASE("codebooks are symmetric and satisfy the Lloyd-Max conditions") {
  for (uint32_t dim : {2u, 3u, 4u, 7u, 64u, 384u}) {
    for (uint32_t bits : {1u, 2u, 3u, 4u}) {
      CAPTURE(dim);
      CAPTURE(bits);
      const Codebook& codebook = GetCodebook(dim, bits);
      const size_t size = size_t{1} << bits;
      REQUIRE(codebook.dim == dim);
      REQUIRE(codebook.bits == bits);
      REQUIRE(codebook.centroids.size() == size);
      REQUIRE(codebook.boundaries.size() == size - 1);
      CHECK(codebook.boundaries[size / 2 - 1] == 0);
      double mse = 0;
      for (size_t i = 0; i < size; ++i) {
        const double c = codebook.centroids[i];
        const double low = i == 0 ? -1 : codebook.boundaries[i - 1];
        const double high = i + 1 == size ? 1 : codebook.boundaries[i];
        CHECK(c == -codebook.centroids[size - 1 - i]);
        CHECK(low < c);
        CHECK(c < high);
        if (i > 0) CHECK(low == doctest::Approx((codebook.centroids[i - 1] + c) / 2));
        const double mass = Expect(dim, low, high, [](double) { return 1.0; });
        const double mean = Expect(dim, low, high, [](double t) { return t; }) / mass;
        CHECK(std::fabs(c - mean) < 2e-6 / std::sqrt(dim));
        mse += dim * Expect(dim, low, high, [c](double t) { return (t - c) * (t - c); });
      }
      CHECK(codebook.MseCost() == doctest::Approx(mse).epsilon(1e-5));
    }
  }
}

TEST_CASE("the error is that of theory") {
  for (uint32_t bits = 1; bits <= 4; ++bits) {
    CAPTURE(bits);
    CHECK(GetCodebook(1000000, bits).MseCost() ==
          doctest::Approx(kLloydMaxMse[bits]).epsilon(1e-4));
    for (uint32_t dim : {64u, 384u, 1536u, 65536u}) {
      const double cost = GetCodebook(dim, bits).MseCost();
      CHECK(cost == doctest::Approx(kLloydMaxMse[bits]).epsilon(0.05));
      CHECK(cost > MseLowerBound(bits));
      CHECK(cost < MseUpperBound(bits));
    }
  }
  const double cost8 = GetCodebook(384, 8).MseCost();
  CHECK(cost8 > MseLowerBound(8));
  CHECK(cost8 < MseUpperBound(8));
}

TEST_CASE("tiny dims have their own densities") {
  for (uint32_t bits : kAllBits) {
    CAPTURE(bits);
    const double size = static_cast<double>(1u << bits);
    // dim 1: two points, both centroids.
    CHECK(GetCodebook(1, bits).MseCost() == 0);
    CHECK(GetCodebook(1, bits).centroids.back() == 1);
    // dim 3: uniform on [-1, 1] (Archimedes), so the cells are equal.
    const Codebook& uniform = GetCodebook(3, bits);
    for (size_t i = 0; i < uniform.centroids.size(); ++i) {
      CHECK(std::fabs(uniform.centroids[i] - ((2.0 * static_cast<double>(i) + 1) / size - 1)) <
            1e-9);
    }
    CHECK(uniform.MseCost() == doctest::Approx(1 / (size * size)));
  }
  // dim 2: the mean of |cos| of a uniform angle.
  CHECK(GetCodebook(2, 1).centroids[1] == doctest::Approx(2 / std::acos(-1.0)));
}

TEST_CASE("bad arguments are refused") {
  CHECK_THROWS_AS(GetCodebook(0, 4), std::invalid_argument);
  for (uint32_t bits : {0u, 5u, 6u, 7u, 9u}) {
    CHECK_THROWS_AS(GetCodebook(64, bits), std::invalid_argument);
  }
  CHECK_THROWS_AS(MakeLevelCodebook(GetCodebook(64, 8)), std::invalid_argument);
}

TEST_CASE("all threads see one cached codebook") {
  std::vector<const Codebook*> seen(8);
  std::vector<std::thread> threads;
  for (const Codebook*& slot : seen) {
    threads.emplace_back([&slot] { slot = &GetCodebook(777, 4); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Codebook* codebook : seen) CHECK(codebook == &GetCodebook(777, 4));
}

TEST_CASE("integer levels cost little and fit the scans") {
  for (uint32_t dim : {1u, 2u, 3u, 8u, 64u, 384u, 1536u, 65536u}) {
    for (uint32_t bits = 1; bits <= 4; ++bits) {
      CAPTURE(dim);
      CAPTURE(bits);
      const Codebook& codebook = GetCodebook(dim, bits);
      const LevelCodebook levels = MakeLevelCodebook(codebook);
      const int size = 1 << bits;
      REQUIRE(levels.bits == bits);
      CHECK(levels.step > 0);
      Codebook rounded = codebook;
      for (int i = 0; i < size; ++i) {
        CHECK(std::abs(levels.levels[i]) % 2 == 1);
        CHECK(std::abs(levels.levels[i]) <= 107);
        CHECK(levels.levels[i] == -levels.levels[size - 1 - i]);
        if (i > 0) CHECK(levels.levels[i] > levels.levels[i - 1]);
        rounded.centroids[i] = double{levels.step} * levels.levels[i];
        if (i + 1 < size) {
          CHECK(levels.boundaries[i] == static_cast<float>(codebook.boundaries[i]));
        }
      }
      const double allowed = bits == 4 ? 1.006 : 1.001;
      CHECK(rounded.MseCost() <= codebook.MseCost() * allowed + 1e-12);
    }
  }
}

TEST_CASE("the levels of planes 1 and 2 are the means of their cells") {
  CHECK(MakeLevelCodebook(GetCodebook(384, 1)).m == 1);
  CHECK(MakeLevelCodebook(GetCodebook(384, 1)).delta == 0);
  const LevelCodebook two = MakeLevelCodebook(GetCodebook(384, 2));
  CHECK(two.m + two.delta == two.levels[3]);
  CHECK(two.m - two.delta == two.levels[2]);
  for (uint32_t bits : {3u, 4u}) {
    const Codebook& codebook = GetCodebook(384, bits);
    const LevelCodebook levels = MakeLevelCodebook(codebook);
    const size_t size = size_t{1} << bits;
    const double middle = codebook.boundaries[size * 3 / 4 - 1];
    const auto mean = [&](double low, double high) {
      return Expect(384, low, high, [](double t) { return t; }) /
             Expect(384, low, high, [](double) { return 1.0; });
    };
    CHECK((levels.m - levels.delta) * levels.step ==
          doctest::Approx(mean(0, middle)).epsilon(1e-5));
    CHECK((levels.m + levels.delta) * levels.step ==
          doctest::Approx(mean(middle, 1)).epsilon(1e-5));
  }
}

}  // namespace
}  // namespace quash
