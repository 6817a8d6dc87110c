// Tables and integer forms of one rotated query.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>

#include "kernels/scan.h"

namespace quash {

namespace {

constexpr size_t kGroup = kPlaneGroupBytes * 8;  // coordinates

struct Magnitudes {
  float largest, sum;  // the sum within 1 in 10^5
};

// In eight lanes, so that it vectorises; patterns of magnitudes order as they do.
Magnitudes MagnitudesOf(const float* values, size_t n) {
  constexpr size_t kLanes = 8;
  int32_t largest[kLanes] = {};
  float sums[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const int32_t pattern = std::bit_cast<int32_t>(values[i + lane]) & 0x7FFFFFFF;
      largest[lane] = std::max(largest[lane], pattern);
      sums[lane] += std::bit_cast<float>(pattern);
    }
  }
  for (; i < n; ++i) {
    largest[0] = std::max(largest[0], std::bit_cast<int32_t>(std::fabs(values[i])));
    sums[0] += std::fabs(values[i]);
  }
  float sum = 0;
  for (const float lane : sums) sum += lane;
  return {std::bit_cast<float>(*std::ranges::max_element(largest)), sum};
}

// Rounds 2 q_j / step to integers whose magnitudes add up to at most `most` in
// every nibble and kPlaneGroupMax in every group, with the smallest of a few steps
// that allow it. Few of a nibble or group can be half a unit each at the last step,
// which always fits.
//   widest  what the step may not be below, times most / 2
float RoundedWithin(const float* rotated, size_t dim, float widest, int most, int8_t* weights) {
  for (float target = static_cast<float>(most);; target -= 0.5f) {
    const float step = 2 * widest / std::max(target, 0.5f);
    const float factor = 2 / step;
    // To the nearest integer, ties to even: above 2^23 a float has no fraction.
    constexpr float kShift = 12582912.0f;  // 1.5 * 2^23
    for (size_t j = 0; j < dim; ++j) {
      weights[j] = static_cast<int8_t>(static_cast<int>(rotated[j] * factor + kShift - kShift));
    }
    int of_nibble = 0, of_group = 0;
    for (size_t begin = 0; begin < dim; begin += kGroup) {
      int group = 0;
      for (size_t j = begin; j < std::min(begin + kGroup, dim); j += 4) {  // padded to nibbles
        const int nibble = std::abs(weights[j]) + std::abs(weights[j + 1]) +
                           std::abs(weights[j + 2]) + std::abs(weights[j + 3]);
        of_nibble = std::max(of_nibble, nibble);
        group += nibble;
      }
      of_group = std::max(of_group, group);
    }
    if (of_nibble <= most && of_group <= static_cast<int>(kPlaneGroupMax)) return step;
  }
}

}  // namespace

size_t NibbleTableBytes(size_t plane_bytes) { return 2 * plane_bytes * 16; }

void BuildNibbleTable(const int8_t* weights, size_t plane_bytes, uint8_t* table) {
  // Whether a nibble has a coordinate's bit, as a mask. All sums are modulo 256, in which
  // those of a nibble fit.
  constexpr uint8_t kHas[4][16] = {
      {0, 255, 0, 255, 0, 255, 0, 255, 0, 255, 0, 255, 0, 255, 0, 255},
      {0, 0, 255, 255, 0, 0, 255, 255, 0, 0, 255, 255, 0, 0, 255, 255},
      {0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 255, 255, 255, 255},
      {0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255}};
  for (size_t n = 0; n < 2 * plane_bytes; ++n, weights += 4, table += 16) {
    uint8_t of[4], least = 0;  // the coordinates below zero set, the others clear
    for (size_t i = 0; i < 4; ++i) {
      of[i] = static_cast<uint8_t>(weights[i]);
      least += static_cast<uint8_t>(std::max(-int{weights[i]}, 0));
    }
    for (size_t v = 0; v < 16; ++v) {
      table[v] = static_cast<uint8_t>(least + (of[0] & kHas[0][v]) + (of[1] & kHas[1][v]) +
                                      (of[2] & kHas[2][v]) + (of[3] & kHas[3][v]));
    }
  }
}

PlaneLut BuildPlaneLut(const ScanKernels& kernels, const float* rotated, size_t dim, uint8_t* table,
                       int8_t* weights) {
  const size_t plane_bytes = PlaneBytes(dim);
  const int most = static_cast<int>(PlaneLutMax(plane_bytes));
  // A nibble's sums run from -sum|q| to sum|q|: the widest, or the widest group at
  // the same share of its limit, sets the step.
  const float share = static_cast<float>(most) / kPlaneGroupMax;
  float widest = 0;
  for (size_t begin = 0; begin < dim; begin += kGroup) {
    float group = 0;
    for (size_t first = begin; first < std::min(begin + kGroup, dim); first += 4) {
      float nibble = 0;
      for (size_t j = first; j < std::min(first + 4, dim); ++j) nibble += std::fabs(rotated[j]);
      widest = std::max(widest, nibble);
      group += nibble;
    }
    widest = std::max(widest, group * share);
  }
  PlaneLut lut;
  lut.table = table;
  lut.weights = weights;
  std::fill_n(weights, plane_bytes * 8, int8_t{0});
  const float inverse = static_cast<float>(most) / (2 * widest);
  // Infinite for a zero or subnormal query; zero for one that overflows.
  if (!std::isfinite(inverse) || inverse == 0) {
    kernels.plane_table(weights, plane_bytes, table);
    return lut;
  }
  lut.step = RoundedWithin(rotated, dim, widest, most, weights);
  kernels.plane_table(weights, plane_bytes, table);
  int magnitudes = 0;
  for (size_t j = 0; j < plane_bytes * 8; ++j) {
    magnitudes += std::abs(int{weights[j]});
    lut.offset += std::max(-int{weights[j]}, 0);
  }
  lut.bias = -lut.step * 0.5f * static_cast<float>(magnitudes);
  return lut;
}

LevelQuery BuildLevelQuery(const float* rotated, size_t dim, int16_t* values) {
  const auto [largest, about] = MagnitudesOf(rotated, dim);
  std::fill_n(values, PlaneBytes(dim) * 8, int16_t{0});
  LevelQuery query;
  query.values = values;
  if (largest == 0) return query;
  // Rounding adds at most 1/2 per coordinate to the sum of magnitudes.
  const double budget = 2147483647.0 / 107 - 0.5 * static_cast<double>(dim);
  double factor = 32767.0 / largest;
  if (factor * about >= 0.999 * budget) {  // seldom; `about` tells no more
    double sum = 0;
    for (size_t j = 0; j < dim; ++j) sum += std::fabs(rotated[j]);
    factor = std::min(factor, budget / sum);
  }
  // To the nearest integer, ties to even: above 2^52 a double has no fraction.
  // std::nearbyint() is a call per value where the compiler may not assume SSE 4.1.
  constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52
  for (size_t j = 0; j < dim; ++j) {
    values[j] = static_cast<int16_t>(rotated[j] * factor + kShift - kShift);
  }
  query.scale = static_cast<float>(1.0 / factor);
  return query;
}

}  // namespace quash
