#include "libquashdb/row_reader.h"

#include <cstring>
#include <vector>

#include "kernels/dispatch.h"
#include "libquashdb/row_run.h"
#include "libquashdb/segment_codes.h"

namespace quash {
namespace {

Status DecodeRow(const Snapshot& snapshot, const Segment& segment, uint32_t row, float* vector) {
  const CodeLayout& layout = snapshot.quantizer->layout();
  SegmentCodes codes;
  QUASH_RETURN_IF_ERROR(codes.Read(segment, layout.bits));
  std::vector<uint8_t> row_code(layout.row_code_bytes());
  std::vector<float> scratch(snapshot.quantizer->scratch_floats());
  GatherRowCode(layout, codes.arrays, row, row_code.data());
  snapshot.quantizer->Decode(row_code.data(), codes.scale + row, 1, scratch.data(), vector);
  return Status();
}

void Dequantize(const CollectionSpec& spec, const void* data, float scale, float* vector) {
  switch (spec.rerank) {
    case QUASH_RERANK_F32:
      std::memcpy(vector, data, spec.dim * sizeof(float));
      break;
    case QUASH_RERANK_F16:
      Kernels().f16_to_f32(static_cast<const uint16_t*>(data), spec.dim, vector);
      break;
    default:
      for (uint32_t j = 0; j < spec.dim; ++j) {
        vector[j] = scale * static_cast<const int8_t*>(data)[j];
      }
  }
}

}  // namespace

Status ReadVector(const Snapshot& snapshot, uint32_t segment, uint32_t row, float* vector) {
  const Segment& source = *snapshot.segments[segment].segment;
  if (snapshot.spec->rerank == QUASH_RERANK_NONE) {
    return DecodeRow(snapshot, source, row, vector);
  }
  const void* data = nullptr;
  float scale = 1;
  std::vector<Pin> pins;
  QUASH_RETURN_IF_ERROR(source.RerankRow(row, &data, &scale, &pins));
  Dequantize(*snapshot.spec, data, scale, vector);
  return Status();
}

Status VectorReader::Read(uint32_t segment, uint32_t row, float* vector) {
  const CollectionSpec& spec = *snapshot_.spec;
  if (spec.rerank == QUASH_RERANK_NONE) return ReadVector(snapshot_, segment, row, vector);
  const size_t block = row / kBlockRows, in_block = row % kBlockRows;
  if (segment != segment_ || block != block_) {
    segment_ = UINT32_MAX;
    QUASH_RETURN_IF_ERROR(
        snapshot_.segments[segment].segment->RerankBlock(block, &data_, &scales_, &pin_));
    segment_ = segment;
    block_ = block;
  }
  Dequantize(spec, static_cast<const uint8_t*>(data_) + in_block * RerankRowBytes(spec),
             scales_ != nullptr ? scales_[in_block] : 1, vector);
  return Status();
}

}  // namespace quash
