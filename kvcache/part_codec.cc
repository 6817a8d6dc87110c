#include "kvcache/part_codec.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "kernels/attend.h"
#include "kernels/dispatch.h"
#include "kernels/random.h"

namespace quash::kv {
namespace {

float FromF16(uint16_t bits) {
  float value;
  Kernels().f16_to_f32(&bits, 1, &value);
  return value;
}

uint16_t ToF16(float value) {
  constexpr float kLargest = 65504;
  value = std::clamp(value, -kLargest, kLargest);
  uint16_t bits;
  Kernels().f32_to_f16(&value, 1, &bits);
  return bits;
}

}  // namespace

PartCodec::PartCodec(Side side, const quash_kv_options& options, const PartFormat& format,
                     const uint32_t* outliers)
    : side_(side), format_(format), head_dim_(options.head_dim) {
  const RotationKind kind = options.rotation == QUASH_KV_DENSE ? RotationKind::kDense
                            : options.rotation == QUASH_KV_RHT ? RotationKind::kRht
                                                               : RotationKind::kHadamard;
  // Keys and values, and their bands, have rotations of their own.
  Random random(options.seed + (side == Side::kValue ? 1 : 0));
  const bool is_prod = side == Side::kKey && options.k_quantizer == QUASH_KV_TQ_PROD;
  rotated_floats_ = 0;
  for (const BandFormat& band : format.bands) {
    codebooks_.push_back(MakeLevelCodebook(GetCodebook(band.dim, band.bits)));
    rotated_floats_ += band.dim;
    if (is_prod && !rotations_.empty()) {
      sketch_ = std::make_unique<Rotation>(kind, band.dim, random.Next());
      sketch_factor_ = static_cast<float>(1 / (band.dim * GetCodebook(band.dim, 1).centroids[1]));
    } else {
      rotations_.emplace_back(kind, band.dim, random.Next());
    }
  }
  if (kind == RotationKind::kRht) {
    fixed_point_ =
        std::make_unique<FixedPointCode>(MakeFixedPointCode(head_dim_, format.bands[0].bits));
  }
  if (rotations_.size() == 2) {
    std::vector<bool> is_outlier(head_dim_, false);
    for (uint32_t i = 0; i < head_dim_ / 2; ++i) {
      const uint32_t at = outliers != nullptr ? outliers[i] : i;
      is_outlier[at] = true;
      order_.push_back(at);
    }
    std::sort(order_.begin(), order_.end());
    for (uint32_t i = 0; i < head_dim_; ++i) {
      if (!is_outlier[i]) order_.push_back(i);
    }
  }
}

void PartCodec::Rotate(const float* x, float* rotated, float* scratch) const {
  const float* from = x;
  if (!order_.empty()) {
    for (uint32_t i = 0; i < head_dim_; ++i) scratch[i] = x[order_[i]];
    from = scratch;
  }
  float* rotation_scratch = scratch + head_dim_;
  float* to = rotated;
  for (const Rotation& rotation : rotations_) {
    rotation.Apply(from, 1, to, rotation_scratch);
    from += rotation.dim();
    to += rotation.dim();
  }
  if (is_sketched()) sketch_->Apply(rotated, 1, to, rotation_scratch);
}

void PartCodec::RotateBack(const float* rotated, float* x, float* scratch) const {
  float* ordered = order_.empty() ? x : scratch;
  float* rotation_scratch = scratch + head_dim_;
  size_t at = 0;
  for (const Rotation& rotation : rotations_) {
    rotation.ApplyInverse(rotated + at, 1, ordered + at, rotation_scratch);
    at += rotation.dim();
  }
  if (order_.empty()) return;
  for (uint32_t i = 0; i < head_dim_; ++i) x[order_[i]] = ordered[i];
}

// The scale of least squared error. The unbiased one, norm / <unit, levels>, which
// suits search, makes logits vary more and costs a third more perplexity.
float PartCodec::ScaleOf(float norm, const float* unit, const uint8_t* codes, size_t band) const {
  const LevelCodebook& codebook = codebooks_[band];
  double dot = 0, square = 0;
  for (uint32_t j = 0; j < format_.bands[band].dim; ++j) {
    const double level = codebook.levels[codes[j]];
    dot += level * unit[j];
    square += level * level;
  }
  return static_cast<float>(norm * dot / square);
}

void PartCodec::Pack(const BandFormat& band, const uint8_t* codes, size_t stride,
                     uint8_t* head_page) const {
  uint8_t* packed = head_page + band.codes;
  if (side_ == Side::kKey) {
    const size_t row_bytes = SignedRowBytes(band.dim, band.bits);
    for (size_t t = 0; t < kPageTokens; ++t) {
      PackSignedRow(codes + t * stride, band.dim, band.bits, packed + t * row_bytes);
    }
    return;
  }
  uint8_t column[kPageTokens];
  const size_t row_bytes = SignedRowBytes(kPageTokens, band.bits);
  for (size_t j = 0; j < band.dim; ++j) {
    for (size_t t = 0; t < kPageTokens; ++t) column[t] = codes[t * stride + j];
    PackSignedRow(column, kPageTokens, band.bits, packed + j * row_bytes);
  }
}

// kernels/fixed_point.h; kernels/cuda/seal_fixed.cu does the same.
void PartCodec::SealFixedPoint(const float* x, size_t n, uint8_t* head_page,
                               uint16_t* mean_scale) const {
  const ScanKernels& kernels = Kernels();
  const size_t dim = head_dim_;
  const BandFormat& band = format_.bands[0];
  const Rotation& rotation = rotations_[0];
  const int shift = FixedPointShift(Attend().max_abs(x, n * dim));
  const float to_grid = std::ldexp(1.0f, shift);
  const float root = std::sqrt(static_cast<float>(dim));
  const float from_grid = std::ldexp(1.0f, -shift) * (1 / root);

  constexpr float kMagic = 0x1.8p23f;  // whole numbers are in its last bits
  std::vector<float> rows(n * dim);
  for (size_t t = 0; t < n; ++t) {
    float* row = rows.data() + t * dim;
    for (size_t j = 0; j < dim; ++j) {
      float whole = (x[t * dim + j] * to_grid + kMagic) - kMagic;
      if (!(std::fabs(whole) <= 0x1p14f)) whole = 0;  // restored tokens may be anything
      row[j] = rotation.factors()[j] < 0 ? -whole : whole;
    }
    kernels.hadamard(row, dim);
  }
  *mean_scale = 0;
  if (format_.has_mean) {
    auto* mean = reinterpret_cast<int8_t*>(head_page + format_.mean);
    std::vector<int32_t> sums(dim, 0);
    for (size_t t = 0; t < n; ++t) {
      for (size_t j = 0; j < dim; ++j) sums[j] += static_cast<int32_t>(rows[t * dim + j]);
    }
    int32_t largest = 0;
    for (const int32_t sum : sums) largest = std::max(largest, std::abs(sum));
    const auto count = static_cast<float>(std::max<size_t>(n, 1));
    *mean_scale = ToF16(static_cast<float>(largest) * (1 / (127 * count)) * from_grid);
    const float step = FromF16(*mean_scale) * (to_grid * root);
    for (size_t j = 0; j < dim; ++j) {
      const float steps =
          step > 0 ? std::nearbyint(static_cast<float>(sums[j]) / (step * count)) : 0.0f;
      const float cut = std::fmax(std::fmin(steps, 127.0f), -127.0f);
      mean[j] = static_cast<int8_t>(cut);
      // The residual is that of the mean as stored, to the nearest whole number.
      const float whole = std::nearbyint(step * cut);
      for (size_t t = 0; t < n; ++t) rows[t * dim + j] -= whole;
    }
  }

  const int8_t* levels = codebooks_[0].levels;
  const FixedPointCode& code = *fixed_point_;
  std::vector<uint8_t> codes(kPageTokens * dim, uint8_t{0});
  auto* scales = reinterpret_cast<uint16_t*>(head_page + band.scales);
  std::fill_n(scales, kPageTokens, uint16_t{0});
  for (size_t t = 0; t < n; ++t) {
    uint8_t* of_row = codes.data() + t * dim;
    const float norm = Attend().fixed_point_codes(rows.data() + t * dim, dim, code, of_row);
    int32_t square = 0;
    for (size_t j = 0; j < dim; ++j) square += levels[of_row[j]] * levels[of_row[j]];
    const float factor = code.scale_base + code.scale_part / static_cast<float>(square);
    scales[t] = ToF16(norm * from_grid * factor);
  }
  Pack(band, codes.data(), dim, head_page);
}

void PartCodec::Seal(const float* x, size_t n, uint8_t* head_page, uint16_t* mean_scale) const {
  if (fixed_point_ != nullptr) return SealFixedPoint(x, n, head_page, mean_scale);
  const ScanKernels& kernels = Kernels();
  const size_t dim = head_dim_;
  std::vector<float> rotated(kPageTokens * rotated_floats_);
  std::vector<float> scratch(scratch_floats() + rotated_floats_);
  for (size_t t = 0; t < n; ++t) {
    Rotate(x + t * dim, rotated.data() + t * rotated_floats_, scratch.data());
  }
  *mean_scale = 0;
  if (format_.has_mean) {
    auto* mean = reinterpret_cast<int8_t*>(head_page + format_.mean);
    std::vector<double> sums(dim, 0.0);
    for (size_t t = 0; t < n; ++t) {
      for (size_t j = 0; j < dim; ++j) sums[j] += rotated[t * rotated_floats_ + j];
    }
    double largest = 0;
    for (double& sum : sums) {
      sum /= static_cast<double>(std::max<size_t>(n, 1));
      largest = std::max(largest, std::fabs(sum));
    }
    *mean_scale = ToF16(static_cast<float>(largest / 127));
    const float scale = FromF16(*mean_scale);
    for (size_t j = 0; j < dim; ++j) {
      const double steps = scale > 0 ? std::nearbyint(sums[j] / scale) : 0.0;
      // Not std::clamp(): restored tokens may be anything, NaN too, which fmin() leaves out.
      mean[j] = static_cast<int8_t>(std::fmax(std::fmin(steps, 127.0), -127.0));
    }
    // The residual is that of the mean as stored, so its rounding costs nothing.
    for (size_t t = 0; t < n; ++t) {
      float* row = rotated.data() + t * rotated_floats_;
      for (size_t j = 0; j < dim; ++j) row[j] -= scale * static_cast<float>(mean[j]);
      if (is_sketched()) std::fill_n(row + dim, dim, 0.0f);
    }
  }

  // Codes of all tokens of a band, then its scales.
  std::vector<uint8_t> codes(kPageTokens * (dim + 16));
  std::vector<float> norms(kPageTokens, 0.0f);
  size_t at = 0;
  for (size_t b = 0; b < format_.bands.size(); ++b) {
    const BandFormat& band = format_.bands[b];
    const LevelCodebook& codebook = codebooks_[b];
    const bool is_sketch = is_sketched() && b == 1;
    const size_t stride = (band.dim + 15) / 16 * 16;
    std::fill(codes.begin(), codes.end(), uint8_t{0});
    auto* scales = reinterpret_cast<uint16_t*>(head_page + band.scales);
    std::fill_n(scales, kPageTokens, uint16_t{0});
    for (size_t t = 0; t < n; ++t) {
      float* row = rotated.data() + t * rotated_floats_ + at;
      uint8_t* row_codes = codes.data() + t * stride;
      float norm = std::sqrt(kernels.dot_f32(row, row, band.dim));
      if (!(norm > 0)) continue;
      if (is_sketch) {
        for (size_t j = 0; j < band.dim; ++j) row_codes[j] = row[j] > 0;
        scales[t] = ToF16(norms[t] * norm * sketch_factor_);
        continue;
      }
      for (size_t j = 0; j < band.dim; ++j) row[j] /= norm;
      kernels.quantize(row, band.dim, codebook.boundaries, band.bits, row_codes);
      if (!is_sketched()) {
        scales[t] = ToF16(ScaleOf(norm, row, row_codes, b));
        continue;
      }
      // What the levels leave over goes to the second band.
      norms[t] = norm;
      scales[t] = ToF16(norm * codebook.step);
      for (size_t j = 0; j < band.dim; ++j) {
        row[j] -= codebook.step * static_cast<float>(codebook.levels[row_codes[j]]);
      }
      sketch_->Apply(row, 1, row + band.dim, scratch.data());
    }
    Pack(band, codes.data(), stride, head_page);
    at += band.dim;
  }
}

void PartCodec::Open(const uint8_t* head_page, uint16_t mean_scale, size_t begin, size_t n,
                     float* x) const {
  std::vector<float> rotated(n * rotated_floats_);
  std::vector<float> scratch(scratch_floats());
  std::vector<int8_t> levels(kPageTokens * head_dim_ + 32);  // as unpack_levels asks
  size_t at = 0;
  for (size_t b = 0; b < format_.bands.size(); ++b) {
    const BandFormat& band = format_.bands[b];
    const auto* scales = reinterpret_cast<const uint16_t*>(head_page + band.scales) + begin;
    const uint8_t* packed = head_page + band.codes;
    float* of_band = rotated.data() + at;
    if (side_ == Side::kKey) {
      const size_t row_bytes = SignedRowBytes(band.dim, band.bits);
      Attend().unpack_levels(packed + begin * row_bytes, n, band.dim, band.bits,
                             codebooks_[b].levels, levels.data());
      for (size_t t = 0; t < n; ++t) {
        const float scale = FromF16(scales[t]);
        const int8_t* of_token = levels.data() + t * band.dim;
        float* out = of_band + t * rotated_floats_;
        for (size_t j = 0; j < band.dim; ++j) out[j] = scale * static_cast<float>(of_token[j]);
      }
    } else {
      Attend().unpack_levels(packed, band.dim, kPageTokens, band.bits, codebooks_[b].levels,
                             levels.data());
      for (size_t t = 0; t < n; ++t) {
        const float scale = FromF16(scales[t]);
        const int8_t* of_token = levels.data() + begin + t;
        float* out = of_band + t * rotated_floats_;
        for (size_t j = 0; j < band.dim; ++j) {
          out[j] = scale * static_cast<float>(of_token[j * kPageTokens]);
        }
      }
    }
    at += band.dim;
  }
  const auto* mean = reinterpret_cast<const int8_t*>(head_page + format_.mean);
  const float scale = FromF16(mean_scale);
  for (size_t t = 0; t < n; ++t) {
    float* of_token = rotated.data() + t * rotated_floats_;
    if (is_sketched()) {
      // Estimates add <S R q, z>: the sketch rotates back into the first space.
      std::vector<float> sketch(head_dim_);
      sketch_->ApplyInverse(of_token + head_dim_, 1, sketch.data(), scratch.data());
      for (size_t j = 0; j < head_dim_; ++j) of_token[j] += sketch[j];
    }
    if (format_.has_mean) {
      for (size_t j = 0; j < head_dim_; ++j) of_token[j] += scale * static_cast<float>(mean[j]);
    }
    RotateBack(of_token, x + t * head_dim_, scratch.data());
  }
}

}  // namespace quash::kv
