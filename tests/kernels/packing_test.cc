#include "kernels/packing.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <vector>

#include "kernels/layout.h"
#include "kernels/random.h"

namespace quash {
namespace {

std::vector<size_t> AllDims() {
  std::vector<size_t> dims;
  for (size_t dim = 1; dim <= 70; ++dim) dims.push_back(dim);
  for (size_t dim : {127, 255, 384, 1021, 1536, 4097}) dims.push_back(dim);
  return dims;
}

std::vector<uint8_t> RandomCodes(size_t dim, size_t bits, uint64_t seed) {
  Random random(seed);
  std::vector<uint8_t> codes(dim);
  for (uint8_t& code : codes) code = static_cast<uint8_t>(random.Below(1u << bits));
  return codes;
}

TEST_CASE("dense packing is lossless and follows its bit order") {
  for (size_t dim : AllDims()) {
    for (size_t bits : {1, 2, 3, 4, 8}) {
      CAPTURE(dim);
      CAPTURE(bits);
      const std::vector<uint8_t> codes = RandomCodes(dim, bits, dim);
      std::vector<uint8_t> expected(PackedSize(dim, bits), 0);
      for (size_t bit = 0; bit < dim * bits; ++bit) {
        const int value = (codes[bit / bits] >> (bit % bits)) & 1;
        expected[bit / 8] = static_cast<uint8_t>(expected[bit / 8] | value << (bit % 8));
      }
      std::vector<uint8_t> packed(expected.size() + 1, 0xAA);
      PackBits(codes.data(), dim, bits, packed.data());
      CHECK(packed.back() == 0xAA);
      packed.pop_back();
      CHECK(packed == expected);
      std::vector<uint8_t> unpacked(dim + 1, 0x55);
      UnpackBits(packed.data(), dim, bits, unpacked.data());
      CHECK(unpacked.back() == 0x55);
      unpacked.pop_back();
      CHECK(unpacked == codes);
    }
  }
}

TEST_CASE("bits above the width are dropped, not mixed into neighbours") {
  const std::vector<uint8_t> codes(11, 0xFD);  // low bits 101
  std::vector<uint8_t> packed(PackedSize(11, 3));
  std::vector<uint8_t> unpacked(11);
  PackBits(codes.data(), 11, 3, packed.data());
  UnpackBits(packed.data(), 11, 3, unpacked.data());
  CHECK(unpacked == std::vector<uint8_t>(11, 5));
}

TEST_CASE("planes hold the bits that the layout says") {
  for (size_t dim : AllDims()) {
    const size_t plane_bytes = PlaneBytes(dim);
    for (size_t bits = 1; bits <= 4; ++bits) {
      CAPTURE(dim);
      CAPTURE(bits);
      std::vector<uint8_t> codes = RandomCodes(dim, bits, 1000 + dim);
      codes.resize(plane_bytes * 8, 0);
      std::vector<uint8_t> expected(bits * plane_bytes, 0);
      for (size_t j = 0; j < dim; ++j) {
        for (size_t plane = 0; plane < bits; ++plane) {
          uint8_t& byte = expected[plane * plane_bytes + j / 8];
          const int bit = (codes[j] >> (bits - 1 - plane)) & 1;
          byte = static_cast<uint8_t>(byte | bit << (j % 8));
        }
      }
      std::vector<uint8_t> row_code(expected.size() + 1, 0xAA);
      PackPlanes(codes.data(), bits, plane_bytes, row_code.data());
      CHECK(row_code.back() == 0xAA);
      row_code.pop_back();
      CHECK(row_code == expected);
      std::vector<uint8_t> unpacked(codes.size(), 0xFF);
      UnpackPlanes(row_code.data(), bits, plane_bytes, unpacked.data());
      CHECK(unpacked == codes);

      // Small integers, so that the float sum is exact in any order.
      std::vector<float> table(size_t{1} << bits);
      for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<float>(i) - 3;
      std::vector<float> values(dim);
      float sum = 0;
      for (size_t j = 0; j < dim; ++j) {
        values[j] = static_cast<float>(j % 5) - 2;
        sum += values[j] * table[codes[j]];
      }
      CHECK(DotTable(row_code.data(), bits, plane_bytes, table.data(), values.data(), dim) == sum);
    }
  }
}

}  // namespace
}  // namespace quash
