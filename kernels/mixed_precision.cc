#include "kernels/mixed_precision.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

#include "kernels/random.h"

namespace quash {
namespace {

uint32_t CheckedOutliers(uint32_t num_outliers, uint32_t dim) {
  if (num_outliers == 0 || num_outliers >= dim) {
    throw std::invalid_argument("num_outliers is " + std::to_string(num_outliers) +
                                ", expected 1 to dim - 1 with dim " + std::to_string(dim));
  }
  return num_outliers;
}

}  // namespace

template <typename Base>
MixedPrecision<Base>::MixedPrecision(uint32_t dim, uint32_t bits, uint32_t num_outliers,
                                     RotationKind rotation, uint64_t seed)
    : num_outliers_(CheckedOutliers(num_outliers, dim)),
      effective_bits_(bits + static_cast<double>(num_outliers) / dim),
      order_(dim),
      outlier_(num_outliers, bits + 1, rotation, seed),
      regular_(dim - num_outliers, bits, rotation, Random(~seed).Next()) {
  std::iota(order_.begin(), order_.end(), 0u);
}

template <typename Base>
std::vector<uint32_t> MixedPrecision<Base>::outliers() const {
  return {order_.begin(), order_.begin() + num_outliers_};
}

template <typename Base>
void MixedPrecision<Base>::SetOutliers(const uint32_t* outliers) {
  std::vector<bool> is_outlier(dim(), false);
  for (uint32_t i = 0; i < num_outliers_; ++i) {
    if (outliers[i] >= dim() || is_outlier[outliers[i]]) {
      throw std::invalid_argument("outlier " + std::to_string(outliers[i]) +
                                  " is repeated or not below dim " + std::to_string(dim()));
    }
    is_outlier[outliers[i]] = true;
  }
  std::iota(order_.begin(), order_.end(), 0u);
  std::stable_partition(order_.begin(), order_.end(), [&](uint32_t j) { return is_outlier[j]; });
  calibrated_ = false;
}

template <typename Base>
void MixedPrecision<Base>::Calibrate(const float* vectors, size_t n) {
  if (n == 0) throw std::invalid_argument("calibration needs at least 1 vector");
  std::vector<double> energy(dim(), 0.0);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < energy.size(); ++j) {
      const double value = vectors[i * energy.size() + j];
      energy[j] += value * value;
    }
  }
  std::vector<uint32_t> by_energy(dim());
  std::iota(by_energy.begin(), by_energy.end(), 0u);
  std::stable_sort(by_energy.begin(), by_energy.end(),
                   [&](uint32_t a, uint32_t b) { return energy[a] > energy[b]; });
  SetOutliers(by_energy.data());
  calibrated_ = true;
}

template <typename Base>
size_t MixedPrecision<Base>::row_code_bytes() const {
  return outlier_.row_code_bytes() + regular_.row_code_bytes();
}

template <typename Base>
size_t MixedPrecision<Base>::scales_per_row() const {
  return outlier_.scales_per_row() + regular_.scales_per_row();
}

template <typename Base>
size_t MixedPrecision<Base>::scratch_floats() const {
  return dim() + std::max(outlier_.scratch_floats(), regular_.scratch_floats());
}

template <typename Base>
size_t MixedPrecision<Base>::query_floats() const {
  return outlier_.query_floats() + regular_.query_floats();
}

template <typename Base>
void MixedPrecision<Base>::EncodeRows(const float* vectors, size_t n, float* scratch,
                                      uint8_t* row_codes, float* scales) const {
  float* ordered = scratch;
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < dim(); ++j) ordered[j] = vectors[i * dim() + order_[j]];
    uint8_t* row_code = row_codes + i * row_code_bytes();
    float* row_scales = scales + i * scales_per_row();
    outlier_.EncodeRows(ordered, 1, scratch + dim(), row_code, row_scales);
    regular_.EncodeRows(ordered + num_outliers_, 1, scratch + dim(),
                        row_code + outlier_.row_code_bytes(),
                        row_scales + outlier_.scales_per_row());
  }
}

template <typename Base>
void MixedPrecision<Base>::Decode(const uint8_t* row_codes, const float* scales, size_t n,
                                  float* scratch, float* vectors) const {
  float* ordered = scratch;
  for (size_t i = 0; i < n; ++i) {
    const uint8_t* row_code = row_codes + i * row_code_bytes();
    const float* row_scales = scales + i * scales_per_row();
    outlier_.Decode(row_code, row_scales, 1, scratch + dim(), ordered);
    regular_.Decode(row_code + outlier_.row_code_bytes(), row_scales + outlier_.scales_per_row(), 1,
                    scratch + dim(), ordered + num_outliers_);
    for (size_t j = 0; j < dim(); ++j) vectors[i * dim() + order_[j]] = ordered[j];
  }
}

template <typename Base>
void MixedPrecision<Base>::PrepareQuery(const float* query, float* scratch, float* prepared) const {
  float* ordered = scratch;
  for (size_t j = 0; j < dim(); ++j) ordered[j] = query[order_[j]];
  outlier_.PrepareQuery(ordered, scratch + dim(), prepared);
  regular_.PrepareQuery(ordered + num_outliers_, scratch + dim(),
                        prepared + outlier_.query_floats());
}

template <typename Base>
float MixedPrecision<Base>::Estimate(const uint8_t* row_code, const float* scales,
                                     const float* prepared) const {
  return outlier_.Estimate(row_code, scales, prepared) +
         regular_.Estimate(row_code + outlier_.row_code_bytes(), scales + outlier_.scales_per_row(),
                           prepared + outlier_.query_floats());
}

template class MixedPrecision<Quantizer>;
template class MixedPrecision<InnerProductQuantizer>;

}  // namespace quash
