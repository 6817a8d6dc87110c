/* The compressed KV cache of QuashDB: keys and values of a language model as
 * 2-4 bit codes, and attention straight over them (TurboQuant, arXiv
 * 2504.19874, with per-page means). C99 and C++.
 *
 * A cache holds any number of sequences, each with num_layers layers. Tokens are
 * appended in the model's order; attention reads them. Everything is in host
 * memory; `stream` arguments are for a GPU build and must be NULL.
 *
 * Errors: every call that can fail returns a quash_kv_status and leaves the
 * cache as it was; quash_kv_errmsg() says what was wrong and what was expected.
 *
 * Threads: calls on one cache may run in parallel, but for append, truncate and
 * seal of a sequence, which no other call on the *same* sequence may be beside.
 * Stats may be asked for at any time, and a sequence may be freed while it is read.
 * Calls are spread over `threads` OpenMP threads; in a forked child, on its own.
 *
 * Strides are in elements. dtypes: f32, IEEE f16, bf16. */
#ifndef QUASH_KV_H
#define QUASH_KV_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define QUASH_KV_API
#else
#define QUASH_KV_API __attribute__((visibility("default")))
#endif

typedef enum quash_kv_status {
  QUASH_KV_OK = 0,
  QUASH_KV_INVALID = 1,     /* an argument is out of its range */
  QUASH_KV_NOT_FOUND = 2,   /* no such sequence */
  QUASH_KV_FULL = 3,        /* the memory budget is used up */
  QUASH_KV_NOMEM = 4,
  QUASH_KV_CORRUPT = 5,     /* saved bytes are damaged or of another cache */
  QUASH_KV_UNSUPPORTED = 6, /* this build cannot do that (streams without a GPU) */
  QUASH_KV_INTERNAL = 7
} quash_kv_status;

QUASH_KV_API const char *quash_kv_status_name(quash_kv_status status);
/* Of this thread's last failed call; valid until its next. Never NULL. */
QUASH_KV_API const char *quash_kv_errmsg(void);
QUASH_KV_API const char *quash_kv_version(void);
/* "scalar", "avx2", "avx512" or "neon" */
QUASH_KV_API const char *quash_kv_isa(void);

typedef enum quash_kv_dtype {
  QUASH_KV_F32 = 0,
  QUASH_KV_F16 = 1,
  QUASH_KV_BF16 = 2
} quash_kv_dtype;

typedef enum quash_kv_quantizer {
  QUASH_KV_TQ_MSE = 0,
  QUASH_KV_TQ_PROD = 1 /* keys only: one of the bits is a sketch (QJL) */
} quash_kv_quantizer;

typedef enum quash_kv_rotation {
  QUASH_KV_HADAMARD = 0, /* three rounds of permutation, signs, Walsh-Hadamard */
  QUASH_KV_DENSE = 1,
  QUASH_KV_RHT = 2 /* one round of signs and Walsh-Hadamard, in fixed point: GPUs
                      compress several times as fast. tq_mse, whole bits,
                      head_dim 64 or 128 */
} quash_kv_rotation;

/* ---- Caches ------------------------------------------------------------------ */

typedef struct quash_kv quash_kv;

typedef struct quash_kv_options {
  size_t struct_size;
  uint32_t num_layers;   /* 1..1024 */
  uint32_t num_kv_heads; /* 1..1024 */
  uint32_t head_dim;     /* 16..512, a multiple of 16 */
  float k_bits;          /* 2, 2.5, 3, 3.5 or 4 (default 4) */
  float v_bits;          /* the same */
  quash_kv_quantizer k_quantizer;
  quash_kv_rotation rotation;
  uint64_t seed;         /* default 42 */
  quash_kv_dtype dtype;  /* of what stays uncompressed; default f32 */
  uint32_t sink_pages;   /* first pages of a sequence kept as given; default 1 */
  uint32_t reserve;      /* newest tokens that truncate() always takes back
                            exactly, 0..4096; default 16 */
  int k_mean, v_mean;    /* keep means of each page; default 1 */
  const uint32_t *uncompressed_layers; /* kept as given, NULL: none; copied */
  size_t num_uncompressed_layers;
  const uint32_t *k_outliers; /* [head_dim / 2] coordinates of the finer band at */
  const uint32_t *v_outliers; /* 2.5 and 3.5 bits; NULL: the first; copied */
  uint64_t memory_budget_bytes; /* of all that sequences hold; 0: no limit */
  uint32_t threads;             /* 0: one per core */
} quash_kv_options;

QUASH_KV_API void quash_kv_options_init(quash_kv_options *options);
QUASH_KV_API quash_kv_status quash_kv_create(const quash_kv_options *options, quash_kv **out);
/* Frees the cache and all its sequences. NULL does nothing. */
QUASH_KV_API void quash_kv_free(quash_kv *cache);

/* Tokens of a page: 64. */
QUASH_KV_API uint32_t quash_kv_page_size(void);

/* ---- Sequences --------------------------------------------------------------- */

/* A number that is never used again; 0 is none. */
typedef uint64_t quash_kv_seq;

QUASH_KV_API quash_kv_status quash_kv_seq_create(quash_kv *cache, quash_kv_seq *out);
/* A sequence with the first `length` tokens of each layer of `from` (UINT64_MAX:
 * all). Sealed pages are shared, the rest is copied. */
QUASH_KV_API quash_kv_status quash_kv_seq_fork(quash_kv *cache, quash_kv_seq from,
                                               uint64_t length, quash_kv_seq *out);
QUASH_KV_API quash_kv_status quash_kv_seq_free(quash_kv *cache, quash_kv_seq seq);
/* Keeps the first `length` tokens of every layer; layers that are shorter stay.
 * Exact for the last `reserve` tokens and those of the open page; further back,
 * tokens of sealed pages stay as they were rounded. */
QUASH_KV_API quash_kv_status quash_kv_seq_truncate(quash_kv *cache, quash_kv_seq seq,
                                                   uint64_t length);
/* Tokens of one layer. */
QUASH_KV_API quash_kv_status quash_kv_seq_length(quash_kv *cache, quash_kv_seq seq,
                                                 uint32_t layer, uint64_t *out);

/* Appends n tokens to a layer. Full pages are sealed (compressed) on the way.
 *   k, v  [n, num_kv_heads, head_dim] of dtype, by strides: element (t, h, d) is
 *         at t * token_stride + h * head_stride + d
 * Refuses NaN, infinity and vectors of a norm above 1e5. QUASH_KV_FULL leaves the
 * sequence as it was. */
QUASH_KV_API quash_kv_status quash_kv_append(quash_kv *cache, quash_kv_seq seq, uint32_t layer,
                                             const void *k, const void *v, uint64_t n,
                                             quash_kv_dtype dtype, int64_t token_stride,
                                             int64_t head_stride, void *stream);

/* Seals the open page and the reserve of every layer as they are, short or not:
 * for prefixes that will be shared and not grow. All layers or, after an error,
 * none: the budget needs room for the pages before the tokens go. */
QUASH_KV_API quash_kv_status quash_kv_seq_seal(quash_kv *cache, quash_kv_seq seq);

/* Decompressed tokens begin..begin+n of a layer, as attention sees them.
 *   k, v  [n, num_kv_heads, head_dim] float32 out, contiguous; either may be NULL */
QUASH_KV_API quash_kv_status quash_kv_read(quash_kv *cache, quash_kv_seq seq, uint32_t layer,
                                           uint64_t begin, uint64_t n, float *k, float *v);

/* ---- Attention ----------------------------------------------------------------- */

/* softmax(q k^T * scale) v over the tokens of one layer, for a batch of
 * sequences with any number of query tokens each. Queries are the newest tokens:
 * with L tokens stored and n queries, query i is token L - n + i and sees tokens
 * up to itself (causal), or all (not causal). Query head h reads KV head
 * h / (num_q_heads / num_kv_heads). */
typedef struct quash_kv_attend_args {
  size_t struct_size;
  uint32_t layer;
  uint32_t num_q_heads;      /* a multiple of num_kv_heads */
  const quash_kv_seq *seqs;  /* [num_seqs], repetition allowed */
  size_t num_seqs;
  const uint64_t *cu_queries; /* [num_seqs + 1] ascending from 0: sequence i has
                                 query rows cu_queries[i]..cu_queries[i+1]; NULL:
                                 one each */
  const void *q;             /* [rows, num_q_heads, head_dim] by strides; finite, and of a
                                norm of at most 1e30 when multiplied by scale */
  void *out;                 /* the same shape, of dtype too */
  float *lse;                /* [rows, num_q_heads] contiguous, log of the sum of
                                exp(score); NULL: not wanted */
  quash_kv_dtype dtype;
  int64_t q_token_stride, q_head_stride, out_token_stride, out_head_stride;
  float scale;               /* 0: 1 / sqrt(head_dim) */
  float softcap;             /* scores become softcap * tanh(score / softcap); 0: off */
  uint64_t window;           /* a query sees its last `window` tokens, itself
                                included (not causal: of all tokens); 0: all */
  int causal;                /* default 1 */
  void *stream;
} quash_kv_attend_args;

QUASH_KV_API void quash_kv_attend_args_init(quash_kv_attend_args *args);
/* A sequence without tokens is QUASH_KV_INVALID; so are more causal queries than
 * tokens. Results do not depend on the number of threads. */
QUASH_KV_API quash_kv_status quash_kv_attend(quash_kv *cache, const quash_kv_attend_args *args);

/* ---- Accounting ------------------------------------------------------------------ */

typedef struct quash_kv_stats {
  size_t struct_size;
  uint64_t sequences;
  uint64_t tokens;              /* of all sequences and layers, shared ones counted in each */
  uint64_t pages;               /* sealed, shared ones once */
  uint64_t page_bytes;          /* of one page, all KV heads */
  uint64_t packed_bytes;        /* pages * page_bytes */
  uint64_t open_bytes;          /* sink, open and uncompressed tokens */
  uint64_t table_bytes;         /* block tables */
  uint64_t total_bytes;         /* the three together */
  uint64_t f16_bytes;           /* what the tokens would take as float16, shared ones in each */
  double compression_ratio;     /* f16_bytes / total_bytes; 0 when empty */
  double sealed_ratio;          /* of a sealed page, block table included */
  double k_effective_bits;      /* bits per number of a sealed page, all included */
  double v_effective_bits;
} quash_kv_stats;

/* seq 0: the whole cache. */
QUASH_KV_API quash_kv_status quash_kv_get_stats(quash_kv *cache, quash_kv_seq seq,
                                                quash_kv_stats *out);

/* ---- Saving ---------------------------------------------------------------------- */

/* Bytes of a sequence, with a checksum, to be freed by quash_kv_bytes_free(). They
 * fit caches with the same options (threads, budget and reserve aside). */
QUASH_KV_API quash_kv_status quash_kv_seq_save(quash_kv *cache, quash_kv_seq seq,
                                               uint8_t **out_bytes, size_t *out_size);
QUASH_KV_API void quash_kv_bytes_free(uint8_t *bytes);
/* QUASH_KV_CORRUPT for anything but whole bytes of a like cache. */
QUASH_KV_API quash_kv_status quash_kv_seq_restore(quash_kv *cache, const uint8_t *bytes,
                                                  size_t size, quash_kv_seq *out);

#ifdef __cplusplus
}
#endif

#endif /* QUASH_KV_H */
