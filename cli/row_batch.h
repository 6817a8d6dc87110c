// Rows gathered for one atomic write, and lists of ids, in the layout the C
// API takes.
#pragma once

#include <cstdint>
#include <deque>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quashdb.h"

namespace quash::cli {

// Ids of one collection; the strings live here. A deque keeps their addresses.
class IdList {
 public:
  explicit IdList(bool strings) : strings_(strings) {}

  // An integer or a string, as the collection has it; throws Error otherwise.
  void Add(const nlohmann::json& id);
  void Clear();
  size_t size() const { return strings_ ? texts_.size() : integers_.size(); }
  // Valid until the next Add or Clear.
  quash_ids View();

 private:
  bool strings_;
  std::vector<int64_t> integers_;
  std::deque<std::string> texts_;
  std::vector<const char*> pointers_;
};

class RowBatch {
 public:
  RowBatch(bool string_ids, uint32_t dim) : string_ids_(string_ids), dim_(dim), ids_(string_ids) {}

  //   id        null: assigned by the library, then for every row of the batch
  //   metadata  JSON object text; empty: none
  // Throws Error on a wrong dimension, id type, or text with a NUL in it.
  void Add(const nlohmann::json& id, const std::vector<float>& vector, std::string metadata,
           std::optional<std::string> document);

  size_t rows() const { return rows_; }
  // As counted against QUASH_BATCH_BYTES_MAX.
  uint64_t bytes() const { return bytes_; }
  // Writes all rows at once and empties the batch; on an error nothing was
  // written.
  //   replace         upsert
  //   how_to_replace  what the user may ask for, for the error
  void Write(quash_collection* collection, bool replace, std::string_view how_to_replace);

 private:
  const bool string_ids_;
  const uint32_t dim_;
  size_t rows_ = 0;
  uint64_t bytes_ = 0;
  IdList ids_;
  std::vector<float> vectors_;
  std::deque<std::string> metadata_;
  std::deque<std::optional<std::string>> documents_;
};

}  // namespace quash::cli
