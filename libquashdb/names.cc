#include "libquashdb/names.h"

namespace quash {

const char* MetricName(quash_metric metric) {
  constexpr const char* kNames[] = {"ip", "cosine", "l2"};
  return kNames[metric];
}

const char* IdTypeName(quash_id_type type) { return type == QUASH_ID_INT64 ? "int64" : "string"; }

const char* RerankName(quash_rerank rerank) {
  constexpr const char* kNames[] = {"none", "int8", "f16", "f32"};
  return kNames[rerank];
}

const char* RotationName(quash_rotation rotation) {
  return rotation == QUASH_ROTATION_HADAMARD ? "hadamard" : "dense";
}

const char* FieldTypeName(quash_field_type type) {
  constexpr const char* kNames[] = {"bool", "int", "float", "string", "int[]", "string[]"};
  return kNames[type];
}

}  // namespace quash
