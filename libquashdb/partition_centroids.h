// Centroids of a partition index, and the search for those nearest to a vector:
// a plane scan over their codes, then exact scores of the best. Immutable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "libquashdb/executor_query.h"
#include "libquashdb/row_run.h"
#include "libquashdb/snapshot.h"

namespace quash {

class Centroids {
 public:
  //   vectors  [n, dim] float32, n > 0; kept with norm 1 unless the metric is L2
  Centroids(const CollectionSpec& spec, const Quantizer& quantizer, const float* vectors,
            size_t n);

  size_t size() const { return run_->rows(); }
  const float* vector(size_t i) const {  // [dim]
    return reinterpret_cast<const float*>(run_->rerank_row(i));
  }

  struct Scored {
    float score;  // inner product, or 2 <q, c> - |c|^2 for L2: higher is nearer
    uint32_t list;
  };
  // What ranks those that the scan of plane 1 leaves.
  enum class Rank {
    kVectors,
    kCodes,  // whole codes, an eighth of the bytes; vectors where those say too little
  };
  // The `n` nearest of each query, or all if there are fewer, best first. The scan
  // over codes may miss one that is nearly as near.
  //   queries  prepared for planes
  //   out      [queries.size()]
  void Nearest(std::span<const PreparedQuery> queries, size_t n, Rank rank,
               std::vector<Scored>* out) const;

  // As in Scored, of any vector [dim].
  float Score(const float* vector, uint32_t list) const;

  size_t memory_bytes() const { return run_->memory_bytes() + row_codes_.size(); }

 private:
  float ScoreByCode(const PreparedQuery& query, uint32_t list) const;

  bool is_l2_;
  size_t dim_;
  size_t bits_;
  size_t plane_bytes_;
  LevelCodebook codebook_;
  std::unique_ptr<RowRun> run_;
  std::vector<uint32_t> valid_;  // mask of the rows there are, by block
  std::vector<uint8_t> row_codes_;  // [n][bits][plane_bytes]; empty: ranked by vectors
};

}  // namespace quash
