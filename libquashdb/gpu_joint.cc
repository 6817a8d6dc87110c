#include "libquashdb/gpu_joint.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "libquashdb/gpu_status.h"

namespace quash {
namespace {

// The same on every part's device.
//   first_blocks  [parts], pairs
Status MakeTables(const std::vector<cuda::ScanSegment>& segments,
                  const std::vector<std::vector<uint32_t>>& first_blocks, GpuJoint* joint) {
  std::vector<uint8_t> bytes;
  const auto append = [&](const auto& values) {
    const size_t begin = bytes.size(), size = values.size() * sizeof(values[0]);
    bytes.resize((begin + size + kAlignment - 1) / kAlignment * kAlignment);
    std::memcpy(bytes.data() + begin, values.data(), size);
    return begin;
  };
  append(segments);
  std::vector<size_t> first_blocks_at;
  for (const auto& pairs : first_blocks) first_blocks_at.push_back(append(pairs));
  for (const GpuPart& part : joint->parts) {
    GpuJoint::Table table;
    cuda::Stream stream;
    QUASH_RETURN_IF_GPU_ERROR("choosing the device", cuda::UseDevice(part.image->device()));
    QUASH_RETURN_IF_GPU_ERROR("opening a stream", stream.Open());
    QUASH_RETURN_IF_GPU_ERROR("allocating", table.memory.Reserve(bytes.size()));
    auto* memory = table.memory.as<uint8_t>();
    QUASH_RETURN_IF_GPU_ERROR("uploading", stream.Upload(bytes.data(), bytes.size(), memory));
    QUASH_RETURN_IF_GPU_ERROR("uploading", stream.Wait());
    table.segments = reinterpret_cast<const cuda::ScanSegment*>(memory);
    for (size_t at : first_blocks_at) {
      table.first_blocks.push_back(reinterpret_cast<const uint32_t*>(memory + at));
    }
    joint->tables.push_back(std::move(table));
  }
  return Status();
}

}  // namespace

Status MakeJoint(std::vector<GpuPart> parts, std::shared_ptr<const GpuJoint>* out) {
  auto joint = std::make_shared<GpuJoint>();
  struct Place {
    uint32_t segment, part, index;
  };
  std::vector<Place> places;
  for (uint32_t p = 0; p < parts.size(); ++p) {
    const std::vector<uint32_t>& held = parts[p].view->segments;
    for (uint32_t i = 0; i < held.size(); ++i) places.push_back({held[i], p, i});
  }
  std::ranges::sort(places, {}, &Place::segment);
  std::vector<cuda::ScanSegment> segments;
  std::vector<std::vector<uint32_t>> first_blocks(parts.size());  // pairs
  for (const Place& place : places) {
    const GpuView& view = *parts[place.part].view;
    joint->segments.push_back(place.segment);
    segments.push_back(view.held[place.index]->arrays);
    segments.back().first_block = joint->num_blocks;
    first_blocks[place.part].push_back(view.first_blocks[place.index]);
    first_blocks[place.part].push_back(joint->num_blocks);
    joint->num_blocks += segments.back().blocks;
  }
  joint->parts = std::move(parts);
  // One part's view has the same numbering, and nothing to join.
  if (joint->parts.size() > 1) {
    QUASH_RETURN_IF_ERROR(MakeTables(segments, first_blocks, joint.get()));
  }
  *out = std::move(joint);
  return Status();
}

Status JoinLists(const GpuJoint& joint, size_t at, std::span<const cuda::ScanArgs> scans,
                 std::span<GpuPass* const> passes, cuda::ScanArgs* joined) {
  GpuPass& pass = *passes[at];
  const GpuJoint::Table& table = joint.tables[at];
  *joined = scans[at];
  const size_t nq = joined->nq, capacity = joined->capacity;
  QUASH_RETURN_IF_GPU_ERROR("allocating",
                            pass.joined.Reserve(nq * capacity * 4 * sizeof(uint32_t)));
  QUASH_RETURN_IF_GPU_ERROR("allocating", pass.joined_counts.Reserve(nq * sizeof(uint32_t)));
  QUASH_RETURN_IF_GPU_ERROR("allocating", pass.joined_limits.Reserve(nq * 2 * sizeof(float)));
  cuda::JoinArgs args = {.parts = {},
                         .num_parts = static_cast<uint32_t>(scans.size()),
                         .nq = joined->nq,
                         .capacity = joined->capacity,
                         .candidates = pass.joined.as<uint32_t>(),
                         .counts = pass.joined_counts.as<uint32_t>(),
                         .limits = pass.joined_limits.as<float>()};
  for (size_t i = 0; i < scans.size(); ++i) {
    args.parts[i] = {.candidates = scans[i].candidates,
                     .counts = scans[i].counts,
                     .limits = scans[i].limits,
                     .first_blocks = table.first_blocks[i],
                     .num_segments = scans[i].num_segments};
    if (i != at) QUASH_RETURN_IF_GPU_ERROR("waiting", pass.stream.WaitFor(passes[i]->listed));
  }
  QUASH_RETURN_IF_GPU_ERROR("joining lists", cuda::LaunchJoin(args, pass.stream.get()));
  joined->segments = table.segments;
  joined->num_segments = static_cast<uint32_t>(joint.segments.size());
  joined->num_blocks = joint.num_blocks;
  joined->candidates = args.candidates;
  joined->counts = args.counts;
  joined->limits = args.limits;
  return Status();
}

}  // namespace quash
