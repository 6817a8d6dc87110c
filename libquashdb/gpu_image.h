// Segments of one collection on a GPU: planes, scales and, as far as the budget
// goes, whole codes and the rerank tier with INT64 ids. Segments are immutable, so
// what is uploaded stays true; a snapshot is a choice of segments and rows.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/scan.h"
#include "libquashdb/snapshot.h"
#include "libquashdb/status.h"

namespace quash {

// How much of every segment is on the device; each has what those before have.
enum class GpuLevel : uint8_t { kPlane1, kCodes, kTier };

// One segment's arrays, in one allocation.
struct GpuSegment {
  cuda::Buffer memory;
  cuda::ScanSegment arrays;  // first_block is that of a view
  GpuLevel level;
};

// The segments of one snapshot that are resident.
struct GpuView {
  uint64_t generation = 0;
  bool has_tail = false;
  GpuLevel level = GpuLevel::kPlane1;
  uint32_t num_blocks = 0;
  std::vector<uint32_t> segments;      // indices in the snapshot, ascending
  std::vector<uint32_t> first_blocks;  // [segments]
  std::vector<bool> resident;          // [snapshot segments]
  std::vector<std::shared_ptr<const GpuSegment>> held;
  cuda::Buffer device_segments;  // [segments] ScanSegment
  cuda::Buffer live;             // [num_blocks] masks
};

// Buffers of one pass, reused.
struct GpuPass {
  cuda::Stream stream;
  cuda::Event sampled, listed;  // the scan has left its sample, its lists
  cuda::Buffer input, masks, sample, limits, counts, candidates, kept_counts, kept, survivors;
  cuda::Buffer joined_limits, joined_counts, joined;
  cuda::Buffer staged, scored, summaries, ranked;  // pinned
};

// Thread-safe.
class GpuImage {
 public:
  // Fails with UNSUPPORTED where the build or the machine has no GPU.
  //   device        ordinal
  //   budget_bytes  of segments; 0: nine tenths of what is free now, divided by
  //                 `sharing`
  static Status Open(int device, uint64_t budget_bytes, uint64_t sharing,
                     std::shared_ptr<GpuImage>* out);

  int device() const { return device_; }
  const std::string& device_name() const { return device_name_; }
  uint64_t budget_bytes() const { return budget_bytes_; }
  uint64_t used_bytes() const;

  // Uploads what is missing of the segments of `snapshot` that are this image's, as far
  // as the budget goes, and frees those that no snapshot has any more.
  //   owners, self  segments whose owner is `self`, the same at every call for a
  //                 snapshot
  //   with_tail     the tail's too, which changes with every write: for many queries
  Status View(const Snapshot& snapshot, const std::vector<uint8_t>& owners, uint8_t self,
              bool with_tail, std::shared_ptr<const GpuView>* out);

  // Buffers of `count` passes for exclusive use, taken at once; waits for some of a few.
  class PassLease {
   public:
    explicit PassLease(GpuImage* image, size_t count = 1)
        : image_(image), passes_(image->TakePasses(count)) {}
    ~PassLease() { image_->ReturnPasses(std::move(passes_)); }
    PassLease(const PassLease&) = delete;
    GpuPass& operator[](size_t i) const { return *passes_[i]; }

   private:
    GpuImage* image_;
    std::vector<std::unique_ptr<GpuPass>> passes_;
  };

 private:
  GpuImage(int device, uint64_t budget_bytes) : device_(device), budget_bytes_(budget_bytes) {}

  std::vector<std::unique_ptr<GpuPass>> TakePasses(size_t count);
  void ReturnPasses(std::vector<std::unique_ptr<GpuPass>> passes);
  Status Upload(const Snapshot& snapshot, const Segment& segment, GpuLevel level,
                std::shared_ptr<GpuSegment>* out);
  Status MakeView(const Snapshot& snapshot, const std::vector<uint8_t>& owners, uint8_t self,
                  bool with_tail, std::shared_ptr<GpuView>* out);

  struct Known {
    std::weak_ptr<const Segment> segment;
    std::shared_ptr<const GpuSegment> uploaded;
  };

  const int device_;
  const uint64_t budget_bytes_;
  std::string device_name_;

  mutable std::mutex mutex_;  // of what follows, and of uploads
  std::unordered_map<const Segment*, Known> known_;
  std::shared_ptr<const GpuView> latest_;
  uint64_t used_bytes_ = 0;
  cuda::Stream stream_;
  cuda::Buffer staging_, device_staging_;

  std::mutex passes_mutex_;
  std::condition_variable pass_returned_;
  std::vector<std::unique_ptr<GpuPass>> free_passes_;
  size_t passes_ = 0;  // there are, free or not
};

}  // namespace quash
