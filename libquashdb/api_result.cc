// Results: filled from hits, read by the caller.
#include <algorithm>
#include <span>
#include <unordered_map>
#include <utility>

#include "libquashdb/api_handles.h"
#include "libquashdb/metadata.h"
#include "libquashdb/row_reader.h"

namespace quash {
namespace {

// Id columns of the segments that hits point into, each looked up once.
class IdReader {
 public:
  explicit IdReader(const Snapshot& snapshot) : snapshot_(snapshot) {}

  Status Get(uint32_t segment, const IdColumn** ids) {
    auto [it, is_new] = columns_.try_emplace(segment);
    if (is_new) {
      QUASH_RETURN_IF_ERROR(
          snapshot_.segments[segment].segment->Ids(&it->second.first, &it->second.second));
    }
    *ids = &it->second.first;
    return Status();
  }

 private:
  const Snapshot& snapshot_;
  std::unordered_map<uint32_t, std::pair<IdColumn, Pin>> columns_;
};

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
                  quash_result* result) {
  result->dim = snapshot.spec->dim;
  result->id_type = snapshot.spec->id_type;
  result->has_scores = with_scores;
  result->include = include;
  IdReader reader(snapshot);
  size_t rows = 0;
  for (const std::vector<Hit>& of_query : hits) rows += of_query.size();
  if (result->id_type == QUASH_ID_INT64) {
    result->int_ids.reserve(rows);
  } else {
    result->string_ids.reserve(rows);
  }
  if (with_scores) result->scores.reserve(rows);
  result->offsets.reserve(hits.size() + 1);
  rows = 0;
  for (const std::vector<Hit>& of_query : hits) {
    // Ids lie apart from each other: all of a query's are on their way at once.
    if (result->id_type == QUASH_ID_INT64) {
      for (const Hit& hit : of_query) {
        const IdColumn* ids;
        QUASH_RETURN_IF_ERROR(reader.Get(hit.segment, &ids));
        __builtin_prefetch(&ids->ints[hit.row]);
      }
    }
    for (const Hit& hit : of_query) {
      const IdColumn* ids;
      QUASH_RETURN_IF_ERROR(reader.Get(hit.segment, &ids));
      if (result->id_type == QUASH_ID_INT64) {
        result->int_ids.push_back(ids->ints[hit.row]);
      } else {
        result->string_ids.emplace_back(ids->string(hit.row));
      }
      if (with_scores) result->scores.push_back(hit.score);
      if (include & QUASH_INCLUDE_VECTORS) {
        const size_t at = result->vectors.size();
        result->vectors.resize(at + result->dim);
        QUASH_RETURN_IF_ERROR(
            ReadVector(snapshot, hit.segment, hit.row, result->vectors.data() + at));
      }
    }
    if (include & (QUASH_INCLUDE_METADATA | QUASH_INCLUDE_DOCUMENTS)) {
      QUASH_RETURN_IF_ERROR(AppendRecords(collection, snapshot, of_query, result));
    }
    rows += of_query.size();
    result->offsets.push_back(rows);
  }
  return Status();
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
