// Owning handles of the C API, and statuses as exceptions.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "cli/error.h"
#include "quashdb.h"

namespace quash::cli {

template <auto kFree>
struct Deleter {
  template <typename T>
  void operator()(T* handle) const {
    kFree(handle);
  }
};

using Database = std::unique_ptr<quash_db, Deleter<quash_close>>;
using Collection = std::unique_ptr<quash_collection, Deleter<quash_collection_free>>;
using Query = std::unique_ptr<quash_query, Deleter<quash_query_free>>;
using Result = std::unique_ptr<quash_result, Deleter<quash_result_free>>;
using RowIterator = std::unique_ptr<quash_iterator, Deleter<quash_iterator_free>>;

// Throws Error with the library's message on any status but QUASH_OK.
//   offset  of the statement part the call is about, if any
void Check(quash_status status, std::optional<size_t> offset = std::nullopt);

// The same for calls that take a filter: the library's offset into the filter
// text becomes one into the statement.
//   filter_offset  where the filter text begins in the statement
void CheckFilter(quash_status status, std::optional<size_t> filter_offset);

// Copies and frees text the library returned.
std::string TakeText(char* text);

}  // namespace quash::cli
