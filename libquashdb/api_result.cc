// Results: filled from hits, read by the caller.
#include <algorithm>
#include <limits>
#include <span>
#include <utility>

#include "libquashdb/api_handles.h"
#include "libquashdb/executor_merge.h"
#include "libquashdb/executor_parallel.h"
#include "libquashdb/metadata.h"
#include "libquashdb/row_reader.h"

namespace quash {
namespace {

Status FillIntIds(std::span<const Hit> hits, IdReader* reader, int64_t* out) {
  // All of them: of several GPUs one may have had room for ids and another not.
  if (std::ranges::find(hits, Hit::kUnread, &Hit::id) == hits.end()) {
    std::ranges::transform(hits, out, &Hit::id);
    return Status();
  }
  const IdColumn* ids;
  // Segments and ids lie apart from each other: all are on their way at once.
  for (const Hit& hit : hits) reader->Fetch(hit.segment);
  for (const Hit& hit : hits) {
    QUASH_RETURN_IF_ERROR(reader->Get(hit.segment, &ids));
    __builtin_prefetch(&ids->ints[hit.row]);
  }
  for (const Hit& hit : hits) {
    QUASH_RETURN_IF_ERROR(reader->Get(hit.segment, &ids));
    *out++ = ids->ints[hit.row];
  }
  return Status();
}

Status FillStringIds(std::span<const Hit> hits, IdReader* reader, std::string* out) {
  const IdColumn* ids;
  for (const Hit& hit : hits) {
    QUASH_RETURN_IF_ERROR(reader->Get(hit.segment, &ids));
    *out++ = ids->string(hit.row);
  }
  return Status();
}

// Ids, scores and vectors of a query's hits, from row `at` of the result on.
Status FillRows(const Snapshot& snapshot, std::span<const Hit> hits, size_t at, IdReader* reader,
                quash_result* result) {
  if (result->id_type == QUASH_ID_INT64) {
    QUASH_RETURN_IF_ERROR(FillIntIds(hits, reader, result->int_ids.data() + at));
  } else {
    QUASH_RETURN_IF_ERROR(FillStringIds(hits, reader, result->string_ids.data() + at));
  }
  for (const Hit& hit : hits) {
    if (result->has_scores) result->scores[at] = hit.score;
    if (result->include & QUASH_INCLUDE_VECTORS) {
      QUASH_RETURN_IF_ERROR(
          ReadVector(snapshot, hit.segment, hit.row, result->vectors.data() + at * result->dim));
    }
    ++at;
  }
  return Status();
}

// fill(q, reader) for every query, in shares of whole queries on up to half of `threads`: it is
// done before one more that waits for a processor has begun.
//   reads_rows  of all hits something is read, not only ids that did not come with them
template <typename Fill>
Status EachQuery(const Snapshot& snapshot, const std::vector<std::vector<Hit>>& hits,
                 bool reads_rows, size_t threads, Fill fill) {
  // Fewer take no longer than waking a thread: of rows that are read, and of others. A query's
  // first tells well enough which they are.
  constexpr size_t kReadPerThread = 2048, kRowsPerThread = 16 * kReadPerThread;
  size_t rows = 0, reads = 0;
  for (const std::vector<Hit>& of_query : hits) {
    rows += of_query.size();
    if (of_query.empty()) continue;
    if (reads_rows || of_query.front().id == Hit::kUnread) reads += of_query.size();
  }
  const size_t queries = hits.size(), busy = reads / kReadPerThread + rows / kRowsPerThread;
  const size_t shares = std::max<size_t>(std::min({busy, threads / 2, queries}), 1);
  IdReader reader(snapshot);
  return ParallelFor(shares, shares, [&](size_t share) -> Status {
    const size_t end = queries * (share + 1) / shares;
    for (size_t q = queries * share / shares; q < end; ++q) {
      QUASH_RETURN_IF_ERROR(fill(q, &reader));
    }
    return Status();
  });
}

// Metadata and documents, in the order of `hits`.
Status AppendRecords(const Collection& collection, const Snapshot& snapshot,
                     std::span<const Hit> hits, quash_result* result) {
  constexpr size_t kAtOnce = 1024;
  std::vector<Collection::Location> rows;
  std::vector<Record> records;
  for (size_t begin = 0; begin < hits.size(); begin += kAtOnce) {
    rows.clear();
    for (const Hit& hit : hits.subspan(begin, std::min(kAtOnce, hits.size() - begin))) {
      rows.push_back({hit.segment, hit.row});
    }
    QUASH_RETURN_IF_ERROR(collection.ReadRecords(snapshot, rows, &records));
    for (Record& record : records) {
      if (result->include & QUASH_INCLUDE_METADATA) {
        result->metadata.push_back(FormatMetadata(*snapshot.spec, record.values));
      }
      if (result->include & QUASH_INCLUDE_DOCUMENTS) {
        result->documents.emplace_back();
        if (record.has_document) result->documents.back() = std::move(record.document);
      }
    }
  }
  return Status();
}

}  // namespace

Status FillResult(const Collection& collection, const Snapshot& snapshot,
                  const std::vector<std::vector<Hit>>& hits, bool with_scores, uint32_t include,
                  size_t threads, quash_result* result) {
  result->dim = snapshot.spec->dim;
  result->id_type = snapshot.spec->id_type;
  result->has_scores = with_scores;
  result->include = include;
  result->offsets.assign(1, 0);
  for (const std::vector<Hit>& of_query : hits) {
    result->offsets.push_back(result->offsets.back() + of_query.size());
  }
  const size_t rows = result->offsets.back();
  if (result->id_type == QUASH_ID_INT64) {
    result->int_ids.resize(rows);
  } else {
    result->string_ids.resize(rows);
  }
  if (with_scores) result->scores.resize(rows);
  if (include & QUASH_INCLUDE_VECTORS) result->vectors.resize(rows * result->dim);

  const bool reads_rows = (include & QUASH_INCLUDE_VECTORS) != 0;
  QUASH_RETURN_IF_ERROR(
      EachQuery(snapshot, hits, reads_rows, threads, [&](size_t q, IdReader* reader) {
        return FillRows(snapshot, hits[q], result->offsets[q], reader, result);
      }));
  if (include & (QUASH_INCLUDE_METADATA | QUASH_INCLUDE_DOCUMENTS)) {
    for (const std::vector<Hit>& of_query : hits) {
      QUASH_RETURN_IF_ERROR(AppendRecords(collection, snapshot, of_query, result));
    }
  }
  return Status();
}

Status FillArrays(const Snapshot& snapshot, const std::vector<std::vector<Hit>>& hits, size_t k,
                  size_t threads, int64_t* ids, float* scores, uint32_t* counts) {
  return EachQuery(snapshot, hits, false, threads, [&](size_t q, IdReader* reader) -> Status {
    const std::vector<Hit>& found = hits[q];
    QUASH_RETURN_IF_ERROR(FillIntIds(found, reader, ids + q * k));
    std::fill(ids + q * k + found.size(), ids + (q + 1) * k, -1);
    std::ranges::transform(found, scores + q * k, &Hit::score);
    std::fill(scores + q * k + found.size(), scores + (q + 1) * k,
              std::numeric_limits<float>::quiet_NaN());
    if (counts != nullptr) counts[q] = static_cast<uint32_t>(found.size());
    return Status();
  });
}

namespace {

// text(row): the row's, or null.
template <typename Text>
void MakeTexts(size_t rows, const char* suffix, quash_result::Texts* out, Text text) {
  out->offsets.reserve(rows + 1);
  out->offsets.push_back(0);
  out->present.reserve(rows);
  for (size_t row = 0; row < rows; ++row) {
    const std::string* one = text(row);
    out->present.push_back(one != nullptr);
    if (one != nullptr) out->bytes.append(*one).append(suffix);
    out->offsets.push_back(out->bytes.size());
  }
  out->made = true;
}

Status GetTexts(quash_result* result, quash_text what, quash_texts* out) {
  if (result == nullptr) return NullArgument("result");
  if (out == nullptr) return NullArgument("out_texts");
  if (what < QUASH_TEXT_STRING_ID || what > QUASH_TEXT_DOCUMENT) {
    return Error(QUASH_INVALID, "what is {}, expected a quash_text", static_cast<int>(what));
  }
  const bool has[] = {result->id_type == QUASH_ID_STRING,
                      (result->include & QUASH_INCLUDE_METADATA) != 0,
                      (result->include & QUASH_INCLUDE_DOCUMENTS) != 0};
  constexpr const char* kNames[] = {"string ids", "metadata", "documents"};
  if (!has[what]) return Error(QUASH_INVALID, "the result has no {}", kNames[what]);
  const std::lock_guard lock(result->texts_mutex);
  quash_result::Texts& texts = result->texts[what];
  if (!texts.made) {
    texts = {};
    if (what == QUASH_TEXT_DOCUMENT) {
      MakeTexts(result->rows(), "", &texts, [&](size_t row) {
        return result->documents[row] ? &*result->documents[row] : nullptr;
      });
    } else if (what == QUASH_TEXT_METADATA) {
      MakeTexts(result->rows(), "\n", &texts, [&](size_t row) { return &result->metadata[row]; });
    } else {
      MakeTexts(result->rows(), "", &texts, [&](size_t row) { return &result->string_ids[row]; });
    }
  }
  *out = {texts.bytes.data(), texts.offsets.data(), texts.present.data()};
  return Status();
}

}  // namespace
}  // namespace quash

extern "C" {

size_t quash_result_num_queries(const quash_result* result) {
  return result == nullptr ? 0 : result->offsets.size() - 1;
}

const size_t* quash_result_offsets(const quash_result* result) {
  return result == nullptr ? nullptr : result->offsets.data();
}

const int64_t* quash_result_int_ids(const quash_result* result) {
  if (result == nullptr || result->id_type != QUASH_ID_INT64) return nullptr;
  return result->int_ids.data();
}

const char* quash_result_string_id(const quash_result* result, size_t row) {
  if (result == nullptr || result->id_type != QUASH_ID_STRING) return nullptr;
  return row < result->rows() ? result->string_ids[row].c_str() : nullptr;
}

const float* quash_result_scores(const quash_result* result) {
  return result == nullptr || !result->has_scores ? nullptr : result->scores.data();
}

const float* quash_result_vectors(const quash_result* result) {
  if (result == nullptr || !(result->include & QUASH_INCLUDE_VECTORS)) return nullptr;
  return result->vectors.data();
}

const char* quash_result_metadata(const quash_result* result, size_t row) {
  if (result == nullptr || !(result->include & QUASH_INCLUDE_METADATA)) return nullptr;
  return row < result->rows() ? result->metadata[row].c_str() : nullptr;
}

const char* quash_result_document(const quash_result* result, size_t row) {
  if (result == nullptr || !(result->include & QUASH_INCLUDE_DOCUMENTS)) return nullptr;
  if (row >= result->rows() || !result->documents[row]) return nullptr;
  return result->documents[row]->c_str();
}

quash_status quash_result_texts(quash_result* result, quash_text what, quash_texts* out_texts) {
  return quash::Guard([&] { return quash::GetTexts(result, what, out_texts); });
}

void quash_result_free(quash_result* result) { delete result; }

}  // extern "C"
