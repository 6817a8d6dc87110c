#include "libquashdb/filter_eval.h"

#include <algorithm>
#include <bit>
#include <memory>
#include <span>
#include <string_view>
#include <type_traits>
#include <variant>

namespace quash {
namespace {

using Bitmap = std::vector<uint32_t>;

template <typename T>
size_t LowerBound(const Column& column, const T& value) {
  if constexpr (std::is_same_v<T, int64_t>) {
    const std::span<const int64_t> ints = column.dictionary_ints();
    return static_cast<size_t>(std::lower_bound(ints.begin(), ints.end(), value) - ints.begin());
  } else {
    size_t begin = 0, end = column.dictionary_size();
    while (begin < end) {
      const size_t middle = begin + (end - begin) / 2;
      if (column.dictionary_string(middle) < value) {
        begin = middle + 1;
      } else {
        end = middle;
      }
    }
    return begin;
  }
}

template <typename T>
auto DictionaryValue(const Column& column, size_t code) {
  if constexpr (std::is_same_v<T, int64_t>) {
    return column.dictionary_ints()[code];
  } else {
    return column.dictionary_string(code);
  }
}

bool InRange(const StringRangeFilter& range, std::string_view text) {
  if (range.has_low) {
    const int order = text.compare(range.low);
    if (order < 0 || (order == 0 && range.low_open)) return false;
  }
  if (range.has_high) {
    const int order = text.compare(range.high);
    if (order > 0 || (order == 0 && range.high_open)) return false;
  }
  return true;
}

// One flag per dictionary entry: whether it is among the sorted, distinct
// `values`. Looks the shorter of the two up in the longer. Returns how many are.
template <typename T>
size_t FlagEntries(const Column& column, const std::vector<T>& values,
                   std::vector<uint8_t>* flags) {
  const size_t entries = column.dictionary_size();
  flags->assign(entries, 0);
  size_t found = 0;
  if (values.size() <= entries) {
    for (const T& value : values) {
      const size_t code = LowerBound(column, value);
      if (code == entries || DictionaryValue<T>(column, code) != value) continue;
      (*flags)[code] = 1;
      ++found;
    }
  } else {
    for (size_t code = 0; code < entries; ++code) {
      const bool listed =
          std::binary_search(values.begin(), values.end(), DictionaryValue<T>(column, code));
      (*flags)[code] = listed;
      found += listed;
    }
  }
  return found;
}

class Evaluator {
 public:
  explicit Evaluator(const Segment& segment) : segment_(segment) {}

  // Clears the bits of `rows` whose row `node` is not true of.
  Status Keep(const FilterNode& node, Bitmap* rows) {
    return std::visit([&](const auto& what) { return KeepNode(node, what, rows); }, node.what);
  }

 private:
  // `rows` and `valid` (empty: no nulls) narrowed to test(row) != negated.
  //   kAnyRow  test() may be asked about any row of the segment, so that whole
  //            blocks run without branches
  template <bool kAnyRow, typename Test>
  void KeepWhere(std::span<const uint32_t> valid, bool negated, Bitmap* rows, Test test) const {
    constexpr int kDense = 8;  // rows of a block, from which the whole is faster
    const size_t whole_blocks = segment_.rows() / 32;
    for (size_t block = 0; block < rows->size(); ++block) {
      uint32_t& word = (*rows)[block];
      if (!valid.empty()) word &= valid[block];
      if (word == 0) continue;
      const size_t first = block * 32;
      uint32_t match = 0;
      if (kAnyRow && block < whole_blocks && std::popcount(word) >= kDense) {
        for (size_t r = 0; r < 32; ++r) match |= uint32_t{test(first + r)} << r;
      } else {
        for (uint32_t rest = word; rest != 0; rest &= rest - 1) {
          const int r = std::countr_zero(rest);
          match |= uint32_t{test(first + static_cast<size_t>(r))} << r;
        }
      }
      word &= negated ? ~match : match;
    }
  }

  static size_t Count(const Bitmap& rows) {
    size_t count = 0;
    for (const uint32_t word : rows) count += static_cast<size_t>(std::popcount(word));
    return count;
  }
  static bool IsEmpty(const Bitmap& rows) {
    return std::all_of(rows.begin(), rows.end(), [](uint32_t word) { return word == 0; });
  }

  Status GetColumn(uint32_t field, quash_field_type type, const Column** out) {
    const Column* column = nullptr;
    QUASH_RETURN_IF_ERROR(GetColumn(field, &column));
    const bool is_bool = column->type() == QUASH_FIELD_BOOL && type == QUASH_FIELD_INT;
    if (column->type() != type && !is_bool) {
      return Error(QUASH_CORRUPT, "metadata column {} is of another type than its field", field);
    }
    *out = column;
    return Status();
  }
  Status GetColumn(uint32_t field, const Column** out) {
    if (columns_.size() <= field) columns_.resize(field + 1);
    std::shared_ptr<const Column>& column = columns_[field];
    if (column == nullptr) {
      QUASH_RETURN_IF_ERROR(segment_.MetadataColumn(field, &column));
      if (column == nullptr || column->rows() != segment_.rows()) {
        return Error(QUASH_CORRUPT,
                     "metadata column {} has another number of rows than its segment", field);
      }
    }
    *out = column.get();
    return Status();
  }

  Status GetIds() {
    if (has_ids_) return Status();
    QUASH_RETURN_IF_ERROR(segment_.Ids(&ids_, &ids_pin_));
    if (ids_.ints.size() != segment_.rows() && ids_.offsets.size() != segment_.rows() + 1) {
      return Error(QUASH_CORRUPT, "a segment has another number of ids than of rows");
    }
    has_ids_ = true;
    return Status();
  }

  // Values of an int or bool field or of int64 ids.
  Status GetInts(uint32_t field, std::span<const int64_t>* ints, std::span<const uint32_t>* valid) {
    if (field == FilterNode::kId) {
      QUASH_RETURN_IF_ERROR(GetIds());
      *ints = ids_.ints;
      return Status();
    }
    const Column* column;
    QUASH_RETURN_IF_ERROR(GetColumn(field, QUASH_FIELD_INT, &column));
    *ints = column->ints();
    *valid = column->valid();
    return Status();
  }

  Status KeepNode(const FilterNode&, const ConstantFilter& constant, Bitmap* rows) {
    if (!constant.value) std::fill(rows->begin(), rows->end(), 0);
    return Status();
  }

  Status KeepNode(const FilterNode&, const AndFilter& filter, Bitmap* rows) {
    for (const FilterNode& child : filter.children) {
      QUASH_RETURN_IF_ERROR(Keep(child, rows));
      if (IsEmpty(*rows)) break;
    }
    return Status();
  }

  Status KeepNode(const FilterNode&, const OrFilter& filter, Bitmap* rows) {
    Bitmap open = *rows;  // not yet true
    Bitmap matching;
    for (const FilterNode& child : filter.children) {
      matching = open;
      QUASH_RETURN_IF_ERROR(Keep(child, &matching));
      for (size_t i = 0; i < open.size(); ++i) open[i] &= ~matching[i];
      if (IsEmpty(open)) break;
    }
    for (size_t i = 0; i < open.size(); ++i) (*rows)[i] &= ~open[i];
    return Status();
  }

  Status KeepNode(const FilterNode& node, const NullFilter&, Bitmap* rows) {
    if (node.field == FilterNode::kId) {
      if (!node.negated) std::fill(rows->begin(), rows->end(), 0);
      return Status();
    }
    const Column* column;
    QUASH_RETURN_IF_ERROR(GetColumn(node.field, &column));
    for (size_t i = 0; i < rows->size(); ++i) {
      (*rows)[i] &= node.negated ? column->valid()[i] : ~column->valid()[i];
    }
    return Status();
  }

  Status KeepNode(const FilterNode& node, const IntRangeFilter& filter, Bitmap* rows) {
    std::span<const int64_t> ints;
    std::span<const uint32_t> valid;
    QUASH_RETURN_IF_ERROR(GetInts(node.field, &ints, &valid));
    if (filter.range.empty()) {
      KeepWhere<true>(valid, node.negated, rows, [](size_t) { return false; });
      return Status();
    }
    const auto low = static_cast<uint64_t>(filter.range.low);
    const uint64_t width = static_cast<uint64_t>(filter.range.high) - low;
    KeepWhere<true>(valid, node.negated, rows,
                    [=](size_t row) { return static_cast<uint64_t>(ints[row]) - low <= width; });
    return Status();
  }

  Status KeepNode(const FilterNode& node, const IntSetFilter& filter, Bitmap* rows) {
    std::span<const int64_t> ints;
    std::span<const uint32_t> valid;
    QUASH_RETURN_IF_ERROR(GetInts(node.field, &ints, &valid));
    KeepWhere<true>(valid, node.negated, rows,
                    [&, ints](size_t row) { return filter.values.Contains(ints[row]); });
    return Status();
  }

  Status KeepNode(const FilterNode& node, const FloatRangeFilter& filter, Bitmap* rows) {
    const Column* column;
    QUASH_RETURN_IF_ERROR(GetColumn(node.field, QUASH_FIELD_FLOAT, &column));
    KeepWhere<true>(column->valid(), node.negated, rows,
                    [floats = column->floats(), range = filter.range](size_t row) -> bool {
                      return floats[row] >= range.low && floats[row] <= range.high;
                    });
    return Status();
  }

  Status KeepNode(const FilterNode& node, const FloatSetFilter& filter, Bitmap* rows) {
    const Column* column;
    QUASH_RETURN_IF_ERROR(GetColumn(node.field, QUASH_FIELD_FLOAT, &column));
    KeepWhere<true>(column->valid(), node.negated, rows,
                    [&, floats = column->floats()](size_t row) {
                      return filter.values.Contains(DoubleKey(floats[row]));
                    });
    return Status();
  }

  template <typename Test>
  Status KeepIds(bool negated, Bitmap* rows, Test test) {
    QUASH_RETURN_IF_ERROR(GetIds());
    KeepWhere<false>({}, negated, rows, [&](size_t row) { return test(ids_.string(row)); });
    return Status();
  }

  // Rows whose dictionary entry is flagged.
  void KeepFlagged(const Column& column, bool negated, const std::vector<uint8_t>& flags,
                   Bitmap* rows) const {
    KeepWhere<false>(column.valid(), negated, rows, [codes = column.codes(), &flags](size_t row) {
      return flags[codes[row]] != 0;
    });
  }

  // Asks `test` once per dictionary entry, or per row where rows are fewer.
  template <typename Test>
  void KeepStrings(const Column& column, bool negated, Bitmap* rows, Test test) {
    if (Count(*rows) < column.dictionary_size()) {
      KeepWhere<false>(column.valid(), negated, rows, [&](size_t row) {
        return test(column.dictionary_string(column.codes()[row]));
      });
      return;
    }
    flags_.resize(column.dictionary_size());
    for (size_t code = 0; code < flags_.size(); ++code) {
      flags_[code] = test(column.dictionary_string(code));
    }
    KeepFlagged(column, negated, flags_, rows);
  }

  Status KeepNode(const FilterNode& node, const StringRangeFilter& filter, Bitmap* rows) {
    if (node.field == FilterNode::kId) {
      return KeepIds(node.negated, rows, [&](std::string_view id) { return InRange(filter, id); });
    }
    const Column* column;
    QUASH_RETURN_IF_ERROR(GetColumn(node.field, QUASH_FIELD_STRING, &column));
    // The dictionary is sorted, so the range is one of codes.
    const auto bound = [&](const std::string& text, bool after) {
      size_t code = LowerBound(*column, text);
      if (after && code < column->dictionary_size() && column->dictionary_string(code) == text) {
        ++code;
      }
      return static_cast<uint32_t>(code);
    };
    const uint32_t begin = filter.has_low ? bound(filter.low, filter.low_open) : 0;
    const uint32_t end = filter.has_high ? bound(filter.high, !filter.high_open)
                                         : static_cast<uint32_t>(column->dictionary_size());
    const uint32_t width = end > begin ? end - begin : 0;
    KeepWhere<true>(column->valid(), node.negated, rows, [=, codes = column->codes()](size_t row) {
      return codes[row] - begin < width;
    });
    return Status();
  }

  Status KeepNode(const FilterNode& node, const StringSetFilter& filter, Bitmap* rows) {
    const auto listed = [&](std::string_view text) { return filter.lookup.contains(text); };
    if (node.field == FilterNode::kId) return KeepIds(node.negated, rows, listed);
    const Column* column;
    QUASH_RETURN_IF_ERROR(GetColumn(node.field, QUASH_FIELD_STRING, &column));
    const size_t steps =
        filter.values.size() * static_cast<size_t>(std::bit_width(column->dictionary_size()));
    if (steps < std::min(Count(*rows), column->dictionary_size())) {
      FlagEntries(*column, filter.values, &flags_);
      KeepFlagged(*column, node.negated, flags_, rows);
    } else {
      KeepStrings(*column, node.negated, rows, listed);
    }
    return Status();
  }

  Status KeepNode(const FilterNode& node, const LikeFilter& filter, Bitmap* rows) {
    const auto matches = [&](std::string_view text) { return filter.pattern.Matches(text); };
    if (node.field == FilterNode::kId) return KeepIds(node.negated, rows, matches);
    const Column* column;
    QUASH_RETURN_IF_ERROR(GetColumn(node.field, QUASH_FIELD_STRING, &column));
    KeepStrings(*column, node.negated, rows, matches);
    return Status();
  }

  Status KeepNode(const FilterNode& node, const IntListFilter& filter, Bitmap* rows) {
    return KeepLists(node, QUASH_FIELD_INT_LIST, filter.values, filter.all, rows);
  }
  Status KeepNode(const FilterNode& node, const StringListFilter& filter, Bitmap* rows) {
    return KeepLists(node, QUASH_FIELD_STRING_LIST, filter.values, filter.all, rows);
  }

  template <typename T>
  Status KeepLists(const FilterNode& node, quash_field_type type, const std::vector<T>& values,
                   bool all, Bitmap* rows) {
    const Column* column;
    QUASH_RETURN_IF_ERROR(GetColumn(node.field, type, &column));
    const size_t found = FlagEntries(*column, values, &flags_);
    const std::span<const uint32_t> valid = column->valid();
    const auto codes_of = [codes = column->codes(), offsets = column->offsets()](size_t row) {
      return codes.subspan(offsets[row], offsets[row + 1] - offsets[row]);
    };
    if (found == 0 || (all && found < values.size())) {
      KeepWhere<true>(valid, node.negated, rows, [](size_t) { return false; });
    } else if (!all || found == 1) {
      KeepWhere<false>(valid, node.negated, rows, [&](size_t row) {
        const auto codes = codes_of(row);
        return std::any_of(codes.begin(), codes.end(),
                           [&](uint32_t code) { return flags_[code] != 0; });
      });
    } else {
      std::vector<size_t> last_row(column->dictionary_size(), segment_.rows());
      KeepWhere<false>(valid, node.negated, rows, [&](size_t row) {
        size_t distinct = 0;
        for (const uint32_t code : codes_of(row)) {
          if (flags_[code] == 0 || last_row[code] == row) continue;
          last_row[code] = row;
          ++distinct;
        }
        return distinct == found;
      });
    }
    return Status();
  }

  const Segment& segment_;
  std::vector<std::shared_ptr<const Column>> columns_;  // by field, once read
  IdColumn ids_;
  Pin ids_pin_;
  bool has_ids_ = false;
  std::vector<uint8_t> flags_;  // scratch: one per dictionary entry
};

}  // namespace

Status EvaluateFilter(const FilterNode& root, const Segment& segment, std::vector<uint32_t>* rows) {
  return Evaluator(segment).Keep(root, rows);
}

}  // namespace quash
