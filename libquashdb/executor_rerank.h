// The stages after a plane scan, for one query: plane 2, whole codes, final scores.
#pragma once

#include <vector>

#include "libquashdb/executor_candidates.h"
#include "libquashdb/executor_merge.h"
#include "libquashdb/executor_plan.h"
#include "libquashdb/executor_query.h"
#include "libquashdb/executor_staged.h"
#include "libquashdb/gpu_scan.h"

namespace quash {

// Readies `set` for the estimates of `model`, within the plan's bounds.
void ResetSet(const Snapshot& snapshot, const SearchPlan& plan, const PreparedQuery& query,
              const PrefixModel& model, const Widths& widths, size_t k, CandidateSet* set);

// Rows that are scored in any case before others are dropped, ties aside.
inline constexpr uint32_t FirstScored(size_t k) { return static_cast<uint32_t>(2 * k + 16); }

// Whether plane 2 may narrow survivors after this scan, and what that takes in bytes,
// time for other things counted in: of a block, and of a row that goes on.
bool CanRefine(const Snapshot& snapshot, const Widths& widths);
struct RefineCosts {
  uint64_t block;
  uint64_t row;
};
RefineCosts RefineCostsOf(const Snapshot& snapshot);
inline constexpr size_t kLeastRefined = 256;  // fewer rows are not worth it

class Reranker {
 public:
  // Takes the k best of `survivors`, which are those of query `q` of the tile.
  //   gpu      what the GPU knows of them, or null
  //   threads  for rows of this query
  //   counts   added to
  Reranker(const Snapshot& snapshot, const SearchPlan& plan, const Widths& widths,
           const GpuScan* gpu, size_t q, const PreparedQuery& query, size_t k, size_t threads,
           StagedCounts* counts)
      : snapshot_(snapshot),
        plan_(plan),
        widths_(widths),
        gpu_(gpu),
        q_(q),
        query_(query),
        k_(k),
        threads_(threads),
        has_tier_(snapshot.spec->rerank != QUASH_RERANK_NONE),
        is_cosine_(snapshot.spec->metric == QUASH_METRIC_COSINE),
        counts_(counts) {}
  ~Reranker() { scratch_.Trim(); }
  Reranker(const Reranker&) = delete;

  Status Run(const std::vector<Survivor>& survivors, std::vector<Hit>* hits);

  // Whether whole codes left survivors out.
  bool narrowed() const { return narrowed_; }

 private:
  // Reused between searches of a thread, so that a search allocates little.
  struct Scratch {
    std::vector<Survivor> rest;
    std::vector<uint64_t> rows;
    std::vector<uint32_t> found;  // [rows] Survivor::found, or empty: none
    std::vector<float> scores;
    std::vector<float> units;

    // Gives back what only an unusually wide search needed.
    void Trim();
  };
  static Scratch& ThreadScratch() {
    static thread_local Scratch scratch;
    return scratch;
  }

  Status ScoreAdaptively(const std::vector<Survivor>& survivors, TopHits* best);
  Status NarrowByCodes(const std::vector<Survivor>& survivors, TopHits* best);
  void FetchPlaces(const std::vector<Survivor>& survivors) const;
  Status ScoreRows(TopHits* best);
  Status Refine(std::vector<Survivor>* rows);
  bool RefinePays(const std::vector<Survivor>& rows) const;
  void TakeRow(const Survivor& survivor) {
    scratch_.rows.push_back(survivor.row);
    if (gpu_ != nullptr) scratch_.found.push_back(survivor.found);
  }
  void ClearRows() {
    scratch_.rows.clear();
    scratch_.found.clear();
  }

  const Snapshot& snapshot_;
  const SearchPlan& plan_;
  const Widths& widths_;
  const GpuScan* gpu_;
  const size_t q_;
  const PreparedQuery& query_;
  const size_t k_;
  const size_t threads_;
  const bool has_tier_;
  const bool is_cosine_;
  StagedCounts* counts_;
  bool narrowed_ = false;
  Scratch& scratch_ = ThreadScratch();
};

}  // namespace quash
