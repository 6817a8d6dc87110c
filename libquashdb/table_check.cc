#include "libquashdb/table_check.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <string>

namespace quash {
namespace {

using rocksdb::IOStatus;

constexpr size_t kFooterBytes = 53;  // checksum type, two handles padded to 40, version, magic
constexpr size_t kTrailerBytes = 5;  // type of compression, checksum
constexpr uint64_t kMagic = 0x88e241b785f4cff7;
constexpr uint32_t kVersion = 5;
constexpr char kXxh3 = 4;
constexpr uint64_t kMostBytes = 16u << 20;  // of a block that is looked at
constexpr uint64_t kTailBytes = 2048;       // most often has all, in one read

template <typename T>
T LittleEndian(const char* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

bool TakeVarint(std::string_view* bytes, uint64_t* value) {
  *value = 0;
  for (uint32_t shift = 0; shift < 64 && !bytes->empty(); shift += 7) {
    const auto byte = static_cast<uint8_t>(bytes->front());
    bytes->remove_prefix(1);
    *value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

struct Handle {
  uint64_t offset = 0, size = 0;
};

bool TakeHandle(std::string_view* bytes, Handle* handle) {
  return TakeVarint(bytes, &handle->offset) && TakeVarint(bytes, &handle->size);
}

IOStatus Damaged(const char* what) {
  return IOStatus::Corruption(std::string("checksum mismatch in the ") + what + " of a table");
}

// A block whose checksum matches.
IOStatus ReadBlock(uint64_t file_bytes, const ReadAt& read, const Handle& handle, const char* what,
                   std::string* block) {
  if (handle.size > kMostBytes || handle.offset > file_bytes ||
      file_bytes - handle.offset < handle.size + kTrailerBytes) {
    return Damaged(what);
  }
  const size_t size = handle.size;
  block->resize(size + kTrailerBytes);
  std::string_view bytes;
  const IOStatus status = read(handle.offset, block->size(), block->data(), &bytes);
  if (!status.ok()) return status;
  if (bytes.size() != block->size()) return Damaged(what);
  // The hash of the contents, with the type mixed in.
  const auto type = static_cast<uint8_t>(bytes[size]);
  const uint32_t expected =
      static_cast<uint32_t>(XXH3_64bits(bytes.data(), size)) ^ type * 0x6b9083d9u;
  if (LittleEndian<uint32_t>(bytes.data() + size + 1) != expected) return Damaged(what);
  *block = std::string(bytes.substr(0, size));
  return status;
}

// The value of a key in an uncompressed block of entries: bytes shared with the key before,
// bytes that follow, bytes of the value; then the offsets of restarts and their number.
bool Find(std::string_view block, std::string_view wanted, std::string_view* value) {
  if (block.size() < sizeof(uint32_t)) return false;
  const size_t restarts =
      LittleEndian<uint32_t>(block.data() + block.size() - sizeof(uint32_t)) & 0x7fffffff;
  if (restarts > block.size() / sizeof(uint32_t) - 1) return false;
  block.remove_suffix((restarts + 1) * sizeof(uint32_t));
  std::string key;
  while (!block.empty()) {
    uint64_t shared = 0, rest = 0, value_bytes = 0;
    if (!TakeVarint(&block, &shared) || !TakeVarint(&block, &rest) ||
        !TakeVarint(&block, &value_bytes) || shared > key.size() || rest > block.size() ||
        value_bytes > block.size() - rest) {
      return false;
    }
    key.resize(shared);
    key.append(block.substr(0, rest));
    *value = block.substr(rest, value_bytes);
    if (key == wanted) return true;
    block.remove_prefix(rest + value_bytes);
  }
  return false;
}

}  // namespace

IOStatus CheckTable(uint64_t file_bytes, const ReadAt& read) {
  if (file_bytes < kFooterBytes) return IOStatus::OK();
  char scratch[kTailBytes];
  const uint64_t tail_bytes = std::min(file_bytes, kTailBytes);
  const uint64_t tail_at = file_bytes - tail_bytes;
  std::string_view tail;
  IOStatus status = read(tail_at, tail_bytes, scratch, &tail);
  if (!status.ok()) return status;
  if (tail.size() != tail_bytes) return Damaged("footer");
  const std::string_view footer = tail.substr(tail_bytes - kFooterBytes);
  const ReadAt read_again = [&](uint64_t offset, size_t n, char* to, std::string_view* bytes) {
    if (offset < tail_at) return read(offset, n, to, bytes);
    *bytes = tail.substr(offset - tail_at, n);
    return IOStatus::OK();
  };
  if (footer[0] != kXxh3 ||
      LittleEndian<uint32_t>(footer.data() + kFooterBytes - 12) != kVersion ||
      LittleEndian<uint64_t>(footer.data() + kFooterBytes - 8) != kMagic) {
    return status;
  }
  Handle handle;
  std::string_view handles = footer.substr(1, 40);
  if (!TakeHandle(&handles, &handle)) return Damaged("footer");
  std::string metaindex, properties;
  status = ReadBlock(file_bytes, read_again, handle, "metaindex", &metaindex);
  if (!status.ok()) return status;
  std::string_view found;
  if (!Find(metaindex, "rocksdb.properties", &found)) return status;
  if (!TakeHandle(&found, &handle)) return Damaged("metaindex");
  return ReadBlock(file_bytes, read_again, handle, "properties", &properties);
}

}  // namespace quash
