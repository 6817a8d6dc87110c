// Queries staged for one pass of a scan on a GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kernels/cuda/scan.h"
#include "kernels/cuda/scan_rank.h"
#include "libquashdb/executor_candidates.h"
#include "libquashdb/executor_rows.h"
#include "libquashdb/gpu_group.h"

namespace quash {

// Of a GPU's part of a search.
struct GpuLaunch {
  const Snapshot* snapshot;
  const GpuView* view;
  GpuPass* pass;
  cuda::ScanStage stage;
  uint32_t capacity;  // of each query's list
  bool masked;        // by pass->masks, else by the view's live rows
  bool has_final;     // the device can give final scores
  bool ranks;         // what a ranking needs of the queries goes along
  // Whose `staged` has the same queries already, for another device; null: none.
  const GpuPass* staged;
  size_t threads;  // for what the host does
};

struct GpuArgs {
  cuda::ScanArgs scan;
  cuda::FinishArgs finish;
  const cuda::RankQuery* rank;  // device memory
};

// What a scan of `planes` planes is on a GPU.
cuda::ScanStage StageOf(size_t planes);

// Uploads the masks of a filter to pass->masks.
Status UploadMasks(const MatchingRows& matching, const GpuView& view, GpuPass* pass);

// Blocks that limits are taken from: of each view in proportion, all in one sample. None
// if the matching rows all fit in the list.
struct GpuSample {
  std::vector<uint32_t> blocks;  // [views]
  double share = 0;              // of all blocks
};
GpuSample SampleBlocks(std::span<const GpuPart> parts, const MatchingRows& matching,
                       uint32_t capacity);
// A query's ranks in it.
//   wanted  rows that the key limit should let through
void SetRanks(const GpuSample& sample, size_t wanted, size_t k, cuda::ScanQuery* query);

// A query and the bounds of its set as the scan wants them, no limits set.
cuda::ScanQuery MakeScanQuery(const Snapshot& snapshot, cuda::ScanStage stage,
                              const PreparedQuery& query, const CandidateSet& set);

// Makes a query ready and says what the scan, and a ranking if there is one, need of
// it. Called on several threads at a time.
using PrepareQuery = std::function<const PreparedQuery&(size_t q, cuda::ScanQuery* scan,
                                                        cuda::RankQuery* rank)>;

// Reserves buffers, copies the queries over and fills in the arguments of the kernels.
// Nothing is waited for; what is staged is in use until the stream is done.
Status StageQueries(const GpuLaunch& launch, size_t nq, const PrepareQuery& prepare,
                    uint32_t sample_blocks, GpuArgs* args);

}  // namespace quash
