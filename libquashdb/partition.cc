#include "libquashdb/partition.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "libquashdb/key.h"

namespace quash {
namespace {

uint64_t ListBytes(const CodeLayout& layout, size_t rows, bool has_norm_sq) {
  const size_t blocks = NumBlocks(rows);
  const size_t floats = AlignUp(blocks * kBlockRows * sizeof(float));
  const size_t codes = layout.bits >= 2 ? AlignUp(rows * layout.row_code_bytes()) + floats : 0;
  return AlignUp(rows * sizeof(uint64_t)) + AlignUp(blocks * layout.block_bytes()) +
         floats * (has_norm_sq ? 2 : 1) + codes;
}

void Arrays(const AlignedBuffer& part, const CodeLayout& layout, size_t rows, bool has_norm_sq,
            ListRows* out) {
  const size_t blocks = NumBlocks(rows);
  PartCursor cursor(part);
  out->rows = rows;
  out->slots = cursor.Next<uint64_t>(rows);
  out->codes = {};
  out->codes.plane1 = cursor.Next<uint8_t>(blocks * layout.block_bytes()).data();
  out->codes.scale1 = cursor.Next<float>(blocks * kBlockRows).data();
  if (has_norm_sq) out->codes.norm_sq = cursor.Next<float>(blocks * kBlockRows).data();
  if (layout.bits < 2) return;
  out->row_codes = cursor.Next<uint8_t>(rows * layout.row_code_bytes()).data();
  out->scale_full = cursor.Next<float>(blocks * kBlockRows).data();
}

}  // namespace

ListRow ListRows::Row(const CodeLayout& layout, uint32_t i) const {
  ListRow row{.codes = codes, .row = i, .slot = slots[i]};
  if (row_codes != nullptr) {
    row.row_code = row_codes + i * layout.row_code_bytes();
    row.scale_full = scale_full[i];
  }
  return row;
}

PartitionList::PartitionList(SegmentContextRef context, uint64_t number, uint32_t rows)
    : context_(std::move(context)), number_(number), rows_(rows) {
  const std::shared_ptr<const CollectionSpec> spec = context_->spec.load();
  collection_ = spec->number;
  has_norm_sq_ = spec->metric == QUASH_METRIC_L2;
}

PartitionList::~PartitionList() { context_->cache->Remove(&slot_); }

uint64_t PartitionList::stored_bytes() const {
  return sizeof(PartHeader) + ListBytes(context_->layout, rows_, has_norm_sq_);
}

uint64_t PartitionList::resident_bytes() const {
  return slot_.Get() != nullptr ? stored_bytes() : 0;
}

void PartitionList::FetchRows() const {
  constexpr size_t kFetchedLines = 24;  // of the first plane; the CPU sees the pattern by then
  slot_.Fetch();
  const uint8_t* first = first_byte_.load(std::memory_order_relaxed);
  if (first == nullptr) return;
  const uint8_t* plane = first + sizeof(PartHeader) + AlignUp(rows_ * sizeof(uint64_t));
  for (size_t i = 0; i < kFetchedLines; ++i) __builtin_prefetch(plane + i * kAlignment);
}

void PartitionList::Warm(BufferRef value) const {
  const uint64_t bytes = value->size();
  first_byte_.store(value->data(), std::memory_order_relaxed);
  context_->cache->Admit(&slot_, std::move(value), bytes, PartCache::Priority::kList);
}

// A list's key is written once and removed after the list was given a view from
// before, hence the second try.
Status PartitionList::Load(BufferRef* out) const {
  const std::string key = SegmentKey(collection_, number_);
  rocksdb::PinnableSlice value;
  bool found = false;
  for (int attempt = 0; attempt < 2 && !found; ++attempt) {
    const std::shared_ptr<const ReadView> view = retired_.load(std::memory_order_acquire);
    QUASH_RETURN_IF_ERROR(
        context_->store->Get(Family::kLists, key, view.get(), &value, &found));
  }
  if (!found) {
    return Error(QUASH_CORRUPT,
                 "list value {} of collection \"{}\" is missing; compacting makes lists anew",
                 number_, context_->spec.load()->name);
  }
  QUASH_RETURN_IF_ERROR(OpenPart({value.data(), value.size()},
                                 {PartKind::kList, collection_, number_}, out));
  const PartHeader& header = HeaderOf(**out);
  const CodeLayout& layout = context_->layout;
  ListRows rows;
  if (header.rows == rows_ && header.dim == layout.dim && header.bits == layout.bits &&
      header.payload_bytes == ListBytes(layout, rows_, has_norm_sq_)) {
    Arrays(**out, layout, rows_, has_norm_sq_, &rows);
    if (std::adjacent_find(rows.slots.begin(), rows.slots.end(),
                           std::greater_equal<uint64_t>()) == rows.slots.end()) {
      return Status();
    }
  }
  return Error(QUASH_CORRUPT,
               "list value {} of collection \"{}\" is damaged; compacting makes lists anew",
               number_, context_->spec.load()->name);
}

Status PartitionList::Read(ListRows* rows, Pin* pin) const {
  auto buffer = std::static_pointer_cast<const AlignedBuffer>(slot_.Get());
  if (buffer == nullptr) {
    QUASH_RETURN_IF_ERROR(Load(&buffer));
    Warm(buffer);
  }
  Arrays(*buffer, context_->layout, rows_, has_norm_sq_, rows);
  *pin = std::move(buffer);
  return Status();
}

Status PartitionList::Verify() const {
  BufferRef buffer;
  return Load(&buffer);
}

BufferRef BuildList(const CollectionSpec& spec, const CodeLayout& layout, uint64_t number,
                    std::span<const ListRow> rows) {
  const bool has_norm_sq = spec.metric == QUASH_METRIC_L2;
  const size_t padded = NumBlocks(rows.size()) * kBlockRows;
  PartBuilder builder(ListBytes(layout, rows.size(), has_norm_sq));
  auto* slots = builder.Next<uint64_t>(rows.size());
  CodeArrays codes;
  codes.plane1 = builder.Next<uint8_t>(padded * layout.plane_bytes());
  codes.scale1 = builder.Next<float>(padded);
  if (has_norm_sq) codes.norm_sq = builder.Next<float>(padded);
  uint8_t* row_codes = nullptr;
  float* scale_full = nullptr;
  const size_t code_bytes = layout.row_code_bytes();
  if (layout.bits >= 2) {
    row_codes = builder.Next<uint8_t>(rows.size() * code_bytes);
    scale_full = builder.Next<float>(padded);
  }
  const CodeLayout one_plane{layout.dim, 1};
  for (size_t i = 0; i < rows.size(); ++i) {
    const ListRow& from = rows[i];
    slots[i] = from.slot;
    CopyRow(one_plane, from.codes, from.row, codes, i);
    if (layout.bits < 2) continue;
    if (from.row_code != nullptr) {
      std::memcpy(row_codes + i * code_bytes, from.row_code, code_bytes);
      scale_full[i] = from.scale_full;
    } else {
      GatherRowCode(layout, from.codes, from.row, row_codes + i * code_bytes);
      scale_full[i] = (layout.bits == 2 ? from.codes.scale2 : from.codes.scale_full)[from.row];
    }
  }
  SealPart({PartKind::kList, spec.number, number}, static_cast<uint32_t>(rows.size()), spec.dim,
           layout.bits, spec.rerank, builder.part().get());
  return builder.part();
}

BufferRef BuildCentroids(const CollectionSpec& spec, uint64_t number, const Centroids& centroids,
                         size_t first, size_t n) {
  PartBuilder builder(AlignUp(n * spec.dim * sizeof(float)));
  auto* vectors = builder.Next<float>(n * spec.dim);
  for (size_t i = 0; i < n; ++i) {
    std::memcpy(vectors + i * spec.dim, centroids.vector(first + i), spec.dim * sizeof(float));
  }
  SealPart({PartKind::kCentroids, spec.number, number}, static_cast<uint32_t>(n), spec.dim,
           spec.bits, spec.rerank, builder.part().get());
  return builder.part();
}

PartitionIndex::PartitionIndex(PartitionHead head, std::shared_ptr<const Centroids> centroids,
                               Lists lists)
    : head_(std::move(head)), centroids_(std::move(centroids)), lists_(std::move(lists)) {
  for (const auto& list : lists_) num_rows_ += list != nullptr ? list->rows() : 0;
}

Status PartitionIndex::Load(const SegmentContextRef& context, const CollectionSpec& spec,
                            const Quantizer& quantizer, std::string_view head_bytes,
                            std::shared_ptr<const PartitionIndex>* out) {
  PartitionHead head;
  QUASH_RETURN_IF_ERROR(DecodePartitionHead(head_bytes, &head));
  const size_t n = head.lists.size();
  std::vector<float> vectors;
  vectors.reserve(n * spec.dim);
  for (size_t i = 0; i < head.centroids.size(); ++i) {
    const uint64_t number = head.centroids[i];
    const size_t count = std::min(kCentroidsPerValue, n - i * kCentroidsPerValue);
    rocksdb::PinnableSlice value;
    bool found = false;
    QUASH_RETURN_IF_ERROR(context->store->Get(
        Family::kLists, SegmentKey(spec.number, number), nullptr, &value, &found));
    if (!found) {
      return Error(QUASH_CORRUPT, "centroids {} of collection \"{}\" are missing", number,
                   spec.name);
    }
    BufferRef part;
    QUASH_RETURN_IF_ERROR(OpenPart({value.data(), value.size()},
                                   {PartKind::kCentroids, spec.number, number}, &part));
    PartCursor cursor(*part);
    const auto some = cursor.Next<float>(count * spec.dim);
    if (cursor.failed() || cursor.remaining() != 0 || HeaderOf(*part).rows != count ||
        !std::all_of(some.begin(), some.end(), [](float x) { return std::isfinite(x); })) {
      return Error(QUASH_CORRUPT, "centroids {} of collection \"{}\" are damaged", number,
                   spec.name);
    }
    vectors.insert(vectors.end(), some.begin(), some.end());
  }
  Lists lists(n);
  for (size_t i = 0; i < n; ++i) {
    if (head.lists[i].rows == 0) continue;
    lists[i] = std::make_shared<const PartitionList>(context, head.lists[i].value,
                                                     head.lists[i].rows);
  }
  auto centroids = std::make_shared<const Centroids>(spec, quantizer, vectors.data(), n);
  *out = std::make_shared<const PartitionIndex>(std::move(head), std::move(centroids),
                                                std::move(lists));
  return Status();
}

uint64_t PartitionIndex::stored_bytes() const {
  uint64_t total = 0;
  for (const auto& list : lists_) total += list != nullptr ? list->stored_bytes() : 0;
  return total;
}

uint64_t PartitionIndex::memory_bytes() const {
  uint64_t total = centroids_->memory_bytes();
  for (const auto& list : lists_) total += list != nullptr ? list->resident_bytes() : 0;
  return total;
}

Status PartitionIndex::Verify(std::vector<std::string>* problems) const {
  for (const auto& list : lists_) {
    if (list == nullptr) continue;
    const Status status = list->Verify();
    if (!status.ok()) problems->push_back(status.message());
  }
  return Status();
}

void PartitionIndex::Retire(const std::shared_ptr<const ReadView>& view) const {
  for (const auto& list : lists_) {
    if (list != nullptr) list->Retire(view);
  }
}

}  // namespace quash
