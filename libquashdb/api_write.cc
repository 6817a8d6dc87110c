// quash_add(), quash_upsert(), quash_delete().
#include <algorithm>
#include <unordered_set>

#include "libquashdb/api_handles.h"
#include "libquashdb/metadata.h"
#include "libquashdb/utf8.h"

using quash::Error;
using quash::Id;
using quash::NullArgument;
using quash::Status;
using quash::WithCollectionToWrite;

namespace {

Status CheckDistinct(const std::vector<Id>& ids, quash_id_type type) {
  if (type == QUASH_ID_INT64) {
    std::vector<int64_t> sorted(ids.size());
    std::transform(ids.begin(), ids.end(), sorted.begin(),
                   [](const Id& id) { return std::get<int64_t>(id); });
    if (!std::is_sorted(sorted.begin(), sorted.end())) std::sort(sorted.begin(), sorted.end());
    const auto twin = std::adjacent_find(sorted.begin(), sorted.end());
    if (twin == sorted.end()) return Status();
    return Error(QUASH_INVALID, "id {} occurs more than once in the batch", *twin);
  }
  std::unordered_set<std::string_view> seen;
  seen.reserve(ids.size());
  for (const Id& id : ids) {
    if (!seen.insert(std::get<std::string>(id)).second) {
      return Error(QUASH_INVALID, "id '{}' occurs more than once in the batch",
                   std::get<std::string>(id));
    }
  }
  return Status();
}

// Checks sizes before anything is copied.
Status CheckSize(const quash_rows& rows, uint32_t dim) {
  if (rows.n > QUASH_BATCH_ROWS_MAX) {
    return Error(QUASH_LIMIT, "batch has {} rows, expected at most {}", rows.n,
                 QUASH_BATCH_ROWS_MAX);
  }
  uint64_t bytes = uint64_t{rows.n} * dim * sizeof(float);
  const auto add_texts = [&](const char* const* texts, size_t largest, const char* what) {
    for (size_t i = 0; texts != nullptr && i < rows.n; ++i) {
      if (texts[i] == nullptr) continue;
      const size_t length = strnlen(texts[i], largest + 1);
      if (length > largest) {
        return Error(QUASH_LIMIT, "{} of row {} is longer than {} bytes", what, i, largest);
      }
      bytes += length;
    }
    return Status();
  };
  QUASH_RETURN_IF_ERROR(add_texts(rows.metadata, QUASH_METADATA_BYTES_MAX, "metadata"));
  QUASH_RETURN_IF_ERROR(add_texts(rows.documents, QUASH_DOCUMENT_BYTES_MAX, "document"));
  if (bytes > QUASH_BATCH_BYTES_MAX) {
    return Error(QUASH_LIMIT, "batch has {} bytes, expected at most {}: write it in parts", bytes,
                 QUASH_BATCH_BYTES_MAX);
  }
  return Status();
}

Status ParseRecords(const quash_rows& rows, const quash::CollectionSpec& spec,
                    std::vector<quash::Record>* records) {
  if (rows.metadata == nullptr && rows.documents == nullptr) return Status();
  records->resize(rows.n);
  for (size_t i = 0; i < rows.n; ++i) {
    quash::Record& record = (*records)[i];
    if (rows.metadata != nullptr && rows.metadata[i] != nullptr) {
      QUASH_RETURN_IF_ERROR(quash::ParseMetadata(rows.metadata[i], spec, i, &record.values));
    }
    if (rows.documents != nullptr && rows.documents[i] != nullptr) {
      record.document = rows.documents[i];
      record.has_document = true;
      if (!quash::IsUtf8(record.document)) {
        return Error(QUASH_INVALID, "document of row {} is not valid UTF-8", i);
      }
    }
  }
  return Status();
}

Status Write(quash::Collection& collection, const quash_rows* given, quash::WriteMode mode,
             const quash::Progress& progress, int64_t* out_ids) {
  if (given == nullptr) return NullArgument("rows");
  quash_rows rows;
  quash_rows_init(&rows);
  QUASH_RETURN_IF_ERROR(quash::CopyOptions(given, "quash_rows", &rows));
  quash::SnapshotRef snapshot;
  QUASH_RETURN_IF_ERROR(collection.GetSnapshot(&snapshot));
  const quash::CollectionSpec& spec = *snapshot->spec;
  if (out_ids != nullptr && spec.id_type != QUASH_ID_INT64) {
    return Error(QUASH_MISUSE, "collection \"{}\" has string ids, expected out_ids NULL",
                 spec.name);
  }
  if (rows.n == 0) return Status();
  if (rows.vectors == nullptr) return NullArgument("rows.vectors");
  QUASH_RETURN_IF_ERROR(CheckSize(rows, spec.dim));

  quash::WriteBatch batch;
  batch.n = rows.n;
  batch.vectors = rows.vectors;
  const bool assign = mode == quash::WriteMode::kAdd && spec.id_type == QUASH_ID_INT64 &&
                      rows.int_ids == nullptr && rows.string_ids == nullptr;
  if (!assign) {
    const quash_ids ids = {rows.n, rows.int_ids, rows.string_ids};
    QUASH_RETURN_IF_ERROR(quash::ParseIds(&ids, spec, &batch.ids));
    QUASH_RETURN_IF_ERROR(CheckDistinct(batch.ids, spec.id_type));
  }
  QUASH_RETURN_IF_ERROR(quash::CheckVectors(rows.vectors, rows.n, spec, "vector"));
  QUASH_RETURN_IF_ERROR(quash::CheckFitsRerank(rows.vectors, rows.n, spec));
  QUASH_RETURN_IF_ERROR(ParseRecords(rows, spec, &batch.records));

  std::vector<Id> assigned;
  QUASH_RETURN_IF_ERROR(
      collection.Write(batch, mode, progress, out_ids != nullptr ? &assigned : nullptr));
  for (size_t i = 0; out_ids != nullptr && i < rows.n; ++i) {
    out_ids[i] = std::get<int64_t>(assigned[i]);
  }
  return Status();
}

}  // namespace

extern "C" {

void quash_rows_init(quash_rows* rows) {
  if (rows == nullptr) return;
  *rows = quash_rows{};
  rows->struct_size = sizeof(*rows);
}

quash_status quash_add(quash_collection* collection, const quash_rows* rows, int64_t* out_ids) {
  return WithCollectionToWrite(collection, [&](quash::Collection& opened) {
    return Write(opened, rows, quash::WriteMode::kAdd, collection->handle->progress(), out_ids);
  });
}

quash_status quash_upsert(quash_collection* collection, const quash_rows* rows) {
  return WithCollectionToWrite(collection, [&](quash::Collection& opened) {
    return Write(opened, rows, quash::WriteMode::kUpsert, collection->handle->progress(), nullptr);
  });
}

quash_status quash_delete(quash_collection* collection, const quash_ids* ids,
                          uint64_t* out_deleted) {
  return WithCollectionToWrite(collection, [&](quash::Collection& opened) -> Status {
    quash::SnapshotRef snapshot;
    QUASH_RETURN_IF_ERROR(opened.GetSnapshot(&snapshot));
    std::vector<Id> parsed;
    QUASH_RETURN_IF_ERROR(quash::ParseIds(ids, *snapshot->spec, &parsed));
    uint64_t deleted = 0;
    QUASH_RETURN_IF_ERROR(opened.Delete(parsed, &deleted));
    if (out_deleted != nullptr) *out_deleted = deleted;
    return Status();
  });
}

quash_status quash_delete_where(quash_collection* collection, const char* filter,
                                uint64_t* out_deleted) {
  return WithCollectionToWrite(collection, [&](quash::Collection& opened) -> Status {
    std::string_view text;
    if (filter == nullptr) return NullArgument("filter");
    QUASH_RETURN_IF_ERROR(quash::CheckFilterText(filter, &text));
    uint64_t deleted = 0;
    QUASH_RETURN_IF_ERROR(opened.DeleteWhere(text, collection->handle->progress(), &deleted));
    if (out_deleted != nullptr) *out_deleted = deleted;
    return Status();
  });
}

}  // extern "C"
