/* quashdb.h: the C API of QuashDB, an embedded vector database.
 *
 * A database is one directory holding collections of vectors with ids, typed
 * metadata and optional documents. Vectors are kept as TurboQuant codes
 * (random rotation + Lloyd-Max scalar quantizer, arXiv 2504.19874), scanned
 * as packed bits and reranked from a higher-precision tier.
 *
 * Conventions
 * - Every call that can fail returns a quash_status. On any status but
 *   QUASH_OK, quash_errmsg() tells what was wrong and what was expected, and
 *   neither the database nor the outputs have changed.
 * - Nothing here prints, aborts or throws. Pointers marked "out" are written
 *   only on QUASH_OK unless stated.
 * - Handles are opaque. What the library allocates, the library frees, with
 *   the function named beside it; freeing NULL is a no-op.
 * - Threads: a quash_db and a quash_collection may be used by any number of
 *   threads at once. A quash_query, quash_iterator or quash_result belongs to
 *   one thread at a time. Writers are serialized; readers never wait for
 *   writers and see whole batches only.
 * - Processes: one read-write process per database; see quash_open_mode. A
 *   handle used in a forked child gives QUASH_MISUSE, and so does opening in a
 *   child forked from a process that had opened a database; such a child
 *   leaves by exec or _exit().
 * - Option structs begin with struct_size; fill them with their _init
 *   function first, which sets it and the defaults. */
#ifndef QUASHDB_H_
#define QUASHDB_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__) || defined(__clang__)
#define QUASH_API __attribute__((visibility("default")))
#else
#define QUASH_API
#endif

#define QUASH_VERSION_MAJOR 0
#define QUASH_VERSION_MINOR 1
#define QUASH_VERSION_PATCH 0
#define QUASH_VERSION_STRING "0.1.0"

/* Limits. Beyond any of them a call returns QUASH_LIMIT. */
#define QUASH_DIM_MAX 65536u                 /* coordinates per vector */
#define QUASH_K_MAX 16384u                   /* results per query */
#define QUASH_BATCH_ROWS_MAX (1u << 24)      /* rows, ids or queries per call */
#define QUASH_BATCH_BYTES_MAX (256u << 20)   /* vectors + metadata + documents */
#define QUASH_NAME_BYTES_MAX 255u            /* collection and field names */
#define QUASH_ID_BYTES_MAX 1024u             /* string ids */
#define QUASH_METADATA_BYTES_MAX (1u << 20)  /* JSON text of one row */
#define QUASH_DOCUMENT_BYTES_MAX (16u << 20) /* document of one row */
#define QUASH_FIELDS_MAX 256u                /* metadata fields per collection */
#define QUASH_FILTER_BYTES_MAX (1u << 20)    /* filter text */
#define QUASH_PROGRESS_QUERIES_MIN 32u       /* of a search that reports progress */
#define QUASH_FILTER_DEPTH_MAX 64u           /* nesting of a filter */

typedef enum quash_status {
  QUASH_OK = 0,
  QUASH_INVALID = 1,    /* an argument is wrong: NaN, dimension, zero vector with
                           cosine, duplicate id in one batch, null pointer */
  QUASH_NOT_FOUND = 2,  /* no such database, collection, id or field */
  QUASH_EXISTS = 3,     /* collection, id or backup target is already there */
  QUASH_BUSY = 4,       /* another process holds the database */
  QUASH_READONLY = 5,   /* a write on a read-only or follower handle */
  QUASH_CORRUPT = 6,    /* stored data is damaged, missing or foreign */
  QUASH_IO = 7,         /* the operating system refused a read or write; after a
                           failed write the handle refuses writes until reopened */
  QUASH_FULL = 8,       /* too little free disk space to write safely */
  QUASH_NOMEM = 9,      /* allocation failed */
  QUASH_LIMIT = 10,     /* beyond a limit above */
  QUASH_MISUSE = 11,    /* closed or forked handle, wrong id type, write from a
                           progress callback */
  QUASH_CANCELLED = 12, /* the progress callback asked to stop */
  QUASH_VERSION = 13,   /* written by a newer format; left untouched */
  QUASH_SYNTAX = 14,    /* filter text; see quash_error_offset() */
  QUASH_TYPE = 15,      /* a value or literal does not fit its field's type */
  QUASH_INTERNAL = 16,  /* a defect in QuashDB */
  QUASH_UNSUPPORTED = 17 /* this build or machine cannot do that (no GPU) */
} quash_status;

typedef struct quash_db quash_db;
typedef struct quash_collection quash_collection;
typedef struct quash_query quash_query;
typedef struct quash_result quash_result;
typedef struct quash_iterator quash_iterator;

/* ---- Library ---------------------------------------------------------- */

/* Version of the linked library, "major.minor.patch"; static storage. */
QUASH_API const char *quash_version(void);

/* Name of the instruction set in use: "scalar", "avx2", "avx512",
 * "avx512vbmi" or "neon".
 * The environment variable QUASH_ISA lowers it; static storage. */
QUASH_API const char *quash_isa(void);

/* Name of a status, as "QUASH_INVALID"; static storage, never NULL. */
QUASH_API const char *quash_status_name(quash_status status);

/* Message of this thread's last failed call; "" if none. Valid until this
 * thread's next call into the library. */
QUASH_API const char *quash_errmsg(void);

/* Byte offset in the filter text of what this thread's last error found wrong
 * there (QUASH_SYNTAX, QUASH_TYPE, an unknown field, too deep), or -1. */
QUASH_API long quash_error_offset(void);

/* Frees text returned through a char ** out parameter. */
QUASH_API void quash_free(void *text);

/* ---- Database --------------------------------------------------------- */

typedef enum quash_open_mode {
  QUASH_OPEN_CREATE = 0,    /* read-write, made if missing (default) */
  QUASH_OPEN_READWRITE = 1, /* read-write, must exist */
  QUASH_OPEN_READONLY = 2,  /* must exist; shares with other READONLY handles,
                               QUASH_BUSY beside a writer; writes nothing */
  QUASH_OPEN_FOLLOWER = 3   /* reads beside a live writer in another process;
                               sees its writes after quash_refresh() */
} quash_open_mode;

typedef enum quash_durability {
  QUASH_DURABILITY_FULL = 0,  /* fsync per batch: acknowledged survives power loss */
  QUASH_DURABILITY_NORMAL = 1 /* fsync at quash_checkpoint() and close:
                                 acknowledged survives a killed process */
} quash_durability;

typedef struct quash_open_options {
  size_t struct_size;
  quash_open_mode mode;
  quash_durability durability;
  uint64_t memory_budget_bytes; /* codes, rerank tier, caches and write buffers
                                   kept in memory; 0: no limit, else at least
                                   64 MiB. Calls in progress come on top:
                                   about 5 times the vectors of a batch */
  uint32_t threads;             /* per call; 0: one per core */
} quash_open_options;

QUASH_API void quash_open_options_init(quash_open_options *options);

/* Opens the database directory at `path`; ":memory:" makes a private one that
 * lives as long as the handle. options NULL: the defaults.
 *   out_db  out: the handle, closed by quash_close()
 * QUASH_NOT_FOUND: missing and not to be made. QUASH_CORRUPT: damaged, or a
 * directory that is no QuashDB database. QUASH_BUSY: held elsewhere or, of a
 * follower, as quash_refresh(). QUASH_VERSION: newer format. */
QUASH_API quash_status quash_open(const char *path, const quash_open_options *options,
                                  quash_db **out_db);

/* Makes every acknowledged write durable and closes. Waits for calls in flight
 * on other threads. Collection handles, queries and iterators still open give
 * QUASH_MISUSE as soon as this is called, and must still be freed. After
 * QUASH_MISUSE `db` is neither closed nor freed. */
QUASH_API quash_status quash_close(quash_db *db);

/* FOLLOWER: takes in what the writer has committed since. Others: no-op.
 * QUASH_BUSY: the writer replaced files faster than they could be read, for 5
 * seconds; QUASH_CORRUPT: damaged, or older than what was read before. After an
 * error all stays as it was. */
QUASH_API quash_status quash_refresh(quash_db *db);

/* Called during long calls on this database (compact, backup, verify, measure,
 * delete by filter, large adds, and every 50 ms or so in searches that are exact
 * or of QUASH_PROGRESS_QUERIES_MIN queries or more). done and total are in the
 * call's own unit (search: queries); total is 0 while unknown. A non-zero return
 * cancels: the call gives QUASH_CANCELLED having changed nothing (compact: having
 * finished whole segments only). Called on the calling thread. It may read from
 * the database; writing to it and closing it give QUASH_MISUSE. callback NULL
 * removes it. */
typedef int (*quash_progress_fn)(void *user_data, uint64_t done, uint64_t total);
QUASH_API quash_status quash_set_progress(quash_db *db, quash_progress_fn callback,
                                          void *user_data);

/* Makes every acknowledged write durable (fsync) and bounds recovery time. */
QUASH_API quash_status quash_checkpoint(quash_db *db);

/* Writes a consistent copy, itself an openable database, to the directory
 * `path`, which must not exist. Readers and writers go on meanwhile. */
QUASH_API quash_status quash_backup(quash_db *db, const char *path);

/* Verifies the backup at `backup_path` and copies it to `path`, which must
 * not exist. */
QUASH_API quash_status quash_restore(const char *backup_path, const char *path);

/* Reads everything, checks checksums and that all parts agree (codes, rerank
 * tier, ids, metadata, row counts).
 *   out_report  out, may be NULL: JSON text {"ok","collections","rows",
 *               "segments","bytes","problems":[...]}, quash_free(); written
 *               on QUASH_OK and on QUASH_CORRUPT, where problems name each */
QUASH_API quash_status quash_verify(quash_db *db, char **out_report);

/* ---- Collections ------------------------------------------------------ */

typedef enum quash_metric {
  QUASH_METRIC_IP = 0,     /* score = <q, x> */
  QUASH_METRIC_COSINE = 1, /* score = <q, x> / (|q| |x|); zero vectors refused */
  QUASH_METRIC_L2 = 2      /* score = -|q - x|^2 */
} quash_metric;            /* a higher score is always better */

typedef enum quash_id_type { QUASH_ID_INT64 = 0, QUASH_ID_STRING = 1 } quash_id_type;

typedef enum quash_rerank {
  QUASH_RERANK_NONE = 0, /* codes only; exact mode is refused */
  QUASH_RERANK_INT8 = 1, /* dim + 4 bytes per vector */
  QUASH_RERANK_F16 = 2,  /* 2 dim bytes (default); resolves 2^-11 of a coordinate,
                            at best 2^-25, and refuses those past 65504 */
  QUASH_RERANK_F32 = 3   /* 4 dim bytes, the vector as given */
} quash_rerank;          /* metric cosine: of the vector divided by its norm */

typedef enum quash_rotation {
  QUASH_ROTATION_HADAMARD = 0, /* O(d log d), the default */
  QUASH_ROTATION_DENSE = 1     /* Haar orthogonal matrix, O(d^2), dim <= 4096 */
} quash_rotation;

typedef enum quash_field_type {
  QUASH_FIELD_BOOL = 0,
  QUASH_FIELD_INT = 1,         /* int64 */
  QUASH_FIELD_FLOAT = 2,       /* double, finite */
  QUASH_FIELD_STRING = 3,      /* UTF-8 */
  QUASH_FIELD_INT_LIST = 4,    /* int64[] */
  QUASH_FIELD_STRING_LIST = 5  /* UTF-8[] */
} quash_field_type;            /* every field may be null */

typedef struct quash_field {
  const char *name; /* [A-Za-z_][A-Za-z0-9_]*, not a filter keyword nor "id" */
  quash_field_type type;
} quash_field;

typedef struct quash_collection_options {
  size_t struct_size;
  uint32_t dim;            /* 1..QUASH_DIM_MAX, required */
  quash_metric metric;     /* default cosine */
  quash_id_type id_type;   /* default int64 */
  uint32_t bits;           /* 1..4 per coordinate, default 4 */
  quash_rerank rerank;     /* default f16 */
  quash_rotation rotation; /* default hadamard */
  uint64_t seed;           /* of the rotation; default 42 */
  const quash_field *fields; /* [num_fields] */
  size_t num_fields;
  uint64_t partition_rows; /* live rows from which the collection is partitioned: a
                              search then reads the lists nearest to the query
                              instead of every row. 0: the default, 100,000;
                              UINT64_MAX: never; QUASH_INVALID from 1 to 999 */
} quash_collection_options;

QUASH_API void quash_collection_options_init(quash_collection_options *options);

/* Creates a collection. name: 1..QUASH_NAME_BYTES_MAX bytes of UTF-8 without
 * control characters. out_collection may be NULL. */
QUASH_API quash_status quash_collection_create(quash_db *db, const char *name,
                                               const quash_collection_options *options,
                                               quash_collection **out_collection);

/* Opens an existing one. Handles of a collection are independent; each is
 * freed by quash_collection_free(). */
QUASH_API quash_status quash_collection_open(quash_db *db, const char *name,
                                             quash_collection **out_collection);
QUASH_API void quash_collection_free(quash_collection *collection);

/* Removes a collection and its data. Handles of it give QUASH_NOT_FOUND. */
QUASH_API quash_status quash_collection_drop(quash_db *db, const char *name);

/* JSON array of collection names in byte order; quash_free(). */
QUASH_API quash_status quash_collection_list(quash_db *db, char **out_json);

/* JSON object {"name","dim","metric","id_type","bits","rerank","rotation",
 * "seed","partition_rows","rows","fields":[{"name","type"}]}, and "gpu":
 * [{"device","name","budget_bytes","used_bytes"}], one per GPU, if attached; quash_free().
 * Types and enums by their lower-case names ("string[]", "cosine", "f16"); "partition_rows"
 * is null for never. */
QUASH_API quash_status quash_collection_describe(quash_collection *collection, char **out_json);

/* Adds a nullable metadata field; existing rows hold null. */
QUASH_API quash_status quash_collection_add_field(quash_collection *collection,
                                                  const quash_field *field);

typedef struct quash_collection_info {
  size_t struct_size; /* set by the caller to sizeof(quash_collection_info) */
  uint32_t dim;
  uint32_t bits;
  quash_metric metric;
  quash_id_type id_type;
  quash_rerank rerank;
  uint64_t rows;              /* live */
  uint64_t dead_rows;         /* deleted, not yet reclaimed */
  uint64_t segments;          /* sealed */
  uint64_t tail_rows;         /* not yet sealed */
  uint64_t code_bytes;        /* stored codes and scales */
  uint64_t rerank_bytes;      /* stored rerank tier */
  uint64_t resident_bytes;    /* of both and of columns and ids, in memory now */
  uint64_t hot_bytes;         /* first plane and scales: what a search of every row reads */
  uint64_t generation;        /* rises with every committed change */
  uint64_t lists;             /* of the partition index; 0: there is none yet */
  uint64_t indexed_rows;      /* in lists, deleted ones included; the others are
                                 scanned by every search */
  uint64_t list_bytes;        /* stored lists */
} quash_collection_info;

QUASH_API quash_status quash_collection_stats(quash_collection *collection,
                                              quash_collection_info *out_info);

/* ---- GPU --------------------------------------------------------------- */

#define QUASH_GPU_ALL (-1) /* every GPU that is visible */

typedef struct quash_gpu_options {
  size_t struct_size;
  int device;            /* ordinal, from 0 (default), or QUASH_GPU_ALL */
  uint64_t budget_bytes; /* memory of each device for what is uploaded; 0:
                            nine tenths of what is free now (default) */
  const int *devices;    /* [num_devices] ordinals that the segments are divided
                            between, up to 64; NULL: `device` alone */
  size_t num_devices;
} quash_gpu_options;

QUASH_API void quash_gpu_options_init(quash_gpu_options *options);

/* Searches of the collection, by every handle of this database object, scan on
 * GPUs from now on, with the ids and scores that the CPU gives. Uploads what is
 * sealed, as far as the budget goes: first planes, then whole codes, then the
 * rerank tier with int64 ids; the rest, and what is written before it is sealed, is
 * searched on the CPU. Later searches upload what has been sealed since. With
 * several devices each segment is on one of them; all scan at the same time,
 * fastest where they can read each other's memory. The calling thread's current
 * CUDA device stays what it was, if it was in use. What ran where:
 * quash_query_explain(). Attaching again replaces devices and budget.
 * QUASH_UNSUPPORTED where the build or the machine has no GPU. */
QUASH_API quash_status quash_collection_attach_gpu(quash_collection *collection,
                                                   const quash_gpu_options *options);
/* Back to the CPU; does nothing if not attached. */
QUASH_API quash_status quash_collection_detach_gpu(quash_collection *collection);

/* JSON object: path, format version, durability, memory budget and use, disk
 * bytes, sequence, and one object per collection; quash_free(). */
QUASH_API quash_status quash_stats(quash_db *db, char **out_json);

/* ---- Writing ---------------------------------------------------------- */

/* A batch of rows, owned by the caller, read only during the call. */
typedef struct quash_rows {
  size_t struct_size;
  size_t n;
  const int64_t *int_ids;         /* [n] for id type int64; NULL in quash_add():
                                     assigned upward from the highest so far */
  const char *const *string_ids;  /* [n] NUL-terminated UTF-8, for id type string */
  const float *vectors;           /* [n, dim] row-major, finite, norm <= 3e18 */
  const char *const *metadata;    /* [n] JSON objects of declared fields, NULL entry
                                     or NULL array: all fields null */
  const char *const *documents;   /* [n] UTF-8, NULL entry or NULL array: none */
} quash_rows;

QUASH_API void quash_rows_init(quash_rows *rows);

/* Adds n rows as one atomic batch. QUASH_EXISTS if an id is stored already.
 *   out_ids  out, [n], may be NULL: the ids (int64 collections) */
QUASH_API quash_status quash_add(quash_collection *collection, const quash_rows *rows,
                                 int64_t *out_ids);

/* Adds n rows, replacing those whose id is stored, as one atomic batch. */
QUASH_API quash_status quash_upsert(quash_collection *collection, const quash_rows *rows);

/* A list of ids, owned by the caller: the member of the collection's type. */
typedef struct quash_ids {
  size_t n;
  const int64_t *int_ids;        /* [n] */
  const char *const *string_ids; /* [n] NUL-terminated */
} quash_ids;

/* Deletes rows by id as one atomic batch; unknown ids are skipped.
 *   out_deleted  out, may be NULL: rows removed */
QUASH_API quash_status quash_delete(quash_collection *collection, const quash_ids *ids,
                                    uint64_t *out_deleted);

/* Deletes every row that matches the filter (syntax below), atomically. */
QUASH_API quash_status quash_delete_where(quash_collection *collection, const char *filter,
                                          uint64_t *out_deleted);

/* Rewrites segments with dead rows, merges small ones, seals the tail and
 * lets RocksDB reclaim the space. */
QUASH_API quash_status quash_compact(quash_db *db);

/* ---- Filters ----------------------------------------------------------
 * The SQL WHERE subset over declared fields and `id`:
 *   = == != <> < <= > >=   field against literal
 *   IN (...)  NOT IN (...)  BETWEEN a AND b  LIKE 'lib%'  NOT LIKE
 *   IS NULL  IS NOT NULL  field CONTAINS literal (lists)
 *   CONTAINS ANY (...)  CONTAINS ALL (...)
 *   AND OR NOT ( )  TRUE FALSE
 * Literals: 'text' with '' for a quote, integers, decimals, TRUE, FALSE.
 * Names may be "quoted". Keywords ignore case. LIKE: % any run, _ one
 * character, ASCII case ignored, as in SQLite. Logic is three-valued, as in
 * SQL: a comparison with null is unknown, and unknown does not match. */

/* ---- Searching -------------------------------------------------------- */

#define QUASH_INCLUDE_METADATA 1u
#define QUASH_INCLUDE_DOCUMENTS 2u
#define QUASH_INCLUDE_VECTORS 4u /* from the rerank tier, else decoded codes */

#define QUASH_PLANES_ALL 4u

typedef struct quash_search_options {
  size_t struct_size;
  int exact;                  /* non-zero: score every matching row from the
                                 rerank tier (QUASH_INVALID with rerank none) */
  const char *filter;         /* NULL: every row */
  double min_score;           /* range search: rows with score >= min_score;
                                 -INFINITY: off. k still bounds the result */
  uint32_t candidates;        /* survivors of the plane scan per query; 0: chosen
                                 from k, or by the last quash_measure() applied */
  uint32_t rerank_candidates; /* rows scored from the rerank tier; 0: chosen */
  uint32_t planes;            /* bit planes scanned over all rows: 1, 2, or
                                 QUASH_PLANES_ALL for whole codes; 0: chosen */
  uint32_t include;           /* QUASH_INCLUDE_ flags for results */
  uint32_t threads;           /* 0: as at open */
  /* Paging: rows after (cursor_score, cursor id) in result order, that is,
   * with lower score, or equal score and greater id. */
  int has_cursor;
  float cursor_score;
  int64_t cursor_int_id;
  const char *cursor_string_id;
  /* Of a partitioned collection; others, and searches that are exact, have a
   * min_score or a cursor, or match few rows, look at every row. */
  uint32_t nprobe;            /* lists probed per query, at most those there are;
                                 0: as many as `recall` needs */
  double recall;              /* share of the true best k to find, in (0, 1]; nprobe
                                 follows from the recall measured when the lists were
                                 made, or by the last quash_measure() applied.
                                 0: the target of the latter, else 0.99; 1: every
                                 row. QUASH_INVALID outside [0, 1] */
} quash_search_options;

QUASH_API void quash_search_options_init(quash_search_options *options);

/* Finds the best rows for each of nq queries, best first, ties by ascending
 * id. With a filter, min(k, matching rows) come back at every selectivity.
 *   queries     [nq, dim] float32, row-major, finite, norm <= 3e18
 *   k           1..QUASH_K_MAX
 *   options     NULL: the defaults
 *   out_result  out: freed by quash_result_free()
 * Reads one snapshot. */
QUASH_API quash_status quash_search(quash_collection *collection, const float *queries,
                                    size_t nq, size_t k, const quash_search_options *options,
                                    quash_result **out_result);

/* The same into the caller's buffers, for int64 ids and no includes.
 *   ids     [nq, k] out, padded with -1
 *   scores  [nq, k] out, padded with NaN
 *   counts  [nq] out, may be NULL: rows found per query */
QUASH_API quash_status quash_search_into(quash_collection *collection, const float *queries,
                                         size_t nq, size_t k,
                                         const quash_search_options *options, int64_t *ids,
                                         float *scores, uint32_t *counts);

/* Search by a stored row: its vector as quash_get() returns it is the query;
 * the row itself is among the results. ids->n is the number of queries. */
QUASH_API quash_status quash_search_by_id(quash_collection *collection, const quash_ids *ids,
                                          size_t k, const quash_search_options *options,
                                          quash_result **out_result);

/* A prepared search: options checked and filter compiled once, run often. */
QUASH_API quash_status quash_query_prepare(quash_collection *collection,
                                           const quash_search_options *options,
                                           quash_query **out_query);
QUASH_API quash_status quash_query_run(quash_query *query, const float *queries, size_t nq,
                                       size_t k, quash_result **out_result);

/* JSON object on the last run (quash_query_run): "device" ("cpu", "gpu:0",
 * "gpu:0,1" with several, or "gpu:0+cpu" where some queries went back to the
 * CPU), "gpu_note" (why, or null), "kernel",
 * "mode" ("partitions", "staged": every row, "direct": few matches, "exact"),
 * "rows", "matching_rows", "selectivity", "filter",
 * "lists" (there are, 0 without an index), "nprobe" (probed, mean over queries),
 * "recall_target", "indexed_rows", "recall_at_nprobe" (measured; null unless lists
 * were probed and measured),
 * "candidates", "rerank_candidates", "planes",
 * "stages":[{"name","rows_in","rows_out","bytes"}], "bytes_read",
 * "elapsed_us", "measured_recall" (null until quash_measure());
 * quash_free(). QUASH_MISUSE before the first run. */
QUASH_API quash_status quash_query_explain(quash_query *query, char **out_json);
QUASH_API void quash_query_free(quash_query *query);

/* distance = -score for ip, 1 - score for cosine, -score for l2: lower is
 * better. */
QUASH_API float quash_distance(quash_metric metric, float score);

/* ---- Results ---------------------------------------------------------- */

QUASH_API size_t quash_result_num_queries(const quash_result *result);
/* [num_queries + 1]: rows of query i are offsets[i] .. offsets[i+1]-1. */
QUASH_API const size_t *quash_result_offsets(const quash_result *result);
/* [rows]; NULL for id type string. */
QUASH_API const int64_t *quash_result_int_ids(const quash_result *result);
/* NUL-terminated id of one row; NULL for id type int64 or row out of range. */
QUASH_API const char *quash_result_string_id(const quash_result *result, size_t row);
/* [rows]; NULL for quash_get() and iteration. */
QUASH_API const float *quash_result_scores(const quash_result *result);
/* [rows, dim]; NULL unless included. */
QUASH_API const float *quash_result_vectors(const quash_result *result);
/* JSON object text; "{}" if the row has none; NULL unless included. */
QUASH_API const char *quash_result_metadata(const quash_result *result, size_t row);
/* Document text; NULL if the row has none or documents are not included. */
QUASH_API const char *quash_result_document(const quash_result *result, size_t row);
/* The texts of all rows, one after the other, for callers that take columns: text
 * i is bytes[offsets[i]] .. bytes[offsets[i + 1] - 1], not NUL-terminated. They
 * belong to the result. */
typedef enum quash_text {
  QUASH_TEXT_STRING_ID = 0,
  QUASH_TEXT_METADATA = 1, /* each followed by a newline: JSON lines */
  QUASH_TEXT_DOCUMENT = 2  /* empty where a row has none */
} quash_text;
typedef struct quash_texts {
  const char *bytes;
  const uint64_t *offsets; /* [rows + 1], offsets[0] is 0 */
  const uint8_t *present;  /* [rows] 0 where a row has none */
} quash_texts;
/* Any number of threads may ask. QUASH_INVALID unless the result has such texts. */
QUASH_API quash_status quash_result_texts(quash_result *result, quash_text what,
                                          quash_texts *out_texts);
QUASH_API void quash_result_free(quash_result *result);

/* ---- Reading ---------------------------------------------------------- */

/* Rows by id, in the order asked; unknown ids are left out. One "query". */
QUASH_API quash_status quash_get(quash_collection *collection, const quash_ids *ids,
                                 uint32_t include, quash_result **out_result);

/*   found  [ids->n] out: 1 where the id is stored, else 0 */
QUASH_API quash_status quash_contains(quash_collection *collection, const quash_ids *ids,
                                      uint8_t *found);

/* Live rows matching the filter; NULL: all. */
QUASH_API quash_status quash_count(quash_collection *collection, const char *filter,
                                   uint64_t *out_count);

/* Iterates one snapshot in insertion order; filter NULL: every row. */
QUASH_API quash_status quash_iterate(quash_collection *collection, const char *filter,
                                     uint32_t include, quash_iterator **out_iterator);
/* Up to max_rows next rows; an empty result is the end. quash_result_free(). */
QUASH_API quash_status quash_iterator_next(quash_iterator *iterator, size_t max_rows,
                                           quash_result **out_result);
QUASH_API void quash_iterator_free(quash_iterator *iterator);

/* ---- Measuring recall ------------------------------------------------- */

typedef struct quash_measure_options {
  size_t struct_size;
  size_t sample;        /* stored rows used as queries; default 200; ignored
                           when queries are given */
  const float *queries; /* [nq, dim] or NULL: a seeded sample of stored rows,
                           each left out of its own results */
  size_t nq;
  size_t k;             /* default 10 */
  double target_recall; /* > 0: find the smallest widths that reach it, and with a
                           partition index the fewest lists */
  int apply;            /* keep what was found as the collection's default */
  uint64_t seed;
} quash_measure_options;

typedef struct quash_measure_report {
  size_t struct_size;         /* set by the caller */
  double recall;              /* mean share of the exact top k found */
  double recall_low;          /* lower end of its 95 % interval over queries */
  double exact_us;            /* median per query */
  double search_us;           /* median per query */
  uint32_t candidates;        /* widths measured or found */
  uint32_t rerank_candidates;
  uint32_t planes;
  size_t queries;
  uint32_t nprobe;            /* lists probed, mean; 0: every row was looked at */
} quash_measure_report;

QUASH_API void quash_measure_options_init(quash_measure_options *options);

/* Compares the search with the exact tier on the user's own vectors.
 * QUASH_INVALID with rerank none or an empty collection. */
QUASH_API quash_status quash_measure(quash_collection *collection,
                                     const quash_measure_options *options,
                                     quash_measure_report *out_report);

#ifdef __cplusplus
}
#endif

#endif /* QUASHDB_H_ */
