// What kv_calls.cc makes of bytes: choices, odd numbers and arrays by strides.
#pragma once

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "quash_kv.h"

namespace kv_fuzz {

// The input; zeros past its end.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  bool empty() const { return size_ == 0; }
  uint8_t Byte() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }
  uint64_t Word() {
    uint64_t word = 0;
    for (int i = 0; i < 8; ++i) word = word << 8 | Byte();
    return word;
  }
  bool OneIn(int n) { return Byte() % n == n - 1; }
  template <typename T>
  T Pick(std::initializer_list<T> choices) {
    return choices.begin()[Byte() % choices.size()];
  }
  // Often near the edges of integers.
  uint64_t Odd() {
    return Pick<uint64_t>({0, 1, 3, 65, 4097, 1ull << 31, 1ull << 32, (1ull << 32) + 1, 1ull << 62,
                           1ull << 63, UINT64_MAX, UINT64_MAX - 1, Word()});
  }
  float OddFloat() {
    return Pick({-1.0f, 0.0f, 1e-40f, 5.0f, 1e30f, std::numeric_limits<float>::infinity(),
                 -std::numeric_limits<float>::infinity(), std::nanf("")});
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

inline size_t ElementBytes(quash_kv_dtype dtype) { return dtype == QUASH_KV_F32 ? 4 : 2; }

// An array in exactly its own bytes, so that AddressSanitizer sees every step
// outside.
class Array {
 public:
  Array(size_t elements, quash_kv_dtype dtype)
      : dtype_(dtype), elements_(elements), bytes_(new uint8_t[elements * ElementBytes(dtype)]) {}

  // Finite, of a scale of its own; `what` chooses between kinds of numbers.
  void Fill(uint8_t what, uint64_t seed) {
    std::minstd_rand random(static_cast<uint32_t>(seed % 1000003 + 1));
    for (size_t i = 0; i < elements_; ++i) {
      const auto noise = static_cast<uint32_t>(random());
      float value = static_cast<float>(noise % 4096) / 1024 - 2;
      if (what % 8 == 1) value = 0;
      if (what % 8 == 2) value = 3;
      if (what % 8 == 3) value *= 1e-38f;
      if (what % 8 == 4) value *= noise % 64 == 0 ? 1000.0f : 1e-3f;
      Set(i, value);
    }
  }
  void Set(size_t i, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    if (dtype_ == QUASH_KV_F32) {
      std::memcpy(bytes_.get() + 4 * i, &value, 4);
      return;
    }
    auto half = static_cast<uint16_t>(bits >> 16);  // bf16
    if (dtype_ == QUASH_KV_F16) half = HalfFrom(value, bits);
    std::memcpy(bytes_.get() + 2 * i, &half, 2);
  }
  float Get(size_t i) const {
    if (dtype_ == QUASH_KV_F32) {
      float value;
      std::memcpy(&value, bytes_.get() + 4 * i, 4);
      return value;
    }
    uint16_t half;
    std::memcpy(&half, bytes_.get() + 2 * i, 2);
    const int exponent_bits = dtype_ == QUASH_KV_F16 ? 5 : 8;
    const int exponent = (half >> (15 - exponent_bits)) & ((1 << exponent_bits) - 1);
    // Only whether it is finite is of interest.
    return exponent == (1 << exponent_bits) - 1 ? std::nanf("") : 1.0f;
  }
  size_t elements() const { return elements_; }
  void* at(size_t element) { return bytes_.get() + element * ElementBytes(dtype_); }

 private:
  // Rounded towards zero.
  static uint16_t HalfFrom(float value, uint32_t bits) {
    const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
    if (std::isnan(value)) return 0x7e00;
    if (std::isinf(value)) return sign | 0x7c00;
    const int exponent = static_cast<int>(bits >> 23 & 255) - 112;
    if (exponent <= 0) return sign;
    return static_cast<uint16_t>(sign | exponent << 10 | (bits >> 13 & 0x3ff));
  }

  quash_kv_dtype dtype_;
  size_t elements_;
  std::unique_ptr<uint8_t[]> bytes_;
};

// A [rows, heads, dim] array by strides that fit it, or that overlap.
struct Strided {
  Strided(Bytes* bytes, uint64_t rows, uint32_t heads, uint32_t dim, quash_kv_dtype dtype,
          bool overlapping)
      : array(1, dtype) {
    const auto d = static_cast<int64_t>(dim);
    const auto n = static_cast<int64_t>(std::max<uint64_t>(rows, 1));
    const int64_t pad = bytes->Pick<int64_t>({0, 0, 1, 7});
    switch (bytes->Byte() % (overlapping ? 5 : 4)) {
      case 0:
      case 1:
        head_stride = d + pad, row_stride = head_stride * heads + pad;
        break;
      case 2:  // heads first
        row_stride = d + pad, head_stride = row_stride * n;
        break;
      case 3:  // backwards
        head_stride = -(d + pad), row_stride = head_stride * heads;
        break;
      default:  // the same rows again and again
        head_stride = 1, row_stride = 0;
    }
    const int64_t row_reach = row_stride * (n - 1), head_reach = head_stride * (heads - 1);
    first =
        static_cast<size_t>(std::max<int64_t>(-row_reach, 0) + std::max<int64_t>(-head_reach, 0));
    const size_t elements =
        static_cast<size_t>(std::max<int64_t>(row_reach, 0) + std::max<int64_t>(head_reach, 0) + d);
    array = Array(first + elements, dtype);
    array.Fill(bytes->Byte(), bytes->Byte());
  }
  void* data() { return array.at(first); }
  size_t Index(uint64_t row, uint64_t head) const {
    return static_cast<size_t>(static_cast<int64_t>(first) +
                               static_cast<int64_t>(row) * row_stride +
                               static_cast<int64_t>(head) * head_stride);
  }

  Array array;
  int64_t row_stride = 0, head_stride = 0;
  size_t first = 0;
};

// Changes a saved sequence, with a length and a checksum to match.
inline void Forge(std::vector<uint8_t>* saved, Bytes* bytes) {
  const size_t size = saved->size();
  for (int i = bytes->Byte() % 4; i >= 0; --i) {
    const uint64_t odd = bytes->OneIn(2) ? bytes->Odd() : bytes->Byte();
    const size_t at = bytes->Pick<size_t>({32, 40, 48, 56, 32 + bytes->Word() % (size - 32)});
    if (at < size) std::memcpy(saved->data() + at, &odd, std::min<size_t>(8, size - at));
  }
  if (bytes->OneIn(4)) saved->resize(32 + bytes->Word() % (size - 32));
  const uint64_t whole = saved->size();
  std::memcpy(saved->data() + 16, &whole, 8);
  std::memset(saved->data() + 24, 0, 8);
  const uint64_t checksum = XXH3_64bits(saved->data(), saved->size());
  std::memcpy(saved->data() + 24, &checksum, 8);
}

// What a sequence should be.
struct Known {
  std::vector<uint64_t> lengths;
  bool foreign = false;  // restored from bytes made up: its numbers may be anything
};

// Of those that wrong calls may get.
inline bool IsStatus(quash_kv_status status) {
  return status >= QUASH_KV_OK && status <= QUASH_KV_INTERNAL && status != QUASH_KV_INTERNAL &&
         status != QUASH_KV_NOMEM;
}

}  // namespace kv_fuzz
