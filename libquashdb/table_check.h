// Looks at a RocksDB table before RocksDB does, which parses the properties block first and
// verifies its checksum later: over damaged bytes a build with assertions ends the process.
#pragma once

#include <rocksdb/file_system.h>

#include <cstdint>
#include <functional>
#include <string_view>

namespace quash {

// Reads n bytes at an offset of a file; `scratch` [n] may hold them.
using ReadAt = std::function<rocksdb::IOStatus(uint64_t offset, size_t n, char* scratch,
                                               std::string_view* bytes)>;

// Verifies the checksums of the metaindex and of the properties of a table as store.cc has
// them written: block-based, format version 5, XXH3 (rocksdb's table/format.cc). Corruption
// if they do not match; what the footer says is something else is left to RocksDB.
rocksdb::IOStatus CheckTable(uint64_t file_bytes, const ReadAt& read);

}  // namespace quash
