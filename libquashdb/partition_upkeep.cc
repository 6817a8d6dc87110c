#include "libquashdb/partition_upkeep.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <set>

#include "libquashdb/collection_draft.h"
#include "libquashdb/executor_rows.h"
#include "libquashdb/key.h"
#include "libquashdb/measure.h"
#include "libquashdb/row_reader.h"
#include "libquashdb/segment_codes.h"
#include "libquashdb/stored_database.h"

namespace quash {
namespace {

constexpr size_t kBatchBytes = 16 << 20;    // of list values, about
constexpr size_t kLeastIndexedRows = 16384;  // in a step
constexpr size_t kMostIndexedRows = 262144;
// Rows of the tail are put into lists when nothing is written, if they are so many: a
// search reads all that are in no list.
constexpr size_t kLeastIndexedTail = 256;
constexpr size_t kListsAtOnce = 16;          // split or dissolved in a step
constexpr size_t kNeighbours = 4;            // lists whose rows a split may attract
constexpr size_t kFewestLists = 16;
// To measure recall with: a curve that is a little off costs searches more than measuring
// does, once a collection has stopped growing.
constexpr size_t kMeasuredQueries = 100;
constexpr size_t kMeasuredQueriesAtRest = 400;

bool IsLive(const Snapshot& snapshot, uint64_t row) {
  const std::vector<uint32_t>& live = *snapshot.segments[SegmentOf(row)].live;
  return live[RowOf(row) / kBlockRows] >> RowOf(row) % kBlockRows & 1;
}

// Locate(), of rows that live.
Status FindLive(const Snapshot& snapshot, uint64_t slot, uint64_t* row, bool* lives) {
  QUASH_RETURN_IF_ERROR(Locate(snapshot, slot, row, lives));
  *lives = *lives && IsLive(snapshot, *row);
  return Status();
}

}  // namespace

uint64_t PartitionUpkeep::UnindexedRows() {
  uint64_t sealed = 0, tail = 0;
  for (const SegmentView& view : snapshot_->segments) {
    if (view.segment->last_slot() < index_->indexed_slots()) continue;
    (view.segment->is_tail() ? tail : sealed) += view.live_rows;
  }
  with_tail_ = finish_ && tail >= kLeastIndexedTail;
  return sealed + (with_tail_ ? tail : 0);
}

uint64_t PartitionUpkeep::IndexedLiveRows() const {
  uint64_t rows = 0;
  for (const SegmentView& view : snapshot_->segments) {
    if (view.segment->last_slot() < index_->indexed_slots()) rows += view.live_rows;
  }
  return rows;
}

PartitionUpkeep::Change PartitionUpkeep::Unchanged() const {
  Change change;
  change.centroids = index_->shared_centroids();
  change.lists = index_->lists();
  change.rows.resize(change.lists.size());
  change.indexed_slots = index_->indexed_slots();
  change.measured_rows = index_->head().measured_rows;
  change.measured_slots = index_->head().measured_slots;
  return change;
}

Status PartitionUpkeep::Step(bool* idle) {
  *idle = false;
  QUASH_RETURN_IF_ERROR(collection_.GetSnapshot(&snapshot_));
  index_ = snapshot_->partitions.get();
  const uint64_t live_rows = snapshot_->live_rows;
  if (index_ == nullptr) {
    *idle = live_rows < snapshot_->spec->partition_rows;
    return *idle ? Status() : Train();
  }
  const uint64_t unindexed = UnindexedRows();
  const uint64_t enough = std::max<uint64_t>(SegmentRows(snapshot_->spec->dim), live_rows / 32);
  if (unindexed > 0 && (finish_ || index_->num_rows() == 0 || unindexed >= enough)) {
    return IndexRows();
  }

  const size_t wanted = RowsPerList(live_rows);
  std::vector<uint32_t> large, small;
  for (uint32_t i = 0; i < index_->num_lists(); ++i) {
    const auto& list = index_->lists()[i];
    const size_t rows = list != nullptr ? list->rows() : 0;
    if (rows > 2 * wanted && !collection_.unsplittable_.contains(list->number())) {
      large.push_back(i);
    }
    if (rows < wanted / 8) small.push_back(i);
  }
  const auto rows_of = [&](uint32_t i) {
    const auto& list = index_->lists()[i];
    return list != nullptr ? list->rows() : 0;
  };
  const bool many_small = small.size() > std::max<size_t>(index_->num_lists() / 16, kFewestLists);
  // Where codes hardly tell centroids apart, rows move between lists at every step.
  const uint64_t most_restructured = 4 * (live_rows / wanted + 64);
  if ((!large.empty() || many_small) && collection_.restructured_ < most_restructured) {
    std::sort(large.begin(), large.end(), [&](uint32_t a, uint32_t b) {
      return rows_of(a) != rows_of(b) ? rows_of(a) > rows_of(b) : a < b;
    });
    large.resize(std::min(large.size(), kListsAtOnce));
    if (!many_small) small.clear();
    const size_t spare = index_->num_lists() + large.size() - kFewestLists;
    small.resize(std::min({small.size(), kListsAtOnce, spare}));
    if (!large.empty() || !small.empty()) return Restructure(large, small);
  }
  QUASH_RETURN_IF_ERROR(Sweep(idle));
  return *idle ? MeasureCurve(idle) : Status();
}

Status PartitionUpkeep::DropIfDamaged() {
  QUASH_RETURN_IF_ERROR(collection_.GetSnapshot(&snapshot_));
  if (snapshot_->partitions == nullptr) return Status();
  std::vector<std::string> problems;
  QUASH_RETURN_IF_ERROR(snapshot_->partitions->Verify(&problems));
  return problems.empty() ? Status() : CommitIndex(snapshot_->partitions, nullptr, {});
}

Status PartitionUpkeep::Train() {
  const size_t wanted = RowsPerList(snapshot_->live_rows);
  const size_t num_lists = std::max<size_t>(snapshot_->live_rows / wanted, kFewestLists);
  std::vector<float> vectors;
  QUASH_RETURN_IF_ERROR(TrainCentroids(*snapshot_, num_lists, threads_, stop_, &vectors));
  collection_.unsplittable_.clear();  // lists are numbered anew
  Change change;
  const size_t dim = snapshot_->spec->dim;
  change.centroids = std::make_shared<const Centroids>(
      *snapshot_->spec, *snapshot_->quantizer, vectors.data(), vectors.size() / dim);
  change.lists.resize(change.centroids->size());
  change.rows.resize(change.lists.size());
  return Apply(std::move(change), /*in_batches=*/false);
}

Status PartitionUpkeep::IndexRows() {
  Change change = Unchanged();
  const size_t most =
      std::clamp<size_t>(index_->num_rows() / 4, kLeastIndexedRows, kMostIndexedRows);
  std::vector<uint64_t> rows;
  std::vector<ListRow> sources;
  for (uint32_t s = 0; s < snapshot_->segments.size() && rows.size() < most; ++s) {
    const SegmentView& view = snapshot_->segments[s];
    if (view.segment->is_tail() && !with_tail_) continue;
    if (view.segment->last_slot() < index_->indexed_slots()) continue;
    SegmentCodes codes;
    std::span<const uint64_t> slots;
    Pin slots_pin;
    QUASH_RETURN_IF_ERROR(view.segment->Slots(&slots, &slots_pin));
    QUASH_RETURN_IF_ERROR(codes.Read(*view.segment, snapshot_->spec->bits));
    for (uint32_t row = 0; row < view.segment->rows(); ++row) {
      if (slots[row] < index_->indexed_slots() || !IsLive(*snapshot_, RowIndex(s, row))) continue;
      rows.push_back(RowIndex(s, row));
      sources.push_back({.codes = codes.arrays, .row = row, .slot = slots[row]});
    }
    for (Pin& pin : codes.pins) change.pins.push_back(std::move(pin));
    change.indexed_slots = view.segment->last_slot() + 1;
  }
  std::vector<uint32_t> lists(rows.size());
  QUASH_RETURN_IF_ERROR(
      AssignRows(*snapshot_, index_->centroids(), rows, threads_, stop_, lists.data()));
  for (size_t i = 0; i < rows.size(); ++i) change.rows[lists[i]].push_back(sources[i]);
  QUASH_RETURN_IF_ERROR(Apply(std::move(change), /*in_batches=*/true));
  collection_.restructured_ = 0;
  return Status();
}

Status PartitionUpkeep::Members(uint32_t list, std::vector<Member>* members,
                                std::vector<Pin>* pins) const {
  const auto& from = index_->lists()[list];
  if (from == nullptr) return Status();
  ListRows rows;
  Pin pin;
  QUASH_RETURN_IF_ERROR(from->Read(&rows, &pin));
  for (uint32_t i = 0; i < rows.rows; ++i) {
    uint64_t row = 0;
    bool lives = false;
    QUASH_RETURN_IF_ERROR(FindLive(*snapshot_, rows.slots[i], &row, &lives));
    if (lives) members->push_back({row, rows.Row(snapshot_->quantizer->layout(), i)});
  }
  pins->push_back(std::move(pin));
  return Status();
}

Status PartitionUpkeep::Restructure(std::span<const uint32_t> split,
                                    std::span<const uint32_t> dissolved) {
  const size_t dim = snapshot_->spec->dim;
  const bool is_l2 = snapshot_->spec->metric == QUASH_METRIC_L2;
  const Centroids& old = index_->centroids();
  Change change = Unchanged();

  std::vector<float> vectors(old.size() * dim);
  for (size_t i = 0; i < old.size(); ++i) {
    std::memcpy(vectors.data() + i * dim, old.vector(i), dim * sizeof(float));
  }
  // Rows of these lists choose again; those of a list that stays, and of one that is split,
  // among the lists of the splits nearby.
  std::map<uint32_t, std::set<uint32_t>> affected;
  for (const uint32_t list : dissolved) affected[list];
  std::vector<float> added;
  for (const uint32_t list : split) {
    std::vector<Member> members;
    QUASH_RETURN_IF_ERROR(Members(list, &members, &change.pins));
    std::set<uint32_t> choices = {list};
    if (members.size() >= 2) {
      choices.insert(static_cast<uint32_t>(old.size() + added.size() / dim));
      std::vector<float> of_members(members.size() * dim);
      for (size_t i = 0; i < members.size(); ++i) {
        float* vector = of_members.data() + i * dim;
        const uint64_t row = members[i].row;
        QUASH_RETURN_IF_ERROR(ReadVector(*snapshot_, SegmentOf(row), RowOf(row), vector));
      }
      std::vector<float> two(2 * dim);
      TwoMeans(is_l2, of_members.data(), members.size(), dim, two.data());
      std::memcpy(vectors.data() + list * dim, two.data(), dim * sizeof(float));
      added.insert(added.end(), two.begin() + dim, two.end());
    }
    std::vector<PreparedQuery> centroid(1);
    centroid[0].Prepare(*snapshot_, old.vector(list), 1, PreparedQuery::Against::kPlanes);
    std::vector<Centroids::Scored> nearest;
    old.Nearest(centroid, 1 + kNeighbours, Centroids::Rank::kVectors, &nearest);
    for (const Centroids::Scored& one : nearest) choices.insert(one.list);
    affected[list].insert(choices.begin(), choices.end());
    for (const Centroids::Scored& one : nearest) {
      affected[one.list].insert(choices.begin(), choices.end());
    }
    if (stop_ && stop_()) return Status(QUASH_CANCELLED, "stopped");
  }

  std::vector<Member> members;
  std::vector<size_t> ends;  // of the members of each list in `affected`
  for (const auto& [list, unused] : affected) {
    QUASH_RETURN_IF_ERROR(Members(list, &members, &change.pins));
    ends.push_back(members.size());
    change.lists[list] = nullptr;
  }
  // New centroids take the places of dissolved ones, then go to the end; places
  // that are left are filled from the end.
  std::vector<uint32_t> holes(dissolved.begin(), dissolved.end());
  std::sort(holes.begin(), holes.end());
  for (size_t i = 0; i < added.size() / dim; ++i) {
    const float* vector = added.data() + i * dim;
    if (!holes.empty()) {
      std::memcpy(vectors.data() + holes.back() * dim, vector, dim * sizeof(float));
      holes.pop_back();
    } else {
      vectors.insert(vectors.end(), vector, vector + dim);
      change.lists.push_back(nullptr);
    }
  }
  for (; !holes.empty(); holes.pop_back()) {
    const size_t hole = holes.back(), last = change.lists.size() - 1;
    if (hole != last) {
      std::memcpy(vectors.data() + hole * dim, vectors.data() + last * dim, dim * sizeof(float));
      change.lists[hole] = change.lists[last];
    }
    vectors.resize(last * dim);
    change.lists.pop_back();
  }
  change.centroids = std::make_shared<const Centroids>(*snapshot_->spec, *snapshot_->quantizer,
                                                       vectors.data(), change.lists.size());
  change.rows.assign(change.lists.size(), {});
  std::vector<uint64_t> rows;
  for (const Member& member : members) rows.push_back(member.row);
  std::vector<uint32_t> lists(rows.size());
  if (dissolved.empty()) {
    size_t begin = 0, of_list = 0;
    for (const auto& [list, choices] : affected) {
      if (stop_ && stop_()) return Status(QUASH_CANCELLED, "stopped");
      const std::vector<uint32_t> among(choices.begin(), choices.end());
      const size_t n = ends[of_list++] - begin;
      QUASH_RETURN_IF_ERROR(AssignAmong(*snapshot_, *change.centroids,
                                        std::span(rows).subspan(begin, n), among,
                                        lists.data() + begin));
      begin += n;
    }
  } else {  // their rows may go anywhere, and lists have new numbers
    QUASH_RETURN_IF_ERROR(
        AssignRows(*snapshot_, *change.centroids, rows, threads_, stop_, lists.data()));
  }
  for (size_t i = 0; i < rows.size(); ++i) change.rows[lists[i]].push_back(members[i].source);

  // Vectors that are nearly all equal cannot be split.
  std::vector<uint32_t> stuck;
  for (const uint32_t list : split) {
    if (list < change.rows.size() &&
        change.rows[list].size() > index_->lists()[list]->rows() / 10 * 9) {
      stuck.push_back(list);
    }
  }
  QUASH_RETURN_IF_ERROR(Apply(std::move(change), /*in_batches=*/false));
  collection_.restructured_ += split.size() + dissolved.size();
  for (const uint32_t list : stuck) {
    const auto& now = applied_->lists()[list];
    if (now != nullptr) collection_.unsplittable_.insert(now->number());
  }
  return Status();
}

Status PartitionUpkeep::Sweep(bool* idle) {
  const uint64_t live = IndexedLiveRows();
  const uint64_t dead = index_->num_rows() > live ? index_->num_rows() - live : 0;
  *idle = dead * (finish_ ? 16 : 8) <= index_->num_rows();
  if (*idle) return Status();
  Change change = Unchanged();
  uint64_t bytes = 0;
  bool found = false;
  for (uint32_t i = 0; i < change.lists.size() && bytes < kBatchBytes; ++i) {
    if (change.lists[i] == nullptr) continue;
    std::vector<Member> members;
    std::vector<Pin> pins;
    QUASH_RETURN_IF_ERROR(Members(i, &members, &pins));
    const size_t rows = change.lists[i]->rows();
    if ((rows - members.size()) * (finish_ ? 32 : 16) <= rows) continue;
    found = true;
    bytes += change.lists[i]->stored_bytes();
    for (const Member& member : members) change.rows[i].push_back(member.source);
    change.pins.insert(change.pins.end(), pins.begin(), pins.end());
    change.lists[i] = nullptr;
    if (stop_ && stop_()) return Status(QUASH_CANCELLED, "stopped");
  }
  *idle = !found;
  return found ? Apply(std::move(change), /*in_batches=*/false) : Status();
}

// Again when the collection has doubled or halved, or was written anew twice over, since
// lists then are others; when all is wanted, if it is an eighth off or half of it was.
Status PartitionUpkeep::MeasureCurve(bool* idle) {
  const uint64_t live = snapshot_->live_rows, before = index_->head().measured_rows;
  const uint64_t apart = live > before ? live - before : before - live;
  const uint64_t written = index_->indexed_slots() - index_->head().measured_slots;
  *idle = live == 0 || index_->num_rows() == 0 ||
          (apart <= std::min(live, before) / (finish_ ? 8 : 1) &&
           written <= (finish_ ? live / 2 : 2 * live));
  if (*idle) return Status();
  MeasureRequest request;
  request.sample = finish_ ? kMeasuredQueriesAtRest : kMeasuredQueries;
  request.threads = static_cast<uint32_t>(threads_);
  std::vector<RecallPoint> curve;
  const Status measured = MeasureRecallCurve(
      *snapshot_, request, [this](uint64_t, uint64_t) { return stop_ && stop_(); }, &curve);
  if (measured.code() == QUASH_UNSUPPORTED) {  // too few rows for searches to probe lists
    *idle = true;
    return Status();
  }
  QUASH_RETURN_IF_ERROR(measured);
  QUASH_RETURN_IF_ERROR(collection_.SetRecallCurve(std::move(curve)));
  Change change = Unchanged();
  change.measured_rows = live;
  change.measured_slots = index_->indexed_slots();
  return Apply(std::move(change), /*in_batches=*/false);
}

Status PartitionUpkeep::Apply(Change change, bool in_batches) {
  const CollectionSpec& spec = *snapshot_->spec;
  const CodeLayout& layout = snapshot_->quantizer->layout();
  std::shared_ptr<const PartitionIndex> base = snapshot_->partitions;
  PartitionHead head;
  if (base != nullptr) head = base->head();
  std::vector<std::pair<uint64_t, BufferRef>> values;

  // Centroids that moved, by value.
  const size_t n = change.centroids->size();
  if (base == nullptr || change.centroids != base->shared_centroids()) {
    const size_t before = base != nullptr ? base->num_lists() : 0;
    head.centroids.resize((n + kCentroidsPerValue - 1) / kCentroidsPerValue);
    for (size_t i = 0; i < head.centroids.size(); ++i) {
      const size_t first = i * kCentroidsPerValue;
      const size_t count = std::min(kCentroidsPerValue, n - first);
      bool same = first < before && count == std::min(kCentroidsPerValue, before - first);
      for (size_t c = first; same && c < first + count; ++c) {
        same = std::memcmp(change.centroids->vector(c), base->centroids().vector(c),
                           spec.dim * sizeof(float)) == 0;
      }
      if (same) continue;
      head.centroids[i] = head.next_value++;
      values.emplace_back(head.centroids[i], BuildCentroids(spec, head.centroids[i],
                                                            *change.centroids, first, count));
    }
  }
  head.measured_rows = change.measured_rows;
  head.measured_slots = change.measured_slots;
  PartitionIndex::Lists lists = change.lists;
  uint64_t bytes = 0;
  const auto commit = [&](bool last) -> Status {
    head.lists.resize(n);
    for (size_t i = 0; i < n; ++i) {
      head.lists[i] = lists[i] != nullptr
                          ? PartitionHead::List{lists[i]->number(), lists[i]->rows()}
                          : PartitionHead::List{};
    }
    if (last) head.indexed_slots = change.indexed_slots;
    auto next = std::make_shared<const PartitionIndex>(head, change.centroids, lists);
    QUASH_RETURN_IF_ERROR(CommitIndex(base, next, values));
    base = std::move(next);
    values.clear();
    bytes = 0;
    return Status();
  };
  for (size_t i = 0; i < n; ++i) {
    if (change.rows[i].empty()) continue;
    std::vector<ListRow> rows = std::move(change.rows[i]);
    Pin pin;
    if (lists[i] != nullptr) {
      ListRows kept;
      QUASH_RETURN_IF_ERROR(lists[i]->Read(&kept, &pin));
      for (uint32_t row = 0; row < kept.rows; ++row) {
        uint64_t unused = 0;
        bool lives = false;
        QUASH_RETURN_IF_ERROR(FindLive(*snapshot_, kept.slots[row], &unused, &lives));
        if (lives) rows.push_back(kept.Row(layout, row));
      }
    }
    // A row can be there already, from a step that was cut off.
    std::sort(rows.begin(), rows.end(),
              [](const ListRow& a, const ListRow& b) { return a.slot < b.slot; });
    rows.erase(std::unique(rows.begin(), rows.end(),
                           [](const ListRow& a, const ListRow& b) { return a.slot == b.slot; }),
               rows.end());
    const uint64_t number = head.next_value++;
    BufferRef value = BuildList(spec, layout, number, rows);
    bytes += value->size();
    auto list = std::make_shared<const PartitionList>(context_, number,
                                                      static_cast<uint32_t>(rows.size()));
    list->Warm(value);
    lists[i] = std::move(list);
    values.emplace_back(number, std::move(value));
    if (in_batches && bytes >= kBatchBytes) QUASH_RETURN_IF_ERROR(commit(/*last=*/false));
  }
  QUASH_RETURN_IF_ERROR(commit(/*last=*/true));
  applied_ = std::move(base);
  return Status();
}

Status PartitionUpkeep::CommitIndex(const std::shared_ptr<const PartitionIndex>& base,
                                    std::shared_ptr<const PartitionIndex> next,
                                    const std::vector<std::pair<uint64_t, BufferRef>>& values) {
  StoredDatabase& database = *collection_.database_;
  const std::lock_guard lock(database.writer_mutex());
  QUASH_RETURN_IF_ERROR(collection_.CheckWritable());
  if (collection_.partitions_ != base) return Status(QUASH_CANCELLED, "replaced");
  const Store& store = *collection_.context_->store;
  const uint32_t number = collection_.number();
  CollectionDraft draft(collection_);
  if (base == nullptr || next == nullptr) {  // also what an unreadable index has left
    if (base != nullptr) base->Retire(collection_.context_->store->NewView());
    store.DeleteRange(&draft.batch(), Family::kLists, CollectionPrefix(number),
                      CollectionPrefix(number + 1));
  }
  for (const auto& [value, buffer] : values) {
    store.Put(&draft.batch(), Family::kLists, SegmentKey(number, value), buffer->view());
  }
  if (base != nullptr && next != nullptr) {
    const std::shared_ptr<const ReadView> view = collection_.context_->store->NewView();
    std::set<uint64_t> kept(next->head().centroids.begin(), next->head().centroids.end());
    for (const auto& list : next->lists()) {
      if (list != nullptr) kept.insert(list->number());
    }
    for (const auto& list : base->lists()) {
      if (list == nullptr || kept.contains(list->number())) continue;
      list->Retire(view);
      store.Delete(&draft.batch(), Family::kLists, SegmentKey(number, list->number()));
    }
    for (const uint64_t value : base->head().centroids) {
      if (kept.contains(value)) continue;
      store.Delete(&draft.batch(), Family::kLists, SegmentKey(number, value));
    }
  }
  if (next != nullptr) {
    store.Put(&draft.batch(), Family::kCatalog, PartitionHeadKey(number),
              EncodePartitionHead(next->head()));
  } else {
    store.Delete(&draft.batch(), Family::kCatalog, PartitionHeadKey(number));
  }
  QUASH_RETURN_IF_ERROR(draft.Finish());
  draft.published_->partitions = next;
  return database.Commit(&draft.batch(), [&] {
    collection_.partitions_.swap(next);
    collection_.partition_damage_.clear();
    collection_.Publish(&draft);
  });
}

}  // namespace quash
