// Seeded random rotations R of R^dim. The same seed gives the same rotation on
// every platform (integer generator, no libm in the path of its values), and
// Apply() is bit-equal on every ISA: it adds and multiplies in one fixed order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace quash {

enum class RotationKind : uint32_t {
  // kRounds rounds of: random permutation, random signs, Walsh-Hadamard over the
  // first and then the last P coordinates (P the largest power of two <= dim).
  // O(d log d). One round leaves one-hot and two-coordinate inputs with few
  // distinct values; the second makes them close to Gaussian.
  kHadamard = 0,
  // Haar orthogonal, distributed as the Q of the QR of a Gaussian matrix. O(d^2);
  // construction is O(d^3), 2 s at dim 2048.
  kDense = 1,
  // Randomized Hadamard transform: one round of random signs and Walsh-Hadamard, of a
  // power of two; no permutation. Enough for rows of a KV cache, not of a database.
  kRht = 2,
};

class Rotation {
 public:
  // Throws std::invalid_argument for dim 0, dense with dim > 4096, or kRht with a dim
  // that is not a power of two.
  Rotation(RotationKind kind, uint32_t dim, uint64_t seed);

  uint32_t dim() const { return dim_; }
  RotationKind kind() const { return kind_; }
  // Tables of kHadamard and kRht, [rounds(), dim], empty otherwise: a round multiplies
  // coordinate permutation()[i] by factors()[i], puts it in place i and transforms.
  uint32_t rounds() const { return rounds_; }
  const std::vector<float>& factors() const { return signs_; }
  const std::vector<uint32_t>& permutation() const { return permutation_; }

  // y = R x for each of n rows; x and y [n, dim], may be the same array.
  //   scratch  [dim] floats
  void Apply(const float* x, size_t n, float* y, float* scratch) const;
  // x = R^T y, the inverse up to float rounding.
  void ApplyInverse(const float* y, size_t n, float* x, float* scratch) const;

 private:
  RotationKind kind_;
  uint32_t dim_;
  uint32_t rounds_;
  std::vector<float> signs_;           // [rounds_, dim] +-1, scaled to keep norms
  std::vector<uint32_t> permutation_;  // [rounds_, dim]
  std::vector<float> matrix_;          // [dim, dim] row-major, dense only
};

}  // namespace quash
