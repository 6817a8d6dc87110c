// Numbers in filters: what a literal is worth, and the int64 or double values
// of a column that stand in a relation to it. int64 against decimals and double
// against integers compare by their exact values, never through a rounded one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

namespace quash {

enum class CompareOp : uint8_t { kEqual, kLess, kLessEqual, kGreater, kGreaterEqual };

// A literal. One within int64 and without fraction ("5", "5.0", "5e0") is
// known exactly, any other compares with doubles as the double nearest to it.
struct FilterNumber {
  double nearest = 0;     // +-infinity beyond the range of double
  int64_t floor = 0;      // greatest int64 not above it, if within int64
  int int64_range = 0;    // -1 below int64, 0 within, 1 above
  bool integral = false;  // within int64 and equal to floor
};

//   digits  as the lexer takes them: digits, point, exponent
FilterNumber ParseFilterNumber(std::string_view digits, bool negative);

// Closed ranges; empty if low > high.
struct IntRange {
  int64_t low = std::numeric_limits<int64_t>::min();
  int64_t high = std::numeric_limits<int64_t>::max();
  bool empty() const { return low > high; }
};
struct FloatRange {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
};

// The values x with `x op number`.
IntRange IntsThat(CompareOp op, const FilterNumber& number);
FloatRange FloatsThat(CompareOp op, const FilterNumber& number);

// Keys of a list literal, by open addressing: one or two probes per lookup.
class Int64Set {
 public:
  explicit Int64Set(const std::vector<int64_t>& values);

  bool Contains(int64_t value) const {
    for (size_t i = Home(value);; i = (i + 1) & mask_) {
      if (slots_[i] == kFree) return value == kFree && has_free_key_;
      if (slots_[i] == value) return true;
    }
  }

 private:
  static constexpr int64_t kFree = std::numeric_limits<int64_t>::min();

  size_t Home(int64_t value) const {
    return static_cast<uint64_t>(value) * 0x9E3779B97F4A7C15u >> shift_;
  }

  std::vector<int64_t> slots_;  // a power of two, at most half full
  size_t mask_ = 0;
  int shift_ = 0;
  bool has_free_key_ = false;  // kFree itself is a member
};

// A double's key in an Int64Set: equal doubles have equal keys, zeros too.
int64_t DoubleKey(double value);

}  // namespace quash
