#include "kvcache/dtype.h"

#include <cstring>

#include "kernels/attend.h"
#include "kernels/dispatch.h"

namespace quash::kv {

const char* DtypeName(quash_kv_dtype dtype) {
  switch (dtype) {
    case QUASH_KV_F32:
      return "float32";
    case QUASH_KV_F16:
      return "float16";
    case QUASH_KV_BF16:
      return "bfloat16";
  }
  return "unknown";
}

void ToFloat(quash_kv_dtype dtype, const void* from, size_t n, float* to) {
  if (dtype == QUASH_KV_F32) {
    std::memcpy(to, from, n * sizeof(float));
  } else if (dtype == QUASH_KV_F16) {
    Kernels().f16_to_f32(static_cast<const uint16_t*>(from), n, to);
  } else {
    Attend().bf16_to_f32(static_cast<const uint16_t*>(from), n, to);
  }
}

void FromFloat(quash_kv_dtype dtype, const float* from, size_t n, void* to) {
  if (dtype == QUASH_KV_F32) {
    std::memcpy(to, from, n * sizeof(float));
  } else if (dtype == QUASH_KV_F16) {
    Kernels().f32_to_f16(from, n, static_cast<uint16_t*>(to));
  } else {
    Attend().f32_to_bf16(from, n, static_cast<uint16_t*>(to));
  }
}

bool AllFinite(const float* values, size_t n) {
  constexpr uint32_t kInfinity = 0x7F800000;
  uint32_t largest = 0;
  for (size_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    bits &= 0x7FFFFFFF;
    largest = bits > largest ? bits : largest;
  }
  return largest < kInfinity;
}

bool AllFiniteF16(const uint16_t* values, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    if ((values[i] & 0x7C00) == 0x7C00) return false;
  }
  return true;
}

bool StridesFit(uint64_t rows, uint64_t heads, uint64_t d, int64_t row_stride,
                int64_t head_stride) {
  constexpr uint64_t kLimit = uint64_t{1} << 60;  // elements; 4 bytes each stay in int64
  const auto span = [](uint64_t n, int64_t stride) {
    const uint64_t magnitude =
        stride < 0 ? 0 - static_cast<uint64_t>(stride) : static_cast<uint64_t>(stride);
    if (n <= 1 || magnitude == 0) return uint64_t{0};
    return n - 1 > kLimit / magnitude ? kLimit : (n - 1) * magnitude;
  };
  return span(rows, row_stride) < kLimit / 2 && span(heads, head_stride) < kLimit / 4 &&
         d < kLimit / 8;
}

}  // namespace quash::kv
