// Stage 1 of a search over a partition index: the rows in the lists nearest to a query,
// and those that are in no list yet.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "libquashdb/executor_candidates.h"
#include "libquashdb/executor_rows.h"
#include "libquashdb/partition.h"

namespace quash {

// Reading a larger share of all lists costs as much as reading all rows in order.
inline constexpr double kMostProbed = 0.5;

// Whether a search reads lists; if so, which segments they stand for.
class Probe {
 public:
  // No index, or a plan that wants every row: every row is scanned.
  Probe(const Snapshot& snapshot, const SearchPlan& plan, const MatchingRows& matching);

  bool enabled() const { return index_ != nullptr; }
  uint64_t rows_outside() const { return rows_outside_; }  // live ones, of those segments
  // Lists that a query probes if k is `growth` times what was asked for.
  size_t nprobe(size_t growth) const;

  float margin_scale() const { return margin_scale_; }

  // Whether lists have whole codes: estimates are then of those.
  bool coded() const;

  struct Counts {
    uint64_t rows = 0;        // of the lists
    uint64_t bytes = 0;       // of their planes
    uint64_t coded_rows = 0;  // that passed, deleted ones included, and were scored by whole codes
    uint64_t other_bytes = 0;  // of the segments outside, and
    uint64_t other_coded_rows = 0;
  };
  // Pushes what survives of the nearest `nprobe` lists, and of the segments that are not
  // in lists, to the query's set, which was reset for the model that coded() tells. Safe
  // on several threads with different sets.
  Status Scan(const PreparedQuery& query, size_t nprobe, CandidateSet* set, Counts* counts) const;

 private:
  // What a row's estimate by plane 1 has to reach, and what is added to its dot before.
  void PlaneThreshold(const PreparedQuery& query, const CandidateSet& set, float* threshold,
                      float* add) const;
  Status FindRow(uint64_t slot, size_t segment, uint64_t* row, bool* found) const;
  template <typename Prepare, typename Take, typename Settle>
  Status ScanPlane(const PreparedQuery& query, const ConstCodeArrays& codes, size_t blocks,
                   const uint32_t* mask, const CandidateSet& set, size_t* chunk_blocks,
                   const Prepare& prepare, const Take& take, const Settle& settle) const;
  void ScoreCode(const PreparedQuery& query, const uint8_t* row_code, float scale,
                 Survivor* survivor) const;
  uint64_t PlaneBytes(size_t blocks) const;
  Status ScanOthers(const PreparedQuery& query, CandidateSet* set, Counts* counts) const;
  Status ScanList(const PartitionList& list, const PreparedQuery& query, size_t* chunk_blocks,
                  CandidateSet* set, Counts* counts) const;

  const Snapshot& snapshot_;
  const MatchingRows& matching_;
  const PartitionIndex* index_ = nullptr;
  size_t indexed_segments_ = 0;  // the first so many
  uint64_t rows_outside_ = 0;
  size_t nprobe_ = 0;
  float margin_scale_ = 1;
};

// Lists to probe for a recall target: from the measured curve, or a guess.
size_t ChooseNprobe(const Snapshot& snapshot, const SearchPlan& plan);

}  // namespace quash
