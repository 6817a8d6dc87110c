// quash_get(), quash_contains(), quash_count() and iteration.
#include <bit>

#include "libquashdb/api_handles.h"

using quash::Error;
using quash::Guard;
using quash::Hit;
using quash::NullArgument;
using quash::SnapshotRef;
using quash::Status;
using quash::WithCollection;

namespace {

constexpr uint32_t kIncludeAll =
    QUASH_INCLUDE_METADATA | QUASH_INCLUDE_DOCUMENTS | QUASH_INCLUDE_VECTORS;

Status CheckInclude(uint32_t include) {
  if (include & ~kIncludeAll) {
    return Error(QUASH_INVALID, "include is {:#x}, expected QUASH_INCLUDE_ flags", include);
  }
  return Status();
}

Status ParseFilter(const char* text, const quash::CollectionSpec& spec,
                   std::shared_ptr<const quash::Filter>* filter) {
  if (text == nullptr) return Status();
  std::string_view bounded;
  QUASH_RETURN_IF_ERROR(quash::CheckFilterText(text, &bounded));
  return quash::Filter::Parse(bounded, spec, filter);
}

// Rows of one segment that are live and match.
Status MatchingRows(const quash::SegmentView& view, const quash::Filter* filter,
                    std::vector<uint32_t>* rows) {
  *rows = *view.live;
  if (filter == nullptr || view.live_rows == 0) return Status();
  return filter->Apply(*view.segment, rows);
}

}  // namespace

extern "C" {

quash_status quash_get(quash_collection* collection, const quash_ids* ids, uint32_t include,
                       quash_result** out_result) {
  return WithCollection(collection, [&](quash::Collection& opened) -> Status {
    if (out_result == nullptr) return NullArgument("out_result");
    QUASH_RETURN_IF_ERROR(CheckInclude(include));
    SnapshotRef snapshot;
    QUASH_RETURN_IF_ERROR(opened.GetSnapshot(&snapshot));
    std::vector<quash::Id> parsed;
    QUASH_RETURN_IF_ERROR(quash::ParseIds(ids, *snapshot->spec, &parsed));
    std::vector<quash::Collection::Location> locations;
    QUASH_RETURN_IF_ERROR(opened.Find(*snapshot, parsed, &locations));
    std::vector<std::vector<Hit>> hits(1);
    for (const auto& location : locations) {
      if (location.segment == quash::Collection::kMissing) continue;
      hits[0].push_back({0, location.segment, location.row});
    }
    auto result = std::make_unique<quash_result>();
    QUASH_RETURN_IF_ERROR(quash::FillResult(opened, *snapshot, hits, /*with_scores=*/false, include,
                                            /*threads=*/1, result.get()));
    *out_result = result.release();
    return Status();
  });
}

quash_status quash_contains(quash_collection* collection, const quash_ids* ids, uint8_t* found) {
  return WithCollection(collection, [&](quash::Collection& opened) -> Status {
    SnapshotRef snapshot;
    QUASH_RETURN_IF_ERROR(opened.GetSnapshot(&snapshot));
    std::vector<quash::Id> parsed;
    QUASH_RETURN_IF_ERROR(quash::ParseIds(ids, *snapshot->spec, &parsed));
    if (found == nullptr && !parsed.empty()) return NullArgument("found");
    std::vector<quash::Collection::Location> locations;
    QUASH_RETURN_IF_ERROR(opened.Find(*snapshot, parsed, &locations));
    for (size_t i = 0; i < parsed.size(); ++i) {
      found[i] = locations[i].segment != quash::Collection::kMissing;
    }
    return Status();
  });
}

quash_status quash_count(quash_collection* collection, const char* filter, uint64_t* out_count) {
  return WithCollection(collection, [&](quash::Collection& opened) -> Status {
    if (out_count == nullptr) return NullArgument("out_count");
    SnapshotRef snapshot;
    QUASH_RETURN_IF_ERROR(opened.GetSnapshot(&snapshot));
    std::shared_ptr<const quash::Filter> parsed;
    QUASH_RETURN_IF_ERROR(ParseFilter(filter, *snapshot->spec, &parsed));
    uint64_t count = 0;
    if (parsed == nullptr) {
      count = snapshot->live_rows;
    } else {
      std::vector<uint32_t> rows;
      for (const quash::SegmentView& view : snapshot->segments) {
        QUASH_RETURN_IF_ERROR(MatchingRows(view, parsed.get(), &rows));
        for (const uint32_t word : rows) count += std::popcount(word);
      }
    }
    *out_count = count;
    return Status();
  });
}

quash_status quash_iterate(quash_collection* collection, const char* filter, uint32_t include,
                           quash_iterator** out_iterator) {
  return WithCollection(collection, [&](quash::Collection& opened) -> Status {
    if (out_iterator == nullptr) return NullArgument("out_iterator");
    QUASH_RETURN_IF_ERROR(CheckInclude(include));
    auto iterator = std::make_unique<quash_iterator>();
    QUASH_RETURN_IF_ERROR(opened.GetSnapshot(&iterator->snapshot));
    QUASH_RETURN_IF_ERROR(ParseFilter(filter, *iterator->snapshot->spec, &iterator->filter));
    iterator->collection = collection->collection;
    iterator->include = include;
    iterator->handle = collection->handle;
    iterator->handle->Hold(&iterator->snapshot);
    *out_iterator = iterator.release();
    return Status();
  });
}

quash_status quash_iterator_next(quash_iterator* iterator, size_t max_rows,
                                 quash_result** out_result) {
  return Guard([&]() -> Status {
    if (iterator == nullptr) return NullArgument("iterator");
    if (out_result == nullptr) return NullArgument("out_result");
    if (max_rows == 0) return Error(QUASH_INVALID, "max_rows is 0, expected at least 1");
    quash::Call call(*iterator->handle);
    QUASH_RETURN_IF_ERROR(call.status());
    const quash::Snapshot& snapshot = *iterator->snapshot;
    // The position moves only once the result is whole.
    uint32_t segment = iterator->segment, row = iterator->row;
    std::vector<uint32_t> matching = iterator->matching;
    std::vector<std::vector<Hit>> hits(1);
    while (segment < snapshot.segments.size() && hits[0].size() < max_rows) {
      const quash::SegmentView& view = snapshot.segments[segment];
      if (matching.empty()) {
        QUASH_RETURN_IF_ERROR(MatchingRows(view, iterator->filter.get(), &matching));
      }
      for (; row < view.segment->rows() && hits[0].size() < max_rows; ++row) {
        if (matching[row / 32] >> (row % 32) & 1) hits[0].push_back({0, segment, row});
      }
      if (row == view.segment->rows()) {
        ++segment;
        row = 0;
        matching.clear();
      }
    }
    auto result = std::make_unique<quash_result>();
    QUASH_RETURN_IF_ERROR(quash::FillResult(*iterator->collection, snapshot, hits,
                                            /*with_scores=*/false, iterator->include,
                                            /*threads=*/1, result.get()));
    iterator->segment = segment;
    iterator->row = row;
    iterator->matching = std::move(matching);
    *out_result = result.release();
    return Status();
  });
}

void quash_iterator_free(quash_iterator* iterator) { delete iterator; }

}  // extern "C"
