// Metadata of a row as JSON text, and the rules for field names.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "libquashdb/schema.h"
#include "libquashdb/status.h"

namespace quash {

// Reads one row's metadata: a JSON object whose members are declared fields.
//   json    NUL-terminated UTF-8
//   row     the row's number in its batch, for messages
//   values  out: [spec.fields.size()]; fields absent or null hold monostate.
//           An int field takes integers within int64, a float field any
//           finite number, a list field an array without nulls.
// QUASH_INVALID: no JSON object, invalid UTF-8, a member twice.
// QUASH_NOT_FOUND: no such field. QUASH_TYPE: a value of another type.
Status ParseMetadata(const char* json, const CollectionSpec& spec, size_t row,
                     std::vector<Value>* values);

// The values as a JSON object in field order, nulls left out: "{}" if there is
// nothing else. Reading it back gives the same values, floats to the bit.
//   values  aligned with spec.fields, possibly shorter
std::string FormatMetadata(const CollectionSpec& spec, const std::vector<Value>& values);

// Checks the fields of a collection: at most QUASH_FIELDS_MAX, of valid types,
// with distinct names [A-Za-z_][A-Za-z0-9_]* of 1..QUASH_NAME_BYTES_MAX bytes
// that are neither "id" nor a keyword of filters. QUASH_INVALID, QUASH_LIMIT.
Status CheckFields(const std::vector<Field>& fields);

}  // namespace quash
