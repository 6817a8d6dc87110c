// What a collection is: its settings and typed metadata fields.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "quashdb.h"

namespace quash {

struct Field {
  std::string name;
  quash_field_type type;
};

// Never held. A variant of alternatives that all move without throwing counts as
// never empty in libstdc++ 12, and is then destroyed even where copying it has
// thrown before anything was there; this one does not count.
struct CopyGuard {
  CopyGuard() noexcept = default;
  CopyGuard(const CopyGuard&) noexcept {}
  CopyGuard& operator=(const CopyGuard&) noexcept { return *this; }
  auto operator<=>(const CopyGuard&) const = default;
};

// One metadata value; monostate is null. The alternative matches the field's
// type.
using Value = std::variant<std::monostate, bool, int64_t, double, std::string,
                           std::vector<int64_t>, std::vector<std::string>, CopyGuard>;

// An external id: the alternative matches the collection's id type.
using Id = std::variant<int64_t, std::string, CopyGuard>;

inline constexpr uint64_t kDefaultPartitionRows = 100'000;

struct CollectionSpec {
  uint32_t number = 0;  // key prefix in every column family, never reused
  std::string name;
  uint32_t dim = 0;
  quash_metric metric = QUASH_METRIC_COSINE;
  quash_id_type id_type = QUASH_ID_INT64;
  uint32_t bits = 4;
  quash_rerank rerank = QUASH_RERANK_F16;
  quash_rotation rotation = QUASH_ROTATION_HADAMARD;
  uint64_t seed = 42;
  uint64_t partition_rows = kDefaultPartitionRows;  // live rows from which it is partitioned
  std::vector<Field> fields;

  std::optional<size_t> FindField(std::string_view field_name) const {
    for (size_t i = 0; i < fields.size(); ++i)
      if (fields[i].name == field_name) return i;
    return std::nullopt;
  }
};

// Recall that a number of probed lists was measured to give.
struct RecallPoint {
  uint32_t nprobe = 0;
  float recall = 0;
};

// Search widths kept by quash_measure(); zeros mean "choose from k".
struct SearchWidths {
  uint32_t candidates = 0;
  uint32_t rerank_candidates = 0;
  uint32_t planes = 0;
  uint32_t measured_k = 0;
  double measured_recall = -1;  // -1: never measured
  std::vector<RecallPoint> recall_curve;  // both ascending; empty: never measured
  double recall_target = 0;  // of searches that name none; 0: kDefaultRecall
};

}  // namespace quash
