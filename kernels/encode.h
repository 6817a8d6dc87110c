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
  // With the codebook a database stored instead of the computed one. Throws too
  // if its levels are not ascending and symmetric or m is missing.
  Quantizer(uint32_t dim, const LevelCodebook& codebook, RotationKind rotation, uint64_t seed);

  const CodeLayout& layout() const { return layout_; }
  const Rotation& rotation() const { return rotation_; }
  const LevelCodebook& codebook() const { return codebook_; }

  size_t row_code_bytes() const { return layout_.row_code_bytes(); }
  size_t scales_per_row() const { return 1; }  // of row codes: the full scale
  size_t query_floats() const { return layout_.dim; }

  // Floats of scratch that Encode, Decode and the query set-up need.
  size_t scratch_floats() const { return 3 * size_t{layout_.dim} + 64; }

  // Encodes n vectors into rows first_row.. of `codes`, touching no other row.
  //   vectors  [n, dim] float32, finite with a finite norm; a zero vector gets
  //            scale 0. norm_sq is infinite for norms above 1.8e19
  //   scratch  [scratch_floats()]
  // Bit-equal on every ISA.
  void Encode(const float* vectors, size_t n, float* scratch, size_t first_row,
              const CodeArrays& codes) const;

  // The same codes as row codes, with the full scale only.
  //   row_codes  [n, row_code_bytes] out
  //   scales     [n] out
  void EncodeRows(const float* vectors, size_t n, float* scratch, uint8_t* row_codes,
                  float* scales) const;

  struct RowScales {
    float scale1;
    float scale2;
    float scale_full;  // of all planes, whatever bits
    float norm;
    float norm_sq;
  };
  // One row; leaves its rotated unit vector in scratch[0, dim), unless the norm is 0.
  //   row_code  [row_code_bytes] out
  RowScales EncodeRow(const float* vector, float* scratch, uint8_t* row_code) const;

  // Reconstructs vectors from row codes, rotated back, for the least squared
  // error: shorter by 1 - MSE than scale * levels, which scores use for being
  // unbiased (layout.h).
  //   row_codes  [n, row_code_bytes]
  //   scales     [n] the full-prefix scale of each row
  //   vectors    [n, dim] out
  void Decode(const uint8_t* row_codes, const float* scales, size_t n, float* scratch,
              float* vectors) const;

  // Scores one row code at a time in float, as a reference and for the few rows
  // that are not in blocks.
  //   prepared  [query_floats()] out: the rotated query
  void PrepareQuery(const float* query, float* scratch, float* prepared) const;
  // Estimate of <query, x>.
  float Estimate(const uint8_t* row_code, const float* scales, const float* prepared) const;

 private:
  CodeLayout layout_;
  LevelCodebook codebook_;
  Rotation rotation_;
  float prefix_levels_[16] = {};  // of planes 1 and 2, by full code
  float levels_[16] = {};
  float shrinkage_ = 1;  // of Decode
};

// Rows per second of Encode decide ingest; see bench/kernels.
}  // namespace quash
