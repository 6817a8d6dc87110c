/* quashdb.h from strict C99: it stands alone, every function links, and a
 * whole session works. Called from database_test.cc. */
#include "quashdb.h"

typedef void (*AnyFunction)(void);

#define F(name) (AnyFunction) name
static const AnyFunction kFunctions[] = {
    F(quash_version), F(quash_isa), F(quash_status_name), F(quash_errmsg),
    F(quash_error_offset), F(quash_free), F(quash_open_options_init), F(quash_open),
    F(quash_close), F(quash_refresh), F(quash_set_progress), F(quash_checkpoint),
    F(quash_backup), F(quash_restore), F(quash_verify), F(quash_collection_options_init),
    F(quash_collection_create), F(quash_collection_open), F(quash_collection_free),
    F(quash_collection_drop), F(quash_collection_list), F(quash_collection_describe),
    F(quash_collection_add_field), F(quash_collection_stats), F(quash_stats),
    F(quash_rows_init), F(quash_add), F(quash_upsert), F(quash_delete),
    F(quash_delete_where), F(quash_compact), F(quash_search_options_init), F(quash_search),
    F(quash_search_into), F(quash_search_by_id), F(quash_query_prepare), F(quash_query_run),
    F(quash_query_explain), F(quash_query_free), F(quash_distance),
    F(quash_result_num_queries), F(quash_result_offsets), F(quash_result_int_ids),
    F(quash_result_string_id), F(quash_result_scores), F(quash_result_vectors),
    F(quash_result_metadata), F(quash_result_document), F(quash_result_free), F(quash_get),
    F(quash_contains), F(quash_count), F(quash_iterate), F(quash_iterator_next),
    F(quash_iterator_free), F(quash_measure_options_init), F(quash_measure),
};

size_t capi_c99_functions(void);
int capi_c99_session(void);

size_t capi_c99_functions(void) {
  size_t i, found = 0;
  for (i = 0; i < sizeof(kFunctions) / sizeof(kFunctions[0]); ++i) {
    if (kFunctions[i] != 0) ++found;
  }
  return found;
}

/* 0, or the number of the step that failed. */
int capi_c99_session(void) {
  static const float kVectors[] = {1, 0, 0, 1, 1, 1};
  static const float kQuery[] = {1, 0.1f};
  static const char *const kIds[] = {"east", "north", "both"};
  quash_db *db = NULL;
  quash_collection *collection = NULL;
  quash_collection_options options;
  quash_rows rows;
  quash_result *result = NULL;
  int failed = 0;

  if (quash_open(":memory:", NULL, &db) != QUASH_OK) return 1;
  quash_collection_options_init(&options);
  options.dim = 2;
  options.id_type = QUASH_ID_STRING;
  if (quash_collection_create(db, "c", &options, &collection) != QUASH_OK) {
    quash_close(db);
    return 2;
  }
  quash_rows_init(&rows);
  rows.n = 3;
  rows.string_ids = kIds;
  rows.vectors = kVectors;
  if (quash_add(collection, &rows, NULL) != QUASH_OK) {
    failed = 3;
  } else if (quash_search(collection, kQuery, 1, 2, NULL, &result) != QUASH_OK) {
    failed = 4;
  } else if (quash_result_offsets(result)[1] != 2) {
    failed = 5;
  } else if (quash_result_string_id(result, 0)[0] != 'e' ||
             quash_result_string_id(result, 1)[0] != 'b') {
    failed = 6;
  }
  quash_result_free(result);
  quash_collection_free(collection);
  if (quash_close(db) != QUASH_OK && failed == 0) failed = 7;
  return failed;
}
