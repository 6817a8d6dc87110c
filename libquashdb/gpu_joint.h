// The parts of a snapshot that several GPUs hold, as one.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/cuda/scan_join.h"
#include "libquashdb/gpu_image.h"
#include "libquashdb/status.h"

namespace quash {

// One of a group's GPUs, and what it holds of a snapshot.
struct GpuPart {
  GpuImage* image;
  std::shared_ptr<const GpuView> view;
};

// The blocks of all parts numbered through in the snapshot's order, for a device that goes
// on with rows of all.
struct GpuJoint {
  // On one part's device.
  struct Table {
    cuda::Buffer memory;
    const cuda::ScanSegment* segments;          // [segments], first_block as numbered here
    std::vector<const uint32_t*> first_blocks;  // [parts], JoinPart::first_blocks
  };
  std::vector<GpuPart> parts;
  std::vector<uint32_t> segments;  // indices in the snapshot, ascending
  uint32_t num_blocks = 0;
  std::vector<Table> tables;  // [parts], none for one part
};

// Of devices that can read each other's memory.
Status MakeJoint(std::vector<GpuPart> parts, std::shared_ptr<const GpuJoint>* out);

// The lists of all parts as lists on one part's device, on its stream and after the events
// `listed` of the others.
//   scans   [parts]
//   passes  [parts]
//   joined  out: as if the scan of device `at` had been one of all rows
Status JoinLists(const GpuJoint& joint, size_t at, std::span<const cuda::ScanArgs> scans,
                 std::span<GpuPass* const> passes, cuda::ScanArgs* joined);

}  // namespace quash
