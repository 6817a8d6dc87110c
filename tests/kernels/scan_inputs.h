// Inputs of the scan tests. Arrays have exactly the size that scan.h asks for,
// so that a sanitizer sees any access past them.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#include "kernels/layout.h"
#include "kernels/random.h"

namespace quash {

template <typename T>
struct AlignedAllocator {
  using value_type = T;
  AlignedAllocator() = default;
  template <typename U>
  AlignedAllocator(const AlignedAllocator<U>&) {}
  T* allocate(size_t n) {
    return static_cast<T*>(::operator new (n * sizeof(T), std::align_val_t{kAlignment}));
  }
  void deallocate(T* data, size_t) { ::operator delete (data, std::align_val_t{kAlignment}); }
  bool operator==(const AlignedAllocator&) const = default;
};

template <typename T>
using AlignedVector = std::vector<T, AlignedAllocator<T>>;

inline std::vector<uint8_t> RandomBytes(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<uint8_t> bytes(n);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.Next() >> 56);
  return bytes;
}

// Bits of floats, so that -0 differs from 0 and a NaN equals itself.
inline std::vector<uint32_t> BitsOf(const std::vector<float>& values) {
  std::vector<uint32_t> bits(values.size());
  for (size_t i = 0; i < values.size(); ++i) bits[i] = std::bit_cast<uint32_t>(values[i]);
  return bits;
}

// Coordinate j of a row code.
inline unsigned CodeAt(const uint8_t* row_code, size_t bits, size_t plane_bytes, size_t j) {
  unsigned code = 0;
  for (size_t plane = 0; plane < bits; ++plane) {
    code = code << 1 | (row_code[plane * plane_bytes + j / 8] >> (j % 8) & 1);
  }
  return code;
}

}  // namespace quash
