#include "bench/churn/churn_rows.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace quash::bench {
namespace {

constexpr size_t kCenters = 256;

// SplitMix64.
uint64_t Mix(uint64_t* state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// Nearly normal: the sum of four uniform 16-bit numbers, with variance 1.
float Normal(uint64_t* state) {
  const uint64_t bits = Mix(state);
  const auto sum = static_cast<float>((bits & 0xffff) + (bits >> 16 & 0xffff) +
                                      (bits >> 32 & 0xffff) + (bits >> 48));
  return (sum / 65536.0f - 2.0f) * 1.7320508f;
}

}  // namespace

VectorMaker::VectorMaker(uint32_t dim, uint64_t seed) : dim_(dim), seed_(seed) {
  uint64_t state = seed;
  centers_.resize(kCenters * dim);
  spread_.resize(dim);
  for (uint32_t i = 0; i < dim; ++i) {
    spread_[i] = 1.0f / std::sqrt(1.0f + static_cast<float>(i) / 8.0f);
  }
  for (size_t i = 0; i < centers_.size(); ++i) centers_[i] = Normal(&state) * spread_[i % dim];
}

void VectorMaker::Make(int64_t id, uint64_t version, float* out) const {
  uint64_t state =
      seed_ ^ static_cast<uint64_t>(id) * 0xd1342543de82ef95u ^ version * 0xaf251af3b0f025b5u;
  const float* center = &centers_[Mix(&state) % kCenters * dim_];
  float norm = 0;
  for (uint32_t i = 0; i < dim_; ++i) {
    out[i] = center[i] + 0.7f * Normal(&state) * spread_[i];
    norm += out[i] * out[i];
  }
  const float scale = 1.0f / std::sqrt(norm);
  for (uint32_t i = 0; i < dim_; ++i) out[i] *= scale;
}

int64_t LiveRows::Add() {
  ids_.push_back(next_id_++);
  versions_.push_back(0);
  return ids_.back();
}

void LiveRows::Remove(size_t i) {
  std::swap(ids_[i], ids_.back());
  std::swap(versions_[i], versions_.back());
  ids_.pop_back();
  versions_.pop_back();
}

std::vector<int64_t> NearestRows(const LiveRows& rows, const VectorMaker& maker,
                                 const std::vector<float>& queries, size_t k) {
  const size_t dim = maker.dim();
  const size_t nq = queries.size() / dim;
  std::vector<std::vector<std::pair<double, int64_t>>> best(nq);  // ascending by score
  std::vector<float> vector(dim);
  for (size_t row = 0; row < rows.size(); ++row) {
    maker.Make(rows.id(row), rows.version(row), vector.data());
    for (size_t q = 0; q < nq; ++q) {
      double score = 0;
      for (size_t i = 0; i < dim; ++i) {
        score += static_cast<double>(queries[q * dim + i]) * static_cast<double>(vector[i]);
      }
      auto& top = best[q];
      if (top.size() == k && score <= top.front().first) continue;
      if (top.size() == k) top.erase(top.begin());
      const std::pair<double, int64_t> hit(score, rows.id(row));
      top.insert(std::upper_bound(top.begin(), top.end(), hit), hit);
    }
  }
  std::vector<int64_t> ids;
  for (const auto& top : best) {
    for (const auto& hit : top) ids.push_back(hit.second);
  }
  return ids;
}

}  // namespace quash::bench
