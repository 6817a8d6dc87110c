// Stored values of which a vector lies where its elements may not be read, with the right
// checksum: no builder writes them, whoever forges values may.
#define XXH_INLINE_ALL
#include <doctest/doctest.h>
#include <xxhash.h>

#include <cstdint>
#include <cstring>
#include <string>

#include "libquashdb/catalog.h"
#include "libquashdb/record.h"

namespace quash {
namespace {

uint32_t NumberAt(const std::string& bytes, size_t at) {
  uint32_t number = 0;
  std::memcpy(&number, &bytes[at], sizeof(number));
  return number;
}

// `body` with the vector that has these elements at its end, `shift` bytes from where they
// are aligned. They must be unlike all else in it.
std::string WithVectorMoved(std::string body, const std::string& elements, size_t shift) {
  const size_t vector = body.find(elements) - sizeof(uint32_t);
  REQUIRE(vector < body.size());
  const std::string moved = body.substr(vector, sizeof(uint32_t) + elements.size());
  size_t offset = 0;
  while (offset + NumberAt(body, offset) != vector) {
    offset += sizeof(uint32_t);
    REQUIRE(offset < vector);
  }
  while (body.size() % 8 != (sizeof(uint32_t) + shift) % 8) body += '\0';
  const auto distance = static_cast<uint32_t>(body.size() - offset);
  std::memcpy(&body[offset], &distance, sizeof(distance));
  return body + moved;
}

template <typename T>
std::string BytesOf(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

TEST_CASE("a partition index with misaligned vectors is damaged") {
  PartitionHead head;
  head.next_value = 1'000'000'007;
  head.lists = {{123'456'789, 4}, {987'654'321, 9}};
  head.centroids = {777'777'777};
  const std::string stored = EncodePartitionHead(head);
  const std::string body = stored.substr(0, stored.size() - sizeof(uint64_t));
  const auto sealed = [](const std::string& bytes) {
    return bytes + BytesOf(XXH3_64bits(bytes.data(), bytes.size()));
  };
  PartitionHead read;
  REQUIRE(DecodePartitionHead(sealed(body), &read).ok());
  const size_t first = body.find(BytesOf<uint64_t>(123'456'789));
  REQUIRE(first != std::string::npos);
  const std::string lists = body.substr(first, 2 * 16);
  for (const std::string& elements : {lists, BytesOf<uint64_t>(777'777'777)}) {
    REQUIRE(DecodePartitionHead(sealed(WithVectorMoved(body, elements, 0)), &read).ok());
    CHECK(EncodePartitionHead(read) == stored);
    CHECK(DecodePartitionHead(sealed(WithVectorMoved(body, elements, 4)), &read).code() ==
          QUASH_CORRUPT);
  }
}

TEST_CASE("a record with a misaligned list of integers is damaged") {
  CollectionSpec spec;
  spec.fields = {{"codes", QUASH_FIELD_INT_LIST}};
  Record record, read;
  record.values = {std::vector<int64_t>{1'234'567'890'123, -5}};
  const std::string body = EncodeRecord(record);
  const std::string elements = BytesOf<int64_t>(1'234'567'890'123) + BytesOf<int64_t>(-5);
  REQUIRE(DecodeRecord(WithVectorMoved(body, elements, 0), spec, &read).ok());
  CHECK(read.values == record.values);
  CHECK(DecodeRecord(WithVectorMoved(body, elements, 4), spec, &read).code() == QUASH_CORRUPT);
}

TEST_CASE("an empty list of integers is read wherever it lies") {
  CollectionSpec spec;
  spec.fields = {{"name", QUASH_FIELD_STRING}, {"codes", QUASH_FIELD_INT_LIST}};
  for (size_t length = 0; length < 16; ++length) {
    Record record, read;
    record.values = {std::string(length, 'a'), std::vector<int64_t>()};
    REQUIRE(DecodeRecord(EncodeRecord(record), spec, &read).ok());
    CHECK(read.values == record.values);
  }
}

}  // namespace
}  // namespace quash
