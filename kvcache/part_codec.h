// One side (keys or values) of a head: vectors to the part of a page and back,
// queries and outputs in and out of the rotated space. Immutable, shared between
// threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/codebook.h"
#include "kernels/fixed_point.h"
#include "kernels/rotation.h"
#include "kvcache/page_format.h"

namespace quash::kv {

enum class Side { kKey, kValue };

class PartCodec {
 public:
  // Throws std::invalid_argument on what the kernels do not take.
  //   outliers  [head_dim / 2] coordinates of the first of two equal bands; null:
  //             the first ones
  PartCodec(Side side, const quash_kv_options& options, const PartFormat& format,
            const uint32_t* outliers);

  const PartFormat& format() const { return format_; }
  const LevelCodebook& codebook(size_t band) const { return codebooks_[band]; }
  // Of the bands that have coordinates of their own.
  const std::vector<Rotation>& rotations() const { return rotations_; }
  // Input coordinate of each rotated one of two such bands; empty: as given.
  const std::vector<uint32_t>& order() const { return order_; }
  // Of the second band of tq_prod, null otherwise, and what its norms are multiplied by.
  const Rotation* sketch() const { return sketch_.get(); }
  // Of QUASH_KV_RHT, which seals in fixed point; null otherwise.
  const FixedPointCode* fixed_point() const { return fixed_point_.get(); }
  float sketch_factor() const { return sketch_factor_; }
  // Floats of a vector in the rotated space of all bands (the sketch of tq_prod
  // has a second copy), and of scratch.
  size_t rotated_floats() const { return rotated_floats_; }
  size_t scratch_floats() const { return 3 * size_t{head_dim_} + 64; }

  // Rotated form of a query.
  //   x  [head_dim]; rotated [rotated_floats()] out; scratch [scratch_floats()]
  void Rotate(const float* x, float* rotated, float* scratch) const;
  // Back from sums over values in the rotated space.
  void RotateBack(const float* rotated, float* x, float* scratch) const;

  // Codes, scales and mean of tokens 0..n-1 of a page; the rest get scale 0.
  //   x           [n, head_dim]
  //   head_page   the head page, of which this side's part is written whole
  //   mean_scale  f16 out, 0 without a mean
  void Seal(const float* x, size_t n, uint8_t* head_page, uint16_t* mean_scale) const;
  // Tokens begin..begin+n as attention sees them.
  //   x  [n, head_dim] out
  void Open(const uint8_t* head_page, uint16_t mean_scale, size_t begin, size_t n, float* x) const;

 private:
  bool is_sketched() const { return sketch_ != nullptr; }
  void SealFixedPoint(const float* x, size_t n, uint8_t* head_page, uint16_t* mean_scale) const;
  // Codes [64, stride] of a band to its place in the page.
  void Pack(const BandFormat& band, const uint8_t* codes, size_t stride, uint8_t* head_page) const;
  // Times which the levels of `codes` stand for norm * unit.
  float ScaleOf(float norm, const float* unit, const uint8_t* codes, size_t band) const;

  Side side_;
  PartFormat format_;
  uint32_t head_dim_;
  size_t rotated_floats_;
  std::vector<uint32_t> order_;  // input coordinate of each rotated input, empty: as is
  std::vector<Rotation> rotations_;
  std::vector<LevelCodebook> codebooks_;
  std::unique_ptr<Rotation> sketch_;
  float sketch_factor_ = 0;
  std::unique_ptr<FixedPointCode> fixed_point_;
};

}  // namespace quash::kv
