#include "libquashdb/executor_merge.h"

#include <algorithm>
#include <functional>
#include <string_view>
#include <utility>
#include <variant>

namespace quash {
namespace {

bool IsHigher(const Candidate& a, const Candidate& b) { return a.score > b.score; }

}  // namespace

IdReader::~IdReader() {
  for (const auto& column : columns_) delete column.load(std::memory_order_relaxed);
}

Status IdReader::Get(uint32_t segment, const IdColumn** out) {
  std::atomic<const Column*>& place = columns_[segment];
  const Column* column = place.load(std::memory_order_acquire);
  if (column == nullptr) {
    auto read = std::make_unique<Column>();
    QUASH_RETURN_IF_ERROR(snapshot_.segments[segment].segment->Ids(&read->ids, &read->pin));
    if (place.compare_exchange_strong(column, read.get(), std::memory_order_acq_rel)) {
      column = read.release();
    }
  }
  *out = &column->ids;
  return Status();
}

const IdColumn* TopHits::IdsOf(uint64_t row) {
  if (ids_ == nullptr) ids_ = std::make_shared<IdReader>(*snapshot_);
  const IdColumn* ids = nullptr;
  if (Status status = ids_->Get(SegmentOf(row), &ids); !status.ok()) status_ = std::move(status);
  return ids;
}

bool TopHits::IsAfterCursor(uint64_t row) {
  const IdColumn* ids = IdsOf(row);
  if (ids == nullptr) return false;
  const Id& cursor = plan_->cursor_id;
  if (const int64_t* number = std::get_if<int64_t>(&cursor)) return *number < ids->ints[RowOf(row)];
  return std::string_view(std::get<std::string>(cursor)) < ids->string(RowOf(row));
}

// All ids are read first: what orders by them cannot fail then.
void TopHits::SortByIds(std::span<Candidate> tied) {
  for (const Candidate& one : tied) {
    if (IdsOf(one.row) == nullptr) return;
  }
  const bool ints = snapshot_->spec->id_type == QUASH_ID_INT64;
  std::ranges::sort(tied, [&](const Candidate& a, const Candidate& b) {
    const IdColumn* ids_a = IdsOf(a.row);
    const IdColumn* ids_b = IdsOf(b.row);
    return ints ? ids_a->ints[RowOf(a.row)] < ids_b->ints[RowOf(b.row)]
                : ids_a->string(RowOf(a.row)) < ids_b->string(RowOf(b.row));
  });
}

void TopHits::Push(float score, uint64_t row) {
  if (score < threshold_ || !(double{score} >= plan_->min_score)) return;
  if (plan_->has_cursor && score >= plan_->cursor_score) {
    if (score > plan_->cursor_score || !IsAfterCursor(row)) return;
  }
  best_.push_back({score, row});
  if (best_.size() >= 2 * plan_->k) Shrink();
}

void TopHits::Merge(const TopHits& other) {
  if (status_.ok()) status_ = other.status_;
  for (const Candidate& candidate : other.best_) Push(candidate.score, candidate.row);
}

void TopHits::Shrink() {
  const size_t k = plan_->k;
  if (best_.size() <= k) return;
  const auto after = best_.begin() + k, kth = after - 1;
  std::nth_element(best_.begin(), kth, best_.end(), IsHigher);
  threshold_ = kth->score;
  // Of rows that tie with the k-th those with the least ids stay.
  const auto ties = [this](const Candidate& one) { return one.score == threshold_; };
  if (const auto end = std::partition(after, best_.end(), ties); end != after) {
    const auto begin = std::partition(best_.begin(), after, std::not_fn(ties));
    SortByIds({begin, end});
  }
  best_.resize(k);
}

Status TopHits::Finish(std::vector<Hit>* hits) {
  Shrink();
  std::sort(best_.begin(), best_.end(), IsHigher);
  for (auto begin = best_.begin(); begin != best_.end();) {
    const auto end = std::find_if(begin + 1, best_.end(),
                                  [&](const Candidate& one) { return one.score != begin->score; });
    if (end - begin > 1) SortByIds({begin, end});
    begin = end;
  }
  QUASH_RETURN_IF_ERROR(status_);
  hits->clear();
  hits->reserve(best_.size());
  for (const Candidate& c : best_) hits->push_back({c.score, SegmentOf(c.row), RowOf(c.row)});
  return Status();
}

}  // namespace quash
