// Tables and integer forms of one rotated query.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "kernels/scan.h"

namespace quash {

namespace {

// Rounds 2 q_j / step to integers whose magnitudes add up to at most `most` in
// every nibble, with the smallest of a few steps that allow it. Two more than
// half a unit each cannot round up beyond `most`, so the last step always fits.
float RoundedWithin(const float* rotated, size_t dim, float widest, int most, int8_t* weights) {
  for (float target = static_cast<float>(most);; target -= 0.5f) {
    const float step = 2 * widest / std::max(target, 0.5f);
    const float factor = 2 / step;
    // To the nearest integer, ties to even: above 2^23 a float has no fraction.
    constexpr float kShift = 12582912.0f;  // 1.5 * 2^23
    for (size_t j = 0; j < dim; ++j) {
      weights[j] = static_cast<int8_t>(static_cast<int>(rotated[j] * factor + kShift - kShift));
    }
    int reach = 0;
    for (size_t j = 0; j < dim; j += 4) {  // padded to whole nibbles
      reach = std::max(reach, std::abs(weights[j]) + std::abs(weights[j + 1]) +
                                  std::abs(weights[j + 2]) + std::abs(weights[j + 3]));
    }
    if (reach <= most) return step;
  }
}

}  // namespace

PlaneLut BuildPlaneLut(const float* rotated, size_t dim, uint8_t* table, int8_t* weights) {
  const size_t plane_bytes = PlaneBytes(dim);
  const size_t nibbles = 2 * plane_bytes;
  // A nibble's sums run from -sum|q| to sum|q|: the widest sets the step.
  float widest = 0;
  for (size_t n = 0; n < nibbles; ++n) {
    float reach = 0;
    for (size_t j = 4 * n; j < std::min(4 * n + 4, dim); ++j) reach += std::fabs(rotated[j]);
    widest = std::max(widest, reach);
  }
  PlaneLut lut;
  lut.table = table;
  lut.weights = weights;
  std::fill_n(weights, plane_bytes * 8, int8_t{0});
  const int most = static_cast<int>(PlaneLutMax(plane_bytes));
  const float inverse = static_cast<float>(most) / (2 * widest);
  // Infinite for a zero or subnormal query; zero for one that overflows.
  if (!std::isfinite(inverse) || inverse == 0) {
    std::fill_n(table, nibbles * 16, uint8_t{0});
    return lut;
  }
  lut.step = RoundedWithin(rotated, dim, widest, most, weights);
  int magnitudes = 0;
  for (size_t n = 0; n < nibbles; ++n) {
    int sums[16];  // of the coordinates whose bit is set, doubling by coordinate
    sums[0] = 0;
    for (size_t i = 0; i < 4; ++i) {
      const int weight = weights[4 * n + i];
      sums[0] += std::max(-weight, 0);  // least: the coordinates below zero set, the others clear
      magnitudes += std::abs(weight);
    }
    for (size_t i = 0; i < 4; ++i) {
      const size_t half = size_t{1} << i;
      for (size_t v = 0; v < half; ++v) sums[v + half] = sums[v] + weights[4 * n + i];
    }
    for (size_t v = 0; v < 16; ++v) table[n * 16 + v] = static_cast<uint8_t>(sums[v]);
    lut.offset += sums[0];
  }
  lut.bias = -lut.step * 0.5f * static_cast<float>(magnitudes);
  return lut;
}

LevelQuery BuildLevelQuery(const float* rotated, size_t dim, int16_t* values) {
  double sum = 0;
  float largest = 0;
  for (size_t j = 0; j < dim; ++j) {
    sum += std::fabs(rotated[j]);
    largest = std::max(largest, std::fabs(rotated[j]));
  }
  std::fill_n(values, PlaneBytes(dim) * 8, int16_t{0});
  LevelQuery query;
  query.values = values;
  if (largest == 0) return query;
  // Rounding adds at most 1/2 per coordinate to the sum of magnitudes.
  const double budget = 2147483647.0 / 107 - 0.5 * static_cast<double>(dim);
  const double factor = std::min(32767.0 / largest, budget / sum);
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
