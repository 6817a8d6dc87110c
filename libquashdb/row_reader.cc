#include "libquashdb/row_reader.h"

#include <cstring>
#include <vector>

#include "kernels/dispatch.h"

namespace quash {
namespace {

Status DecodeRow(const Snapshot& snapshot, const Segment& segment, uint32_t row, float* vector) {
  const CodeLayout& layout = snapshot.quantizer->layout();
  ConstCodeArrays codes;
  Pin pins[3];
  QUASH_RETURN_IF_ERROR(segment.Codes(SegmentPart::kPlane1, &codes, &pins[0]));
  if (layout.bits >= 2) {
    QUASH_RETURN_IF_ERROR(segment.Codes(SegmentPart::kPlane2, &codes, &pins[1]));
  }
  if (layout.bits >= 3) {
    QUASH_RETURN_IF_ERROR(segment.Codes(SegmentPart::kRest, &codes, &pins[2]));
  }
  std::vector<uint8_t> row_code(layout.row_code_bytes());
  std::vector<float> scratch(snapshot.quantizer->scratch_floats());
  GatherRowCode(layout, codes, row, row_code.data());
  const float* scale = layout.bits == 1   ? codes.scale1
                       : layout.bits == 2 ? codes.scale2
                                          : codes.scale_full;
  snapshot.quantizer->Decode(row_code.data(), scale + row, 1, scratch.data(), vector);
  return Status();
}

}  // namespace

Status ReadVector(const Snapshot& snapshot, uint32_t segment, uint32_t row, float* vector) {
  const Segment& source = *snapshot.segments[segment].segment;
  const uint32_t dim = snapshot.spec->dim;
  if (snapshot.spec->rerank == QUASH_RERANK_NONE) {
    return DecodeRow(snapshot, source, row, vector);
  }
  const void* data = nullptr;
  float scale = 1;
  std::vector<Pin> pins;
  QUASH_RETURN_IF_ERROR(source.RerankRow(row, &data, &scale, &pins));
  switch (snapshot.spec->rerank) {
    case QUASH_RERANK_F32:
      std::memcpy(vector, data, dim * sizeof(float));
      break;
    case QUASH_RERANK_F16:
      Kernels().f16_to_f32(static_cast<const uint16_t*>(data), dim, vector);
      break;
    default:
      for (uint32_t j = 0; j < dim; ++j) vector[j] = scale * static_cast<const int8_t*>(data)[j];
  }
  return Status();
}

}  // namespace quash
