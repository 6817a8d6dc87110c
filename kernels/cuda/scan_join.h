// One search on several devices, each of which has a part of the rows: limits come from
// the samples and lists of all, or one ranks what all have listed. Devices read each
// other's memory (SharePeers()).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/scan.h"

namespace quash::cuda {

// Devices at most.
inline constexpr uint32_t kJoinMax = 64;

// Samples that limits are taken from, as one of kScanSampleBlocks blocks at most.
struct SampleSet {
  const float* samples[kJoinMax];  // ScanArgs::sample
  uint32_t blocks[kJoinMax];       // ScanArgs::sample_blocks
  uint32_t count;
};

// LaunchScan() in two: the sample of one's own rows, and what follows, with ranks in all
// samples.
const char* LaunchSample(const ScanArgs& args, CUstream_st* stream);
const char* LaunchScanBySamples(const ScanArgs& args, const SampleSet& samples,
                                CUstream_st* stream);

// What one device's scan has left. `first_blocks` is the joining device's.
struct JoinPart {
  const uint32_t* candidates;    // of ScanArgs, [nq][capacity][4]
  const uint32_t* counts;        // [nq]
  const float* limits;           // [nq][2]
  const uint32_t* first_blocks;  // [num_segments][2] first block of a segment: in the
                                 // part's numbering, ascending, and in that of all
  uint32_t num_segments;
};

struct JoinArgs {
  JoinPart parts[kJoinMax];
  uint32_t num_parts;
  uint32_t nq;
  uint32_t capacity;     // of the parts' lists and of the joined ones
  uint32_t* candidates;  // [nq][capacity][4] out, rows in the numbering of all
  uint32_t* counts;      // [nq] out: more than the capacity if a list is too long
  float* limits;         // [nq][2] out: the highest
};

const char* LaunchJoin(const JoinArgs& args, CUstream_st* stream);

// LaunchNarrow() of one's own list by limits that the joined one shows.
//   all  its candidates, counts and limits
const char* LaunchNarrowByAll(const ScanArgs& args, const ScanArgs& all, CUstream_st* stream);

}  // namespace quash::cuda
