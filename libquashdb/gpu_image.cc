#include "libquashdb/gpu_image.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "libquashdb/gpu_status.h"

namespace quash {
namespace {

// Passes at a time: while some are on the device, others are prepared or finished.
constexpr size_t kPasses = 8;

size_t TierRowBytes(const CollectionSpec& spec) {
  switch (spec.rerank) {
    case QUASH_RERANK_F32:
      return spec.dim * sizeof(float);
    case QUASH_RERANK_F16:
      return spec.dim * sizeof(uint16_t);
    case QUASH_RERANK_INT8:
      return spec.dim;
    default:
      return 0;
  }
}

// Sizes of a segment's arrays on the device, each a multiple of kAlignment.
struct SegmentSizes {
  SegmentSizes(const CollectionSpec& spec, const CodeLayout& layout, size_t blocks,
               GpuLevel level) {
    const auto aligned = [](size_t bytes) {
      return (bytes + kAlignment - 1) / kAlignment * kAlignment;
    };
    const size_t rows = blocks * kBlockRows;
    plane = blocks * cuda::ScanPlaneBytes(layout.dim);
    floats = aligned(rows * sizeof(float));
    const bool has_codes = level >= GpuLevel::kCodes;
    planes = has_codes ? layout.bits : 1;
    scales = has_codes ? layout.num_scales() : 1;
    has_norm_sq = spec.metric == QUASH_METRIC_L2;
    tier = level >= GpuLevel::kTier ? aligned(rows * TierRowBytes(spec)) : 0;
    has_tier_scale = tier != 0 && spec.rerank == QUASH_RERANK_INT8;
    const bool has_ids = level >= GpuLevel::kTier && spec.id_type == QUASH_ID_INT64;
    ids = has_ids ? aligned(rows * sizeof(int64_t)) : 0;
    total = planes * plane + scales * floats + (has_norm_sq ? floats : 0) + tier +
            (has_tier_scale ? floats : 0) + ids;
  }
  size_t plane, floats, tier, ids, total;
  size_t planes, scales;
  bool has_norm_sq, has_tier_scale;
};

// The most that all sealed segments of an owner fit with; the least if none.
GpuLevel LevelFor(const Snapshot& snapshot, const std::vector<uint8_t>& owners, uint8_t self,
                  uint64_t budget) {
  for (GpuLevel level : {GpuLevel::kTier, GpuLevel::kCodes}) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < snapshot.segments.size(); ++i) {
      const Segment& segment = *snapshot.segments[i].segment;
      if (segment.is_tail() || owners[i] != self) continue;
      bytes += SegmentSizes(*snapshot.spec, snapshot.quantizer->layout(), segment.num_blocks(),
                            level)
                   .total;
    }
    if (bytes <= budget) return level;
  }
  return GpuLevel::kPlane1;
}

}  // namespace

Status GpuImage::Open(int device, uint64_t budget_bytes, uint64_t sharing,
                      std::shared_ptr<GpuImage>* out) {
  if (!cuda::HasCuda()) {
    return Error(QUASH_UNSUPPORTED,
                 "this build has no GPU kernels, expected one configured with "
                 "-DQUASHDB_BUILD_CUDA=ON");
  }
  const int devices = cuda::DeviceCount();
  if (devices == 0) {
    return Error(QUASH_UNSUPPORTED,
                 "no GPU was found, expected an NVIDIA GPU of compute capability 8.0 or newer and "
                 "its driver");
  }
  if (device < 0 || device >= devices) {
    return Error(QUASH_INVALID, "device is {}, expected 0 to {}", device, devices - 1);
  }
  QUASH_RETURN_IF_GPU_ERROR("choosing the device", cuda::UseDevice(device));
  size_t free_bytes = 0, total_bytes = 0;
  QUASH_RETURN_IF_GPU_ERROR("asking for memory", cuda::DeviceMemory(&free_bytes, &total_bytes));
  if (budget_bytes == 0) budget_bytes = free_bytes / 10 * 9 / sharing;
  std::shared_ptr<GpuImage> image(new GpuImage(device, budget_bytes));
  char name[256] = "";
  QUASH_RETURN_IF_GPU_ERROR("asking for the name", cuda::DeviceName(device, name, sizeof(name)));
  image->device_name_ = name;
  QUASH_RETURN_IF_GPU_ERROR("opening a stream", image->stream_.Open());
  *out = std::move(image);
  return Status();
}

uint64_t GpuImage::used_bytes() const {
  const std::lock_guard lock(mutex_);
  return used_bytes_;
}

Status GpuImage::Upload(const Snapshot& snapshot, const Segment& segment, GpuLevel level,
                        std::shared_ptr<GpuSegment>* out) {
  const CodeLayout& layout = snapshot.quantizer->layout();
  const size_t blocks = segment.num_blocks(), rows = blocks * kBlockRows;
  const SegmentSizes sizes(*snapshot.spec, layout, blocks, level);
  auto made = std::make_shared<GpuSegment>();
  made->level = level;
  made->arrays = {};
  made->arrays.blocks = static_cast<uint32_t>(blocks);
  QUASH_RETURN_IF_GPU_ERROR("allocating a segment", made->memory.Reserve(sizes.total));
  auto* next = made->memory.as<uint8_t>();
  const auto take = [&](size_t bytes) { return std::exchange(next, next + bytes); };

  const size_t plane_bytes = layout.plane_bytes();
  const size_t staged_bytes =
      blocks * std::max(layout.block_bytes(), kBlockRows * layout.rest_stride());
  QUASH_RETURN_IF_GPU_ERROR("allocating", device_staging_.Reserve(staged_bytes));
  auto* staged = device_staging_.as<uint8_t>();
  size_t plane = 0;  // that comes next
  const auto repack = [&](size_t offset, const cuda::PlaneStrides& strides) -> Status {
    auto* to = reinterpret_cast<uint32_t*>(take(sizes.plane));
    QUASH_RETURN_IF_GPU_ERROR(
        "arranging a plane",
        cuda::LaunchRepackPlane(staged + offset, strides, static_cast<uint32_t>(blocks),
                                static_cast<uint32_t>(plane_bytes), to, stream_.get()));
    made->arrays.planes[plane++] = to;
    return Status();
  };
  const auto repack_blocks = [&](const uint8_t* from) -> Status {
    QUASH_RETURN_IF_GPU_ERROR("uploading a plane",
                              stream_.Upload(from, blocks * layout.block_bytes(), staged));
    return repack(0, {.block = static_cast<uint32_t>(layout.block_bytes()),
                      .row = 1,
                      .byte = kBlockRows});
  };
  const auto copy = [&](const void* from, size_t bytes, size_t taken) -> Status {
    QUASH_RETURN_IF_GPU_ERROR("uploading a segment", stream_.Upload(from, bytes, take(taken)));
    return Status();
  };
  const auto copy_floats = [&](const float* from, const float** field) -> Status {
    *field = reinterpret_cast<const float*>(next);
    return copy(from, rows * sizeof(float), sizes.floats);
  };

  ConstCodeArrays codes;
  Pin pins[3];
  QUASH_RETURN_IF_ERROR(segment.Codes(SegmentPart::kPlane1, &codes, &pins[0]));
  QUASH_RETURN_IF_ERROR(repack_blocks(codes.plane1));
  QUASH_RETURN_IF_ERROR(copy_floats(codes.scale1, &made->arrays.scale1));
  if (sizes.has_norm_sq) QUASH_RETURN_IF_ERROR(copy_floats(codes.norm_sq, &made->arrays.norm_sq));
  if (level >= GpuLevel::kCodes) made->arrays.scale_full = made->arrays.scale1;
  if (sizes.planes >= 2) {
    QUASH_RETURN_IF_ERROR(segment.Codes(SegmentPart::kPlane2, &codes, &pins[1]));
    QUASH_RETURN_IF_ERROR(repack_blocks(codes.plane2));
    QUASH_RETURN_IF_ERROR(copy_floats(codes.scale2, &made->arrays.scale2));
    made->arrays.scale_full = made->arrays.scale2;
  }
  if (sizes.planes >= 3) {
    QUASH_RETURN_IF_ERROR(segment.Codes(SegmentPart::kRest, &codes, &pins[2]));
    const auto row_bytes = static_cast<uint32_t>(layout.rest_stride());
    QUASH_RETURN_IF_GPU_ERROR("uploading planes",
                              stream_.Upload(codes.rest, rows * row_bytes, staged));
    for (size_t rest_plane = 0; rest_plane < layout.bits - 2; ++rest_plane) {
      QUASH_RETURN_IF_ERROR(repack(
          rest_plane * plane_bytes,
          {.block = static_cast<uint32_t>(kBlockRows) * row_bytes, .row = row_bytes, .byte = 1}));
    }
    QUASH_RETURN_IF_ERROR(copy_floats(codes.scale_full, &made->arrays.scale_full));
  }
  if (sizes.tier != 0) {
    const size_t row_bytes = TierRowBytes(*snapshot.spec), block_bytes = kBlockRows * row_bytes;
    QUASH_RETURN_IF_GPU_ERROR(
        "allocating pinned memory",
        staging_.Reserve(sizes.tier + sizes.floats, cuda::Buffer::Place::kPinned));
    auto* scales = reinterpret_cast<float*>(staging_.as<uint8_t>() + sizes.tier);
    for (size_t block = 0; block < blocks; ++block) {
      const void* data = nullptr;
      const float* block_scales = nullptr;
      Pin pin;
      QUASH_RETURN_IF_ERROR(segment.RerankBlock(block, &data, &block_scales, &pin));
      const size_t present = std::min(kBlockRows, segment.rows() - block * kBlockRows);
      std::memcpy(staging_.as<uint8_t>() + block * block_bytes, data, present * row_bytes);
      if (block_scales != nullptr) {
        std::copy_n(block_scales, present, scales + block * kBlockRows);
      }
    }
    made->arrays.tier = next;
    QUASH_RETURN_IF_ERROR(copy(staging_.as<uint8_t>(), rows * row_bytes, sizes.tier));
    if (sizes.has_tier_scale) QUASH_RETURN_IF_ERROR(copy_floats(scales, &made->arrays.tier_scale));
  }
  IdColumn ids;
  Pin ids_pin;
  if (sizes.ids != 0) {
    QUASH_RETURN_IF_ERROR(segment.Ids(&ids, &ids_pin));
    made->arrays.ids = reinterpret_cast<const int64_t*>(next);
    QUASH_RETURN_IF_ERROR(copy(ids.ints.data(), ids.ints.size_bytes(), sizes.ids));
  }
  QUASH_RETURN_IF_GPU_ERROR("uploading a segment", stream_.Wait());
  *out = std::move(made);
  return Status();
}

Status GpuImage::MakeView(const Snapshot& snapshot, const std::vector<uint8_t>& owners,
                          uint8_t self, bool with_tail, std::shared_ptr<GpuView>* out) {
  std::erase_if(known_, [](const auto& entry) { return entry.second.segment.expired(); });
  const GpuLevel level = LevelFor(snapshot, owners, self, budget_bytes_);
  // What is held at another level goes first, unless an older view still has it.
  used_bytes_ = 0;
  std::erase_if(known_, [&](const auto& entry) { return entry.second.uploaded->level != level; });
  for (const auto& [segment, known] : known_) used_bytes_ += known.uploaded->memory.bytes();

  auto view = std::make_shared<GpuView>();
  view->generation = snapshot.generation;
  view->has_tail = with_tail;
  view->level = level;
  view->resident.resize(snapshot.segments.size());
  std::vector<cuda::ScanSegment> arrays;
  std::vector<uint32_t> live;
  for (uint32_t i = 0; i < snapshot.segments.size(); ++i) {
    const SegmentView& one = snapshot.segments[i];
    if (owners[i] != self || one.live_rows == 0) continue;
    if (one.segment->is_tail() && !with_tail) continue;
    Known& known = known_[one.segment.get()];
    if (known.uploaded == nullptr) {
      const size_t bytes = SegmentSizes(*snapshot.spec, snapshot.quantizer->layout(),
                                        one.segment->num_blocks(), level)
                               .total;
      if (used_bytes_ + bytes > budget_bytes_) {
        known_.erase(one.segment.get());
        continue;
      }
      std::shared_ptr<GpuSegment> uploaded;
      if (Status status = Upload(snapshot, *one.segment, level, &uploaded); !status.ok()) {
        known_.erase(one.segment.get());
        return status;
      }
      known = {one.segment, std::move(uploaded)};
      used_bytes_ += bytes;
    }
    view->segments.push_back(i);
    view->first_blocks.push_back(view->num_blocks);
    view->resident[i] = true;
    view->held.push_back(known.uploaded);
    arrays.push_back(known.uploaded->arrays);
    arrays.back().first_block = view->num_blocks;
    live.insert(live.end(), one.live->begin(), one.live->end());
    view->num_blocks += arrays.back().blocks;
  }
  if (view->num_blocks != 0) {
    const size_t array_bytes = arrays.size() * sizeof(cuda::ScanSegment);
    const size_t live_bytes = live.size() * sizeof(uint32_t);
    QUASH_RETURN_IF_GPU_ERROR("allocating", view->device_segments.Reserve(array_bytes));
    QUASH_RETURN_IF_GPU_ERROR("allocating", view->live.Reserve(live_bytes));
    QUASH_RETURN_IF_GPU_ERROR(
        "uploading", stream_.Upload(arrays.data(), array_bytes, view->device_segments.as<void>()));
    QUASH_RETURN_IF_GPU_ERROR("uploading",
                              stream_.Upload(live.data(), live_bytes, view->live.as<void>()));
    QUASH_RETURN_IF_GPU_ERROR("uploading", stream_.Wait());
  }
  *out = std::move(view);
  return Status();
}

Status GpuImage::View(const Snapshot& snapshot, const std::vector<uint8_t>& owners, uint8_t self,
                      bool with_tail, std::shared_ptr<const GpuView>* out) {
  const std::lock_guard lock(mutex_);
  if (latest_ == nullptr || latest_->generation != snapshot.generation ||
      (with_tail && !latest_->has_tail)) {
    QUASH_RETURN_IF_GPU_ERROR("choosing the device", cuda::UseDevice(device_));
    latest_.reset();  // frees what only it held
    std::shared_ptr<GpuView> made;
    QUASH_RETURN_IF_ERROR(MakeView(snapshot, owners, self, with_tail, &made));
    latest_ = std::move(made);
  }
  *out = latest_;
  return Status();
}

std::vector<std::unique_ptr<GpuPass>> GpuImage::TakePasses(size_t count) {
  std::vector<std::unique_ptr<GpuPass>> taken;
  taken.reserve(count);
  std::unique_lock lock(passes_mutex_);
  pass_returned_.wait(lock,
                      [&] { return free_passes_.size() + kPasses - passes_ >= count; });
  while (taken.size() < count) {
    if (free_passes_.empty()) {
      taken.push_back(std::make_unique<GpuPass>());
      ++passes_;
    } else {
      taken.push_back(std::move(free_passes_.back()));
      free_passes_.pop_back();
    }
  }
  return taken;
}

void GpuImage::ReturnPasses(std::vector<std::unique_ptr<GpuPass>> passes) {
  {
    const std::lock_guard lock(passes_mutex_);
    for (auto& pass : passes) free_passes_.push_back(std::move(pass));
  }
  pass_returned_.notify_all();
}

}  // namespace quash
