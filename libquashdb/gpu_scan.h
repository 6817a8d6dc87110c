// The plane scan on GPUs, and what it brings along for later stages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "libquashdb/executor_candidates.h"
#include "libquashdb/executor_rows.h"
#include "libquashdb/gpu_group.h"
#include "libquashdb/gpu_launch.h"

namespace quash {

// Queries of one pass at most.
inline constexpr size_t kGpuTileQueries = cuda::kScanQueries;

// What the devices of `snapshot` hold of it, those that hold something, and that a
// scan of `planes` planes can read. Empty where a search is left to the CPU: `note`
// says why, if there is a GPU.
std::vector<GpuPart> GpuParts(const Snapshot& snapshot, size_t planes, bool with_tail,
                              std::string* note);

// Whether a device can give final scores of its rows.
bool HasFinalScores(const Snapshot& snapshot, const GpuView& view);

// Rows of the segments that GPUs hold, for the queries of one tile. Each device lists those
// of its own that may be among the best: of all rows where devices can read each other's
// memory, else of its own.
class GpuScan {
 public:
  // Null where a search is better left to the CPU: no GPU, codes too wide, planes that
  // are not there, or more survivors than the device lists.
  //   threads  for what the host does
  //   note     out: why, if there is a GPU
  static std::unique_ptr<GpuScan> Begin(const Snapshot& snapshot, const MatchingRows& matching,
                                        bool has_filter, const Widths& widths, size_t threads,
                                        std::string* note);

  // [snapshot segments]: those that Scan() serves.
  const std::vector<bool>& resident() const { return resident_; }

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
  bool has_final() const { return has_final_; }
  bool has_plane2() const { return has_plane2_; }
  float FinalScore(size_t q, const PreparedQuery& query, uint32_t found) const;
  // As RefineWithPlane2().
  void Refine(size_t q, const PreparedQuery& query, Survivor* survivor) const;

 private:
  // One device's.
  struct Part {
    explicit Part(GpuPart given)
        : image(given.image), view(std::move(given.view)), lease(image), pass(lease[0]) {}
    const cuda::Scored& At(size_t q, uint32_t capacity, uint32_t i) const {
      return pass.scored.as<cuda::Scored>()[q * capacity + i];
    }

    GpuImage* image;
    std::shared_ptr<const GpuView> view;
    GpuImage::PassLease lease;
    GpuPass& pass;
    GpuArgs args;                              // of the last launch
    std::vector<cuda::ScanSummary> summaries;  // [nq]
  };

  GpuScan(const Snapshot& snapshot, const MatchingRows& matching)
      : snapshot_(snapshot), matching_(matching) {}

  // Survivor::found: the part above, its place in the list below.
  static constexpr uint32_t kPlaceBits = 24;
  const cuda::Scored& At(size_t q, uint32_t found) const {
    return parts_[found >> kPlaceBits]->At(q, capacity_, found & ((1u << kPlaceBits) - 1));
  }
  // Queries to a device, with what it needs of its own; then the scan, by limits of the
  // queries or of samples if there are any.
  //   staged  as GpuLaunch::staged
  Status Stage(Part* part, std::span<const PreparedQuery> queries,
               std::span<const cuda::ScanQuery> scan, const GpuPass* staged,
               uint32_t sample_blocks);
  Status Launch(const Part& part, const cuda::SampleSet& samples);
  // What comes after the scans of all parts.
  Status LaunchFinish();
  // Waits for all parts.
  Status Wait();
  void PushFound(size_t q, const PreparedQuery& query, CandidateSet* set) const;

  const Snapshot& snapshot_;
  const MatchingRows& matching_;
  std::vector<std::unique_ptr<Part>> parts_;
  std::shared_ptr<const GpuJoint> joint_;  // of several parts that share memory
  std::vector<bool> resident_;
  cuda::ScanStage stage_ = cuda::ScanStage::kPlane1;
  bool has_filter_ = false;
  bool has_final_ = true;
  bool has_plane2_ = true;
  size_t threads_ = 1;
  uint32_t capacity_ = 0;
};

// Bytes that a scan of a stage reads of one block.
uint64_t GpuBlockBytes(const Snapshot& snapshot, cuda::ScanStage stage);

}  // namespace quash
