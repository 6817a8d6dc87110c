/* The KV cache on NVIDIA GPUs (sm_80 and newer), in memory that the caller owns:
 * pages, open tokens and counts are device arrays, and these functions launch the
 * kernels that append, read and attend. Pages have the bytes of quash_kv.h's. C99
 * and C++.
 *
 * Nothing synchronises and counts stay on the device, so appends and attention can
 * be captured in a CUDA graph. Pointers are device memory and 16-byte aligned
 * unless said otherwise; the current device is the caller's choice and must be the
 * one of quash_kv_cuda_create().
 *
 * On sm_90 appends and attention let the next launch on the stream start early if it is a
 * programmatic dependent one, as attention is: a kernel of the caller's that is launched so
 * calls cudaGridDependencySynchronize() before it reads what they write, or writes what they
 * read. Other launches wait as always.
 *
 * Supported: head_dim 64, 128 and 256, all bits of quash_kv.h, outliers, tq_mse and
 * tq_prod, rotations but dense ones; quash_kv_cuda_attend() also needs dtype bf16 or f16.
 * Anything else, and any build without CUDA, is QUASH_KV_UNSUPPORTED. Errors as in
 * quash_kv.h; NaN and infinity are not looked for. */
#ifndef QUASH_KV_CUDA_H
#define QUASH_KV_CUDA_H

#include "quash_kv.h"

#ifdef __cplusplus
extern "C" {
#endif

/* GPUs that the kernels run on; 0 without a driver or in a build without CUDA. */
QUASH_KV_API int quash_kv_cuda_devices(void);

/* How pages are made: options and their tables, on one device. Immutable, for any
 * number of layers and threads. */
typedef struct quash_kv_cuda quash_kv_cuda;

/* Of `options`, num_layers, memory_budget_bytes and threads play no part, and
 * uncompressed_layers are unsupported. Waits for the copy of its tables. */
QUASH_KV_API quash_kv_status quash_kv_cuda_create(const quash_kv_options *options, int device,
                                                  quash_kv_cuda **out);
QUASH_KV_API void quash_kv_cuda_free(quash_kv_cuda *cuda);
/* Bytes of a page of all KV heads, and the open tokens that a sequence needs room
 * for: sinks, a page and the reserve. */
QUASH_KV_API uint64_t quash_kv_cuda_page_bytes(const quash_kv_cuda *cuda);
QUASH_KV_API uint32_t quash_kv_cuda_open_capacity(const quash_kv_cuda *cuda);

/* The sequences of one layer. All zero is empty. */
typedef struct quash_kv_cuda_layer {
  size_t struct_size;
  uint32_t num_seqs;           /* 1..65535 */
  uint32_t max_pages;          /* of a sequence */
  uint8_t *pages;              /* [pages, page_bytes], zeroed once */
  const int32_t *block_table;  /* [num_seqs, max_pages] pages of each sequence, those
                                  not yet filled included */
  int32_t *num_pages;          /* [num_seqs] sealed */
  void *open_k, *open_v;       /* [num_seqs, open_capacity, num_kv_heads, head_dim] of
                                  dtype: sinks, then the newest tokens */
  int32_t *open_tokens;        /* [num_seqs] */
  uint32_t open_capacity;      /* at least quash_kv_cuda_open_capacity() */
  uint32_t *flags;             /* [num_seqs + 1], zeroed once; the last becomes 1 if
                                  tokens were lost because max_pages were full */
} quash_kv_cuda_layer;

/* Rows of keys and values of a batch: element (seq, head, token, d) at
 * seq * seq_stride + head * head_stride + token * token_stride + d. */
typedef struct quash_kv_cuda_rows {
  size_t struct_size;
  void *k, *v;
  quash_kv_dtype dtype;
  int64_t seq_stride, head_stride, token_stride; /* whole 16 bytes */
  const int32_t *begins; /* [num_seqs] first token of each sequence, those before are
                            padding; NULL: all 0 */
} quash_kv_cuda_rows;

/* Appends tokens begins..n-1 of `rows`, whose dtype is that of the options. */
QUASH_KV_API quash_kv_status quash_kv_cuda_append(quash_kv_cuda *cuda,
                                                  const quash_kv_cuda_layer *layer,
                                                  const quash_kv_cuda_rows *rows, uint32_t n,
                                                  void *stream);
/* Tokens first..first + n - 1 of each sequence, decompressed: token i goes to place
 * begins + i - first of `rows`. `first` is a multiple of 64, and n too unless no
 * sequence has more tokens. */
QUASH_KV_API quash_kv_status quash_kv_cuda_read(quash_kv_cuda *cuda,
                                                const quash_kv_cuda_layer *layer,
                                                const quash_kv_cuda_rows *rows, uint32_t first,
                                                uint32_t n, void *stream);

/* softmax(q k^T * scale) v for the newest query_tokens tokens of each sequence,
 * each of which sees the tokens up to itself (causal). Sequences have at least
 * query_tokens tokens; a query that sees none gives zeros. One launch, with
 * results that are the same bits every time. */
typedef struct quash_kv_cuda_attend_args {
  size_t struct_size;
  uint32_t num_q_heads;  /* a multiple of num_kv_heads */
  uint32_t query_tokens; /* 1..8 */
  const void *q;         /* [num_seqs, query_tokens, num_q_heads, head_dim] of dtype */
  void *out;             /* the same */
  float *lse;            /* [num_seqs, query_tokens, num_q_heads] or NULL */
  float scale;           /* 0: 1 / sqrt(head_dim) */
  float softcap;         /* scores become softcap * tanh(score / softcap); 0: off */
  uint32_t window;       /* a query sees its last `window` tokens, itself included;
                            0: all; below 2^31 */
  void *workspace;       /* quash_kv_cuda_workspace_bytes(), zeroed once, for launches of
                            these sizes on one stream; to be zeroed again if one was cut
                            off */
} quash_kv_cuda_attend_args;

/* 0 for sizes that attention does not take. */
QUASH_KV_API size_t quash_kv_cuda_workspace_bytes(uint32_t num_seqs, uint32_t num_q_heads,
                                                  uint32_t head_dim, uint32_t query_tokens);
QUASH_KV_API quash_kv_status quash_kv_cuda_attend(quash_kv_cuda *cuda,
                                                  const quash_kv_cuda_layer *layer,
                                                  const quash_kv_cuda_attend_args *args,
                                                  void *stream);

#ifdef __cplusplus
}
#endif

#endif /* QUASH_KV_CUDA_H */
