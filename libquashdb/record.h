// Stored form of a row's metadata and document (record.fbs).
#pragma once

#include <string>
#include <string_view>

#include "libquashdb/database.h"
#include "libquashdb/schema.h"
#include "libquashdb/status.h"

namespace quash {

// "" if the record holds nothing, which is not stored.
std::string EncodeRecord(const Record& record);

// Verifies `bytes` before use. QUASH_CORRUPT if damaged or not of this schema.
Status DecodeRecord(std::string_view bytes, const CollectionSpec& spec, Record* out);

}  // namespace quash
