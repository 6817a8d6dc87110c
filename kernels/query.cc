// Tables and integer forms of one rotated query.
#include <algorithm>
#include <cmath>

#include "kernels/scan.h"

namespace quash {

PlaneLut BuildPlaneLut(const float* rotated, size_t dim, uint8_t* table) {
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
  const float step = 2 * widest / static_cast<float>(PlaneLutMax(plane_bytes));
  const float inverse = 1.0f / step;
  // Infinite for a zero or subnormal query; zero for one that overflows.
  if (!std::isfinite(inverse) || inverse == 0) {
    std::fill_n(table, nibbles * 16, uint8_t{0});
    return lut;
  }
  lut.step = step;
  for (size_t n = 0; n < nibbles; ++n) {
    float sums[16];  // of the coordinates whose bit is set, doubling by coordinate
    sums[0] = 0;
    float least = 0;  // the coordinates below zero set, the others clear
    float reach = 0;
    for (size_t i = 0; i < 4; ++i) {
      const size_t j = 4 * n + i;
      const float q = j < dim ? rotated[j] : 0.0f;
      reach += std::fabs(q);
      least += std::min(2 * q, 0.0f);
      for (size_t v = 0; v < (size_t{1} << i); ++v) sums[v + (size_t{1} << i)] = sums[v] + 2 * q;
    }
    int entries[16];
    for (size_t v = 0; v < 16; ++v)
      entries[v] = static_cast<int>((sums[v] - least) * inverse + 0.5f);
    for (size_t v = 0; v < 16; ++v) table[n * 16 + v] = static_cast<uint8_t>(entries[v]);
    lut.bias -= reach;
  }
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
