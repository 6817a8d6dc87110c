// The GPUs that one collection is attached to. Every segment has one of them as its
// owner; each scans what it has, and the host puts the parts together.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "libquashdb/gpu_image.h"
#include "libquashdb/gpu_joint.h"
#include "libquashdb/snapshot.h"
#include "libquashdb/status.h"

namespace quash {

// GPUs of one group at most.
inline constexpr size_t kMaxGpus = cuda::kJoinMax;

// Thread-safe.
class GpuGroup {
 public:
  // Fails with UNSUPPORTED where the build or the machine has no GPU, with INVALID
  // where an ordinal is wrong.
  //   devices       ordinals, one or more; the same may be named twice: images of
  //                 their own. {QUASH_GPU_ALL}: all that there are
  //   budget_bytes  of segments on each; 0: nine tenths of what is free now
  static Status Open(std::span<const int> devices, uint64_t budget_bytes,
                     std::shared_ptr<GpuGroup>* out);

  const std::vector<std::shared_ptr<GpuImage>>& images() const { return images_; }
  std::string text() const;  // "gpu:0" or "gpu:0,1"

  // What is resident of a snapshot, for each image (GpuImage::View()).
  Status View(const Snapshot& snapshot, bool with_tail,
              std::vector<std::shared_ptr<const GpuView>>* views);

  // Whether each device can read the others' memory.
  bool shares_memory() const { return shares_memory_; }
  // Of parts that hold something, if memory is shared.
  Status Join(std::vector<GpuPart> parts, std::shared_ptr<const GpuJoint>* out);

 private:
  // Image of every segment of a snapshot. A segment keeps its image; new ones go where
  // the fewest rows are for the budget.
  std::shared_ptr<const std::vector<uint8_t>> Owners(const Snapshot& snapshot);

  struct Owned {
    std::weak_ptr<const Segment> segment;
    uint8_t image;
  };

  std::vector<std::shared_ptr<GpuImage>> images_;
  bool shares_memory_ = false;
  std::mutex mutex_;  // of what follows
  std::unordered_map<const Segment*, Owned> owned_;
  uint64_t generation_ = 0;
  std::shared_ptr<const std::vector<uint8_t>> owners_;  // of that generation
  std::shared_ptr<const GpuJoint> joint_;               // of the last search
};

}  // namespace quash
