// What the verifier of FlatBuffers 2.0 leaves out.
#pragma once

#include <cstdint>

namespace quash {

// Whether 8-byte elements of a vector may be read where they lie: the verifier checks only
// where its length is, which takes 4 bytes. Builders put an empty one anywhere.
template <typename Vector>
bool IsAligned(const Vector& vector) {
  return vector.size() == 0 || reinterpret_cast<uintptr_t>(vector.Data()) % 8 == 0;
}

}  // namespace quash
