#include "libquashdb/gpu_group.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "quashdb.h"

namespace quash {

Status GpuGroup::Open(std::span<const int> devices, uint64_t budget_bytes,
                      std::shared_ptr<GpuGroup>* out) {
  std::vector<int> all;
  if (devices.size() == 1 && devices[0] == QUASH_GPU_ALL) {
    all.resize(std::max(cuda::DeviceCount(), 1));  // one: for the error where there is none
    std::iota(all.begin(), all.end(), 0);
    devices = all;
  }
  if (devices.size() > kMaxGpus) {
    return Error(QUASH_INVALID, "{} devices are given, expected up to {}", devices.size(),
                 kMaxGpus);
  }
  auto group = std::make_shared<GpuGroup>();
  for (int device : devices) {
    // Images of one device share what is free.
    const auto sharing = std::count(devices.begin(), devices.end(), device);
    std::shared_ptr<GpuImage> image;
    QUASH_RETURN_IF_ERROR(
        GpuImage::Open(device, budget_bytes, static_cast<uint64_t>(sharing), &image));
    group->images_.push_back(std::move(image));
  }
  group->shares_memory_ = cuda::SharePeers(devices);
  *out = std::move(group);
  return Status();
}

std::string GpuGroup::text() const {
  std::string text = "gpu:";
  for (size_t i = 0; i < images_.size(); ++i) {
    text += fmt::format("{}{}", i == 0 ? "" : ",", images_[i]->device());
  }
  return text;
}

std::shared_ptr<const std::vector<uint8_t>> GpuGroup::Owners(const Snapshot& snapshot) {
  const std::lock_guard lock(mutex_);
  if (owners_ != nullptr && generation_ == snapshot.generation &&
      owners_->size() == snapshot.segments.size()) {
    return owners_;
  }
  std::erase_if(owned_, [](const auto& entry) { return entry.second.segment.expired(); });
  auto owners = std::make_shared<std::vector<uint8_t>>(snapshot.segments.size());
  std::vector<double> load(images_.size());
  const auto add = [&](size_t i, uint8_t image) {
    (*owners)[i] = image;
    load[image] += static_cast<double>(snapshot.segments[i].segment->num_blocks()) /
                   static_cast<double>(images_[image]->budget_bytes() + 1);
  };
  std::vector<size_t> open;
  for (size_t i = 0; i < snapshot.segments.size(); ++i) {
    const auto found = owned_.find(snapshot.segments[i].segment.get());
    if (found == owned_.end()) {
      open.push_back(i);
    } else {
      add(i, found->second.image);
    }
  }
  for (size_t i : open) {
    const auto least = std::min_element(load.begin(), load.end()) - load.begin();
    add(i, static_cast<uint8_t>(least));
    const auto& segment = snapshot.segments[i].segment;
    owned_[segment.get()] = {segment, static_cast<uint8_t>(least)};
  }
  generation_ = snapshot.generation;
  owners_ = std::move(owners);
  return owners_;
}

Status GpuGroup::View(const Snapshot& snapshot, bool with_tail,
                      std::vector<std::shared_ptr<const GpuView>>* views) {
  const auto owners = Owners(snapshot);
  {
    // It would hold what is uploaded for an older snapshot beside what a new one needs.
    const std::lock_guard lock(mutex_);
    if (joint_ != nullptr && joint_->parts[0].view->generation != snapshot.generation) {
      joint_ = nullptr;
    }
  }
  views->resize(images_.size());
  for (size_t i = 0; i < images_.size(); ++i) {
    QUASH_RETURN_IF_ERROR(images_[i]->View(snapshot, *owners, static_cast<uint8_t>(i), with_tail,
                                           &(*views)[i]));
  }
  return Status();
}

Status GpuGroup::Join(std::vector<GpuPart> parts, std::shared_ptr<const GpuJoint>* out) {
  const std::lock_guard lock(mutex_);
  const auto same = [](const GpuPart& a, const GpuPart& b) { return a.view == b.view; };
  if (joint_ == nullptr || !std::ranges::equal(joint_->parts, parts, same)) {
    joint_ = nullptr;
    QUASH_RETURN_IF_ERROR(MakeJoint(std::move(parts), &joint_));
  }
  *out = joint_;
  return Status();
}

}  // namespace quash
