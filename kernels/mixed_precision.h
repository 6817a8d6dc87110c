// Fractional bits per coordinate, as in section 4.3 of the TurboQuant paper:
// the coordinates are split in outliers and the rest, each with a quantizer of
// its own, and the outliers get one bit more. 2.5 bits are half of the
// coordinates at 3 bits and half at 2 (the paper's 32 + 96 of 128 are 2.25).
// Pays when some coordinates carry much more energy than others, as in keys of
// language models; without calibration it is a finer choice of size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/encode.h"
#include "kernels/inner_product.h"

namespace quash {

// Outliers for bits + 0.5 bits per coordinate (exactly, if dim is even).
inline constexpr uint32_t HalfBitOutliers(uint32_t dim) { return dim / 2; }

// Base is Quantizer (tq_mse) or InnerProductQuantizer (tq_prod). Const members
// may run in any number of threads; the setters may not run beside them.
template <typename Base>
class MixedPrecision {
 public:
  // `bits` for regular coordinates, bits + 1 for outliers, which are the first
  // coordinates until set. Throws std::invalid_argument on num_outliers outside
  // 1..dim-1 or bits that Base does not take: 1..3 for Quantizer, 2..4 for
  // InnerProductQuantizer.
  MixedPrecision(uint32_t dim, uint32_t bits, uint32_t num_outliers, RotationKind rotation,
                 uint64_t seed);

  uint32_t dim() const { return static_cast<uint32_t>(order_.size()); }
  uint32_t num_outliers() const { return num_outliers_; }
  // Bits of codes per coordinate, without scales and padding.
  double effective_bits() const { return effective_bits_; }
  bool calibrated() const { return calibrated_; }

  // Outlier coordinates, ascending.
  std::vector<uint32_t> outliers() const;

  // Codes written before a change cannot be read after it.
  //   outliers  [num_outliers()] distinct coordinates below dim, any order;
  //             throws std::invalid_argument otherwise
  void SetOutliers(const uint32_t* outliers);
  // Makes the coordinates with the largest mean square the outliers; ties go to
  // the lower coordinate. Throws std::invalid_argument on n = 0.
  //   vectors  [n, dim]
  void Calibrate(const float* vectors, size_t n);

  // As those of Base; a row is that of the outliers, then that of the rest.
  size_t row_code_bytes() const;
  size_t scales_per_row() const;
  size_t scratch_floats() const;
  size_t query_floats() const;
  void EncodeRows(const float* vectors, size_t n, float* scratch, uint8_t* row_codes,
                  float* scales) const;
  void Decode(const uint8_t* row_codes, const float* scales, size_t n, float* scratch,
              float* vectors) const;
  void PrepareQuery(const float* query, float* scratch, float* prepared) const;
  float Estimate(const uint8_t* row_code, const float* scales, const float* prepared) const;

 private:
  uint32_t num_outliers_;
  double effective_bits_;
  bool calibrated_ = false;
  std::vector<uint32_t> order_;  // [dim]: the outliers, then the rest, each ascending
  Base outlier_;
  Base regular_;
};

using MixedPrecisionQuantizer = MixedPrecision<Quantizer>;
using MixedPrecisionInnerProductQuantizer = MixedPrecision<InnerProductQuantizer>;

extern template class MixedPrecision<Quantizer>;
extern template class MixedPrecision<InnerProductQuantizer>;

}  // namespace quash
