#include "libquashdb/stored_segment.h"

#include <algorithm>
#include <cstring>

#include "libquashdb/key.h"

namespace quash {
namespace {

using Priority = PartCache::Priority;

// Rows of a block of the tier that become resident one by one; with the next one all do.
constexpr size_t kMostSingleRows = 8;

Priority PriorityOf(SegmentPart part) {
  switch (part) {
    case SegmentPart::kPlane1: return Priority::kPlane1;
    case SegmentPart::kPlane2: return Priority::kPlane2;
    case SegmentPart::kRest: return Priority::kRest;
    default: return Priority::kIds;
  }
}

BufferRef AsBuffer(std::shared_ptr<const void> data) {
  return std::static_pointer_cast<const AlignedBuffer>(std::move(data));
}

}  // namespace

StoredSegment::StoredSegment(SegmentContextRef context, const SegmentMeta& meta)
    : context_(std::move(context)), meta_(meta) {
  const std::shared_ptr<const CollectionSpec> spec = context_->spec.load();
  collection_ = spec->number;
  dim_ = spec->dim;
  rerank_ = spec->rerank;
  tier_ = {.row_bytes = RerankRowBytes(*spec), .has_scales = rerank_ == QUASH_RERANK_INT8};
  id_type_ = spec->id_type;
  has_norm_sq_ = spec->metric == QUASH_METRIC_L2;
  rows_ = meta.rows;
  first_slot_ = meta.first_slot;
  last_slot_ = meta.last_slot;
  blocks_ = std::vector<PartCache::Slot>(rerank_ == QUASH_RERANK_NONE ? 0 : num_blocks());
  columns_ = std::vector<PartCache::Slot>(meta.columns);
}

StoredSegment::~StoredSegment() {
  delete slot_map_.load(std::memory_order_acquire);
  for (PartCache::Slot& slot : parts_) context_->cache->Remove(&slot);
  for (PartCache::Slot& slot : blocks_) context_->cache->Remove(&slot);
  for (PartCache::Slot& slot : columns_) context_->cache->Remove(&slot);
}

void StoredSegment::Warm(const SegmentParts& parts) {
  PartCache& cache = *context_->cache;
  for (size_t i = 0; i < 5; ++i) {
    if (parts.codes[i] == nullptr) continue;
    cache.Admit(&parts_[i], parts.codes[i], parts.codes[i]->size(),
                PriorityOf(static_cast<SegmentPart>(i + 1)));
  }
  for (size_t f = 0; f < columns_.size(); ++f) {
    cache.Admit(&columns_[f], parts.columns[f], parts.columns[f]->memory_bytes(),
                Priority::kColumn);
  }
  for (size_t b = 0; b < blocks_.size(); ++b) {
    auto block = std::make_shared<const TierBlock>(parts.rerank[b], tier_);
    const size_t bytes = block->memory_bytes();
    cache.Admit(&blocks_[b], std::move(block), bytes, Priority::kRerank);
  }
}

// The keys of a segment are written once. A rewrite removes them after handing
// the segment a view from before, hence the second try.
Status StoredSegment::Load(Family family, uint32_t item, rocksdb::PinnableSlice* value) const {
  const std::string key = SegmentKey(collection_, meta_.number, item);
  bool found = false;
  for (int attempt = 0; attempt < 2 && !found; ++attempt) {
    const std::shared_ptr<const ReadView> view = retired_.load(std::memory_order_acquire);
    QUASH_RETURN_IF_ERROR(context_->store->Get(family, key, view.get(), value, &found));
  }
  if (found) return Status();
  return Error(QUASH_CORRUPT, "item {} of segment {} of collection \"{}\" is missing", item,
               meta_.number, context_->spec.load()->name);
}

Status StoredSegment::CheckPart(SegmentPart part, const AlignedBuffer& buffer) const {
  const size_t blocks = num_blocks();
  const size_t padded = blocks * kBlockRows;
  const CodeLayout& layout = context_->layout;
  PartCursor cursor(buffer);
  switch (part) {
    case SegmentPart::kPlane1:
      cursor.Next<uint8_t>(blocks * layout.block_bytes());
      cursor.Next<float>(padded);
      if (has_norm_sq_) cursor.Next<float>(padded);
      break;
    case SegmentPart::kPlane2:
      cursor.Next<uint8_t>(blocks * layout.block_bytes());
      cursor.Next<float>(padded);
      break;
    case SegmentPart::kRest:
      cursor.Next<uint8_t>(padded * layout.rest_stride());
      cursor.Next<float>(padded);
      break;
    case SegmentPart::kIds:
      if (id_type_ == QUASH_ID_INT64) {
        cursor.Next<int64_t>(rows_);
      } else {
        const auto offsets = cursor.Next<uint32_t>(rows_ + 1);
        const size_t bytes = cursor.remaining();
        if (!cursor.failed() && (offsets.front() != 0 || offsets.back() != bytes ||
                                 !std::is_sorted(offsets.begin(), offsets.end()))) {
          return Error(QUASH_CORRUPT, "ids of segment {} are damaged", meta_.number);
        }
        cursor.Next<char>(bytes);
      }
      break;
    case SegmentPart::kSlots: {
      const auto slots = cursor.Next<uint64_t>(rows_);
      if (!cursor.failed() &&
          (slots.front() != first_slot_ || slots.back() != last_slot_ ||
           std::adjacent_find(slots.begin(), slots.end(), std::greater_equal<uint64_t>()) !=
               slots.end())) {
        return Error(QUASH_CORRUPT, "slots of segment {} are damaged", meta_.number);
      }
      break;
    }
  }
  const PartHeader& header = HeaderOf(buffer);
  if (cursor.failed() || cursor.remaining() != 0 || header.rows != rows_ || header.dim != dim_ ||
      header.bits != layout.bits) {
    return Error(QUASH_CORRUPT, "part {} of segment {} has a wrong size", static_cast<int>(part),
                 meta_.number);
  }
  return Status();
}

Status StoredSegment::ReadPart(SegmentPart part, BufferRef* out) const {
  rocksdb::PinnableSlice value;
  QUASH_RETURN_IF_ERROR(Load(Family::kCodes, static_cast<uint32_t>(part), &value));
  QUASH_RETURN_IF_ERROR(OpenPart({value.data(), value.size()},
                                 {static_cast<PartKind>(part), collection_, meta_.number}, out));
  return CheckPart(part, **out);
}

Status StoredSegment::ReadBlock(size_t block, BufferRef* out) const {
  rocksdb::PinnableSlice value;
  const uint32_t item = static_cast<uint32_t>(block);
  QUASH_RETURN_IF_ERROR(Load(Family::kRerank, item, &value));
  QUASH_RETURN_IF_ERROR(OpenPart({value.data(), value.size()},
                                 {PartKind::kRerank, collection_, meta_.number, item}, out));
  if ((*out)->size() == TierBytes()) return Status();
  return Error(QUASH_CORRUPT, "rerank block {} of segment {} has a wrong size", block,
               meta_.number);
}

// Bytes of a stored block.
size_t StoredSegment::TierBytes() const {
  const TierBlock::Shape& shape = tier_;
  return sizeof(PartHeader) + AlignUp(kBlockRows * shape.row_bytes) +
         (shape.has_scales ? AlignUp(kBlockRows * sizeof(float)) : 0);
}

// One more row of a block of which `before` (may be null) is resident; all rows once
// there are many.
Status StoredSegment::ReadRow(size_t row, const std::shared_ptr<const TierBlock>& before,
                              std::shared_ptr<const TierBlock>* out) const {
  const size_t block = row / kBlockRows, in_block = row % kBlockRows;
  const TierBlock::Shape& shape = tier_;
  if (before != nullptr && before->num_rows() >= kMostSingleRows) {
    BufferRef part;
    QUASH_RETURN_IF_ERROR(ReadBlock(block, &part));
    *out = std::make_shared<const TierBlock>(std::move(part), shape);
  } else {
    rocksdb::PinnableSlice value;
    const auto item = static_cast<uint32_t>(block);
    QUASH_RETURN_IF_ERROR(Load(Family::kRerank, item, &value));
    const std::string_view stored(value.data(), value.size());
    PartHeader header;
    QUASH_RETURN_IF_ERROR(
        CheckStoredPart(stored, {PartKind::kRerank, collection_, meta_.number, item}, &header));
    if (stored.size() != TierBytes()) {
      return Error(QUASH_CORRUPT, "rerank block {} of segment {} has a wrong size", block,
                   meta_.number);
    }
    const char* rows = stored.data() + sizeof(PartHeader);
    float scale = 1;
    if (shape.has_scales) {
      std::memcpy(&scale,
                  rows + AlignUp(kBlockRows * shape.row_bytes) + in_block * sizeof(float),
                  sizeof(float));
    }
    *out = std::make_shared<const TierBlock>(before.get(), in_block,
                                             rows + in_block * shape.row_bytes, scale, shape);
  }
  context_->cache->Replace(&blocks_[block], *out, (*out)->memory_bytes(), Priority::kRerank);
  return Status();
}

Status StoredSegment::ReadColumn(size_t field, std::shared_ptr<const Column>* out) const {
  rocksdb::PinnableSlice value;
  QUASH_RETURN_IF_ERROR(Load(Family::kMetaIndex, static_cast<uint32_t>(field), &value));
  QUASH_RETURN_IF_ERROR(Column::Parse({value.data(), value.size()}, out));
  if ((*out)->rows() != rows_ || (*out)->type() != context_->spec.load()->fields[field].type) {
    return Error(QUASH_CORRUPT, "column {} of segment {} does not fit its collection", field,
                 meta_.number);
  }
  return Status();
}

Status StoredSegment::CachedPart(SegmentPart part, BufferRef* out) const {
  PartCache::Slot& slot = parts_[static_cast<size_t>(part) - 1];
  *out = AsBuffer(slot.Get());
  if (*out != nullptr) return Status();
  QUASH_RETURN_IF_ERROR(ReadPart(part, out));
  context_->cache->Admit(&slot, *out, (*out)->size(), PriorityOf(part));
  return Status();
}

Status StoredSegment::CachedBlock(size_t block, BufferRef* out) const {
  PartCache::Slot& slot = blocks_[block];
  if (const auto resident = std::static_pointer_cast<const TierBlock>(slot.Get());
      resident != nullptr && resident->part() != nullptr) {
    *out = resident->part();
    return Status();
  }
  QUASH_RETURN_IF_ERROR(ReadBlock(block, out));
  const auto whole = std::make_shared<const TierBlock>(*out, tier_);
  context_->cache->Replace(&slot, whole, whole->memory_bytes(), Priority::kRerank);
  return Status();
}

Status StoredSegment::Codes(SegmentPart part, ConstCodeArrays* arrays, Pin* pin) const {
  BufferRef buffer;
  QUASH_RETURN_IF_ERROR(CachedPart(part, &buffer));
  const size_t blocks = num_blocks();
  const size_t padded = blocks * kBlockRows;
  const CodeLayout& layout = context_->layout;
  PartCursor cursor(*buffer);
  switch (part) {
    case SegmentPart::kPlane1:
      arrays->plane1 = cursor.Next<uint8_t>(blocks * layout.block_bytes()).data();
      arrays->scale1 = cursor.Next<float>(padded).data();
      if (has_norm_sq_) arrays->norm_sq = cursor.Next<float>(padded).data();
      break;
    case SegmentPart::kPlane2:
      arrays->plane2 = cursor.Next<uint8_t>(blocks * layout.block_bytes()).data();
      arrays->scale2 = cursor.Next<float>(padded).data();
      break;
    default:
      arrays->rest = cursor.Next<uint8_t>(padded * layout.rest_stride()).data();
      arrays->scale_full = cursor.Next<float>(padded).data();
  }
  *pin = std::move(buffer);
  return Status();
}

Status StoredSegment::RerankBlock(size_t block, const void** data, const float** scales,
                                  Pin* pin) const {
  BufferRef buffer;
  QUASH_RETURN_IF_ERROR(CachedBlock(block, &buffer));
  PartCursor cursor(*buffer);
  *data = cursor.Next<uint8_t>(kBlockRows * tier_.row_bytes).data();
  *scales = tier_.has_scales ? cursor.Next<float>(kBlockRows).data() : nullptr;
  *pin = std::move(buffer);
  return Status();
}

Status StoredSegment::RerankRow(size_t row, const void** data, float* scale,
                                std::vector<Pin>* pins) const {
  const size_t block = row / kBlockRows;
  auto resident = std::static_pointer_cast<const TierBlock>(blocks_[block].Get());
  *data = resident != nullptr ? resident->Row(row % kBlockRows, scale) : nullptr;
  if (*data == nullptr) {
    std::shared_ptr<const TierBlock> read;
    QUASH_RETURN_IF_ERROR(ReadRow(row, resident, &read));
    resident = std::move(read);
    *data = resident->Row(row % kBlockRows, scale);
  }
  pins->push_back(std::move(resident));
  return Status();
}

Status StoredSegment::Ids(IdColumn* ids, Pin* pin) const {
  BufferRef buffer;
  QUASH_RETURN_IF_ERROR(CachedPart(SegmentPart::kIds, &buffer));
  PartCursor cursor(*buffer);
  if (id_type_ == QUASH_ID_INT64) {
    ids->ints = cursor.Next<int64_t>(rows_);
  } else {
    ids->offsets = cursor.Next<uint32_t>(rows_ + 1);
    const auto bytes = cursor.Next<char>(cursor.remaining());
    ids->bytes = {bytes.data(), bytes.size()};
  }
  *pin = std::move(buffer);
  return Status();
}

Status StoredSegment::Slots(std::span<const uint64_t>* slots, Pin* pin) const {
  BufferRef buffer;
  QUASH_RETURN_IF_ERROR(CachedPart(SegmentPart::kSlots, &buffer));
  *slots = PartCursor(*buffer).Next<uint64_t>(rows_);
  *pin = std::move(buffer);
  return Status();
}

Status StoredSegment::FindSlot(uint64_t slot, uint32_t* row, bool* found) const {
  const SlotMap* map = slot_map_.load(std::memory_order_acquire);
  if (map == nullptr) {
    if (SlotMap::TooSparse(last_slot_ - first_slot_ + 1, rows_)) {
      return Segment::FindSlot(slot, row, found);
    }
    // The slots themselves need not stay.
    BufferRef part = AsBuffer(parts_[static_cast<size_t>(SegmentPart::kSlots) - 1].Get());
    if (part == nullptr) QUASH_RETURN_IF_ERROR(ReadPart(SegmentPart::kSlots, &part));
    auto made = std::make_unique<const SlotMap>(PartCursor(*part).Next<uint64_t>(rows_));
    if (slot_map_.compare_exchange_strong(map, made.get(), std::memory_order_acq_rel)) {
      map = made.release();
    }
  }
  *found = map->Find(slot, row);
  return Status();
}

Status StoredSegment::MetadataColumn(size_t field, std::shared_ptr<const Column>* column) const {
  if (field >= meta_.columns) {
    const std::shared_ptr<const CollectionSpec> spec = context_->spec.load();
    *column = Column::Nulls(spec->fields[field].type, rows_);
    return Status();
  }
  PartCache::Slot& slot = columns_[field];
  *column = std::static_pointer_cast<const Column>(slot.Get());
  if (*column != nullptr) return Status();
  QUASH_RETURN_IF_ERROR(ReadColumn(field, column));
  context_->cache->Admit(&slot, *column, (*column)->memory_bytes(), Priority::kColumn);
  return Status();
}

Status StoredSegment::Verify() const {
  BufferRef buffer;
  for (const SegmentPart part : {SegmentPart::kPlane1, SegmentPart::kPlane2, SegmentPart::kRest,
                                 SegmentPart::kIds, SegmentPart::kSlots}) {
    const bool absent = (part == SegmentPart::kPlane2 && context_->layout.bits < 2) ||
                        (part == SegmentPart::kRest && context_->layout.bits < 3);
    if (!absent) QUASH_RETURN_IF_ERROR(ReadPart(part, &buffer));
  }
  for (size_t b = 0; b < blocks_.size(); ++b) QUASH_RETURN_IF_ERROR(ReadBlock(b, &buffer));
  std::shared_ptr<const Column> column;
  for (size_t f = 0; f < columns_.size(); ++f) QUASH_RETURN_IF_ERROR(ReadColumn(f, &column));
  return Status();
}

uint64_t StoredSegment::resident_bytes() const {
  const SlotMap* map = slot_map_.load(std::memory_order_acquire);
  uint64_t total = map != nullptr ? map->memory_bytes() : 0;
  for (const PartCache::Slot& slot : parts_) {
    if (const BufferRef part = AsBuffer(slot.Get())) total += part->size();
  }
  for (const PartCache::Slot& slot : blocks_) {
    if (const auto block = std::static_pointer_cast<const TierBlock>(slot.Get())) {
      total += block->memory_bytes();
    }
  }
  for (const PartCache::Slot& slot : columns_) {
    if (const auto column = std::static_pointer_cast<const Column>(slot.Get())) {
      total += column->memory_bytes();
    }
  }
  return total;
}

}  // namespace quash
