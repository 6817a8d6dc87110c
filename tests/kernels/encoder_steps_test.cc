// The encoder's kernels of the scan table: hadamard and quantize.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/codebook.h"
#include "kernels/dispatch.h"
#include "kernels/scan.h"
#include "tests/kernels/scan_inputs.h"
#include "tests/kernels/test_vectors.h"

namespace quash {
namespace {

TEST_CASE("hadamard is the Walsh-Hadamard transform") {
  for (size_t n = 1; n <= 256; n *= 2) {
    CAPTURE(n);
    const std::vector<float> input = GaussianVectors(1, n, n);
    std::vector<float> output = input;
    Kernels().hadamard(output.data(), n);
    for (size_t k = 0; k < n; ++k) {
      double expected = 0;
      for (size_t i = 0; i < n; ++i) {
        expected += __builtin_parityll(i & k) ? -input[i] : input[i];
      }
      CHECK(output[k] == doctest::Approx(expected).epsilon(1e-4).scale(std::sqrt(n)));
    }
  }
}

TEST_CASE("hadamard runs its butterflies in the fixed order") {
  for (size_t n = 1; n <= 65536; n *= 2) {
    CAPTURE(n);
    // One element into an allocation, so rows are not aligned.
    std::vector<float> values = GaussianVectors(1, n + 1, n);
    std::vector<float> expected = values;
    for (size_t stride = 1; stride < n; stride *= 2) {
      for (size_t i = 0; i < n; ++i) {
        if ((i & stride) != 0) continue;
        const float a = expected[1 + i], b = expected[1 + i + stride];
        expected[1 + i] = a + b;
        expected[1 + i + stride] = a - b;
      }
    }
    Kernels().hadamard(values.data() + 1, n);
    CHECK(BitsOf(values) == BitsOf(expected));
  }
}

TEST_CASE("quantize counts the boundaries below each coordinate and pads with zeros") {
  for (uint32_t bits = 1; bits <= kMaxBits; ++bits) {
    const LevelCodebook codebook = MakeLevelCodebook(GetCodebook(384, bits));
    const size_t count = (size_t{1} << bits) - 1;
    for (size_t dim = 1; dim <= 200; ++dim) {
      CAPTURE(bits);
      CAPTURE(dim);
      std::vector<float> unit = GaussianVectors(1, dim, dim + 3);
      for (float& value : unit) value *= 0.06f;
      unit[dim / 2] = codebook.boundaries[count / 2];  // equal: not below
      unit[dim - 1] = codebook.boundaries[count - 1];
      if (dim > 4) unit[0] = std::numeric_limits<float>::infinity();
      if (dim > 4) unit[1] = -std::numeric_limits<float>::infinity();
      std::vector<uint8_t> codes(PlaneBytes(dim) * 8 + 1, 0xAA);
      Kernels().quantize(unit.data(), dim, codebook.boundaries, bits, codes.data());
      std::vector<uint8_t> expected(codes.size(), 0);
      expected.back() = 0xAA;
      for (size_t j = 0; j < dim; ++j) {
        for (size_t i = 0; i < count; ++i) expected[j] += unit[j] > codebook.boundaries[i];
      }
      CHECK(codes == expected);
    }
  }
}

}  // namespace
}  // namespace quash
