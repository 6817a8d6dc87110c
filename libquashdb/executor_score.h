// Scores single rows: from the rerank tier, from their whole code, or from a
// second plane.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "libquashdb/executor_candidates.h"
#include "libquashdb/executor_rows.h"

namespace quash {

// Final scores of rows from the rerank tier.
//   rows    ascending RowIndex
//   scores  [rows.size()] out
Status ScoreFromRerank(const Snapshot& snapshot, const PreparedQuery& query,
                       std::span<const uint64_t> rows, float* scores);

// The same from whole codes (PreparedQuery::levels): final scores where there
// is no rerank tier.
//   units  [rows.size()] out, may be null: Survivor::unit of the whole code
Status ScoreFromCodes(const Snapshot& snapshot, const PreparedQuery& query,
                      std::span<const uint64_t> rows, float* scores, float* units);

// Final scores: ScoreFromRerank() if the collection has the tier, else
// ScoreFromCodes(). Long lists are divided between threads.
Status ScoreFinal(const Snapshot& snapshot, const PreparedQuery& query,
                  std::span<const uint64_t> rows, size_t threads, float* scores);

// Replaces estimates of plane 1 by those of planes 1 and 2, reading whole
// blocks of plane 2.
//   survivors  ascending rows, from a scan of one plane
//   bytes      added to
Status RefineWithPlane2(const Snapshot& snapshot, const PreparedQuery& query,
                        std::span<Survivor> survivors, uint64_t* bytes);

// One row of the rerank tier against a query: the final score.
class RerankScore {
 public:
  RerankScore(const Snapshot& snapshot, const PreparedQuery& query);
  float operator()(const void* row, float scale) const;
  size_t row_bytes() const { return row_bytes_; }

 private:
  const float* query_;
  size_t dim_;
  quash_rerank tier_;
  bool is_l2_;
  size_t row_bytes_;
};

}  // namespace quash
