// quash_quantizer.h over the quantizers of kernels/: checks, threads, statuses.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <variant>
#include <vector>

#include "kernels/encode.h"
#include "kernels/inner_product.h"
#include "kernels/mixed_precision.h"
#include "kernels/packing.h"
#include "kernels/rotation.h"
#include "kvcache/error.h"
#include "kvcache/rows.h"
#include "quash_quantizer.h"

using AnyQuantizer =
    std::variant<quash::Quantizer, quash::InnerProductQuantizer, quash::MixedPrecisionQuantizer,
                 quash::MixedPrecisionInnerProductQuantizer>;

struct quash_quantizer {
  quash_quantizer_options options;
  AnyQuantizer any;
};

namespace quash {
namespace {

// The first row with a number that is not finite, or n.
size_t FirstRowNotFinite(const float* rows, size_t n, size_t width) {
  std::atomic<size_t> first = n;
  ForRows(n, 0, [&](size_t begin, size_t end, float*) {
    for (size_t i = begin; i < end; ++i) {
      if (std::all_of(rows + i * width, rows + (i + 1) * width,
                      [](float x) { return std::isfinite(x); })) {
        continue;
      }
      size_t seen = first.load();
      while (i < seen && !first.compare_exchange_weak(seen, i)) {
      }
      return;
    }
  });
  return first;
}

quash_kv_status CheckFinite(const char* name, const float* rows, size_t n, size_t dim) {
  const size_t row = FirstRowNotFinite(rows, n, dim);
  if (row == n) return QUASH_KV_OK;
  return SetError(QUASH_KV_INVALID, "{} has NaN or infinity in row {}, expected finite numbers",
                  name, row);
}

quash_kv_status CheckOptions(const quash_quantizer_options& options) {
  const bool is_prod = options.quantizer == QUASH_KV_TQ_PROD;
  QUASH_KV_REQUIRE(is_prod || options.quantizer == QUASH_KV_TQ_MSE,
                   "quantizer is {}, expected 0 (tq_mse) or 1 (tq_prod)",
                   static_cast<int>(options.quantizer));
  QUASH_KV_REQUIRE(options.rotation == QUASH_KV_HADAMARD || options.rotation == QUASH_KV_DENSE,
                   "rotation is {}, expected 0 (hadamard) or 1 (dense)",
                   static_cast<int>(options.rotation));
  const uint32_t max_dim = options.rotation == QUASH_KV_DENSE ? 4096 : kMaxQuantizerDim;
  QUASH_KV_REQUIRE(options.dim >= 1 && options.dim <= max_dim, "dim is {}, expected 1 to {}",
                   options.dim, max_dim);
  const uint32_t least = is_prod ? 2 : 1;
  const uint32_t most = (is_prod ? 5 : 4) - (options.num_outliers > 0 ? 1 : 0);
  QUASH_KV_REQUIRE(options.bits >= least && options.bits <= most,
                   "bits is {}, expected {} to {} with {}{}", options.bits, least, most,
                   is_prod ? "tq_prod" : "tq_mse", options.num_outliers > 0 ? " and outliers" : "");
  QUASH_KV_REQUIRE(options.num_outliers < options.dim,
                   "num_outliers is {}, expected less than dim, {}", options.num_outliers,
                   options.dim);
  return QUASH_KV_OK;
}

AnyQuantizer MakeQuantizer(const quash_quantizer_options& o) {
  const RotationKind rotation =
      o.rotation == QUASH_KV_DENSE ? RotationKind::kDense : RotationKind::kHadamard;
  const bool is_prod = o.quantizer == QUASH_KV_TQ_PROD;
  if (o.num_outliers > 0) {
    if (is_prod) {
      return MixedPrecisionInnerProductQuantizer(o.dim, o.bits, o.num_outliers, rotation, o.seed);
    }
    return MixedPrecisionQuantizer(o.dim, o.bits, o.num_outliers, rotation, o.seed);
  }
  if (is_prod) return InnerProductQuantizer(o.dim, o.bits, rotation, o.seed);
  return Quantizer(o.dim, o.bits, rotation, o.seed);
}

size_t CodeSize(const quash_quantizer& quantizer) {
  return std::visit([](const auto& q) { return q.row_code_bytes(); }, quantizer.any);
}

size_t ScalesPerRow(const quash_quantizer& quantizer) {
  return std::visit([](const auto& q) { return q.scales_per_row(); }, quantizer.any);
}

// Calls body(quantizer) for one with outliers; anything else is refused.
template <typename Any, typename Body>
quash_kv_status WithOutliers(Any& any, const Body& body) {
  return std::visit(
      [&](auto& q) -> quash_kv_status {
        if constexpr (requires { q.num_outliers(); }) {
          return body(q);
        } else {
          return SetError(QUASH_KV_INVALID,
                          "the quantizer has no outliers: num_outliers was 0 when it was made");
        }
      },
      any);
}

// The plain tq_mse quantizer, or null with an error set.
const Quantizer* PlainQuantizer(const quash_quantizer& quantizer) {
  const auto* plain = std::get_if<Quantizer>(&quantizer.any);
  if (plain == nullptr) {
    SetError(QUASH_KV_INVALID, "indices are of tq_mse without outliers, and this quantizer is {}",
             quantizer.options.quantizer == QUASH_KV_TQ_PROD ? "tq_prod" : "with outliers");
  }
  return plain;
}

}  // namespace
}  // namespace quash

using quash::ForRows;
using quash::Guarded;
using quash::SetError;

void quash_quantizer_options_init(quash_quantizer_options* options) {
  if (options == nullptr) return;
  *options = {};
  options->struct_size = sizeof(*options);
  options->bits = 4;
  options->seed = 42;
}

quash_kv_status quash_quantizer_create(const quash_quantizer_options* options,
                                       quash_quantizer** out) {
  return Guarded([&] {
    QUASH_KV_REQUIRE_POINTER(out);
    QUASH_KV_REQUIRE_POINTER(options);
    QUASH_KV_REQUIRE(
        options->struct_size >= sizeof(size_t) && options->struct_size <= sizeof(*options),
        "quash_quantizer_options.struct_size is {}, expected {}: fill it with "
        "quash_quantizer_options_init()",
        options->struct_size, sizeof(*options));
    quash_quantizer_options checked;
    quash_quantizer_options_init(&checked);
    std::memcpy(&checked, options, options->struct_size);
    QUASH_KV_RETURN_IF_ERROR(quash::CheckOptions(checked));
    *out = new quash_quantizer{checked, quash::MakeQuantizer(checked)};
    return QUASH_KV_OK;
  });
}

void quash_quantizer_free(quash_quantizer* quantizer) { delete quantizer; }

double quash_quantizer_effective_bits(const quash_quantizer* quantizer) {
  if (quantizer == nullptr) return 0;
  const quash_quantizer_options& options = quantizer->options;
  return options.bits + static_cast<double>(options.num_outliers) / options.dim;
}

size_t quash_quantizer_code_size(const quash_quantizer* quantizer) {
  return quantizer == nullptr ? 0 : quash::CodeSize(*quantizer);
}

size_t quash_quantizer_scales_per_row(const quash_quantizer* quantizer) {
  return quantizer == nullptr ? 0 : quash::ScalesPerRow(*quantizer);
}

quash_kv_status quash_quantizer_encode(const quash_quantizer* quantizer, const float* vectors,
                                       size_t n, uint8_t* codes, float* scales) {
  return Guarded([&] {
    QUASH_KV_REQUIRE_POINTER(quantizer);
    QUASH_KV_REQUIRE_ROWS(vectors);
    QUASH_KV_REQUIRE_ROWS(codes);
    QUASH_KV_REQUIRE_ROWS(scales);
    const size_t dim = quantizer->options.dim;
    QUASH_KV_RETURN_IF_ERROR(quash::CheckFinite("vectors", vectors, n, dim));
    const size_t code_size = quash::CodeSize(*quantizer);
    const size_t num_scales = quash::ScalesPerRow(*quantizer);
    std::visit(
        [&](const auto& q) {
          ForRows(n, q.scratch_floats(), [&](size_t begin, size_t end, float* scratch) {
            q.EncodeRows(vectors + begin * dim, end - begin, scratch, codes + begin * code_size,
                         scales + begin * num_scales);
          });
        },
        quantizer->any);
    const size_t row = quash::FirstRowNotFinite(scales, n, num_scales);
    QUASH_KV_REQUIRE(row == n, "vectors has a norm in row {} that float32 cannot hold", row);
    return QUASH_KV_OK;
  });
}

quash_kv_status quash_quantizer_decode(const quash_quantizer* quantizer, const uint8_t* codes,
                                       const float* scales, size_t n, float* vectors) {
  return Guarded([&] {
    QUASH_KV_REQUIRE_POINTER(quantizer);
    QUASH_KV_REQUIRE_ROWS(codes);
    QUASH_KV_REQUIRE_ROWS(scales);
    QUASH_KV_REQUIRE_ROWS(vectors);
    const size_t dim = quantizer->options.dim;
    const size_t code_size = quash::CodeSize(*quantizer);
    const size_t num_scales = quash::ScalesPerRow(*quantizer);
    std::visit(
        [&](const auto& q) {
          ForRows(n, q.scratch_floats(), [&](size_t begin, size_t end, float* scratch) {
            q.Decode(codes + begin * code_size, scales + begin * num_scales, end - begin, scratch,
                     vectors + begin * dim);
          });
        },
        quantizer->any);
    return QUASH_KV_OK;
  });
}

quash_kv_status quash_quantizer_dot(const quash_quantizer* quantizer, const float* queries,
                                    size_t nq, const uint8_t* codes, const float* scales, size_t n,
                                    float* out) {
  return Guarded([&] {
    QUASH_KV_REQUIRE_POINTER(quantizer);
    if (nq == 0 || n == 0) return QUASH_KV_OK;
    QUASH_KV_REQUIRE_POINTER(queries);
    QUASH_KV_REQUIRE_POINTER(codes);
    QUASH_KV_REQUIRE_POINTER(scales);
    QUASH_KV_REQUIRE_POINTER(out);
    const size_t dim = quantizer->options.dim;
    const size_t code_size = quash::CodeSize(*quantizer);
    const size_t num_scales = quash::ScalesPerRow(*quantizer);
    QUASH_KV_RETURN_IF_ERROR(quash::CheckFinite("queries", queries, nq, dim));
    std::visit(
        [&](const auto& q) {
          const size_t floats = q.query_floats();
          std::vector<float> prepared(nq * floats);
          ForRows(nq, q.scratch_floats(), [&](size_t begin, size_t end, float* scratch) {
            for (size_t i = begin; i < end; ++i) {
              q.PrepareQuery(queries + i * dim, scratch, prepared.data() + i * floats);
            }
          });
          ForRows(n, 0, [&](size_t begin, size_t end, float*) {
            for (size_t i = 0; i < nq; ++i) {
              for (size_t row = begin; row < end; ++row) {
                out[i * n + row] = q.Estimate(codes + row * code_size, scales + row * num_scales,
                                              prepared.data() + i * floats);
              }
            }
          });
        },
        quantizer->any);
    return QUASH_KV_OK;
  });
}

quash_kv_status quash_quantizer_unpack(const quash_quantizer* quantizer, const uint8_t* codes,
                                       size_t n, uint8_t* indices) {
  return Guarded([&] {
    QUASH_KV_REQUIRE_POINTER(quantizer);
    QUASH_KV_REQUIRE_ROWS(codes);
    QUASH_KV_REQUIRE_ROWS(indices);
    const quash::Quantizer* plain = quash::PlainQuantizer(*quantizer);
    if (plain == nullptr) return QUASH_KV_INVALID;
    const quash::CodeLayout layout = plain->layout();
    const size_t padded = layout.plane_bytes() * 8;
    ForRows(n, padded / sizeof(float), [&](size_t begin, size_t end, float* scratch) {
      auto* row = reinterpret_cast<uint8_t*>(scratch);
      for (size_t i = begin; i < end; ++i) {
        quash::UnpackPlanes(codes + i * layout.row_code_bytes(), layout.bits, layout.plane_bytes(),
                            row);
        std::copy_n(row, layout.dim, indices + i * layout.dim);
      }
    });
    return QUASH_KV_OK;
  });
}

quash_kv_status quash_quantizer_pack(const quash_quantizer* quantizer, const uint8_t* indices,
                                     size_t n, uint8_t* codes) {
  return Guarded([&] {
    QUASH_KV_REQUIRE_POINTER(quantizer);
    QUASH_KV_REQUIRE_ROWS(indices);
    QUASH_KV_REQUIRE_ROWS(codes);
    const quash::Quantizer* plain = quash::PlainQuantizer(*quantizer);
    if (plain == nullptr) return QUASH_KV_INVALID;
    const quash::CodeLayout layout = plain->layout();
    const uint8_t* end_of_indices = indices + n * layout.dim;
    const uint8_t* wrong = std::find_if(indices, end_of_indices,
                                        [&](uint8_t index) { return index >> layout.bits != 0; });
    QUASH_KV_REQUIRE(wrong == end_of_indices, "an index is {}, expected less than {}", *wrong,
                     1 << layout.bits);
    const size_t padded = layout.plane_bytes() * 8;
    ForRows(n, padded / sizeof(float), [&](size_t begin, size_t end, float* scratch) {
      auto* row = reinterpret_cast<uint8_t*>(scratch);
      std::fill_n(row, padded, uint8_t{0});
      for (size_t i = begin; i < end; ++i) {
        std::copy_n(indices + i * layout.dim, layout.dim, row);
        quash::PackPlanes(row, layout.bits, layout.plane_bytes(),
                          codes + i * layout.row_code_bytes());
      }
    });
    return QUASH_KV_OK;
  });
}

quash_kv_status quash_quantizer_rotate(const quash_quantizer* quantizer, const float* x, size_t n,
                                       int inverse, float* y) {
  return Guarded([&] {
    QUASH_KV_REQUIRE_POINTER(quantizer);
    QUASH_KV_REQUIRE_ROWS(x);
    QUASH_KV_REQUIRE_ROWS(y);
    return std::visit(
        [&](const auto& q) -> quash_kv_status {
          if constexpr (requires { q.rotation(); }) {
            const quash::Rotation& rotation = q.rotation();
            const size_t dim = rotation.dim();
            ForRows(n, dim, [&](size_t begin, size_t end, float* scratch) {
              if (inverse != 0) {
                rotation.ApplyInverse(x + begin * dim, end - begin, y + begin * dim, scratch);
              } else {
                rotation.Apply(x + begin * dim, end - begin, y + begin * dim, scratch);
              }
            });
            return QUASH_KV_OK;
          } else {
            return SetError(QUASH_KV_INVALID,
                            "a quantizer with outliers has two rotations of its coordinates");
          }
        },
        quantizer->any);
  });
}

quash_kv_status quash_quantizer_set_outliers(quash_quantizer* quantizer, const uint32_t* outliers) {
  return Guarded([&] {
    QUASH_KV_REQUIRE_POINTER(quantizer);
    QUASH_KV_REQUIRE_POINTER(outliers);
    return quash::WithOutliers(quantizer->any, [&](auto& q) {
      q.SetOutliers(outliers);
      return QUASH_KV_OK;
    });
  });
}

quash_kv_status quash_quantizer_calibrate(quash_quantizer* quantizer, const float* vectors,
                                          size_t n) {
  return Guarded([&] {
    QUASH_KV_REQUIRE_POINTER(quantizer);
    QUASH_KV_REQUIRE_ROWS(vectors);
    return quash::WithOutliers(quantizer->any, [&](auto& q) -> quash_kv_status {
      QUASH_KV_RETURN_IF_ERROR(quash::CheckFinite("vectors", vectors, n, quantizer->options.dim));
      q.Calibrate(vectors, n);
      return QUASH_KV_OK;
    });
  });
}

quash_kv_status quash_quantizer_outliers(const quash_quantizer* quantizer, uint32_t* outliers) {
  return Guarded([&] {
    QUASH_KV_REQUIRE_POINTER(quantizer);
    QUASH_KV_REQUIRE_POINTER(outliers);
    return quash::WithOutliers(quantizer->any, [&](const auto& q) {
      const std::vector<uint32_t> coordinates = q.outliers();
      std::copy(coordinates.begin(), coordinates.end(), outliers);
      return QUASH_KV_OK;
    });
  });
}
