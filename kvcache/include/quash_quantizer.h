/* The quantizers of QuashDB over plain arrays: TurboQuant's two forms, mixed
 * precision, codebooks, bit packing. Part of libquashkv; statuses and
 * quash_kv_errmsg() as in quash_kv.h. C99 and C++.
 *
 * Quantizers are immutable but for quash_quantizer_set_outliers(); all other
 * calls on one may run in parallel. Rows are spread over OpenMP threads. */
#ifndef QUASH_QUANTIZER_H
#define QUASH_QUANTIZER_H

#include "quash_kv.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Lloyd-Max codebook of one coordinate of a random unit vector of `dim`.
 *   bits        1..4 or 8
 *   centroids   [2^bits] out, ascending; boundaries [2^bits - 1] out
 *   mse         out: expected squared error of a unit vector; each may be NULL */
QUASH_KV_API quash_kv_status quash_codebook(uint32_t dim, uint32_t bits, double *centroids,
                                            double *boundaries, double *mse);

/* Codes to dense little-endian bits and back, n rows of dim codes; bits 1, 2, 3,
 * 4 or 8. A row takes quash_packed_size() = ceil(dim * bits / 8) bytes. */
QUASH_KV_API size_t quash_packed_size(size_t dim, uint32_t bits);
QUASH_KV_API quash_kv_status quash_pack_bits(const uint8_t *codes, size_t n, size_t dim,
                                             uint32_t bits, uint8_t *packed);
QUASH_KV_API quash_kv_status quash_unpack_bits(const uint8_t *packed, size_t n, size_t dim,
                                               uint32_t bits, uint8_t *codes);

typedef struct quash_quantizer quash_quantizer;

typedef struct quash_quantizer_options {
  size_t struct_size;
  uint32_t dim;                 /* 1..65536 (dense rotation: 4096) */
  uint32_t bits;                /* tq_mse 1..4, tq_prod 2..5: of regular coordinates */
  uint32_t num_outliers;        /* with one bit more; 0: none, else below dim, and
                                   bits at most 3 (tq_mse) or 4 (tq_prod) */
  quash_kv_quantizer quantizer;
  quash_kv_rotation rotation;
  uint64_t seed;                /* default 42 */
} quash_quantizer_options;

QUASH_KV_API void quash_quantizer_options_init(quash_quantizer_options *options);
QUASH_KV_API quash_kv_status quash_quantizer_create(const quash_quantizer_options *options,
                                                    quash_quantizer **out);
QUASH_KV_API void quash_quantizer_free(quash_quantizer *quantizer);

/* Bits per coordinate, scales aside. */
QUASH_KV_API double quash_quantizer_effective_bits(const quash_quantizer *quantizer);
/* Bytes and scales of one encoded row. */
QUASH_KV_API size_t quash_quantizer_code_size(const quash_quantizer *quantizer);
QUASH_KV_API size_t quash_quantizer_scales_per_row(const quash_quantizer *quantizer);

/*   vectors  [n, dim] float32, finite
 *   codes    [n, code_size] u8 out; scales [n, scales_per_row] float32 out */
QUASH_KV_API quash_kv_status quash_quantizer_encode(const quash_quantizer *quantizer,
                                                    const float *vectors, size_t n,
                                                    uint8_t *codes, float *scales);
QUASH_KV_API quash_kv_status quash_quantizer_decode(const quash_quantizer *quantizer,
                                                    const uint8_t *codes, const float *scales,
                                                    size_t n, float *vectors);
/* Estimates of inner products straight from codes.
 *   queries  [nq, dim] float32; out [nq, n] float32 */
QUASH_KV_API quash_kv_status quash_quantizer_dot(const quash_quantizer *quantizer,
                                                 const float *queries, size_t nq,
                                                 const uint8_t *codes, const float *scales,
                                                 size_t n, float *out);

/* Codes of plain tq_mse (no outliers) as indices of centroids, and back.
 *   indices  [n, dim] u8 */
QUASH_KV_API quash_kv_status quash_quantizer_unpack(const quash_quantizer *quantizer,
                                                    const uint8_t *codes, size_t n,
                                                    uint8_t *indices);
QUASH_KV_API quash_kv_status quash_quantizer_pack(const quash_quantizer *quantizer,
                                                  const uint8_t *indices, size_t n,
                                                  uint8_t *codes);

/* y = R x of the (first) rotation, and its inverse; [n, dim]. Not for outliers. */
QUASH_KV_API quash_kv_status quash_quantizer_rotate(const quash_quantizer *quantizer,
                                                    const float *x, size_t n, int inverse,
                                                    float *y);

/* Outlier coordinates: [num_outliers] distinct, below dim; or those with the most
 * energy over n vectors. Codes made before are not readable after. */
QUASH_KV_API quash_kv_status quash_quantizer_set_outliers(quash_quantizer *quantizer,
                                                          const uint32_t *outliers);
QUASH_KV_API quash_kv_status quash_quantizer_calibrate(quash_quantizer *quantizer,
                                                       const float *vectors, size_t n);
QUASH_KV_API quash_kv_status quash_quantizer_outliers(const quash_quantizer *quantizer,
                                                      uint32_t *outliers);

#ifdef __cplusplus
}
#endif

#endif /* QUASH_QUANTIZER_H */
