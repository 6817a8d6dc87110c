// Rows to packed codes and back: the MSE quantizer of TurboQuant (Algorithm 1)
// with nested planes and the unbiased scale.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codebook.h"
#include "kernels/layout.h"
#include "kernels/rotation.h"

namespace quash {

// Everything needed to encode and decode; immutable, shared between threads.
class Quantizer {
 public:
  // Throws std::invalid_argument on dim 0, bits outside 1..4 or a bad rotation.
  Quantizer(uint32_t dim, uint32_t bits, RotationKind rotation, uint64_t seed);
  // With the codebook a database stored instead of the computed one.
  Quantizer(uint32_t dim, const LevelCodebook& codebook, RotationKind rotation, uint64_t seed);

  const CodeLayout& layout() const { return layout_; }
  const Rotation& rotation() const { return rotation_; }
  const LevelCodebook& codebook() const { return codebook_; }

  // Floats of scratch that Encode, Decode and the query set-up need.
  size_t scratch_floats() const { return 3 * size_t{layout_.dim} + 64; }

  // Encodes n vectors into rows first_row.. of `codes`, touching no other row.
  //   vectors  [n, dim] float32, finite; a zero vector gets scale 0
  //   scratch  [scratch_floats()]
  // Bit-equal on every ISA.
  void Encode(const float* vectors, size_t n, float* scratch, size_t first_row,
              const CodeArrays& codes) const;

  // Reconstructs vectors (rotated back, with their norm) from row codes.
  //   row_codes  [n, row_code_bytes]
  //   scales     [n] the full-prefix scale of each row
  //   vectors    [n, dim] out
  void Decode(const uint8_t* row_codes, const float* scales, size_t n, float* scratch,
              float* vectors) const;

 private:
  CodeLayout layout_;
  LevelCodebook codebook_;
  Rotation rotation_;
};

// Rows per second of Encode decide ingest; see bench/kernels.
}  // namespace quash
