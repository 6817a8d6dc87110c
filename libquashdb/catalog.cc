#include "libquashdb/catalog.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "catalog_generated.h"
#include "kernels/layout.h"
#include "libquashdb/part.h"
#include "libquashdb/vector_alignment.h"

namespace quash {
namespace {

// A value is a FlatBuffer followed by its XXH3-64, little-endian.
std::string Finish(flatbuffers::FlatBufferBuilder* builder) {
  std::string bytes(reinterpret_cast<const char*>(builder->GetBufferPointer()),
                    builder->GetSize());
  const uint64_t checksum = XXH3_64bits(bytes.data(), bytes.size());
  bytes.append(reinterpret_cast<const char*>(&checksum), sizeof(checksum));
  return bytes;
}

// Aligned, verified table in `buffer`, or null.
template <typename Table>
const Table* Open(std::string_view bytes, AlignedBuffer* buffer) {
  uint64_t checksum = 0;
  const size_t size = buffer->size();
  if (bytes.size() != size + sizeof(checksum)) return nullptr;
  std::memcpy(&checksum, bytes.data() + size, sizeof(checksum));
  std::memcpy(buffer->data(), bytes.data(), size);
  if (checksum != XXH3_64bits(buffer->data(), size)) return nullptr;
  flatbuffers::Verifier verifier(buffer->data(), size);
  if (!verifier.VerifyBuffer<Table>(nullptr)) return nullptr;
  return flatbuffers::GetRoot<Table>(buffer->data());
}

size_t BodySize(std::string_view bytes) { return bytes.size() < 8 ? 0 : bytes.size() - 8; }

Status Damaged(const char* what) { return Error(QUASH_CORRUPT, "{} is damaged", what); }

// What creation enforces; stored values outside it were not written by us.
bool IsValidSpec(const fb::Collection& stored) {
  const uint32_t dim = stored.dim();
  const uint8_t bits = stored.bits();
  return dim >= 1 && dim <= QUASH_DIM_MAX && bits >= 1 && bits <= kMaxBits &&
         stored.metric() <= QUASH_METRIC_L2 && stored.id_type() <= QUASH_ID_STRING &&
         stored.rerank() <= QUASH_RERANK_F32 && stored.rotation() <= QUASH_ROTATION_DENSE &&
         stored.levels() != nullptr && stored.levels()->size() == 1u << bits &&
         stored.boundaries() != nullptr && stored.boundaries()->size() == (1u << bits) - 1 &&
         std::isfinite(stored.step()) && stored.segment_rows() == SegmentRows(dim);
}

}  // namespace

uint32_t SegmentRows(uint32_t dim) {
  uint32_t rows = 4096;
  while (rows > 256 && uint64_t{rows} * PlaneBytes(dim) > 256u << 10) rows /= 2;
  return rows;
}

std::string EncodeCatalogEntry(const CatalogEntry& entry) {
  const CollectionSpec& spec = entry.spec;
  const LevelCodebook& codebook = entry.codebook;
  flatbuffers::FlatBufferBuilder builder(1024);
  std::vector<flatbuffers::Offset<fb::Field>> fields;
  for (const Field& field : spec.fields) {
    fields.push_back(fb::CreateField(builder, builder.CreateString(field.name),
                                     static_cast<uint8_t>(field.type)));
  }
  const auto name = builder.CreateString(spec.name);
  const auto field_list = builder.CreateVector(fields);
  const auto levels = builder.CreateVector(codebook.levels, size_t{1} << codebook.bits);
  const auto boundaries =
      builder.CreateVector(codebook.boundaries, (size_t{1} << codebook.bits) - 1);
  std::vector<fb::RecallPoint> points;
  for (const RecallPoint& point : entry.widths.recall_curve) {
    points.emplace_back(point.nprobe, point.recall);
  }
  const auto recall_curve = builder.CreateVectorOfStructs(points);
  fb::CollectionBuilder table(builder);
  table.add_number(spec.number);
  table.add_name(name);
  table.add_dim(spec.dim);
  table.add_metric(static_cast<uint8_t>(spec.metric));
  table.add_id_type(static_cast<uint8_t>(spec.id_type));
  table.add_bits(static_cast<uint8_t>(spec.bits));
  table.add_rerank(static_cast<uint8_t>(spec.rerank));
  table.add_rotation(static_cast<uint8_t>(spec.rotation));
  table.add_seed(spec.seed);
  table.add_fields(field_list);
  table.add_levels(levels);
  table.add_step(codebook.step);
  table.add_boundaries(boundaries);
  table.add_m(codebook.m);
  table.add_delta(codebook.delta);
  table.add_segment_rows(entry.segment_rows);
  table.add_candidates(entry.widths.candidates);
  table.add_rerank_candidates(entry.widths.rerank_candidates);
  table.add_planes(entry.widths.planes);
  table.add_measured_k(entry.widths.measured_k);
  table.add_measured_recall(entry.widths.measured_recall);
  table.add_recall_curve(recall_curve);
  table.add_partition_rows(spec.partition_rows);
  table.add_recall_target(entry.widths.recall_target);
  builder.Finish(table.Finish());
  return Finish(&builder);
}

Status DecodeCatalogEntry(std::string_view bytes, CatalogEntry* out) {
  AlignedBuffer buffer(BodySize(bytes));
  const auto* stored = Open<fb::Collection>(bytes, &buffer);
  if (stored == nullptr || !IsValidSpec(*stored)) return Damaged("a collection's catalog entry");
  CatalogEntry entry;
  CollectionSpec& spec = entry.spec;
  spec.number = stored->number();
  spec.name = stored->name()->str();
  spec.dim = stored->dim();
  spec.metric = static_cast<quash_metric>(stored->metric());
  spec.id_type = static_cast<quash_id_type>(stored->id_type());
  spec.bits = stored->bits();
  spec.rerank = static_cast<quash_rerank>(stored->rerank());
  spec.rotation = static_cast<quash_rotation>(stored->rotation());
  spec.seed = stored->seed();
  if (stored->fields() != nullptr) {
    if (stored->fields()->size() > QUASH_FIELDS_MAX) return Damaged("a collection's field list");
    for (const fb::Field* field : *stored->fields()) {
      if (field->type() > QUASH_FIELD_STRING_LIST) return Damaged("a collection's field list");
      spec.fields.push_back({field->name()->str(), static_cast<quash_field_type>(field->type())});
    }
  }
  LevelCodebook& codebook = entry.codebook;
  codebook.bits = spec.bits;
  std::copy(stored->levels()->begin(), stored->levels()->end(), codebook.levels);
  std::copy(stored->boundaries()->begin(), stored->boundaries()->end(), codebook.boundaries);
  codebook.step = stored->step();
  codebook.m = stored->m();
  codebook.delta = stored->delta();
  entry.segment_rows = stored->segment_rows();
  entry.widths = {stored->candidates(), stored->rerank_candidates(), stored->planes(),
                  stored->measured_k(), stored->measured_recall(), {}, stored->recall_target()};
  spec.partition_rows = stored->partition_rows();
  if (!(stored->recall_target() >= 0 && stored->recall_target() <= 1)) {
    return Damaged("a collection's recall target");
  }
  if (stored->recall_curve() != nullptr) {
    for (const fb::RecallPoint* point : *stored->recall_curve()) {
      const RecallPoint next = {point->nprobe(), point->recall()};
      const std::vector<RecallPoint>& points = entry.widths.recall_curve;
      if (!(next.recall >= 0 && next.recall <= 1) ||
          (!points.empty() && (next.nprobe <= points.back().nprobe ||
                               next.recall < points.back().recall))) {
        return Damaged("a collection's recall curve");
      }
      entry.widths.recall_curve.push_back(next);
    }
  }
  *out = std::move(entry);
  return Status();
}

std::string EncodeState(const CollectionState& state) {
  flatbuffers::FlatBufferBuilder builder(128);
  builder.Finish(fb::CreateCollectionState(builder, state.generation, state.live_rows,
                                           state.next_slot, state.next_int_id, state.next_segment,
                                           state.segments, state.tail_rows));
  return Finish(&builder);
}

Status DecodeState(std::string_view bytes, CollectionState* out) {
  AlignedBuffer buffer(BodySize(bytes));
  const auto* stored = Open<fb::CollectionState>(bytes, &buffer);
  if (stored == nullptr) return Damaged("a collection's state");
  *out = {stored->generation(),  stored->live_rows(),    stored->next_slot(),
          stored->next_int_id(), stored->next_segment(), stored->segments(),
          stored->tail_rows()};
  return Status();
}

std::string EncodeSegmentMeta(const SegmentMeta& meta) {
  flatbuffers::FlatBufferBuilder builder(128);
  builder.Finish(fb::CreateSegmentMeta(builder, meta.number, meta.rows, meta.first_slot,
                                       meta.last_slot, meta.columns, meta.code_bytes,
                                       meta.rerank_bytes));
  return Finish(&builder);
}

Status DecodeSegmentMeta(std::string_view bytes, SegmentMeta* out) {
  AlignedBuffer buffer(BodySize(bytes));
  const auto* stored = Open<fb::SegmentMeta>(bytes, &buffer);
  if (stored == nullptr || stored->rows() == 0 || stored->rows() > 4096 ||
      stored->last_slot() < stored->first_slot() ||
      stored->last_slot() - stored->first_slot() + 1 < stored->rows()) {
    return Damaged("a segment's catalog entry");
  }
  *out = {stored->number(),    stored->rows(),    stored->first_slot(),
          stored->last_slot(), stored->columns(), stored->code_bytes(),
          stored->rerank_bytes()};
  return Status();
}

std::string EncodePartitionHead(const PartitionHead& head) {
  flatbuffers::FlatBufferBuilder builder(1024);
  std::vector<fb::PartitionList> lists;
  lists.reserve(head.lists.size());
  for (const PartitionHead::List& list : head.lists) lists.emplace_back(list.value, list.rows);
  const auto list_vector = builder.CreateVectorOfStructs(lists);
  const auto centroids = builder.CreateVector(head.centroids);
  builder.Finish(fb::CreatePartition(builder, head.indexed_slots, head.next_value, list_vector,
                                     centroids, head.measured_rows, head.measured_slots));
  return Finish(&builder);
}

Status DecodePartitionHead(std::string_view bytes, PartitionHead* out) {
  AlignedBuffer buffer(BodySize(bytes));
  const auto* stored = Open<fb::Partition>(bytes, &buffer);
  const auto damaged = [] { return Damaged("a collection's partition index"); };
  if (stored == nullptr || stored->lists() == nullptr || stored->centroids() == nullptr ||
      !IsAligned(*stored->lists()) || !IsAligned(*stored->centroids())) {
    return damaged();
  }
  PartitionHead head;
  head.indexed_slots = stored->indexed_slots();
  head.next_value = stored->next_value();
  head.measured_rows = stored->measured_rows();
  head.measured_slots = stored->measured_slots();
  for (const fb::PartitionList* list : *stored->lists()) {
    if (list->value() >= head.next_value || (list->value() == 0) != (list->rows() == 0)) {
      return damaged();
    }
    head.lists.push_back({list->value(), list->rows()});
  }
  for (const uint64_t value : *stored->centroids()) {
    if (value == 0 || value >= head.next_value) return damaged();
    head.centroids.push_back(value);
  }
  const size_t values = (head.lists.size() + kCentroidsPerValue - 1) / kCentroidsPerValue;
  if (head.lists.empty() || head.centroids.size() != values) return damaged();
  *out = std::move(head);
  return Status();
}

}  // namespace quash
