// Inputs shared by the kernel tests.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/random.h"

namespace quash {

inline void NormalizeRow(float* row, size_t dim) {
  double norm_sq = 0;
  for (size_t j = 0; j < dim; ++j) norm_sq += static_cast<double>(row[j]) * row[j];
  const double inverse = 1 / std::sqrt(norm_sq);
  for (size_t j = 0; j < dim; ++j) row[j] = static_cast<float>(row[j] * inverse);
}

inline std::vector<float> GaussianVectors(size_t n, size_t dim, uint64_t seed) {
  Random random(seed);
  std::vector<float> vectors(n * dim);
  for (float& value : vectors) value = static_cast<float>(random.Gaussian());
  return vectors;
}

// [n, dim] uniform on the unit sphere.
inline std::vector<float> UnitVectors(size_t n, size_t dim, uint64_t seed) {
  std::vector<float> vectors = GaussianVectors(n, dim, seed);
  for (size_t i = 0; i < n; ++i) NormalizeRow(vectors.data() + i * dim, dim);
  return vectors;
}

struct NamedVector {
  std::string name;
  std::vector<float> values;  // [dim], norm 1
};

// Inputs that a weak rotation leaves far from a random point of the sphere.
inline std::vector<NamedVector> AdversarialVectors(size_t dim) {
  std::vector<NamedVector> out;
  const auto add = [&](const char* name, auto value_at) {
    std::vector<float> values(dim);
    for (size_t j = 0; j < dim; ++j) values[j] = static_cast<float>(value_at(j));
    NormalizeRow(values.data(), dim);
    out.push_back({name, values});
  };
  add("one-hot first", [](size_t j) { return j == 0; });
  add("one-hot last", [&](size_t j) { return j == dim - 1; });
  add("constant", [](size_t) { return 1; });
  add("two equal coordinates", [&](size_t j) { return j == 0 || j == dim / 2; });
  add("two opposite coordinates", [&](size_t j) { return (j == 1) - (j == dim - 1); });
  add("alternating", [](size_t j) { return j % 2 == 0 ? 1 : -1; });
  add("every eighth", [](size_t j) { return j % 8 == 0; });
  add("first half", [&](size_t j) { return j < dim / 2; });
  return out;
}

inline double Dot(const float* a, const float* b, size_t dim) {
  double sum = 0;
  for (size_t j = 0; j < dim; ++j) sum += static_cast<double>(a[j]) * b[j];
  return sum;
}

inline double SquaredDistance(const float* a, const float* b, size_t dim) {
  double sum = 0;
  for (size_t j = 0; j < dim; ++j) {
    const double difference = static_cast<double>(a[j]) - b[j];
    sum += difference * difference;
  }
  return sum;
}

// Mean and variance of a stream (Welford).
class Moments {
 public:
  void Add(double value) {
    ++count_;
    const double delta = value - mean_;
    mean_ += delta / static_cast<double>(count_);
    sum_sq_ += delta * (value - mean_);
  }
  double mean() const { return mean_; }
  double variance() const { return sum_sq_ / static_cast<double>(count_ - 1); }
  double standard_error() const { return std::sqrt(variance() / static_cast<double>(count_)); }

 private:
  size_t count_ = 0;
  double mean_ = 0;
  double sum_sq_ = 0;
};

// FNV-1a of the bytes of an array, for golden values.
template <typename T>
uint64_t HashOf(const std::vector<T>& values, uint64_t hash = 0xCBF29CE484222325u) {
  const unsigned char* bytes = reinterpret_cast<const unsigned char*>(values.data());
  for (size_t i = 0; i < values.size() * sizeof(T); ++i) hash = (hash ^ bytes[i]) * 0x100000001B3u;
  return hash;
}

}  // namespace quash
