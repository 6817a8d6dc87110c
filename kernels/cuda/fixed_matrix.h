// The matrix of fixed_products.cuh, as it lies in shared memory.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

namespace quash::cuda {

// Inner indices of a product.
constexpr int kFixedDepth = 16;

// The coordinate of half a row that column `column` of the products makes: a thread then
// has eight in turn of every 32.
constexpr int FixedOutput(int column) {
  const int tile = column / 8, quad = column / 2 % 4;
  return 32 * (tile / 4) + 8 * quad + 2 * (tile % 4) + column % 2;
}

// [2 halves of the input][dim / 32 steps][2 halves of kFixedDepth][dim / 2 columns][8], in
// float16, operand B of products: +-1 of the Walsh-Hadamard matrix of half the size, times
// the sign of the input.
//   factors  [dim], of which the signs count
inline std::vector<uint16_t> FixedMatrix(const float* factors, int dim) {
  constexpr uint16_t kOne = 0x3c00, kSign = 0x8000;
  std::vector<uint16_t> matrix;
  matrix.reserve(static_cast<size_t>(dim) * dim / 2);
  for (int half = 0; half < 2; ++half) {
    for (int step = 0; step < dim / 32; ++step) {
      for (int i = 0; i < kFixedDepth * dim / 2; ++i) {
        const int inner = i / (4 * dim) * 8 + i % 8;
        const int in = kFixedDepth * step + inner, out = FixedOutput(i / 8 % (dim / 2));
        const bool is_negative = std::popcount(static_cast<uint32_t>(in & out)) % 2 != 0;
        const bool is_flipped = factors[half * (dim / 2) + in] < 0;
        matrix.push_back(is_negative != is_flipped ? kOne | kSign : kOne);
      }
    }
  }
  return matrix;
}

}  // namespace quash::cuda
