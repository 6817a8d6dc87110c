// Lower-case names of the public enums, as JSON and messages give them.
#pragma once

#include "quashdb.h"

namespace quash {

const char* MetricName(quash_metric metric);        // "ip", "cosine", "l2"
const char* IdTypeName(quash_id_type type);         // "int64", "string"
const char* RerankName(quash_rerank rerank);        // "none", "int8", "f16", "f32"
const char* RotationName(quash_rotation rotation);  // "hadamard", "dense"
// "bool", "int", "float", "string", "int[]", "string[]"
const char* FieldTypeName(quash_field_type type);

}  // namespace quash
