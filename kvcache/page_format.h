// Geometry of pages (LAYOUT.md): bands, offsets, sizes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "quash_kv.h"

namespace quash::kv {

inline constexpr uint32_t kPageTokens = 64;

// One quantizer's share of a vector.
struct BandFormat {
  uint32_t dim;
  uint32_t bits;
  size_t codes;   // offset in the head page
  size_t scales;  // f16 [64]
};

// K or V of a head page.
struct PartFormat {
  std::vector<BandFormat> bands;
  bool has_mean = false;
  size_t mean = 0;  // offset in the head page, i8 [head_dim]
  size_t bytes = 0;
};

struct PageFormat {
  uint32_t num_kv_heads = 0;
  PartFormat k, v;
  size_t head_page_bytes = 0;
  size_t mean_scales = 0;  // offset in the page, f16 [num_kv_heads][2]
  size_t page_bytes = 0;

  // `options` are valid.
  explicit PageFormat(const quash_kv_options& options);
};

}  // namespace quash::kv
