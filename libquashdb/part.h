// Framed values of the families codes, rerank, tail and deletes: a 64-byte
// header that says what the value is, its checksum, and arrays that begin at
// multiples of 64 bytes. The stored bytes are the bytes in memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "libquashdb/status.h"

namespace quash {

// Fixed size, 64-byte aligned, zeroed.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(size_t size);
  ~AlignedBuffer();
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;

  uint8_t* data() { return data_; }
  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  std::string_view view() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  uint8_t* data_;
  size_t size_;
  bool in_arena_;
};
using BufferRef = std::shared_ptr<const AlignedBuffer>;

enum class PartKind : uint8_t {
  kPlane1 = 1,  // 1..5 as SegmentPart
  kPlane2 = 2,
  kRest = 3,
  kIds = 4,
  kSlots = 5,
  kRerank = 6,
  kTailRow = 7,
  kLive = 8,
  kList = 9,  // of the partition index, as the next
  kCentroids = 10,
};

// The first 64 bytes of a part, little-endian; FORMAT.md, "Parts".
struct PartHeader {
  uint32_t magic;
  uint8_t version;
  PartKind kind;
  uint16_t reserved;
  uint64_t checksum;  // XXH3-64 of the payload, seeded with that of this header, this field zero
  uint64_t payload_bytes;
  uint32_t collection;
  uint32_t rows;
  uint64_t number;  // segment, or slot of a tail row
  uint32_t item;    // block of the rerank tier, else 0
  uint32_t dim;
  uint8_t bits;
  uint8_t rerank;
  uint8_t padding[14];
};
static_assert(sizeof(PartHeader) == 64);

inline constexpr size_t AlignUp(size_t bytes) { return (bytes + 63) / 64 * 64; }

// What a part must say to be the one that was asked for.
struct PartName {
  PartKind kind;
  uint32_t collection;
  uint64_t number;
  uint32_t item = 0;
};

// Writes the header of a part whose payload, from byte 64 on, is complete.
void SealPart(const PartName& name, uint32_t rows, uint32_t dim, uint32_t bits, uint32_t rerank,
              AlignedBuffer* part);

// Checks header and checksum of a stored value where it lies.
Status CheckStoredPart(std::string_view stored, const PartName& name, PartHeader* header);

// Copies it to aligned memory, checked.
Status OpenPart(std::string_view stored, const PartName& name, BufferRef* out);

inline const PartHeader& HeaderOf(const AlignedBuffer& part) {
  return *reinterpret_cast<const PartHeader*>(part.data());
}

// Walks the arrays of a part in order.
class PartCursor {
 public:
  explicit PartCursor(const AlignedBuffer& part) : part_(part) {}

  // The next `count` elements, or an empty span if the part is too short.
  template <typename T>
  std::span<const T> Next(size_t count) {
    const size_t bytes = count * sizeof(T);
    if (bytes > part_.size() - position_) {
      failed_ = true;
      return {};
    }
    const T* data = reinterpret_cast<const T*>(part_.data() + position_);
    position_ = std::min(part_.size(), position_ + AlignUp(bytes));
    return {data, count};
  }
  size_t remaining() const { return part_.size() - position_; }
  bool failed() const { return failed_; }

 private:
  const AlignedBuffer& part_;
  size_t position_ = sizeof(PartHeader);
  bool failed_ = false;
};

// The same for writing; the caller has summed the sizes.
class PartBuilder {
 public:
  explicit PartBuilder(size_t payload_bytes)
      : part_(std::make_shared<AlignedBuffer>(sizeof(PartHeader) + payload_bytes)) {}

  template <typename T>
  T* Next(size_t count) {
    T* data = reinterpret_cast<T*>(part_->data() + position_);
    position_ += AlignUp(count * sizeof(T));
    return data;
  }
  std::shared_ptr<AlignedBuffer> part() { return part_; }

 private:
  std::shared_ptr<AlignedBuffer> part_;
  size_t position_ = sizeof(PartHeader);
};

}  // namespace quash
