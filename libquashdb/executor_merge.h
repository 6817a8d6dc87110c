// The order of results and the best k of them: score descending, then id
// ascending. Ids are read only where scores tie.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "kernels/topk.h"
#include "libquashdb/executor.h"
#include "libquashdb/executor_rows.h"
#include "libquashdb/snapshot.h"
#include "libquashdb/status.h"

namespace quash {

// External ids of a snapshot's rows, read per segment when first asked for. Threads may
// share one.
class IdReader {
 public:
  explicit IdReader(const Snapshot& snapshot)
      : snapshot_(snapshot), columns_(snapshot.segments.size()) {}
  ~IdReader();
  IdReader(const IdReader&) = delete;

  // Fetches into the CPU's caches what Get() will read of a segment.
  void Fetch(uint32_t segment) const {
    if (columns_[segment].load(std::memory_order_relaxed) != nullptr) return;
    snapshot_.segments[segment].segment->FetchIds();
  }
  // Those of a segment, as long as this lives.
  Status Get(uint32_t segment, const IdColumn** out);

 private:
  struct Column {
    IdColumn ids;
    Pin pin;
  };

  const Snapshot& snapshot_;
  std::vector<std::atomic<const Column*>> columns_;  // owned; null until read
};

// The best k rows of a stream of final scores, within the plan's min_score and
// after its cursor.
class TopHits {
 public:
  TopHits(const Snapshot& snapshot, const SearchPlan& plan) : snapshot_(&snapshot), plan_(&plan) {}

  void Push(float score, uint64_t row);
  void Merge(const TopHits& other);
  // Best first, at most k. Errors of reading ids.
  Status Finish(std::vector<Hit>* hits);

 private:
  // The ids of a row's segment; null, and status_ says why, if they cannot be read.
  const IdColumn* IdsOf(uint64_t row);
  bool IsAfterCursor(uint64_t row);
  void SortByIds(std::span<Candidate> tied);
  void Shrink();

  const Snapshot* snapshot_;
  const SearchPlan* plan_;
  std::shared_ptr<IdReader> ids_;  // null until scores tie
  Status status_;                  // of reading ids
  float threshold_ = -std::numeric_limits<float>::infinity();
  std::vector<Candidate> best_;
};

}  // namespace quash
