/* QuashDB from C: makes a database, adds rows with metadata, searches with a
 * filter and prints what it found.
 *
 *   example PATH    a directory that does not exist yet, or :memory: */
#include <quashdb.h>
#include <stdio.h>

enum { kDim = 4, kRows = 5 };

static const float kVectors[kRows * kDim] = {
    0.9f, 0.1f, 0.0f, 0.0f, /* 0 */
    0.8f, 0.3f, 0.1f, 0.0f, /* 1 */
    0.0f, 0.9f, 0.2f, 0.1f, /* 2 */
    0.1f, 0.0f, 1.0f, 0.2f, /* 3 */
    0.7f, 0.0f, 0.1f, 0.6f, /* 4 */
};

static const char *const kMetadata[kRows] = {
    "{\"lang\": \"en\", \"year\": 2019}", "{\"lang\": \"en\", \"year\": 2023}",
    "{\"lang\": \"de\", \"year\": 2021}", "{\"lang\": \"fr\", \"year\": 2022}",
    "{\"lang\": \"en\", \"year\": 2024}",
};

static const char *const kDocuments[kRows] = {
    "Sailing in the north", "Boats and harbours", "Kuchen backen", "La cuisine du sud", NULL,
};

/* Says what went wrong, as the library does, and passes the status on. */
static quash_status Check(quash_status status, const char *what) {
  if (status != QUASH_OK) {
    fprintf(stderr, "%s: %s: %s\n", what, quash_status_name(status), quash_errmsg());
  }
  return status;
}

static quash_status CreateNotes(quash_db *db, quash_collection **notes) {
  const quash_field fields[] = {{"lang", QUASH_FIELD_STRING}, {"year", QUASH_FIELD_INT}};
  quash_collection_options options;
  quash_collection_options_init(&options);
  options.dim = kDim;
  options.metric = QUASH_METRIC_COSINE;
  options.fields = fields;
  options.num_fields = sizeof(fields) / sizeof(fields[0]);
  return Check(quash_collection_create(db, "notes", &options, notes), "create");
}

static quash_status AddNotes(quash_collection *notes) {
  quash_rows rows;
  quash_rows_init(&rows); /* ids are left out: the database assigns them */
  rows.n = kRows;
  rows.vectors = kVectors;
  rows.metadata = kMetadata;
  rows.documents = kDocuments;
  return Check(quash_add(notes, &rows, NULL), "add");
}

static quash_status SearchNotes(quash_collection *notes) {
  const float query[kDim] = {1.0f, 0.2f, 0.0f, 0.1f};
  quash_search_options options;
  quash_result *result;
  const int64_t *ids;
  const float *scores;
  quash_status status;
  size_t rows, i;

  quash_search_options_init(&options);
  options.filter = "lang = 'en' AND year >= 2020";
  options.include = QUASH_INCLUDE_METADATA | QUASH_INCLUDE_DOCUMENTS;
  status = Check(quash_search(notes, query, 1, 3, &options, &result), "search");
  if (status != QUASH_OK) return status;
  ids = quash_result_int_ids(result);
  scores = quash_result_scores(result);
  rows = quash_result_offsets(result)[1];
  for (i = 0; i < rows; ++i) {
    const char *document = quash_result_document(result, i);
    printf("id %ld  score %.3f  %s  %s\n", (long)ids[i], (double)scores[i],
           quash_result_metadata(result, i), document != NULL ? document : "(no document)");
  }
  quash_result_free(result);
  return QUASH_OK;
}

int main(int argc, char **argv) {
  quash_db *db;
  quash_collection *notes = NULL;
  quash_status status;

  if (argc != 2) {
    fprintf(stderr, "usage: %s PATH\n", argv[0]);
    return 2;
  }
  if (Check(quash_open(argv[1], NULL, &db), "open") != QUASH_OK) return 1;
  status = CreateNotes(db, &notes);
  if (status == QUASH_OK) status = AddNotes(notes);
  if (status == QUASH_OK) status = SearchNotes(notes);
  quash_collection_free(notes);
  if (Check(quash_close(db), "close") != QUASH_OK) return 1;
  return status == QUASH_OK ? 0 : 1;
}
