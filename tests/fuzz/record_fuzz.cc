// libFuzzer: values as they are stored. The first byte says what of: a row's
// record, a collection's entry, its state, a segment's entry, a framed part, the JSON
// of a row, or a partition index's head. Any bytes are refused as damaged, or read and
// can be stored again to the same effect.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "libquashdb/catalog.h"
#include "libquashdb/metadata.h"
#include "libquashdb/part.h"
#include "libquashdb/record.h"

namespace {

using quash::Status;

void Require(bool holds) {
  if (!holds) std::abort();
}

bool Refused(const Status& status) {
  if (status.ok()) return false;
  Require(status.code() == QUASH_CORRUPT && !status.message().empty());
  return true;
}

quash::CollectionSpec Spec() {
  quash::CollectionSpec spec;
  spec.name = "fuzz";
  spec.dim = 16;
  spec.fields = {{"s", QUASH_FIELD_STRING},      {"i", QUASH_FIELD_INT},
                 {"f", QUASH_FIELD_FLOAT},       {"b", QUASH_FIELD_BOOL},
                 {"t", QUASH_FIELD_STRING_LIST}, {"n", QUASH_FIELD_INT_LIST}};
  return spec;
}

// As a string: NaN is not equal to itself.
std::string Stored(const quash::Record& record) { return quash::EncodeRecord(record); }

void TryRecord(std::string_view bytes) {
  static const quash::CollectionSpec spec = Spec();
  quash::Record record, again;
  if (Refused(quash::DecodeRecord(bytes, spec, &record))) return;
  Require(record.values.size() == spec.fields.size());
  const std::string stored = Stored(record);
  if (stored.empty()) return;
  Require(quash::DecodeRecord(stored, spec, &again).ok());
  Require(Stored(again) == stored);
}

void TryCatalogEntry(std::string_view bytes) {
  quash::CatalogEntry entry, again;
  if (Refused(quash::DecodeCatalogEntry(bytes, &entry))) return;
  const std::string stored = quash::EncodeCatalogEntry(entry);
  Require(quash::DecodeCatalogEntry(stored, &again).ok());
  Require(quash::EncodeCatalogEntry(again) == stored);
}

void TryState(std::string_view bytes) {
  quash::CollectionState state;
  if (Refused(quash::DecodeState(bytes, &state))) return;
  Require(quash::DecodeState(quash::EncodeState(state), &state).ok());
}

void TrySegment(std::string_view bytes) {
  quash::SegmentMeta meta;
  if (Refused(quash::DecodeSegmentMeta(bytes, &meta))) return;
  Require(quash::DecodeSegmentMeta(quash::EncodeSegmentMeta(meta), &meta).ok());
}

void TryPartitionHead(std::string_view bytes) {
  quash::PartitionHead head, again;
  if (Refused(quash::DecodePartitionHead(bytes, &head))) return;
  Require(!head.lists.empty());
  Require(head.centroids.size() == (head.lists.size() - 1) / quash::kCentroidsPerValue + 1);
  for (const auto& list : head.lists) Require((list.value == 0) == (list.rows == 0));
  const std::string stored = quash::EncodePartitionHead(head);
  Require(quash::DecodePartitionHead(stored, &again).ok());
  Require(quash::EncodePartitionHead(again) == stored);
}

// The checksum is set right for half of them, as someone who forges one would.
void TryPart(std::string_view bytes) {
  if (bytes.empty()) return;
  const quash::PartName name = {static_cast<quash::PartKind>(1 + bytes[0] % 10), 3, 5, 0};
  std::string part(bytes.substr(1));
  const bool forged = (bytes[0] & 0x80) != 0 && part.size() >= sizeof(quash::PartHeader);
  if (forged) {
    quash::AlignedBuffer buffer(part.size());
    std::memcpy(buffer.data(), part.data(), part.size());
    quash::SealPart(name, 7, 16, 4, 2, &buffer);
    part = buffer.view();
  }
  quash::BufferRef opened;
  if (Refused(quash::OpenPart(part, name, &opened))) {
    Require(!forged);
    return;
  }
  Require(opened->size() == part.size());
  quash::PartCursor cursor(*opened);
  while (!cursor.failed() && cursor.remaining() > 0) cursor.Next<uint32_t>(7);
}

void TryMetadata(std::string_view bytes) {
  static const quash::CollectionSpec spec = Spec();
  const std::string json(bytes);
  std::vector<quash::Value> values, again;
  const Status status = quash::ParseMetadata(json.c_str(), spec, 0, &values);
  if (!status.ok()) {
    Require(!status.message().empty());
    return;
  }
  const std::string text = quash::FormatMetadata(spec, values);
  Require(quash::ParseMetadata(text.c_str(), spec, 0, &again).ok());
  Require(again == values);
  quash::Record record;
  record.values = values;
  const std::string stored = Stored(record);
  if (stored.empty()) return;
  quash::Record read;
  Require(quash::DecodeRecord(stored, spec, &read).ok());
  Require(read.values == values);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  // Catalog values end in a checksum, which half of the inputs get right: else no
  // change would come further than that.
  std::string value(bytes);
  if ((data[0] & 0x80) != 0) {
    const uint64_t checksum = XXH3_64bits(value.data(), value.size());
    value.append(reinterpret_cast<const char*>(&checksum), sizeof(checksum));
  }
  switch ((data[0] & 0x7f) % 7) {
    case 0:
      TryRecord(bytes);
      break;
    case 1:
      TryCatalogEntry(value);
      break;
    case 2:
      TryState(value);
      break;
    case 3:
      TrySegment(value);
      break;
    case 4:
      TryPart(bytes);
      break;
    case 5:
      TryPartitionHead(value);
      break;
    default:
      TryMetadata(bytes);
  }
  return 0;
}
