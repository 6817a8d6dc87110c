#include "cli/row_batch.h"

#include <fmt/format.h>

#include "cli/handles.h"

namespace quash::cli {
namespace {

void RefuseNul(const std::string& text, std::string_view what) {
  if (text.find('\0') != std::string::npos) throw Error(fmt::format("NUL byte in {}", what));
}

}  // namespace

void IdList::Add(const nlohmann::json& id) {
  if (strings_) {
    if (!id.is_string()) {
      throw Error(fmt::format("id {} is not text; this collection has string ids", id.dump()));
    }
    RefuseNul(id.get_ref<const std::string&>(), "an id");
    texts_.push_back(id.get<std::string>());
    return;
  }
  const bool too_big = id.is_number_unsigned() && id.get<uint64_t>() > INT64_MAX;
  if (!id.is_number_integer() || too_big) {
    throw Error(fmt::format("id {} is not a 64-bit integer; this collection has integer ids",
                            id.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)));
  }
  integers_.push_back(id.get<int64_t>());
}

void IdList::Clear() {
  integers_.clear();
  texts_.clear();
}

quash_ids IdList::View() {
  pointers_.clear();
  for (const std::string& text : texts_) pointers_.push_back(text.c_str());
  quash_ids view = {};
  view.n = size();
  if (strings_) {
    view.string_ids = pointers_.data();
  } else {
    view.int_ids = integers_.data();
  }
  return view;
}

void RowBatch::Add(const nlohmann::json& id, const std::vector<float>& vector, std::string metadata,
                   std::optional<std::string> document) {
  if (vector.size() != dim_) {
    throw Error(fmt::format("the vector has {} coordinates; the collection's have {}",
                            vector.size(), dim_));
  }
  if (document) RefuseNul(*document, "a document");
  if (id.is_null() && (string_ids_ || ids_.size() > 0)) throw Error("the row has no id");
  if (!id.is_null()) {
    if (ids_.size() != rows_) throw Error("some rows have an id and others none");
    ids_.Add(id);
    bytes_ += id.is_string() ? id.get_ref<const std::string&>().size() : sizeof(int64_t);
  }
  vectors_.insert(vectors_.end(), vector.begin(), vector.end());
  bytes_ += vector.size() * sizeof(float) + metadata.size() + (document ? document->size() : 0);
  metadata_.push_back(std::move(metadata));
  documents_.push_back(std::move(document));
  ++rows_;
}

void RowBatch::Write(quash_collection* collection, bool replace,
                     std::string_view how_to_replace) {
  std::vector<const char*> metadata;
  for (const std::string& text : metadata_) {
    metadata.push_back(text.empty() ? nullptr : text.c_str());
  }
  std::vector<const char*> documents;
  for (const std::optional<std::string>& text : documents_) {
    documents.push_back(text ? text->c_str() : nullptr);
  }
  quash_rows rows;
  quash_rows_init(&rows);
  rows.n = rows_;
  if (ids_.size() > 0) {
    const quash_ids ids = ids_.View();
    rows.int_ids = ids.int_ids;
    rows.string_ids = ids.string_ids;
  }
  rows.vectors = vectors_.data();
  rows.metadata = metadata.data();
  rows.documents = documents.data();
  const quash_status status =
      replace ? quash_upsert(collection, &rows) : quash_add(collection, &rows, nullptr);
  if (status == QUASH_EXISTS) {
    throw Error(fmt::format("{}; {} replaces stored rows", quash_errmsg(), how_to_replace));
  }
  Check(status);
  rows_ = 0;
  bytes_ = 0;
  ids_.Clear();
  vectors_.clear();
  metadata_.clear();
  documents_.clear();
}

}  // namespace quash::cli
