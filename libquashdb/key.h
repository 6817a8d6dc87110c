// Keys of the column families. Integers are big-endian, so that byte order is
// number order; every key of a collection begins with its number.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "libquashdb/schema.h"

namespace quash {

template <typename Unsigned>
void AppendBigEndian(Unsigned value, std::string* key) {
  for (int shift = (sizeof(Unsigned) - 1) * 8; shift >= 0; shift -= 8) {
    key->push_back(static_cast<char>(value >> shift & 0xff));
  }
}

// Reads one integer off the front of `key`; false if it is too short.
template <typename Unsigned>
bool TakeBigEndian(std::string_view* key, Unsigned* value) {
  if (key->size() < sizeof(Unsigned)) return false;
  *value = 0;
  for (size_t i = 0; i < sizeof(Unsigned); ++i) {
    *value = static_cast<Unsigned>(*value << 8 | static_cast<uint8_t>((*key)[i]));
  }
  key->remove_prefix(sizeof(Unsigned));
  return true;
}

// All keys of a collection lie in [CollectionPrefix(c), CollectionPrefix(c + 1)).
inline std::string CollectionPrefix(uint32_t collection) {
  std::string key;
  AppendBigEndian(collection, &key);
  return key;
}

// catalog: 'c' spec, 's' state, 'p' partition index, 'g' + segment number: segment meta.
inline std::string CatalogKey(uint32_t collection, char kind) {
  return CollectionPrefix(collection) + kind;
}
inline std::string PartitionHeadKey(uint32_t collection) { return CatalogKey(collection, 'p'); }
inline std::string SegmentMetaKey(uint32_t collection, uint64_t segment) {
  std::string key = CatalogKey(collection, 'g');
  AppendBigEndian(segment, &key);
  return key;
}

// codes: segment, part. rerank: segment, block. deletes: segment.
// meta_index: segment, field. lists: value.
inline std::string SegmentKey(uint32_t collection, uint64_t segment) {
  std::string key = CollectionPrefix(collection);
  AppendBigEndian(segment, &key);
  return key;
}
inline std::string SegmentKey(uint32_t collection, uint64_t segment, uint32_t item) {
  std::string key = SegmentKey(collection, segment);
  AppendBigEndian(item, &key);
  return key;
}

// tail and docs: slot.
inline std::string SlotKey(uint32_t collection, uint64_t slot) {
  return SegmentKey(collection, slot);
}

// ids: int64 with the sign bit flipped, or the bytes of a string id.
inline std::string IdKey(uint32_t collection, const Id& id) {
  std::string key = CollectionPrefix(collection);
  if (const int64_t* number = std::get_if<int64_t>(&id)) {
    AppendBigEndian(static_cast<uint64_t>(*number) ^ uint64_t{1} << 63, &key);
  } else {
    key += std::get<std::string>(id);
  }
  return key;
}

}  // namespace quash
