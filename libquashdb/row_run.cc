#include "libquashdb/row_run.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/dispatch.h"
#include "libquashdb/segment_codes.h"

namespace quash {
namespace {

// Scales of a tail row: of the three prefixes, |x|^2, and the rerank tier's.
constexpr size_t kTailScales = 5;

void Normalise(const float* vector, size_t dim, float* unit) {
  double sum = 0;
  for (size_t j = 0; j < dim; ++j) sum += double{vector[j]} * vector[j];
  const double inverse = 1 / std::sqrt(sum);
  for (size_t j = 0; j < dim; ++j) unit[j] = static_cast<float>(vector[j] * inverse);
}

}  // namespace

size_t RerankRowBytes(const CollectionSpec& spec) {
  switch (spec.rerank) {
    case QUASH_RERANK_INT8: return spec.dim;
    case QUASH_RERANK_F16: return size_t{2} * spec.dim;
    case QUASH_RERANK_F32: return size_t{4} * spec.dim;
    default: return 0;
  }
}

Value ColumnValue(const Column& column, size_t row) {
  if (column.is_null(row)) return {};
  switch (column.type()) {
    case QUASH_FIELD_BOOL: return column.ints()[row] != 0;
    case QUASH_FIELD_INT: return column.ints()[row];
    case QUASH_FIELD_FLOAT: return column.floats()[row];
    case QUASH_FIELD_STRING: return std::string(column.dictionary_string(column.codes()[row]));
    case QUASH_FIELD_INT_LIST: {
      std::vector<int64_t> list;
      for (uint32_t i = column.offsets()[row]; i < column.offsets()[row + 1]; ++i) {
        list.push_back(column.dictionary_ints()[column.codes()[i]]);
      }
      return list;
    }
    case QUASH_FIELD_STRING_LIST: {
      std::vector<std::string> list;
      for (uint32_t i = column.offsets()[row]; i < column.offsets()[row + 1]; ++i) {
        list.emplace_back(column.dictionary_string(column.codes()[i]));
      }
      return list;
    }
  }
  return {};
}

RowRun::RowRun(std::shared_ptr<const CollectionSpec> spec, const CodeLayout& layout,
               size_t capacity)
    : spec_(std::move(spec)),
      layout_(layout),
      capacity_(capacity),
      rerank_row_bytes_(RerankRowBytes(*spec_)) {
  is_tail_ = true;
  const size_t blocks = NumBlocks(capacity);
  const size_t plane = AlignUp(blocks * layout.block_bytes());
  const size_t rest = AlignUp(blocks * kBlockRows * layout.rest_stride());
  const size_t floats = AlignUp(blocks * kBlockRows * sizeof(float));
  code_memory_ = std::make_unique<AlignedBuffer>(2 * plane + rest + 4 * floats);
  uint8_t* next = code_memory_->data();
  const auto take = [&next](size_t bytes) {
    uint8_t* taken = next;
    next += bytes;
    return taken;
  };
  codes_.plane1 = take(plane);
  codes_.scale1 = reinterpret_cast<float*>(take(floats));
  if (layout.bits >= 2) {
    codes_.plane2 = take(plane);
    codes_.scale2 = reinterpret_cast<float*>(take(floats));
  }
  if (layout.bits >= 3) {
    codes_.rest = take(rest);
    codes_.scale_full = reinterpret_cast<float*>(take(floats));
  }
  if (spec_->metric == QUASH_METRIC_L2) codes_.norm_sq = reinterpret_cast<float*>(take(floats));
  rerank_ = std::make_unique<AlignedBuffer>(blocks * kBlockRows * rerank_row_bytes_);
  rerank_scales_.assign(blocks * kBlockRows, 1.0f);
}

void RowRun::Encode(const Quantizer& quantizer, const float* vectors, size_t first, size_t n) {
  const ScanKernels& kernels = Kernels();
  const size_t dim = layout_.dim;
  std::vector<float> scratch(quantizer.scratch_floats());
  std::vector<float> unit(spec_->metric == QUASH_METRIC_COSINE ? dim : 0);
  for (size_t i = 0; i < n; ++i) {
    const float* vector = vectors + i * dim;
    const size_t row = first + i;
    if (!unit.empty()) {
      Normalise(vector, dim, unit.data());
      vector = unit.data();
    }
    quantizer.Encode(vector, 1, scratch.data(), row, codes_);
    uint8_t* tier = rerank_->data() + row * rerank_row_bytes_;
    switch (spec_->rerank) {
      case QUASH_RERANK_INT8:
        rerank_scales_[row] = kernels.f32_to_i8(vector, dim, reinterpret_cast<int8_t*>(tier));
        break;
      case QUASH_RERANK_F16:
        kernels.f32_to_f16(vector, dim, reinterpret_cast<uint16_t*>(tier));
        break;
      case QUASH_RERANK_F32:
        std::memcpy(tier, vector, dim * sizeof(float));
        break;
      default:
        break;
    }
  }
}

void RowRun::AppendId(const Id& id) {
  if (const int64_t* number = std::get_if<int64_t>(&id)) {
    int_ids_.push_back(*number);
  } else {
    id_bytes_ += std::get<std::string>(id);
    id_offsets_.push_back(static_cast<uint32_t>(id_bytes_.size()));
  }
}

void RowRun::AppendSlot(uint64_t slot) {
  if (slots_.empty()) first_slot_ = slot;
  last_slot_ = slot;
  slots_.push_back(slot);
}

void RowRun::AppendRow(const RowRun& from, size_t row) {
  const size_t to = next_row();
  CopyRow(layout_, from.const_codes(), row, codes_, to);
  std::memcpy(rerank_->data() + to * rerank_row_bytes_, from.rerank_row(row), rerank_row_bytes_);
  rerank_scales_[to] = from.rerank_scales_[row];
  AppendId(from.IdOf(row));
  AppendValues(from.values_[row]);
  AppendSlot(from.slots_[row]);
  rows_ = slots_.size();
}

Status RowRun::AppendSegment(const Segment& from, const std::vector<uint32_t>& rows) {
  SegmentCodes codes;
  Pin pins[2];
  QUASH_RETURN_IF_ERROR(codes.Read(from, layout_.bits));
  IdColumn ids;
  std::span<const uint64_t> slots;
  QUASH_RETURN_IF_ERROR(from.Ids(&ids, &pins[0]));
  QUASH_RETURN_IF_ERROR(from.Slots(&slots, &pins[1]));
  std::vector<std::shared_ptr<const Column>> columns(spec_->fields.size());
  for (size_t f = 0; f < columns.size(); ++f) {
    QUASH_RETURN_IF_ERROR(from.MetadataColumn(f, &columns[f]));
  }
  for (size_t block = 0; block < from.num_blocks(); ++block) {
    if (rows[block] == 0) continue;
    const void* tier = nullptr;
    const float* tier_scales = nullptr;
    Pin tier_pin;
    if (rerank_row_bytes_ > 0) {
      QUASH_RETURN_IF_ERROR(from.RerankBlock(block, &tier, &tier_scales, &tier_pin));
    }
    for (uint32_t left = rows[block]; left != 0; left &= left - 1) {
      const size_t in_block = std::countr_zero(left);
      const size_t row = block * kBlockRows + in_block;
      const size_t to = next_row();
      CopyRow(layout_, codes.arrays, row, codes_, to);
      if (rerank_row_bytes_ > 0) {
        std::memcpy(rerank_->data() + to * rerank_row_bytes_,
                    static_cast<const uint8_t*>(tier) + in_block * rerank_row_bytes_,
                    rerank_row_bytes_);
        if (tier_scales != nullptr) rerank_scales_[to] = tier_scales[in_block];
      }
      if (spec_->id_type == QUASH_ID_INT64) {
        int_ids_.push_back(ids.ints[row]);
      } else {
        id_bytes_ += ids.string(row);
        id_offsets_.push_back(static_cast<uint32_t>(id_bytes_.size()));
      }
      std::vector<Value> values(columns.size());
      for (size_t f = 0; f < columns.size(); ++f) values[f] = ColumnValue(*columns[f], row);
      AppendValues(std::move(values));
      AppendSlot(slots[row]);
    }
  }
  rows_ = slots_.size();
  return Status();
}

std::shared_ptr<AlignedBuffer> RowRun::StoreTailRow(size_t row) const {
  const Id id = IdOf(row);
  const std::string* text = std::get_if<std::string>(&id);
  const size_t id_bytes = text != nullptr ? text->size() : sizeof(int64_t);
  PartBuilder builder(AlignUp(kTailScales * sizeof(float)) + AlignUp(layout_.row_code_bytes()) +
                      AlignUp(rerank_row_bytes_) + id_bytes);
  float* scales = builder.Next<float>(kTailScales);
  scales[0] = codes_.scale1[row];
  scales[1] = codes_.scale2 != nullptr ? codes_.scale2[row] : 0;
  scales[2] = codes_.scale_full != nullptr ? codes_.scale_full[row] : 0;
  scales[3] = codes_.norm_sq != nullptr ? codes_.norm_sq[row] : 0;
  scales[4] = rerank_scales_[row];
  GatherRowCode(layout_, const_codes(), row, builder.Next<uint8_t>(layout_.row_code_bytes()));
  std::memcpy(builder.Next<uint8_t>(rerank_row_bytes_), rerank_row(row), rerank_row_bytes_);
  uint8_t* id_out = builder.Next<uint8_t>(id_bytes);
  if (text != nullptr) {
    std::memcpy(id_out, text->data(), id_bytes);
  } else {
    std::memcpy(id_out, &std::get<int64_t>(id), id_bytes);
  }
  SealPart({PartKind::kTailRow, spec_->number, slots_[row]}, 1, layout_.dim, layout_.bits,
           spec_->rerank, builder.part().get());
  return builder.part();
}

Status RowRun::AppendTailRow(std::string_view stored, uint64_t slot) {
  BufferRef part;
  QUASH_RETURN_IF_ERROR(OpenPart(stored, {PartKind::kTailRow, spec_->number, slot}, &part));
  PartCursor cursor(*part);
  const auto scales = cursor.Next<float>(kTailScales);
  const auto row_code = cursor.Next<uint8_t>(layout_.row_code_bytes());
  const auto tier = cursor.Next<uint8_t>(rerank_row_bytes_);
  const size_t id_bytes = cursor.remaining();
  const auto id = cursor.Next<uint8_t>(id_bytes);
  const bool is_int = spec_->id_type == QUASH_ID_INT64;
  if (cursor.failed() || (is_int && id_bytes != sizeof(int64_t)) ||
      (!is_int && (id_bytes == 0 || id_bytes > QUASH_ID_BYTES_MAX))) {
    return Error(QUASH_CORRUPT, "tail row {} of collection \"{}\" has a wrong size", slot,
                 spec_->name);
  }
  const size_t row = next_row();
  ScatterRowCode(layout_, row_code.data(), row, codes_);
  codes_.scale1[row] = scales[0];
  if (codes_.scale2 != nullptr) codes_.scale2[row] = scales[1];
  if (codes_.scale_full != nullptr) codes_.scale_full[row] = scales[2];
  if (codes_.norm_sq != nullptr) codes_.norm_sq[row] = scales[3];
  rerank_scales_[row] = scales[4];
  std::memcpy(rerank_->data() + row * rerank_row_bytes_, tier.data(), rerank_row_bytes_);
  if (is_int) {
    int64_t number = 0;
    std::memcpy(&number, id.data(), sizeof(number));
    AppendId(number);
  } else {
    AppendId(std::string(reinterpret_cast<const char*>(id.data()), id_bytes));
  }
  AppendSlot(slot);
  rows_ = slots_.size();
  return Status();
}

Id RowRun::IdOf(size_t row) const {
  if (spec_->id_type == QUASH_ID_INT64) return int_ids_[row];
  return id_bytes_.substr(id_offsets_[row], id_offsets_[row + 1] - id_offsets_[row]);
}

ConstCodeArrays RowRun::const_codes() const {
  return {codes_.plane1, codes_.plane2, codes_.rest,   codes_.scale1,
          codes_.scale2, codes_.scale_full, codes_.norm_sq};
}

Status RowRun::Codes(SegmentPart part, ConstCodeArrays* arrays, Pin*) const {
  switch (part) {
    case SegmentPart::kPlane1:
      arrays->plane1 = codes_.plane1;
      arrays->scale1 = codes_.scale1;
      arrays->norm_sq = codes_.norm_sq;
      break;
    case SegmentPart::kPlane2:
      arrays->plane2 = codes_.plane2;
      arrays->scale2 = codes_.scale2;
      break;
    default:
      arrays->rest = codes_.rest;
      arrays->scale_full = codes_.scale_full;
  }
  return Status();
}

Status RowRun::RerankRow(size_t row, const void** data, float* scale, std::vector<Pin>*) const {
  *data = rerank_row(row);
  *scale = rerank_scales_[row];
  return Status();
}

Status RowRun::RerankBlock(size_t block, const void** data, const float** scales, Pin*) const {
  *data = rerank_row(block * kBlockRows);
  *scales = spec_->rerank == QUASH_RERANK_INT8 ? rerank_scales_.data() + block * kBlockRows
                                               : nullptr;
  return Status();
}

Status RowRun::Ids(IdColumn* ids, Pin*) const {
  *ids = {int_ids_, id_offsets_, id_bytes_};
  return Status();
}

Status RowRun::Slots(std::span<const uint64_t>* slots, Pin*) const {
  *slots = slots_;
  return Status();
}

Status RowRun::MetadataColumn(size_t field, std::shared_ptr<const Column>* column) const {
  const std::lock_guard lock(columns_mutex_);
  columns_.resize(std::max(columns_.size(), field + 1));
  if (columns_[field] == nullptr) {
    std::vector<Value> values(rows_);
    for (size_t row = 0; row < rows_; ++row) {
      if (field < values_[row].size()) values[row] = values_[row][field];
    }
    // A field younger than this run has no value here; any type will do for nulls.
    const quash_field_type type =
        field < spec_->fields.size() ? spec_->fields[field].type : QUASH_FIELD_INT;
    columns_[field] = Column::Build(type, values);
    if (columns_[field] == nullptr) return Error(QUASH_LIMIT, "a batch's metadata is too large");
  }
  *column = columns_[field];
  return Status();
}

size_t RowRun::memory_bytes() const { return code_memory_->size() + rerank_->size(); }

}  // namespace quash
