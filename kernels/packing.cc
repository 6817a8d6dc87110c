#include "kernels/packing.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace quash {
namespace {

static_assert(std::endian::native == std::endian::little,
              "eight codes are handled as one little-endian word");

constexpr uint64_t kEachByte = 0x0101010101010101u;

uint64_t LoadWord(const uint8_t* bytes) {
  uint64_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

// Eight codes are `bits` whole bytes.
template <size_t kBits>
void PackGroups(const uint8_t* codes, size_t dim, uint8_t* packed) {
  constexpr uint64_t kMask = (1u << kBits) - 1;
  size_t j = 0;
  for (; j + 8 <= dim; j += 8, packed += kBits) {
    uint64_t group = 0;
    for (size_t i = 0; i < 8; ++i) group |= (codes[j + i] & kMask) << (kBits * i);
    std::memcpy(packed, &group, kBits);
  }
  uint64_t group = 0;
  for (size_t i = 0; j + i < dim; ++i) group |= (codes[j + i] & kMask) << (kBits * i);
  std::memcpy(packed, &group, PackedSize(dim - j, kBits));
}

template <size_t kBits>
void UnpackGroups(const uint8_t* packed, size_t dim, uint8_t* codes) {
  constexpr uint64_t kMask = (1u << kBits) - 1;
  size_t j = 0;
  for (; j + 8 <= dim; j += 8, packed += kBits) {
    uint64_t group = 0;
    std::memcpy(&group, packed, kBits);
    for (size_t i = 0; i < 8; ++i) codes[j + i] = (group >> (kBits * i)) & kMask;
  }
  uint64_t group = 0;
  std::memcpy(&group, packed, PackedSize(dim - j, kBits));
  for (size_t i = 0; j + i < dim; ++i) codes[j + i] = (group >> (kBits * i)) & kMask;
}

// The eight codes that byte `column` of each plane holds, one per byte.
uint64_t UnpackByteColumn(const uint8_t* column, size_t bits, size_t plane_bytes) {
  constexpr uint64_t kBitOfByte = 0x8040201008040201u;
  constexpr uint64_t kCarryIfSet = 0x7F7F7F7F7F7F7F7Fu;
  uint64_t word = 0;
  for (size_t plane = 0; plane < bits; ++plane) {
    const uint64_t selected = (column[plane * plane_bytes] * kEachByte) & kBitOfByte;
    word = (word << 1) | (((selected + kCarryIfSet) >> 7) & kEachByte);
  }
  return word;
}

}  // namespace

void PackBits(const uint8_t* codes, size_t dim, size_t bits, uint8_t* packed) {
  switch (bits) {
    case 1:
      return PackGroups<1>(codes, dim, packed);
    case 2:
      return PackGroups<2>(codes, dim, packed);
    case 3:
      return PackGroups<3>(codes, dim, packed);
    case 4:
      return PackGroups<4>(codes, dim, packed);
    default:
      std::memcpy(packed, codes, dim);
  }
}

void UnpackBits(const uint8_t* packed, size_t dim, size_t bits, uint8_t* codes) {
  switch (bits) {
    case 1:
      return UnpackGroups<1>(packed, dim, codes);
    case 2:
      return UnpackGroups<2>(packed, dim, codes);
    case 3:
      return UnpackGroups<3>(packed, dim, codes);
    case 4:
      return UnpackGroups<4>(packed, dim, codes);
    default:
      std::memcpy(codes, packed, dim);
  }
}

void PackPlanes(const uint8_t* codes, size_t bits, size_t plane_bytes, uint8_t* row_code) {
  // Times this constant, bit 8 * i of a word lands on bit 56 + i.
  constexpr uint64_t kGather = 0x0102040810204080u;
  for (size_t plane = 0; plane < bits; ++plane, row_code += plane_bytes) {
    const size_t shift = bits - 1 - plane;
    for (size_t c = 0; c < plane_bytes; ++c) {
      const uint64_t plane_bits = (LoadWord(codes + 8 * c) >> shift) & kEachByte;
      row_code[c] = static_cast<uint8_t>((plane_bits * kGather) >> 56);
    }
  }
}

void UnpackPlanes(const uint8_t* row_code, size_t bits, size_t plane_bytes, uint8_t* codes) {
  for (size_t c = 0; c < plane_bytes; ++c) {
    const uint64_t word = UnpackByteColumn(row_code + c, bits, plane_bytes);
    std::memcpy(codes + 8 * c, &word, sizeof(word));
  }
}

float DotTable(const uint8_t* row_code, size_t bits, size_t plane_bytes, const float* table,
               const float* values, size_t dim) {
  float lanes[8] = {};
  for (size_t first = 0; first < dim; first += 8) {
    const uint64_t word = UnpackByteColumn(row_code + first / 8, bits, plane_bytes);
    const size_t count = std::min<size_t>(8, dim - first);
    for (size_t i = 0; i < count; ++i) {
      lanes[i] += values[first + i] * table[(word >> (8 * i)) & 0xFF];
    }
  }
  for (size_t half = 4; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

}  // namespace quash
