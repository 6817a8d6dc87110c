// What the verifier of FlatBuffers 2.0 leaves out.
#pragma once

#include <cstdint>

namespace quash {

// Whether 8-byte elements of a vector may be read where they lie: the verifier checks only
// where its length is, which takes 4 bytes.
inline bool IsAligned(const void* elements) {
  return reinterpret_cast<uintptr_t>(elements) % 8 == 0;
}

}  // namespace quash
