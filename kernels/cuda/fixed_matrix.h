// The matrix of seal_fixed.cuh's products, as threads of a warp take it.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

namespace quash::cuda {

// Output of row `row` of tile `tile` of half a transform.
constexpr int FixedOutput(int tile, int row) {
  const int place = 2 * tile + row / 8;
  return 4 * (row % 8) + place % 4 + 32 * (place / 4);
}

// [dim / 32 tiles][2 halves of the input][dim / 64 steps][32 lanes][4 words], the operand A
// of m16n8k32: +-1 of the Walsh-Hadamard matrix of half the size, times the sign of the
// input.
//   factors  [dim], of which the signs count
inline std::vector<uint32_t> FixedMatrix(const float* factors, int dim) {
  std::vector<uint32_t> words;
  for (int tile = 0; tile < dim / 32; ++tile) {
    for (int half = 0; half < 2; ++half) {
      for (int step = 0; step < dim / 64; ++step) {
        for (int i = 0; i < 32 * 4; ++i) {
          const int lane = i / 4, word = i % 4;
          const int out = FixedOutput(tile, lane / 4 + word % 2 * 8);
          uint32_t bytes = 0;
          for (int byte = 0; byte < 4; ++byte) {
            const int in = step * 32 + lane % 4 * 8 + word / 2 * 4 + byte;
            const bool is_negative = std::popcount(static_cast<uint32_t>(in & out)) % 2 != 0;
            const bool is_flipped = factors[half * (dim / 2) + in] < 0;
            bytes |= (is_negative != is_flipped ? 0xffu : 1u) << 8 * byte;
          }
          words.push_back(bytes);
        }
      }
    }
  }
  return words;
}

}  // namespace quash::cuda
