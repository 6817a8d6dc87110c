#include "libquashdb/part.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>

#include "libquashdb/buffer_arena.h"

namespace quash {
namespace {

static_assert(std::endian::native == std::endian::little, "parts are stored little-endian");

constexpr uint32_t kMagic = 0x50485351;  // "QSHP"
constexpr uint8_t kVersion = 1;

const char* KindName(PartKind kind) {
  switch (kind) {
    case PartKind::kPlane1: return "plane 1";
    case PartKind::kPlane2: return "plane 2";
    case PartKind::kRest: return "planes 3 and 4";
    case PartKind::kIds: return "ids";
    case PartKind::kSlots: return "slots";
    case PartKind::kRerank: return "rerank block";
    case PartKind::kTailRow: return "tail row";
    case PartKind::kLive: return "live bitmap";
    case PartKind::kList: return "list";
    case PartKind::kCentroids: return "centroids";
  }
  return "part";
}

uint64_t Checksum(PartHeader header, std::string_view payload) {
  header.checksum = 0;
  const uint64_t of_header = XXH3_64bits(&header, sizeof(header));
  return XXH3_64bits_withSeed(payload.data(), payload.size(), of_header);
}

Status Damaged(const PartName& name, const char* what) {
  return Error(QUASH_CORRUPT, "{} {} (item {}) of collection number {}: {}", KindName(name.kind),
               name.number, name.item, name.collection, what);
}

}  // namespace

AlignedBuffer::AlignedBuffer(size_t size)
    : data_(static_cast<uint8_t*>(BufferArena::Get().TryAllocate(size))),
      size_(size),
      in_arena_(data_ != nullptr) {
  if (!in_arena_) {
    try {
      data_ = static_cast<uint8_t*>(
          ::operator new(std::max<size_t>(size, 1), std::align_val_t{64}));
    } catch (...) {
      BufferArena::Get().FreedOutside(size);
      throw;
    }
  }
  std::memset(data_, 0, size);
}

AlignedBuffer::~AlignedBuffer() {
  if (in_arena_) {
    BufferArena::Get().Free(data_, size_);
  } else {
    ::operator delete(data_, std::align_val_t{64});
    BufferArena::Get().FreedOutside(size_);
  }
}

void SealPart(const PartName& name, uint32_t rows, uint32_t dim, uint32_t bits, uint32_t rerank,
              AlignedBuffer* part) {
  PartHeader header = {};
  header.magic = kMagic;
  header.version = kVersion;
  header.kind = name.kind;
  header.payload_bytes = part->size() - sizeof(header);
  header.collection = name.collection;
  header.rows = rows;
  header.number = name.number;
  header.item = name.item;
  header.dim = dim;
  header.bits = static_cast<uint8_t>(bits);
  header.rerank = static_cast<uint8_t>(rerank);
  std::memcpy(part->data(), &header, sizeof(header));
  header.checksum = Checksum(header, part->view().substr(sizeof(header)));
  std::memcpy(part->data(), &header, sizeof(header));
}

Status CheckStoredPart(std::string_view stored, const PartName& name, PartHeader* header) {
  if (stored.size() < sizeof(PartHeader)) return Damaged(name, "shorter than its header");
  std::memcpy(header, stored.data(), sizeof(PartHeader));
  if (header->magic != kMagic) return Damaged(name, "not a part");
  if (header->version != kVersion) return Damaged(name, "unknown part version");
  if (header->payload_bytes != stored.size() - sizeof(PartHeader)) {
    return Damaged(name, "its length differs from its header");
  }
  if (header->checksum != Checksum(*header, stored.substr(sizeof(PartHeader)))) {
    return Damaged(name, "checksum mismatch");
  }
  if (header->kind != name.kind || header->collection != name.collection ||
      header->number != name.number || header->item != name.item) {
    return Damaged(name, "it names another part");
  }
  return Status();
}

Status OpenPart(std::string_view stored, const PartName& name, BufferRef* out) {
  PartHeader header;
  QUASH_RETURN_IF_ERROR(CheckStoredPart(stored, name, &header));
  const auto part = std::make_shared<AlignedBuffer>(stored.size());
  std::memcpy(part->data(), stored.data(), stored.size());
  *out = part;
  return Status();
}

}  // namespace quash
