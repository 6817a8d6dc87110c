// The order of results and the best k of them: score descending, then id
// ascending. Ids are read only where scores tie.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/topk.h"
#include "libquashdb/executor.h"
#include "libquashdb/executor_rows.h"
#include "libquashdb/snapshot.h"
#include "libquashdb/status.h"

namespace quash {

// External ids of a snapshot's rows, read per segment when first asked for; for one thread.
class IdReader {
 public:
  explicit IdReader(const Snapshot& snapshot) : snapshot_(&snapshot) {}

  // Those of a segment, until the next call; null once status() is an error.
  const IdColumn* Get(uint32_t segment);

  // Whether the id of row a is less than that of row b, or than `id`. Falls back
  // to row order once status() is an error.
  bool Less(uint64_t a, uint64_t b);
  bool Less(const Id& id, uint64_t row);
  const Status& status() const { return status_; }

 private:
  struct Column {
    IdColumn ids;
    Pin pin;
  };
  static constexpr uint32_t kUnread = std::numeric_limits<uint32_t>::max();

  const Snapshot* snapshot_;
  std::vector<uint32_t> places_;  // of each segment, in columns_
  std::vector<Column> columns_;
  Status status_;
};

// The best k rows of a stream of final scores, within the plan's min_score and
// after its cursor.
class TopHits {
 public:
  TopHits(const Snapshot& snapshot, const SearchPlan& plan) : plan_(&plan), ids_(snapshot) {}

  void Push(float score, uint64_t row);
  void Merge(const TopHits& other);
  // Best first, at most k. Errors of reading ids.
  Status Finish(std::vector<Hit>* hits);

 private:
  bool IsBetter(const Candidate& a, const Candidate& b) {
    return a.score != b.score ? a.score > b.score : ids_.Less(a.row, b.row);
  }
  void Shrink();

  const SearchPlan* plan_;
  IdReader ids_;
  float threshold_ = -std::numeric_limits<float>::infinity();
  std::vector<Candidate> best_;
};

}  // namespace quash
