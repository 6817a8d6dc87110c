#include "kernels/inner_product.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "kernels/codebook.h"
#include "kernels/dispatch.h"
#include "kernels/packing.h"
#include "kernels/random.h"

namespace quash {
namespace {

constexpr float kSigns[2] = {-1, 1};

uint32_t MseBits(uint32_t bits) {
  if (bits < 2 || bits > kMaxBits + 1) {
    throw std::invalid_argument("bits is " + std::to_string(bits) +
                                ", expected 2 to 5 for the inner-product quantizer");
  }
  return bits - 1;
}

}  // namespace

InnerProductQuantizer::InnerProductQuantizer(uint32_t dim, uint32_t bits, RotationKind rotation,
                                             uint64_t seed)
    : mse_(dim, MseBits(bits), rotation, seed),
      sketch_(rotation, dim, Random(seed).Next()),
      sketch_factor_(static_cast<float>(1 / (dim * GetCodebook(dim, 1).centroids[1]))) {
  const LevelCodebook& codebook = mse_.codebook();
  for (uint32_t code = 0; code < 1u << codebook.bits; ++code) levels_[code] = codebook.levels[code];
}

size_t InnerProductQuantizer::row_code_bytes() const {
  return mse_.row_code_bytes() + mse_.layout().plane_bytes();
}

void InnerProductQuantizer::EncodeRows(const float* vectors, size_t n, float* scratch,
                                       uint8_t* row_codes, float* scales) const {
  const CodeLayout& layout = mse_.layout();
  const float step = mse_.codebook().step;
  const size_t dim = layout.dim;
  float* residual = scratch;
  uint8_t* codes = reinterpret_cast<uint8_t*>(scratch + 2 * dim);
  for (size_t i = 0; i < n; ++i) {
    uint8_t* row_code = row_codes + i * row_code_bytes();
    uint8_t* sketch_plane = row_code + mse_.row_code_bytes();
    const float norm = mse_.EncodeRow(vectors + i * dim, scratch, row_code).norm;
    if (norm == 0) {
      std::fill_n(sketch_plane, layout.plane_bytes(), uint8_t{0});
      scales[2 * i] = scales[2 * i + 1] = 0;
      continue;
    }
    UnpackPlanes(row_code, layout.bits, layout.plane_bytes(), codes);
    for (size_t j = 0; j < dim; ++j) residual[j] -= step * levels_[codes[j]];
    const float residual_norm = std::sqrt(Kernels().dot_f32(residual, residual, dim));
    sketch_.Apply(residual, 1, residual, scratch + dim);
    std::fill_n(codes, layout.plane_bytes() * 8, uint8_t{0});
    for (size_t j = 0; j < dim; ++j) codes[j] = residual[j] > 0;
    PackPlanes(codes, 1, layout.plane_bytes(), sketch_plane);
    scales[2 * i] = norm * step;
    scales[2 * i + 1] = norm * residual_norm * sketch_factor_;
  }
}

void InnerProductQuantizer::Decode(const uint8_t* row_codes, const float* scales, size_t n,
                                   float* scratch, float* vectors) const {
  const CodeLayout& layout = mse_.layout();
  const size_t dim = layout.dim;
  uint8_t* codes = reinterpret_cast<uint8_t*>(scratch + 2 * dim);
  for (size_t i = 0; i < n; ++i) {
    const uint8_t* row_code = row_codes + i * row_code_bytes();
    float* vector = vectors + i * dim;
    UnpackPlanes(row_code + mse_.row_code_bytes(), 1, layout.plane_bytes(), codes);
    for (size_t j = 0; j < dim; ++j) vector[j] = scales[2 * i + 1] * kSigns[codes[j]];
    sketch_.ApplyInverse(vector, 1, vector, scratch);
    UnpackPlanes(row_code, layout.bits, layout.plane_bytes(), codes);
    for (size_t j = 0; j < dim; ++j) vector[j] += scales[2 * i] * levels_[codes[j]];
    mse_.rotation().ApplyInverse(vector, 1, vector, scratch);
  }
}

void InnerProductQuantizer::PrepareQuery(const float* query, float* scratch,
                                         float* prepared) const {
  mse_.rotation().Apply(query, 1, prepared, scratch);
  sketch_.Apply(prepared, 1, prepared + dim(), scratch);
}

float InnerProductQuantizer::Estimate(const uint8_t* row_code, const float* scales,
                                      const float* prepared) const {
  const CodeLayout& layout = mse_.layout();
  const float mse_part =
      DotTable(row_code, layout.bits, layout.plane_bytes(), levels_, prepared, layout.dim);
  const float sketch_part = DotTable(row_code + mse_.row_code_bytes(), 1, layout.plane_bytes(),
                                     kSigns, prepared + layout.dim, layout.dim);
  return scales[0] * mse_part + scales[1] * sketch_part;
}

}  // namespace quash
