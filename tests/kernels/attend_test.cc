#include "kernels/attend.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/attend_exp.h"
#include "kernels/codebook.h"
#include "kernels/random.h"
#include "tests/kernels/scan_inputs.h"

namespace quash {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Every table of this CPU, the reference first.
std::vector<const AttendKernels*> Tables() {
  std::vector<const AttendKernels*> tables;
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kNeon}) {
    if (const AttendKernels* kernels = AttendKernelsFor(isa)) tables.push_back(kernels);
  }
  return tables;
}

std::vector<size_t> Lengths() {
  std::vector<size_t> lengths;
  for (size_t n = 16; n <= 512; n += 16) lengths.push_back(n);
  return lengths;
}

std::vector<uint8_t> RandomCodes(size_t n, size_t bits, uint64_t seed) {
  std::vector<uint8_t> codes = RandomBytes(n, seed);
  for (uint8_t& code : codes) code = static_cast<uint8_t>(code >> (8 - bits));
  return codes;
}

std::vector<float> GaussianValues(size_t n, uint64_t seed, double scale = 1) {
  Random random(seed);
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(random.Gaussian() * scale);
  return values;
}

Isa ChosenIsa() {
  for (const Isa isa : kAllIsas) {
    if (KernelsFor(isa) == &Kernels()) return isa;
  }
  return Isa::kScalar;
}

TEST_CASE("attend tables follow the instruction set of the scans and lack no entry") {
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kNeon}) {
    const AttendKernels* kernels = AttendKernelsFor(isa);
    CHECK((kernels != nullptr) == (KernelsFor(isa) != nullptr));
    if (kernels == nullptr) continue;
    CHECK(std::strcmp(kernels->name, IsaName(isa)) == 0);
    void* entries[sizeof(AttendKernels) / sizeof(void*)];
    static_assert(sizeof(entries) == sizeof(AttendKernels));
    std::memcpy(entries, kernels, sizeof(entries));
    for (const void* entry : entries) CHECK(entry != nullptr);
  }
  CHECK(&Attend() == AttendKernelsFor(ChosenIsa()));
}

TEST_CASE("a signed row has the bytes that attend.h describes") {
  // Codes of 2 bits, ascending 0..3: sign-magnitude 3, 2, 0, 1.
  std::vector<uint8_t> codes(16, 2);
  codes[0] = 0, codes[4] = 1, codes[8] = 3, codes[15] = 0;
  uint8_t row[8] = {};
  PackSignedRow(codes.data(), 16, 2, row);
  CHECK(std::vector<uint8_t>(row, row + 4) ==
        std::vector<uint8_t>{3 | 2 << 2 | 1 << 4, 0, 0, 3 << 6});
  // 4 bits: 0 is the largest negative, 7 the least, 8 the least positive.
  codes.assign(16, 8);
  codes[1] = 0, codes[9] = 15, codes[2] = 7;
  PackSignedRow(codes.data(), 16, 4, row);
  CHECK(std::vector<uint8_t>(row, row + 8) == std::vector<uint8_t>{0, 0x7F, 8, 0, 0, 0, 0, 0});
  // 1 bit: set is negative. 3 bits: magnitudes, then signs.
  codes.assign(16, 1);
  codes[0] = 0, codes[3] = 0;
  PackSignedRow(codes.data(), 16, 1, row);
  CHECK(std::vector<uint8_t>(row, row + 2) == std::vector<uint8_t>{1, 2});
  codes.assign(16, 4);
  codes[5] = 7, codes[7] = 1;
  PackSignedRow(codes.data(), 16, 3, row);
  CHECK(std::vector<uint8_t>(row, row + 6) ==
        std::vector<uint8_t>{0, 3 << 2, 0, 2 << 2, 0, 1 << 3});
}

TEST_CASE("signed rows unpack to their codes and touch their own bytes only") {
  for (size_t bits = 1; bits <= 4; ++bits) {
    for (const size_t n : Lengths()) {
      CAPTURE(bits);
      CAPTURE(n);
      const std::vector<uint8_t> codes = RandomCodes(n, bits, n * 4 + bits);
      std::vector<uint8_t> row(SignedRowBytes(n, bits) + 1, 0xA5);
      PackSignedRow(codes.data(), n, bits, row.data());
      REQUIRE(row.back() == 0xA5);
      std::vector<uint8_t> back(n + 1, 0xA5);
      UnpackSignedRow(row.data(), n, bits, back.data());
      REQUIRE(back.back() == 0xA5);
      back.pop_back();
      REQUIRE(back == codes);
    }
  }
}

TEST_CASE("unpack_levels gives the level of every code, from any alignment") {
  constexpr size_t kReadable = 8, kWritable = 32;  // past the last row
  for (size_t bits = 1; bits <= 4; ++bits) {
    const LevelCodebook codebook = MakeLevelCodebook(GetCodebook(128, static_cast<uint32_t>(bits)));
    // No more than the levels it may read.
    const std::vector<int8_t> levels(codebook.levels, codebook.levels + (size_t{1} << bits));
    for (const size_t n : Lengths()) {
      for (const size_t nrows : {1, 2, 3, 8, 13}) {
        CAPTURE(bits);
        CAPTURE(n);
        CAPTURE(nrows);
        const size_t row_bytes = SignedRowBytes(n, bits), offset = n / 16 % 7;
        const std::vector<uint8_t> codes = RandomCodes(nrows * n, bits, n + nrows);
        // Noise around the rows, which must not show.
        std::vector<uint8_t> rows = RandomBytes(offset + nrows * row_bytes + kReadable, n + 1);
        std::vector<int8_t> expected(nrows * n);
        for (size_t r = 0; r < nrows; ++r) {
          PackSignedRow(codes.data() + r * n, n, bits, rows.data() + offset + r * row_bytes);
        }
        for (size_t i = 0; i < nrows * n; ++i) expected[i] = levels[codes[i]];
        for (const AttendKernels* kernels : Tables()) {
          CAPTURE(kernels->name);
          std::vector<int8_t> out(offset + nrows * n + kWritable + 16, 77);
          kernels->unpack_levels(rows.data() + offset, nrows, n, bits, levels.data(),
                                 out.data() + offset);
          const auto begin = out.begin() + static_cast<ptrdiff_t>(offset);
          const auto end = begin + static_cast<ptrdiff_t>(nrows * n);
          REQUIRE(std::equal(expected.begin(), expected.end(), begin));
          REQUIRE(std::all_of(out.begin(), begin, [](int8_t x) { return x == 77; }));
          REQUIRE(std::all_of(end + kWritable, out.end(), [](int8_t x) { return x == 77; }));
        }
      }
    }
  }
}

// Compares every table with 64-bit sums, between guards.
void CheckDots(const std::vector<int8_t>& levels, size_t nrows, size_t n,
               const std::vector<int16_t>& vectors, size_t nv) {
  constexpr int32_t kGuard = 0x5A5A5A5A;
  const size_t stride = nrows + 3;
  std::vector<int32_t> expected(nv * stride, kGuard);
  for (size_t v = 0; v < nv; ++v) {
    for (size_t r = 0; r < nrows; ++r) {
      int64_t sum = 0;
      for (size_t j = 0; j < n; ++j) sum += int64_t{levels[r * n + j]} * vectors[v * n + j];
      REQUIRE(std::llabs(sum) <= std::numeric_limits<int32_t>::max());
      expected[v * stride + r] = static_cast<int32_t>(sum);
    }
  }
  // Copies that no vector register is aligned to.
  std::vector<int8_t> odd_levels(levels.size() + 1);
  std::copy(levels.begin(), levels.end(), odd_levels.begin() + 1);
  std::vector<int16_t> odd_vectors(vectors.size() + 1);
  std::copy(vectors.begin(), vectors.end(), odd_vectors.begin() + 1);
  for (const AttendKernels* kernels : Tables()) {
    CAPTURE(kernels->name);
    std::vector<int32_t> sums(nv * stride + 1, kGuard);
    kernels->level_dots(odd_levels.data() + 1, nrows, n, odd_vectors.data() + 1, nv,
                        sums.data() + 1, stride);
    REQUIRE(sums[0] == kGuard);
    REQUIRE(std::equal(expected.begin(), expected.end(), sums.begin() + 1));
  }
}

TEST_CASE("level_dots is exact for every number of rows and vectors") {
  for (const size_t n : Lengths()) {
    for (const size_t nrows : {8, 16, 24, 64}) {
      if (nrows == 64 && n % 64 != 0) continue;
      for (size_t nv = 1; nv <= kLevelDotsMaxVectors; ++nv) {
        CAPTURE(n);
        CAPTURE(nrows);
        CAPTURE(nv);
        Random random(n * 100 + nv);
        std::vector<int8_t> levels(nrows * n);
        for (int8_t& level : levels) level = static_cast<int8_t>(random.Below(215) - 107);
        std::vector<int16_t> vectors(nv * n);
        for (int16_t& x : vectors) x = static_cast<int16_t>(random.Below(65535) - 32767);
        CheckDots(levels, nrows, n, vectors, nv);
      }
    }
  }
}

TEST_CASE("level_dots takes sums up to the last bit of int32") {
  // 107 * sum |v| = 107 * 20,069,940 = 2^31 - 68, with every product of one sign.
  constexpr int64_t kMost = 2147483647 / 107;
  for (const size_t n : {size_t{624}, size_t{640}, size_t{1024}}) {
    std::vector<int16_t> vectors(4 * n);
    for (size_t v = 0; v < 4; ++v) {
      int64_t left = kMost;
      for (size_t j = 0; j < n; ++j) {
        const int64_t x = std::min<int64_t>(32767, left);
        vectors[v * n + j] = static_cast<int16_t>(v % 2 == 0 ? x : -x);
        left -= x;
      }
      REQUIRE(left == 0);
    }
    std::vector<int8_t> levels(8 * n);
    for (size_t i = 0; i < levels.size(); ++i) levels[i] = i / n % 2 == 0 ? 107 : -107;
    CheckDots(levels, 8, n, vectors, 4);
  }
}

TEST_CASE("max_abs finds the largest magnitude in every position") {
  for (const AttendKernels* kernels : Tables()) {
    CAPTURE(kernels->name);
    CHECK(kernels->max_abs(nullptr, 0) == 0);
    for (size_t n = 1; n <= 67; ++n) {
      std::vector<float> values = GaussianValues(n, n);
      for (size_t i = 0; i < n; ++i) {
        const float before = values[i];
        values[i] = i % 2 == 0 ? -99.5f : 99.5f;
        REQUIRE(kernels->max_abs(values.data(), n) == 99.5f);
        values[i] = before;
      }
    }
    const float large[3] = {1, -kInfinity, 2};
    CHECK(kernels->max_abs(large, 3) == kInfinity);
    std::vector<float> with_nan(40, -2.0f);  // left out, wherever it is
    for (const size_t i : {0, 5, 21, 39}) with_nan[i] = std::nanf("");
    CHECK(kernels->max_abs(with_nan.data(), with_nan.size()) == 2.0f);
  }
}

TEST_CASE("quantize_i16 rounds to nearest even on every instruction set") {
  for (size_t n = 0; n <= 67; ++n) {
    std::vector<float> values = GaussianValues(n, n + 5, 3000);
    for (size_t i = 0; i < n; i += 3) values[i] = static_cast<float>(i) + 0.5f;
    if (n > 1) values[n - 1] = 32767, values[n - 2] = -32767;
    for (const AttendKernels* kernels : Tables()) {
      CAPTURE(kernels->name);
      std::vector<int16_t> out(n + 1, 77);
      kernels->quantize_i16(values.data(), n, 1.0f, out.data());
      for (size_t i = 0; i < n; ++i) REQUIRE(out[i] == std::nearbyint(values[i]));
      kernels->quantize_i16(values.data(), n, 0.3f, out.data());
      for (size_t i = 0; i < n; ++i) REQUIRE(out[i] == std::nearbyint(values[i] * 0.3f));
      REQUIRE(out[n] == 77);
    }
  }
}

// Distance of exp_sum's element from exp in double, relative.
double ExpError(float got, float x) {
  const double exact = std::exp(static_cast<double>(x));
  return std::fabs(static_cast<double>(got) - exact) / exact;
}

TEST_CASE("exp_sum is within 2^-22 of exp down to the least normal float") {
  // Every 509th float from -0 to -88.
  const uint32_t last = std::bit_cast<uint32_t>(-88.0f);
  std::vector<float> x;
  for (uint32_t bits = std::bit_cast<uint32_t>(-0.0f); bits < last; bits += 509) {
    x.push_back(std::bit_cast<float>(bits));
  }
  x.insert(x.end(), {0.0f, kExpLeast, std::nextafter(kExpLeast, 0.0f),
                     std::nextafter(kExpLeast, -kInfinity), -1000.0f, -3e38f, -kInfinity});
  for (const AttendKernels* kernels : Tables()) {
    CAPTURE(kernels->name);
    std::vector<float> y = x;
    kernels->exp_sum(y.data(), y.size(), 0.0f);
    double worst = 0;
    size_t wrong_zeros = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      if (x[i] < kExpLeast) {
        wrong_zeros += std::bit_cast<uint32_t>(y[i]) != 0;
      } else {
        worst = std::max(worst, ExpError(y[i], x[i]));
      }
    }
    CHECK(wrong_zeros == 0);
    CHECK(worst < std::ldexp(1.0, -22));
    CHECK(y[x.size() - 7] == 1.0f);
  }
}

TEST_CASE("exp_sum is bit-equal and sums 16 strided lanes") {
  for (size_t n = 0; n <= 130; ++n) {
    CAPTURE(n);
    std::vector<float> scores = GaussianValues(n, n + 9, 20);
    if (n > 3) scores[n / 2] = -kInfinity;
    float max = n == 0 ? 0.0f : *std::max_element(scores.begin(), scores.end());
    std::vector<float> expected = scores;
    const float sum = ScalarAttendKernels()->exp_sum(expected.data(), n, max);
    double plain = 0;
    float lanes[16] = {};
    for (size_t i = 0; i < n; ++i) {
      plain += std::exp(static_cast<double>(scores[i] - max));
      lanes[i % 16] += expected[i];
    }
    for (size_t half = 8; half > 0; half /= 2) {
      for (size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    }
    REQUIRE(sum == lanes[0]);
    REQUIRE(sum == doctest::Approx(plain).epsilon(1e-6));
    for (const AttendKernels* kernels : Tables()) {
      CAPTURE(kernels->name);
      std::vector<float> got = scores;
      got.push_back(77);
      REQUIRE(std::bit_cast<uint32_t>(kernels->exp_sum(got.data(), n, max)) ==
              std::bit_cast<uint32_t>(sum));
      REQUIRE(got.back() == 77);
      got.pop_back();
      REQUIRE(BitsOf(got) == BitsOf(expected));
    }
  }
}

TEST_CASE("add_scaled rounds the product and then the sum") {
  for (size_t n = 0; n <= 70; ++n) {
    const std::vector<float> from = GaussianValues(n, n + 2), start = GaussianValues(n, n + 3);
    Random random(n);
    std::vector<int32_t> integers(n);
    for (int32_t& x : integers) x = static_cast<int32_t>(random.Next() >> 32);
    const float factor = 0.37f;
    std::vector<float> expected_f32 = start, expected_i32 = start;
    for (size_t i = 0; i < n; ++i) {
      const float product = factor * from[i];
      expected_f32[i] = start[i] + product;
      const float product_i32 = factor * static_cast<float>(integers[i]);
      expected_i32[i] = start[i] + product_i32;
    }
    expected_f32.push_back(77);
    expected_i32.push_back(77);
    for (const AttendKernels* kernels : Tables()) {
      CAPTURE(kernels->name);
      std::vector<float> to = start;
      to.push_back(77);
      kernels->add_scaled_f32(from.data(), n, factor, to.data());
      REQUIRE(BitsOf(to) == BitsOf(expected_f32));
      to = start;
      to.push_back(77);
      kernels->add_scaled_i32(integers.data(), n, factor, to.data());
      REQUIRE(BitsOf(to) == BitsOf(expected_i32));
    }
  }
}

TEST_CASE("every bfloat16 survives the way to float32 and back") {
  std::vector<uint16_t> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  for (const AttendKernels* kernels : Tables()) {
    CAPTURE(kernels->name);
    std::vector<float> wide(all.size());
    kernels->bf16_to_f32(all.data(), all.size(), wide.data());
    std::vector<uint16_t> back(all.size());
    kernels->f32_to_bf16(wide.data(), wide.size(), back.data());
    size_t wrong = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      wrong += std::bit_cast<uint32_t>(wide[i]) != static_cast<uint32_t>(i) << 16;
      const bool signalling = (i & 0x7F80) == 0x7F80 && (i & 0x7F) != 0 && (i & 0x40) == 0;
      wrong += back[i] != (signalling ? i | 0x40 : i);  // a NaN comes back quiet
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("float32 to bfloat16 rounds to nearest even") {
  std::vector<uint32_t> bits = {
      0x3F808000,                          // a tie: down to even
      0x3F818000,                          // a tie: up to even
      0x3F808001, 0x3F807FFF, 0x7F7FFFFF,  // the last rounds to infinity
      0x7F800000, 0xFF800000, 0x7F800001,  // infinities, a NaN with its top bits clear
      0xFFFFFFFF, 0x00000001, 0x80008000, 0x7F7F7FFF};
  const std::vector<uint16_t> expected = {0x3F80, 0x3F82, 0x3F81, 0x3F80, 0x7F80, 0x7F80,
                                          0xFF80, 0x7FC0, 0xFFFF, 0x0000, 0x8000, 0x7F7F};
  for (size_t length = 1; length <= 61; ++length) {
    std::vector<float> from(length);
    for (size_t i = 0; i < length; ++i) from[i] = std::bit_cast<float>(bits[i % bits.size()]);
    for (const AttendKernels* kernels : Tables()) {
      CAPTURE(kernels->name);
      std::vector<uint16_t> to(length + 1, 77);
      kernels->f32_to_bf16(from.data(), length, to.data());
      for (size_t i = 0; i < length; ++i) REQUIRE(to[i] == expected[i % expected.size()]);
      REQUIRE(to[length] == 77);
      std::vector<float> wide(length + 1, 77);
      kernels->bf16_to_f32(to.data(), length, wide.data());
      for (size_t i = 0; i < length; ++i) {
        REQUIRE(std::bit_cast<uint32_t>(wide[i]) == uint32_t{to[i]} << 16);
      }
      REQUIRE(wide[length] == 77);
    }
  }
}

}  // namespace
}  // namespace quash
