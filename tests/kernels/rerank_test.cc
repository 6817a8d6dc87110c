#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
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

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<size_t> Dims() {
  std::vector<size_t> dims;
  for (size_t dim = 0; dim <= 130; ++dim) dims.push_back(dim);
  for (size_t dim : {383, 384, 385, 768, 1000, 1537, 4199, 4200, 65536}) dims.push_back(dim);
  return dims;
}

// The value of a half, from its definition.
double HalfValue(uint16_t half) {
  const int exponent = half >> 10 & 31;
  const int mantissa = half & 1023;
  const double magnitude = exponent == 31  ? (mantissa == 0 ? double{kInfinity} : std::nan(""))
                           : exponent == 0 ? std::ldexp(mantissa, -24)
                                           : std::ldexp(1024 + mantissa, exponent - 25);
  return half >> 15 ? -magnitude : magnitude;
}

uint16_t ToHalf(float value) {
  uint16_t half;
  Kernels().f32_to_f16(&value, 1, &half);
  return half;
}

// Sum in the order of scan.h: 16 strided lanes, folded by halves.
template <typename Term>
float OrderedSum(size_t dim, Term term) {
  volatile float lanes[16] = {};
  for (size_t j = 0; j < dim; ++j) lanes[j % 16] = lanes[j % 16] + term(j);
  for (size_t half = 8; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) lanes[i] = lanes[i] + lanes[i + half];
  }
  return lanes[0];
}

// Multiplication that no compiler contracts with the addition after it.
float Times(float a, float b) {
  volatile float product = a * b;
  return product;
}

TEST_CASE("inner products and distances add in the fixed order") {
  const ScanKernels& kernels = Kernels();
  for (size_t dim : Dims()) {
    CAPTURE(dim);
    const std::vector<float> row = GaussianVectors(1, dim, dim + 1);
    const std::vector<float> query = GaussianVectors(1, dim, dim + 2);
    std::vector<uint16_t> half(dim);
    std::vector<int8_t> bytes(dim);
    for (size_t j = 0; j < dim; ++j) {
      half[j] = ToHalf(row[j]);
      bytes[j] = static_cast<int8_t>(std::lround(std::clamp(row[j] * 40, -127.0f, 127.0f)));
    }
    const auto half_at = [&](size_t j) { return static_cast<float>(HalfValue(half[j])); };
    const auto byte_at = [&](size_t j) { return static_cast<float>(bytes[j]); };
    const float scale = 0.0251f;
    const auto square = [](float x) { return Times(x, x); };

    CHECK(kernels.dot_f32(row.data(), query.data(), dim) ==
          OrderedSum(dim, [&](size_t j) { return Times(row[j], query[j]); }));
    CHECK(kernels.dot_f16(half.data(), query.data(), dim) ==
          OrderedSum(dim, [&](size_t j) { return Times(half_at(j), query[j]); }));
    CHECK(kernels.dot_i8(bytes.data(), query.data(), dim) ==
          OrderedSum(dim, [&](size_t j) { return Times(byte_at(j), query[j]); }));
    CHECK(kernels.l2_f32(row.data(), query.data(), dim) ==
          OrderedSum(dim, [&](size_t j) { return square(row[j] - query[j]); }));
    CHECK(kernels.l2_f16(half.data(), query.data(), dim) ==
          OrderedSum(dim, [&](size_t j) { return square(half_at(j) - query[j]); }));
    CHECK(kernels.l2_i8(bytes.data(), scale, query.data(), dim) ==
          OrderedSum(dim, [&](size_t j) { return square(Times(scale, byte_at(j)) - query[j]); }));
    // And they are what their names say.
    CHECK(kernels.dot_f32(row.data(), query.data(), dim) ==
          doctest::Approx(Dot(row.data(), query.data(), dim)).epsilon(1e-4));
    CHECK(kernels.l2_f32(row.data(), query.data(), dim) ==
          doctest::Approx(SquaredDistance(row.data(), query.data(), dim)).epsilon(1e-4));
  }
}

TEST_CASE("rows may lie at any element's alignment") {
  const ScanKernels& kernels = Kernels();
  const std::vector<float> row = GaussianVectors(1, 120, 1);
  const std::vector<float> query = GaussianVectors(1, 120, 2);
  std::vector<uint16_t> half(120);
  std::vector<int8_t> bytes(120);
  kernels.f32_to_f16(row.data(), 120, half.data());
  kernels.f32_to_i8(row.data(), 120, bytes.data());
  const ScanKernels& scalar = *ScalarKernels();
  for (size_t offset = 0; offset < 17; ++offset) {
    const size_t dim = 103;
    const float* q = query.data() + 16 - offset;
    CHECK(kernels.dot_f32(&row[offset], q, dim) == scalar.dot_f32(&row[offset], q, dim));
    CHECK(kernels.dot_f16(&half[offset], q, dim) == scalar.dot_f16(&half[offset], q, dim));
    CHECK(kernels.dot_i8(&bytes[offset], q, dim) == scalar.dot_i8(&bytes[offset], q, dim));
    CHECK(kernels.l2_f16(&half[offset], q, dim) == scalar.l2_f16(&half[offset], q, dim));
  }
}

TEST_CASE("every half converts to float32 exactly") {
  std::vector<uint16_t> halves(65536);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  std::vector<float> floats(halves.size());
  Kernels().f16_to_f32(halves.data(), halves.size(), floats.data());
  std::vector<float> scalar(halves.size());
  ScalarKernels()->f16_to_f32(halves.data(), halves.size(), scalar.data());
  CHECK(BitsOf(floats) == BitsOf(scalar));
  size_t wrong = 0;
  for (size_t i = 0; i < halves.size(); ++i) {
    const double expected = HalfValue(halves[i]);
    const bool equal = std::isnan(expected)
                           ? std::isnan(floats[i])
                           : floats[i] == expected && std::signbit(floats[i]) == (i >= 32768);
    wrong += !equal;
  }
  CHECK(wrong == 0);

  // And back, a signalling NaN becoming the quiet one.
  std::vector<uint16_t> back(halves.size());
  Kernels().f32_to_f16(floats.data(), floats.size(), back.data());
  for (size_t i = 0; i < halves.size(); ++i) {
    const bool is_nan = (i & 0x7C00) == 0x7C00 && (i & 0x3FF) != 0;
    wrong += back[i] != (is_nan ? i | 0x200 : i);
  }
  CHECK(wrong == 0);
}

TEST_CASE("float32 rounds to the nearest half, ties to even") {
  // Around every half: the value, the midpoint to the next and their neighbours.
  std::vector<float> inputs;
  std::vector<uint16_t> expected;
  for (uint16_t half = 0; half < 0x7C00; ++half) {
    const double value = HalfValue(half);
    const double next = half == 0x7BFF ? 65536.0 : HalfValue(half + 1);
    const auto middle = static_cast<float>((value + next) / 2);  // exact in float32
    const uint16_t even = half % 2 == 0 ? half : half + 1;
    const auto add = [&](float input, uint16_t result) {
      inputs.push_back(input);
      expected.push_back(result);
      inputs.push_back(-input);
      expected.push_back(result | 0x8000);
    };
    add(static_cast<float>(value), half);
    add(middle, even);
    add(std::nextafter(middle, 0.0f), half);
    add(std::nextafter(middle, kInfinity), half + 1);
  }
  for (float large : {65536.0f, 1e10f, 3.4e38f, kInfinity}) {
    inputs.push_back(large);
    expected.push_back(0x7C00);
    inputs.push_back(-large);
    expected.push_back(0xFC00);
  }
  for (float tiny : {1e-45f, 1e-38f, 1.17e-38f, 0x1p-26f}) {
    inputs.push_back(-tiny);
    expected.push_back(0x8000);
  }
  std::vector<uint16_t> halves(inputs.size());
  Kernels().f32_to_f16(inputs.data(), inputs.size(), halves.data());
  CHECK(halves == expected);
}

TEST_CASE("NaN converts to a quiet half with the top of its payload") {
  for (uint32_t bits : {0x7FC00000u, 0xFFC00000u, 0x7F800001u, 0xFF802000u, 0x7FFFFFFFu}) {
    CAPTURE(bits);
    // At a SIMD position and in the tail.
    std::vector<float> values(41, std::bit_cast<float>(bits));
    std::vector<uint16_t> halves(41);
    Kernels().f32_to_f16(values.data(), values.size(), halves.data());
    const auto expected =
        static_cast<uint16_t>((bits >> 16 & 0x8000) | 0x7E00 | (bits >> 13 & 0x3FF));
    CHECK(halves == std::vector<uint16_t>(41, expected));
  }
}

TEST_CASE("conversions write n values, for every n") {
  const std::vector<float> from = GaussianVectors(1, 200, 3);
  for (size_t n = 0; n <= 100; ++n) {
    CAPTURE(n);
    std::vector<uint16_t> halves(n + 1, 0x1234);
    Kernels().f32_to_f16(from.data(), n, halves.data());
    std::vector<uint16_t> expected(n + 1, 0x1234);
    ScalarKernels()->f32_to_f16(from.data(), n, expected.data());
    CHECK(halves == expected);
    std::vector<float> floats(n + 1, 7.0f);
    Kernels().f16_to_f32(halves.data(), n, floats.data());
    CHECK(floats[n] == 7.0f);
    for (size_t i = 0; i < n; ++i) REQUIRE(floats[i] == static_cast<float>(HalfValue(halves[i])));
  }
}

TEST_CASE("int8 rows are the nearest multiples of max|x| / 127") {
  for (size_t n : Dims()) {
    CAPTURE(n);
    std::vector<float> from = GaussianVectors(1, n, n + 9);
    if (n > 0) from[n - 1] *= 5;  // the largest is often in the tail
    std::vector<int8_t> bytes(n + 1, 99);
    const float scale = Kernels().f32_to_i8(from.data(), n, bytes.data());
    CHECK(bytes[n] == 99);
    float largest = 0;
    for (float value : from) largest = std::max(largest, std::fabs(value));
    CHECK(scale == largest / 127);
    size_t wrong = 0;
    for (size_t i = 0; i < n; ++i) {
      wrong += bytes[i] != std::clamp(std::nearbyint(from[i] / scale), -127.0f, 127.0f);
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("int8 conversion of zeros, ties and extreme rows") {
  std::vector<int8_t> bytes(20, 99);
  CHECK(Kernels().f32_to_i8(std::vector<float>(20, -0.0f).data(), 20, bytes.data()) == 0);
  CHECK(bytes == std::vector<int8_t>(20, 0));
  CHECK(Kernels().f32_to_i8(std::vector<float>(20, 1e-45f).data(), 20, bytes.data()) == 0);
  CHECK(bytes == std::vector<int8_t>(20, 0));
  const std::vector<float> ties = {127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, -127, 126.5f};
  CHECK(Kernels().f32_to_i8(ties.data(), ties.size(), bytes.data()) == 1);
  const std::vector<int8_t> expected = {127, 0, 2, 2, 0, -2, -2, -127, 126};
  CHECK(std::vector<int8_t>(bytes.begin(), bytes.begin() + 9) == expected);
  // Subnormal steps: the quotient may pass 127 and is clamped.
  std::vector<float> tiny(20, 2.6e-43f);
  tiny[3] = -2.6e-43f;
  std::vector<int8_t> scalar(20);
  CHECK(Kernels().f32_to_i8(tiny.data(), 20, bytes.data()) ==
        ScalarKernels()->f32_to_i8(tiny.data(), 20, scalar.data()));
  CHECK(bytes == scalar);
  CHECK(bytes[0] == 127);
  CHECK(bytes[3] == -127);
  const std::vector<float> huge = {3e38f, -3e38f, 1e38f};
  Kernels().f32_to_i8(huge.data(), 3, bytes.data());
  CHECK(bytes[0] == 127);
  CHECK(bytes[1] == -127);
  CHECK(bytes[2] == 42);
}

}  // namespace
}  // namespace quash
