// A filter as evaluated. NOT is pushed down to the predicates, where it turns
// into `negated`: AND, OR and NOT of three-valued logic obey De Morgan's laws,
// so "unknown" needs no representation of its own. A predicate keeps the rows
// whose value is not null and stands (negated: does not stand) in its relation;
// the rows it drops are false or unknown alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <variant>
#include <vector>

#include "libquashdb/filter_like.h"
#include "libquashdb/filter_number.h"

namespace quash {

struct FilterNode;

struct ConstantFilter {
  bool value;
};
// Two children or more.
struct AndFilter {
  std::vector<FilterNode> children;
};
struct OrFilter {
  std::vector<FilterNode> children;
};
struct NullFilter {};  // IS NULL

// Bool fields hold 0 and 1. Comparisons and BETWEEN.
struct IntRangeFilter {
  IntRange range;
};
struct FloatRangeFilter {
  FloatRange range;
};
struct StringRangeFilter {
  std::string low, high;
  bool has_low = false, has_high = false;
  bool low_open = false, high_open = false;
};

// IN. Floats by DoubleKey().
struct IntSetFilter {
  Int64Set values;
};
struct FloatSetFilter {
  Int64Set values;
};
struct StringSetFilter {
  explicit StringSetFilter(std::vector<std::string> list)
      : values(std::move(list)), lookup(values.begin(), values.end()) {}
  // `lookup` points into `values`, whose strings stay where they are when moved.
  StringSetFilter(StringSetFilter&&) = default;
  StringSetFilter& operator=(StringSetFilter&&) = default;

  std::vector<std::string> values;
  std::unordered_set<std::string_view> lookup;
};

struct LikeFilter {
  LikePattern pattern;
};

// CONTAINS, CONTAINS ANY, CONTAINS ALL: distinct values; `all`: each of them.
struct IntListFilter {
  std::vector<int64_t> values;
  bool all;
};
struct StringListFilter {
  std::vector<std::string> values;
  bool all;
};

struct FilterNode {
  static constexpr uint32_t kId = std::numeric_limits<uint32_t>::max();

  std::variant<ConstantFilter, AndFilter, OrFilter, NullFilter, IntRangeFilter, FloatRangeFilter,
               StringRangeFilter, IntSetFilter, FloatSetFilter, StringSetFilter, LikeFilter,
               IntListFilter, StringListFilter>
      what;
  uint32_t field = 0;    // of the collection, or kId; predicates only
  bool negated = false;  // predicates only
};

}  // namespace quash
