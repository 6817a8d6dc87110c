// A collection held in plain arrays: what the search sees, without storage.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/dispatch.h"
#include "kernels/encode.h"
#include "libquashdb/column.h"
#include "libquashdb/executor_query.h"
#include "libquashdb/snapshot.h"

namespace quash {

class MemorySegment : public Segment {
 public:
  //   vectors  [n, dim], normalised for cosine
  //   values   per field, one value per row
  MemorySegment(const CollectionSpec& spec, const Quantizer& quantizer, const float* vectors,
                const std::vector<Id>& ids, uint64_t first_slot,
                const std::vector<std::vector<Value>>& values)
      : spec_(spec) {
    rows_ = ids.size();
    first_slot_ = first_slot;
    last_slot_ = first_slot + rows_ - 1;
    const CodeLayout& layout = quantizer.layout();
    const size_t blocks = num_blocks();
    codes_.plane1 = Array<uint8_t>(blocks * layout.block_bytes());
    codes_.scale1 = Array<float>(blocks * kBlockRows);
    if (spec.metric == QUASH_METRIC_L2) codes_.norm_sq = Array<float>(blocks * kBlockRows);
    if (spec.bits >= 2) {
      codes_.plane2 = Array<uint8_t>(blocks * layout.block_bytes());
      codes_.scale2 = Array<float>(blocks * kBlockRows);
    }
    if (spec.bits >= 3) {
      codes_.rest = Array<uint8_t>(blocks * kBlockRows * layout.rest_stride());
      codes_.scale_full = Array<float>(blocks * kBlockRows);
    }
    std::vector<float> scratch(quantizer.scratch_floats());
    quantizer.Encode(vectors, rows_, scratch.data(), 0, codes_);
    StoreTier(vectors);
    StoreIds(ids);
    for (size_t r = 0; r < rows_; ++r) slots_.push_back(first_slot + r);
    for (size_t f = 0; f < spec.fields.size(); ++f) {
      columns_.push_back(Column::Build(spec.fields[f].type, values[f]));
    }
  }

  Status Codes(SegmentPart part, ConstCodeArrays* arrays, Pin*) const override {
    if (fail_after_ == 0) return Error(QUASH_IO, "read refused");
    if (fail_after_ > 0) --fail_after_;
    if (part == SegmentPart::kPlane1) {
      arrays->plane1 = codes_.plane1;
      arrays->scale1 = codes_.scale1;
      arrays->norm_sq = codes_.norm_sq;
    } else if (part == SegmentPart::kPlane2) {
      arrays->plane2 = codes_.plane2;
      arrays->scale2 = codes_.scale2;
    } else {
      arrays->rest = codes_.rest;
      arrays->scale_full = codes_.scale_full;
    }
    return Status();
  }
  Status RerankRow(size_t row, const void** data, float* scale, std::vector<Pin>*) const override {
    *data = tier_ + row * tier_row_bytes_;
    *scale = tier_scales_.empty() ? 1.0f : tier_scales_[row];
    return Status();
  }
  Status RerankBlock(size_t block, const void** data, const float** scales, Pin*) const override {
    *data = tier_ + block * kBlockRows * tier_row_bytes_;
    *scales = tier_scales_.empty() ? nullptr : tier_scales_.data() + block * kBlockRows;
    return Status();
  }
  Status Ids(IdColumn* ids, Pin*) const override {
    ids->ints = int_ids_;
    ids->offsets = id_offsets_;
    ids->bytes = id_bytes_;
    return Status();
  }
  Status Slots(std::span<const uint64_t>* slots, Pin*) const override {
    *slots = slots_;
    return Status();
  }
  Status MetadataColumn(size_t field, std::shared_ptr<const Column>* column) const override {
    *column = columns_[field];
    return Status();
  }

  // Calls of Codes() from here on that succeed; negative: all.
  void FailAfter(int calls) { fail_after_ = calls; }

 private:
  template <typename T>
  T* Array(size_t n) {
    buffers_.emplace_back();
    void* data = buffers_.back().Reserve(n * sizeof(T) + kAlignment);
    std::memset(data, 0, n * sizeof(T) + kAlignment);
    return static_cast<T*>(data);
  }

  void StoreTier(const float* vectors) {
    const size_t dim = spec_.dim;
    const ScanKernels& kernels = Kernels();
    switch (spec_.rerank) {
      case QUASH_RERANK_NONE:
        return;
      case QUASH_RERANK_F32:
        tier_row_bytes_ = dim * sizeof(float);
        tier_ = Array<char>(num_blocks() * kBlockRows * tier_row_bytes_);
        std::memcpy(tier_, vectors, rows_ * tier_row_bytes_);
        return;
      case QUASH_RERANK_F16:
        tier_row_bytes_ = dim * sizeof(uint16_t);
        tier_ = Array<char>(num_blocks() * kBlockRows * tier_row_bytes_);
        kernels.f32_to_f16(vectors, rows_ * dim, reinterpret_cast<uint16_t*>(tier_));
        return;
      case QUASH_RERANK_INT8:
        tier_row_bytes_ = dim;
        tier_ = Array<char>(num_blocks() * kBlockRows * tier_row_bytes_);
        tier_scales_.resize(num_blocks() * kBlockRows);
        for (size_t r = 0; r < rows_; ++r) {
          tier_scales_[r] =
              kernels.f32_to_i8(vectors + r * dim, dim, reinterpret_cast<int8_t*>(tier_) + r * dim);
        }
    }
  }

  void StoreIds(const std::vector<Id>& ids) {
    id_offsets_.push_back(0);
    for (const Id& id : ids) {
      if (const int64_t* number = std::get_if<int64_t>(&id)) {
        int_ids_.push_back(*number);
      } else {
        id_bytes_ += std::get<std::string>(id);
        id_offsets_.push_back(static_cast<uint32_t>(id_bytes_.size()));
      }
    }
  }

  const CollectionSpec& spec_;
  std::vector<ScratchBuffer> buffers_;
  CodeArrays codes_;
  char* tier_ = nullptr;
  size_t tier_row_bytes_ = 0;
  std::vector<float> tier_scales_;
  std::vector<int64_t> int_ids_;
  std::vector<uint32_t> id_offsets_;
  std::string id_bytes_;
  std::vector<uint64_t> slots_;
  std::vector<std::shared_ptr<const Column>> columns_;
  mutable int fail_after_ = -1;
};

// Builds snapshots of rows kept in order, with their vectors for brute force.
class MemoryCollection {
 public:
  explicit MemoryCollection(CollectionSpec spec, size_t segment_rows = 1000)
      : spec_(std::make_shared<CollectionSpec>(std::move(spec))),
        quantizer_(std::make_shared<Quantizer>(spec_->dim, spec_->bits,
                                               spec_->rotation == QUASH_ROTATION_DENSE
                                                   ? RotationKind::kDense
                                                   : RotationKind::kHadamard,
                                               spec_->seed)),
        segment_rows_(segment_rows) {}

  // Appends rows. Ids default to the row number.
  //   values  per field [n]; empty without fields
  void Add(const float* vectors, size_t n, std::vector<Id> ids = {},
           const std::vector<std::vector<Value>>& values = {}) {
    const size_t dim = spec_->dim;
    const size_t before = size();
    vectors_.insert(vectors_.end(), vectors, vectors + n * dim);
    if (spec_->metric == QUASH_METRIC_COSINE) {
      for (size_t r = before; r < before + n; ++r) {
        float* x = vectors_.data() + r * dim;
        double sum = 0;
        for (size_t j = 0; j < dim; ++j) sum += double{x[j]} * x[j];
        const double inverse = sum > 0 ? 1 / std::sqrt(sum) : 0;
        for (size_t j = 0; j < dim; ++j) x[j] = static_cast<float>(x[j] * inverse);
      }
    }
    if (ids.empty()) {
      for (size_t r = before; r < before + n; ++r) ids_.emplace_back(static_cast<int64_t>(r));
    }
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    for (size_t begin = 0; begin < n; begin += segment_rows_) {
      const size_t count = std::min(segment_rows_, n - begin);
      std::vector<std::vector<Value>> part;
      for (const auto& column : values) {
        part.emplace_back(column.begin() + begin, column.begin() + begin + count);
      }
      const size_t first = before + begin;
      auto segment = std::make_shared<MemorySegment>(
          *spec_, *quantizer_, vectors_.data() + first * dim,
          std::vector<Id>(ids_.begin() + first, ids_.begin() + first + count), first, part);
      auto live = std::make_shared<std::vector<uint32_t>>(segment->num_blocks());
      for (size_t r = 0; r < count; ++r) (*live)[r / 32] |= 1u << r % 32;
      first_rows_.push_back(first);
      segments_.push_back(segment);
      live_.push_back(live);
    }
  }

  void Delete(size_t row) {
    const auto [segment, r] = Locate(row);
    (*live_[segment])[r / 32] &= ~(1u << r % 32);
  }

  Snapshot GetSnapshot() const {
    Snapshot snapshot;
    snapshot.spec = spec_;
    snapshot.quantizer = quantizer_;
    for (size_t i = 0; i < segments_.size(); ++i) {
      size_t live_rows = 0;
      for (uint32_t word : *live_[i]) live_rows += std::popcount(word);
      snapshot.segments.push_back({segments_[i], live_[i], live_rows});
      snapshot.live_rows += live_rows;
    }
    return snapshot;
  }

  size_t size() const { return ids_.size(); }
  const CollectionSpec& spec() const { return *spec_; }
  const float* vector(size_t row) const { return vectors_.data() + row * spec_->dim; }
  const Id& id(size_t row) const { return ids_[row]; }
  size_t RowOfHit(uint32_t segment, uint32_t row) const { return first_rows_[segment] + row; }
  bool IsLive(size_t row) const {
    const auto [segment, r] = Locate(row);
    return (*live_[segment])[r / 32] >> r % 32 & 1;
  }
  MemorySegment& segment(size_t i) { return *segments_[i]; }

 private:
  std::pair<size_t, size_t> Locate(size_t row) const {
    const size_t i =
        std::upper_bound(first_rows_.begin(), first_rows_.end(), row) - first_rows_.begin() - 1;
    return {i, row - first_rows_[i]};
  }

  std::shared_ptr<CollectionSpec> spec_;
  std::shared_ptr<Quantizer> quantizer_;
  size_t segment_rows_;
  std::vector<float> vectors_;
  std::vector<Id> ids_;
  std::vector<size_t> first_rows_;
  std::vector<std::shared_ptr<MemorySegment>> segments_;
  std::vector<std::shared_ptr<std::vector<uint32_t>>> live_;
};

// Gaussian vectors around `centers` random centres (0: around the origin).
inline std::vector<float> RandomVectors(size_t n, size_t dim, size_t centers, uint64_t seed,
                                        float spread = 0.5f) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::mt19937_64 center_random(12345);  // the same centres whatever the seed
  std::vector<float> middle(centers * dim);
  for (float& value : middle) value = normal(center_random);
  normal.reset();
  std::vector<float> vectors(n * dim);
  for (size_t i = 0; i < n; ++i) {
    const float* center = centers > 0 ? middle.data() + random() % centers * dim : nullptr;
    for (size_t j = 0; j < dim; ++j) {
      const float noise = normal(random);
      vectors[i * dim + j] = center != nullptr ? center[j] + spread * noise : noise;
    }
  }
  return vectors;
}

}  // namespace quash
