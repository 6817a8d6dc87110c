// The plane scan on a GPU, and what it brings along for later stages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "libquashdb/executor_candidates.h"
#include "libquashdb/executor_rows.h"
#include "libquashdb/gpu_image.h"

namespace quash {

// Queries of one pass at most.
inline constexpr size_t kGpuTileQueries = cuda::kScanQueries;

// Rows of the segments that a GPU holds, for the queries of one tile.
class GpuScan {
 public:
  // Null where a search is better left to the CPU: no GPU, codes too wide, two
  // planes asked for, or more survivors than the device lists.
  //   threads  for what the host does
  //   note     out: why, if there is a GPU
  static std::unique_ptr<GpuScan> Begin(const Snapshot& snapshot, const MatchingRows& matching,
                                        bool has_filter, const Widths& widths, size_t threads,
                                        std::string* note);

  // [snapshot segments]: those that Scan() serves.
  const std::vector<bool>& resident() const { return view_->resident; }

  // Pushes survivors to each query's set, all that CandidateSet::Covers() asks for
  // in most cases: Check() tells after Finish().
  //   queries, sets  [nq], nq <= kGpuTileQueries, prepared and reset
  //   bytes          added to: bytes of codes and scales read
  Status Scan(std::span<const PreparedQuery> queries, const Widths& widths, size_t k,
              std::span<CandidateSet> sets, uint64_t* bytes);

  // Whether query q's set has what it needs. If not, Repeat() scans for it alone,
  // for just the rows that its set asked for: `set` is to be reset first.
  bool Check(size_t q, CandidateSet* set) const;
  Status Repeat(std::span<const PreparedQuery> queries, size_t q, float key_limit,
                float estimate_limit, CandidateSet* set);

  // Of a survivor whose `found` is set, for query q.
  bool has_final() const { return final_; }
  bool has_plane2() const { return view_->level >= GpuLevel::kCodes; }
  float FinalScore(size_t q, const PreparedQuery& query, uint32_t found) const;
  // As RefineWithPlane2().
  void Refine(size_t q, const PreparedQuery& query, Survivor* survivor) const;

 private:
  GpuScan(const Snapshot& snapshot, const MatchingRows& matching,
          std::shared_ptr<const GpuView> view)
      : snapshot_(snapshot),
        matching_(matching),
        view_(std::move(view)),
        lease_(snapshot.gpu.get()),
        pass_(*lease_) {}

  const cuda::Scored& At(size_t q, uint32_t found) const {
    return pass_.scored.as<cuda::Scored>()[q * capacity_ + found];
  }
  cuda::ScanQuery MakeScanQuery(const PreparedQuery& query, const CandidateSet& set) const;
  Status Launch(std::span<const PreparedQuery> queries, std::span<const cuda::ScanQuery> scan,
                uint32_t sample_blocks);
  void PushFound(size_t q, const PreparedQuery& query, CandidateSet* set) const;
  Status UploadMasks();
  uint64_t RowIndexOf(uint32_t row) const;

  const Snapshot& snapshot_;
  const MatchingRows& matching_;
  std::shared_ptr<const GpuView> view_;
  GpuImage::PassLease lease_;
  GpuPass& pass_;
  bool has_filter_ = false;
  size_t threads_ = 1;
  bool final_ = false;
  uint32_t capacity_ = 0;
  std::vector<cuda::ScanSummary> summaries_;  // [nq]
};

}  // namespace quash
