#include "libquashdb/executor_merge.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <variant>

namespace quash {

const IdColumn* IdReader::Get(uint32_t segment) {
  if (!status_.ok()) return nullptr;
  if (places_.empty()) places_.assign(snapshot_->segments.size(), kUnread);
  uint32_t& place = places_[segment];
  if (place == kUnread) {
    Column column;
    status_ = snapshot_->segments[segment].segment->Ids(&column.ids, &column.pin);
    if (!status_.ok()) return nullptr;
    place = static_cast<uint32_t>(columns_.size());
    columns_.push_back(std::move(column));
  }
  return &columns_[place].ids;
}

bool IdReader::Less(uint64_t a, uint64_t b) {
  Get(SegmentOf(a));  // before b, which may move it
  const IdColumn* ids_b = Get(SegmentOf(b));
  const IdColumn* ids_a = Get(SegmentOf(a));
  if (ids_a == nullptr || ids_b == nullptr) return a < b;
  return snapshot_->spec->id_type == QUASH_ID_INT64
             ? ids_a->ints[RowOf(a)] < ids_b->ints[RowOf(b)]
             : ids_a->string(RowOf(a)) < ids_b->string(RowOf(b));
}

bool IdReader::Less(const Id& id, uint64_t row) {
  const IdColumn* ids = Get(SegmentOf(row));
  if (ids == nullptr) return false;
  if (const int64_t* number = std::get_if<int64_t>(&id)) return *number < ids->ints[RowOf(row)];
  return std::string_view(std::get<std::string>(id)) < ids->string(RowOf(row));
}

void TopHits::Push(float score, uint64_t row) {
  if (score < threshold_ || !(double{score} >= plan_->min_score)) return;
  if (plan_->has_cursor && score >= plan_->cursor_score) {
    if (score > plan_->cursor_score || !ids_.Less(plan_->cursor_id, row)) return;
  }
  best_.push_back({score, row});
  if (best_.size() >= 2 * plan_->k) Shrink();
}

void TopHits::Merge(const TopHits& other) {
  if (ids_.status().ok() && !other.ids_.status().ok()) ids_ = other.ids_;
  for (const Candidate& candidate : other.best_) Push(candidate.score, candidate.row);
}

void TopHits::Shrink() {
  const size_t k = plan_->k;
  if (best_.size() <= k) return;
  std::nth_element(best_.begin(), best_.begin() + (k - 1), best_.end(),
                   [this](const Candidate& a, const Candidate& b) { return IsBetter(a, b); });
  threshold_ = best_[k - 1].score;
  best_.resize(k);
}

Status TopHits::Finish(std::vector<Hit>* hits) {
  Shrink();
  std::sort(best_.begin(), best_.end(),
            [this](const Candidate& a, const Candidate& b) { return IsBetter(a, b); });
  QUASH_RETURN_IF_ERROR(ids_.status());
  hits->clear();
  hits->reserve(best_.size());
  for (const Candidate& c : best_) hits->push_back({c.score, SegmentOf(c.row), RowOf(c.row)});
  return Status();
}

}  // namespace quash
