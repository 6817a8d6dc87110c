#include "kernels/layout.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <vector>

#include "kernels/encode.h"
#include "tests/kernels/test_vectors.h"

namespace quash {
namespace {

// Owns the arrays of a run, filled with one byte.
struct Run {
  Run(const CodeLayout& layout, size_t rows, uint8_t fill)
      : plane1(NumBlocks(rows) * layout.block_bytes(), fill),
        plane2(layout.bits >= 2 ? plane1.size() : 0, fill),
        rest(NumBlocks(rows) * kBlockRows * layout.rest_stride(), fill),
        scale1(NumBlocks(rows) * kBlockRows, -1.0f),
        scale2(scale1),
        scale_full(scale1),
        norm_sq(scale1) {}

  CodeArrays arrays() {
    return {plane1.data(), plane2.data(),     rest.data(),   scale1.data(),
            scale2.data(), scale_full.data(), norm_sq.data()};
  }
  ConstCodeArrays const_arrays() const {
    return {plane1.data(), plane2.data(),     rest.data(),   scale1.data(),
            scale2.data(), scale_full.data(), norm_sq.data()};
  }
  bool operator==(const Run&) const = default;

  std::vector<uint8_t> plane1, plane2, rest;
  std::vector<float> scale1, scale2, scale_full, norm_sq;
};

constexpr uint32_t kDims[] = {1, 7, 8, 15, 16, 17, 33, 64, 100};

TEST_CASE("sizes follow from dim and bits") {
  for (uint32_t dim : kDims) {
    CHECK(PlaneBytes(dim) * 8 >= dim);
    CHECK(PlaneBytes(dim) * 8 < dim + 16);
    CHECK(PlaneBytes(dim) % 2 == 0);
  }
  CHECK(CodeLayout{384, 4}.row_code_bytes() == 192);
  CHECK(CodeLayout{384, 4}.num_scales() == 3);
  CHECK(CodeLayout{384, 2}.rest_stride() == 0);
  CHECK(NumBlocks(0) == 0);
  CHECK(NumBlocks(33) == 2);
}

TEST_CASE("byte c of row r of a block lies at c * 32 + r") {
  const CodeLayout layout{20, 3};  // 4 bytes a plane
  Run run(layout, 64, 0);
  const std::vector<uint8_t> row_code = {1, 2, 3, 4, 11, 12, 13, 14, 21, 22, 23, 24};
  ScatterRowCode(layout, row_code.data(), 37, run.arrays());
  for (size_t c = 0; c < 4; ++c) {
    CHECK(run.plane1[128 + c * 32 + 5] == 1 + c);
    CHECK(run.plane2[128 + c * 32 + 5] == 11 + c);
    CHECK(run.rest[37 * 4 + c] == 21 + c);
  }
}

TEST_CASE("scatter and gather are inverse and leave the neighbours alone") {
  constexpr size_t kRows = 70;
  for (uint32_t dim : kDims) {
    for (uint32_t bits = 1; bits <= 4; ++bits) {
      CAPTURE(dim);
      CAPTURE(bits);
      const CodeLayout layout{dim, bits};
      Run run(layout, kRows, 0xAA);
      const Run untouched = run;
      std::vector<uint8_t> row_code(layout.row_code_bytes());
      for (size_t i = 0; i < row_code.size(); ++i) row_code[i] = static_cast<uint8_t>(i * 29 + 1);
      const std::vector<uint8_t> blank(row_code.size(), 0xAA);
      std::vector<uint8_t> gathered(row_code.size());
      for (size_t row : {0, 31, 32, 45, 69}) {
        ScatterRowCode(layout, row_code.data(), row, run.arrays());
        GatherRowCode(layout, run.const_arrays(), row, gathered.data());
        CHECK(gathered == row_code);
        ScatterRowCode(layout, blank.data(), row, run.arrays());
        CHECK(run == untouched);
      }
    }
  }
}

TEST_CASE("a copied row carries its codes and scales") {
  for (uint32_t bits = 1; bits <= 4; ++bits) {
    CAPTURE(bits);
    const CodeLayout layout{50, bits};
    Run from(layout, 64, 0);
    Run to(layout, 64, 0xAA);
    std::vector<uint8_t> row_code(layout.row_code_bytes(), 0x5C);
    ScatterRowCode(layout, row_code.data(), 40, from.arrays());
    from.scale1[40] = 1;
    from.scale2[40] = 2;
    from.scale_full[40] = 3;
    from.norm_sq[40] = 4;
    Run expected = to;
    ScatterRowCode(layout, row_code.data(), 3, expected.arrays());
    expected.scale1[3] = 1;
    expected.scale2[3] = 2;
    expected.scale_full[3] = 3;

    // Arrays that either side lacks are left out.
    CodeArrays target = to.arrays();
    target.norm_sq = nullptr;
    CopyRow(layout, from.const_arrays(), 40, target, 3);
    CHECK(to == expected);
    CopyRow(layout, from.const_arrays(), 40, to.arrays(), 3);
    expected.norm_sq[3] = 4;
    CHECK(to == expected);
  }
}

TEST_CASE("encoding part of a block touches no other row") {
  constexpr size_t kFirst = 29;
  constexpr size_t kCount = 9;  // across a block border
  for (uint32_t dim : kDims) {
    for (uint32_t bits = 1; bits <= 4; ++bits) {
      CAPTURE(dim);
      CAPTURE(bits);
      const Quantizer quantizer(dim, bits, RotationKind::kHadamard, 4);
      const CodeLayout& layout = quantizer.layout();
      const std::vector<float> vectors = GaussianVectors(kCount, dim, 6);
      std::vector<float> scratch(quantizer.scratch_floats());
      std::vector<uint8_t> row_codes(kCount * layout.row_code_bytes());
      std::vector<float> scales(kCount);
      quantizer.EncodeRows(vectors.data(), kCount, scratch.data(), row_codes.data(), scales.data());
      Run expected(layout, 64, 0xAA);
      Run run = expected;
      quantizer.Encode(vectors.data(), kCount, scratch.data(), kFirst, run.arrays());
      for (size_t i = 0; i < kCount; ++i) {
        const size_t row = kFirst + i;
        ScatterRowCode(layout, &row_codes[i * layout.row_code_bytes()], row, expected.arrays());
        const float full = bits == 1   ? run.scale1[row]
                           : bits == 2 ? run.scale2[row]
                                       : run.scale_full[row];
        CHECK(full == doctest::Approx(scales[i]).epsilon(1e-6));
        expected.scale1[row] = run.scale1[row];
        if (bits >= 2) expected.scale2[row] = run.scale2[row];
        if (bits >= 3) expected.scale_full[row] = run.scale_full[row];
        expected.norm_sq[row] = run.norm_sq[row];
      }
      CHECK(run == expected);

      CodeArrays without_norms = run.arrays();
      without_norms.norm_sq = nullptr;
      quantizer.Encode(vectors.data(), kCount, scratch.data(), kFirst, without_norms);
      CHECK(run == expected);
    }
  }
}

}  // namespace
}  // namespace quash
