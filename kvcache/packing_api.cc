// Codebooks and bit packing of quash_quantizer.h.
#include <algorithm>

#include "kernels/codebook.h"
#include "kernels/packing.h"
#include "kvcache/error.h"
#include "kvcache/rows.h"
#include "quash_quantizer.h"

namespace quash {
namespace {

bool IsPackable(uint32_t bits) { return (bits >= 1 && bits <= 4) || bits == 8; }

quash_kv_status CheckPacking(size_t dim, uint32_t bits) {
  QUASH_KV_REQUIRE(IsPackable(bits), "bits is {}, expected 1, 2, 3, 4 or 8", bits);
  QUASH_KV_REQUIRE(dim >= 1 && dim <= SIZE_MAX / 8, "dim is {}, expected 1 or more", dim);
  return QUASH_KV_OK;
}

}  // namespace
}  // namespace quash

using quash::ForRows;
using quash::Guarded;
using quash::SetError;

quash_kv_status quash_codebook(uint32_t dim, uint32_t bits, double* centroids, double* boundaries,
                               double* mse) {
  return Guarded([&] {
    QUASH_KV_REQUIRE(quash::IsPackable(bits), "bits is {}, expected 1, 2, 3, 4 or 8", bits);
    QUASH_KV_REQUIRE(dim >= 1 && dim <= quash::kMaxQuantizerDim, "dim is {}, expected 1 to {}", dim,
                     quash::kMaxQuantizerDim);
    const quash::Codebook& codebook = quash::GetCodebook(dim, bits);
    if (centroids != nullptr) {
      std::copy(codebook.centroids.begin(), codebook.centroids.end(), centroids);
    }
    if (boundaries != nullptr) {
      std::copy(codebook.boundaries.begin(), codebook.boundaries.end(), boundaries);
    }
    if (mse != nullptr) *mse = codebook.MseCost();
    return QUASH_KV_OK;
  });
}

size_t quash_packed_size(size_t dim, uint32_t bits) {
  return quash::IsPackable(bits) ? quash::PackedSize(dim, bits) : 0;
}

quash_kv_status quash_pack_bits(const uint8_t* codes, size_t n, size_t dim, uint32_t bits,
                                uint8_t* packed) {
  return Guarded([&] {
    QUASH_KV_RETURN_IF_ERROR(quash::CheckPacking(dim, bits));
    QUASH_KV_REQUIRE_ROWS(codes);
    QUASH_KV_REQUIRE_ROWS(packed);
    const size_t size = quash::PackedSize(dim, bits);
    ForRows(n, 0, [&](size_t begin, size_t end, float*) {
      for (size_t i = begin; i < end; ++i) {
        quash::PackBits(codes + i * dim, dim, bits, packed + i * size);
      }
    });
    return QUASH_KV_OK;
  });
}

quash_kv_status quash_unpack_bits(const uint8_t* packed, size_t n, size_t dim, uint32_t bits,
                                  uint8_t* codes) {
  return Guarded([&] {
    QUASH_KV_RETURN_IF_ERROR(quash::CheckPacking(dim, bits));
    QUASH_KV_REQUIRE_ROWS(packed);
    QUASH_KV_REQUIRE_ROWS(codes);
    const size_t size = quash::PackedSize(dim, bits);
    ForRows(n, 0, [&](size_t begin, size_t end, float*) {
      for (size_t i = begin; i < end; ++i) {
        quash::UnpackBits(packed + i * size, dim, bits, codes + i * dim);
      }
    });
    return QUASH_KV_OK;
  });
}
