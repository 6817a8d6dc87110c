// The rows of the churn benchmark: what should be stored, and the vectors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <unordered_map>
#include <vector>

namespace quash::bench {

// Vectors around centers of decaying spread, as embeddings lie: every one follows
// from the seed, its row's id and its version.
class VectorMaker {
 public:
  VectorMaker(uint32_t dim, uint64_t seed);
  uint32_t dim() const { return dim_; }
  void Make(int64_t id, uint64_t version, float* out) const;  // [dim]

 private:
  uint32_t dim_;
  uint64_t seed_;
  std::vector<float> centers_;  // [kCenters, dim]
  std::vector<float> spread_;   // [dim]
};

// The live rows, each id with its version; ids are never used again. A random
// live row takes constant time.
class LiveRows {
 public:
  size_t size() const { return ids_.size(); }
  int64_t id(size_t i) const { return ids_[i]; }
  uint64_t version(size_t i) const { return versions_[i]; }
  int64_t Add();  // a new row of version 0
  void Replace(size_t i) { ++versions_[i]; }
  void Remove(size_t i);

 private:
  std::vector<int64_t> ids_;
  std::vector<uint64_t> versions_;
  int64_t next_id_ = 0;
};

// The ids of the k rows nearest to each query, by inner product in double:
// [nq, k].
std::vector<int64_t> NearestRows(const LiveRows& rows, const VectorMaker& maker,
                                 const std::vector<float>& queries, size_t k);

}  // namespace quash::bench
