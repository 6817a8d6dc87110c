#include "kvcache/page_format.h"

#include <cmath>

#include "kernels/attend.h"

namespace quash::kv {
namespace {

size_t AlignUp(size_t bytes) { return (bytes + 15) / 16 * 16; }

// Dims and bits of the bands of LAYOUT.md.
PartFormat MakePart(uint32_t head_dim, float bits, bool is_prod, bool has_mean, size_t* offset) {
  const auto floor_bits = static_cast<uint32_t>(bits);
  PartFormat part;
  if (is_prod) {
    part.bands = {{head_dim, floor_bits - 1, 0, 0}, {head_dim, 1, 0, 0}};
  } else if (bits != static_cast<float>(floor_bits)) {
    part.bands = {{head_dim / 2, floor_bits + 1, 0, 0}, {head_dim / 2, floor_bits, 0, 0}};
  } else {
    part.bands = {{head_dim, floor_bits, 0, 0}};
  }
  const size_t begin = *offset;
  for (BandFormat& band : part.bands) {
    band.codes = *offset;
    *offset = AlignUp(*offset + kPageTokens * SignedRowBytes(band.dim, band.bits));
  }
  for (BandFormat& band : part.bands) {
    band.scales = *offset;
    *offset = AlignUp(*offset + kPageTokens * sizeof(uint16_t));
  }
  part.has_mean = has_mean;
  part.mean = *offset;
  if (has_mean) *offset = AlignUp(*offset + head_dim);
  part.bytes = *offset - begin;
  return part;
}

}  // namespace

PageFormat::PageFormat(const quash_kv_options& options) : num_kv_heads(options.num_kv_heads) {
  size_t offset = 0;
  k = MakePart(options.head_dim, options.k_bits, options.k_quantizer == QUASH_KV_TQ_PROD,
               options.k_mean != 0, &offset);
  v = MakePart(options.head_dim, options.v_bits, false, options.v_mean != 0, &offset);
  head_page_bytes = offset;
  mean_scales = head_page_bytes * num_kv_heads;
  page_bytes = AlignUp(mean_scales + size_t{num_kv_heads} * 2 * sizeof(uint16_t));
}

}  // namespace quash::kv
