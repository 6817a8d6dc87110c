#include "kernels/encode.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/dispatch.h"
#include "kernels/packing.h"

namespace quash {
namespace {

// Additions in the fixed order of scan.h: 16 strided lanes, folded by halves.
constexpr size_t kLanes = 16;

float FoldLanes(float* lanes) {
  for (size_t half = kLanes / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// <u, y> under each prefix of planes.
struct PrefixDots {
  float plane1;
  float plane2;
  float full;
};

PrefixDots DotPrefixes(const float* unit, const uint8_t* codes, size_t dim,
                       const float* prefix_levels, const float* levels) {
  float plane1[kLanes] = {};
  float plane2[kLanes] = {};
  float full[kLanes] = {};
  const auto add = [&](size_t j, size_t lane) {
    // A coordinate and its sign bit agree, the middle boundary being 0.
    plane1[lane] += std::fabs(unit[j]);
    plane2[lane] += unit[j] * prefix_levels[codes[j]];
    full[lane] += unit[j] * levels[codes[j]];
  };
  size_t j = 0;
  for (; j + kLanes <= dim; j += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) add(j + lane, lane);
  }
  for (size_t lane = 0; j < dim; ++lane, ++j) add(j, lane);
  return {FoldLanes(plane1), FoldLanes(plane2), FoldLanes(full)};
}

void CheckCodebook(const LevelCodebook& codebook) {
  if (codebook.bits < 1 || codebook.bits > kMaxBits) {
    throw std::invalid_argument("bits is " + std::to_string(codebook.bits) + ", expected 1 to 4");
  }
  const int size = 1 << codebook.bits;
  for (int i = 0; i < size; ++i) {
    if (codebook.levels[i] != -codebook.levels[size - 1 - i] ||
        (i > 0 && codebook.levels[i] <= codebook.levels[i - 1])) {
      throw std::invalid_argument("levels are not ascending and symmetric");
    }
    if (i > 1 && !(codebook.boundaries[i - 1] > codebook.boundaries[i - 2])) {
      throw std::invalid_argument("boundaries are not ascending");
    }
  }
  if (codebook.boundaries[size / 2 - 1] != 0) {
    throw std::invalid_argument("the middle boundary is not 0");
  }
  if (!(codebook.step > 0) || !(codebook.m > 0) || (codebook.bits > 1 && !(codebook.delta > 0))) {
    throw std::invalid_argument("step, m and delta are not positive");
  }
}

// Writes a multiple of the vector with a norm whose square is well inside the
// range of float, and returns |vector|, or 0 for a zero vector. Only for vectors
// outside that range; the factor is a power of two.
float RescaleExtreme(const float* vector, size_t dim, float* rescaled, float* rescaled_norm) {
  float largest = 0;
  for (size_t j = 0; j < dim; ++j) largest = std::max(largest, std::fabs(vector[j]));
  if (!(largest > 0)) return 0;
  int exponent;
  std::frexp(largest, &exponent);
  double norm_sq = 0;
  for (size_t j = 0; j < dim; ++j) {
    rescaled[j] = static_cast<float>(std::ldexp(static_cast<double>(vector[j]), -exponent));
    norm_sq += static_cast<double>(rescaled[j]) * rescaled[j];
  }
  const double norm = std::sqrt(norm_sq);
  *rescaled_norm = static_cast<float>(norm);
  return static_cast<float>(std::ldexp(norm, exponent));
}

}  // namespace

Quantizer::Quantizer(uint32_t dim, uint32_t bits, RotationKind rotation, uint64_t seed)
    : Quantizer(dim, MakeLevelCodebook(GetCodebook(dim, bits)), rotation, seed) {}

Quantizer::Quantizer(uint32_t dim, const LevelCodebook& codebook, RotationKind rotation,
                     uint64_t seed)
    : layout_{dim, codebook.bits}, codebook_(codebook), rotation_(rotation, dim, seed) {
  CheckCodebook(codebook);
  const uint32_t size = 1u << codebook.bits;
  for (uint32_t code = 0; code < size; ++code) {
    const bool top = code >= size / 2;
    const bool second = code % (size / 2) >= size / 4;
    prefix_levels_[code] =
        (top ? codebook.m : -codebook.m) + (second ? codebook.delta : -codebook.delta);
    levels_[code] = codebook.levels[code];
  }
  // With y the levels, scale = |x| / <u, y>. The best multiple of y has the
  // length |x| <u, y> / |y|, which is scale * cos^2 of the angle between u and
  // y; that is nearly the same for all rows.
  Codebook centroids;
  centroids.dim = dim;
  centroids.bits = codebook.bits;
  for (uint32_t code = 0; code < size; ++code) {
    centroids.centroids.push_back(double{codebook.step} * codebook.levels[code]);
  }
  centroids.boundaries.assign(codebook.boundaries, codebook.boundaries + (size - 1));
  shrinkage_ = static_cast<float>(1 - centroids.MseCost());
}

Quantizer::RowScales Quantizer::EncodeRow(const float* vector, float* scratch,
                                          uint8_t* row_code) const {
  const ScanKernels& kernels = Kernels();
  const size_t dim = layout_.dim;
  float* unit = scratch;
  float* rotation_scratch = scratch + dim;
  uint8_t* codes = reinterpret_cast<uint8_t*>(scratch + 2 * dim);

  constexpr float kSmallest = 1e-24f;
  constexpr float kLargest = 1e+24f;
  const float norm_sq = kernels.dot_f32(vector, vector, dim);
  float norm = std::sqrt(norm_sq);
  float norm_of_input = norm;
  if (!(norm_sq > kSmallest && norm_sq < kLargest)) {
    norm = RescaleExtreme(vector, dim, unit, &norm_of_input);
    if (norm == 0) {
      std::memset(row_code, 0, layout_.row_code_bytes());
      return {0, 0, 0, 0, 0};
    }
    vector = unit;
  }
  rotation_.Apply(vector, 1, unit, rotation_scratch);
  const float inverse_norm = 1 / norm_of_input;
  for (size_t j = 0; j < dim; ++j) unit[j] *= inverse_norm;
  kernels.quantize(unit, dim, codebook_.boundaries, layout_.bits, codes);
  PackPlanes(codes, layout_.bits, layout_.plane_bytes(), row_code);
  const PrefixDots dots = DotPrefixes(unit, codes, dim, prefix_levels_, levels_);
  return {norm / dots.plane1, norm / dots.plane2, norm / dots.full, norm, norm_sq};
}

void Quantizer::Encode(const float* vectors, size_t n, float* scratch, size_t first_row,
                       const CodeArrays& codes) const {
  // Behind the codes in scratch; see scratch_floats() and EncodeRow.
  uint8_t* row_code =
      reinterpret_cast<uint8_t*>(scratch + 2 * size_t{layout_.dim}) + layout_.plane_bytes() * 8;
  for (size_t i = 0; i < n; ++i) {
    const size_t row = first_row + i;
    const RowScales scales = EncodeRow(vectors + i * layout_.dim, scratch, row_code);
    ScatterRowCode(layout_, row_code, row, codes);
    codes.scale1[row] = scales.scale1;
    if (layout_.bits >= 2) codes.scale2[row] = scales.scale2;
    if (layout_.bits >= 3) codes.scale_full[row] = scales.scale_full;
    if (codes.norm_sq != nullptr) codes.norm_sq[row] = scales.norm_sq;
  }
}

void Quantizer::EncodeRows(const float* vectors, size_t n, float* scratch, uint8_t* row_codes,
                           float* scales) const {
  for (size_t i = 0; i < n; ++i) {
    scales[i] =
        EncodeRow(vectors + i * layout_.dim, scratch, row_codes + i * layout_.row_code_bytes())
            .scale_full;
  }
}

void Quantizer::Decode(const uint8_t* row_codes, const float* scales, size_t n, float* scratch,
                       float* vectors) const {
  const size_t dim = layout_.dim;
  uint8_t* codes = reinterpret_cast<uint8_t*>(scratch + 2 * dim);
  for (size_t i = 0; i < n; ++i) {
    UnpackPlanes(row_codes + i * layout_.row_code_bytes(), layout_.bits, layout_.plane_bytes(),
                 codes);
    const float factor = scales[i] * shrinkage_;
    for (size_t j = 0; j < dim; ++j) scratch[j] = factor * levels_[codes[j]];
    rotation_.ApplyInverse(scratch, 1, vectors + i * dim, scratch + dim);
  }
}

void Quantizer::PrepareQuery(const float* query, float* scratch, float* prepared) const {
  rotation_.Apply(query, 1, prepared, scratch);
}

float Quantizer::Estimate(const uint8_t* row_code, const float* scales,
                          const float* prepared) const {
  return scales[0] *
         DotTable(row_code, layout_.bits, layout_.plane_bytes(), levels_, prepared, layout_.dim);
}

}  // namespace quash
