// Rows of numbers as float32, IEEE float16 or bfloat16.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quash_kv.h"

namespace quash::kv {

inline constexpr bool IsDtype(quash_kv_dtype dtype) {
  return dtype == QUASH_KV_F32 || dtype == QUASH_KV_F16 || dtype == QUASH_KV_BF16;
}
inline constexpr size_t ElementBytes(quash_kv_dtype dtype) { return dtype == QUASH_KV_F32 ? 4 : 2; }
const char* DtypeName(quash_kv_dtype dtype);

// n values of `dtype` to float32 and back, rounding to nearest even.
void ToFloat(quash_kv_dtype dtype, const void* from, size_t n, float* to);
void FromFloat(quash_kv_dtype dtype, const float* from, size_t n, void* to);

// No NaN and no infinity.
bool AllFinite(const float* values, size_t n);
bool AllFiniteF16(const uint16_t* values, size_t n);

// Element (row, head, 0) of a caller's [rows, heads, d] array by strides.
struct ArrayView {
  const void* data;
  quash_kv_dtype dtype;
  int64_t row_stride;  // in elements
  int64_t head_stride;

  const uint8_t* Row(uint64_t row, uint64_t head) const {
    return static_cast<const uint8_t*>(data) +
           (static_cast<int64_t>(row) * row_stride + static_cast<int64_t>(head) * head_stride) *
               static_cast<int64_t>(ElementBytes(dtype));
  }
};

// Whether every byte offset of [rows, heads, d] by these strides fits int64.
bool StridesFit(uint64_t rows, uint64_t heads, uint64_t d, int64_t row_stride, int64_t head_stride);

}  // namespace quash::kv
