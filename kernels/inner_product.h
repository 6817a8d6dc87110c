// tq_prod, the inner-product quantizer of TurboQuant (Algorithm 2): the MSE
// quantizer with one bit less, and a 1-bit sketch (QJL) of what it left over.
// Estimates are unbiased over the random rotations, but vary more than those of
// tq_mse with its scale, which therefore ranks better at equal bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/encode.h"
#include "kernels/rotation.h"

namespace quash {

// With u the rotated unit vector, c its centroids, r = u - c and S a second
// rotation, a row stores the codes of c and the signs z of S r. As the rows of
// S are uniform on the sphere, E <s, q> sign <s, r> = E|t| <q, r> / |r|, t a
// coordinate of a random unit vector, so
//
//   <q, x> ~ |x| (<Rq, c> + |r| / (dim E|t|) <S R q, z>).
//
// The paper's S has independent normal entries; orthogonal rows have the same
// mean and less variance, and allow the fast rotation. With the dense rotation
// the estimate is exactly unbiased, with the Hadamard one to within noise.
//
// Immutable, shared between threads.
class InnerProductQuantizer {
 public:
  // `bits` per coordinate in all, sketch included. Throws std::invalid_argument
  // on dim 0, bits outside 2..5 or a bad rotation.
  InnerProductQuantizer(uint32_t dim, uint32_t bits, RotationKind rotation, uint64_t seed);

  uint32_t dim() const { return mse_.layout().dim; }
  uint32_t bits() const { return mse_.layout().bits + 1; }
  const Rotation& rotation() const { return mse_.rotation(); }

  // A row code is that of the MSE quantizer and one more plane, z_j = 2 bit - 1.
  size_t row_code_bytes() const;
  // Scale of <Rq, levels> (|x| step) and of <S R q, z> (|x| |r| / (dim E|t|)).
  size_t scales_per_row() const { return 2; }
  size_t scratch_floats() const { return mse_.scratch_floats(); }
  size_t query_floats() const { return 2 * size_t{dim()}; }

  //   vectors    [n, dim] float32, finite; a zero vector gets scales 0
  //   scratch    [scratch_floats()]
  //   row_codes  [n, row_code_bytes()] out
  //   scales     [n, 2] out
  void EncodeRows(const float* vectors, size_t n, float* scratch, uint8_t* row_codes,
                  float* scales) const;

  // The unbiased reconstruction: <query, decoded> is Estimate's value. It lies
  // farther from x than that of tq_mse.
  //   vectors  [n, dim] out
  void Decode(const uint8_t* row_codes, const float* scales, size_t n, float* scratch,
              float* vectors) const;

  //   prepared  [query_floats()] out: R q, then S R q
  void PrepareQuery(const float* query, float* scratch, float* prepared) const;
  // Unbiased estimate of <query, x>.
  float Estimate(const uint8_t* row_code, const float* scales, const float* prepared) const;

 private:
  Quantizer mse_;
  Rotation sketch_;
  float sketch_factor_;  // 1 / (dim E|t|)
  float levels_[16] = {};
};

}  // namespace quash
