#include "libquashdb/filter_number.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>

namespace quash {
namespace {

constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// A decimal as the digits d[0] d[1] ... with the point before d[point].
struct Decimal {
  std::string_view digits;  // with the point of the text still inside
  size_t skipped;           // position of that point in `digits`, or npos
  int64_t point;            // in digits, leading zeros stripped

  size_t size() const { return digits.size() - (skipped != std::string_view::npos ? 1 : 0); }
  int digit(size_t i) const { return digits[i < skipped ? i : i + 1] - '0'; }
};

Decimal Split(std::string_view text) {
  int64_t exponent = 0;
  const size_t e = text.find_first_of("eE");
  if (e != std::string_view::npos) {
    std::string_view written = text.substr(e + 1);
    if (written[0] == '+') written.remove_prefix(1);
    constexpr int64_t kFar = int64_t{1} << 40;  // past every text's length
    const bool negative = written[0] == '-';
    if (std::from_chars(written.data(), written.data() + written.size(), exponent).ec !=
        std::errc()) {
      exponent = negative ? -kFar : kFar;
    }
    exponent = std::clamp(exponent, -kFar, kFar);
    text = text.substr(0, e);
  }
  const size_t dot = text.find('.');
  Decimal decimal{
      text, dot,
      static_cast<int64_t>(dot == std::string_view::npos ? text.size() : dot) + exponent};
  // Leading zeros move the point, so that `point` is the magnitude.
  size_t zeros = 0;
  while (zeros < decimal.size() && decimal.digit(zeros) == 0) ++zeros;
  const size_t removed = dot != std::string_view::npos && zeros > dot ? zeros + 1 : zeros;
  decimal.digits.remove_prefix(std::min(removed, text.size()));
  decimal.skipped =
      dot == std::string_view::npos || removed > dot ? std::string_view::npos : dot - removed;
  decimal.point -= static_cast<int64_t>(zeros);
  return decimal;
}

double Nearest(std::string_view digits, const Decimal& decimal) {
  double value = 0;
  if (std::from_chars(digits.data(), digits.data() + digits.size(), value).ec ==
      std::errc::result_out_of_range) {
    value = decimal.point > 0 ? kInfinity : 0;
  }
  return value;
}

// Sign of `value` minus the literal; 0 for literals whose nearest double stands
// for them.
int CompareNearest(const FilterNumber& number) {
  if (!number.integral) return 0;
  constexpr double kTwo63 = 9223372036854775808.0;
  if (number.nearest >= kTwo63) return 1;
  const auto rounded = static_cast<int64_t>(number.nearest);
  return rounded < number.floor ? -1 : rounded > number.floor;
}

}  // namespace

FilterNumber ParseFilterNumber(std::string_view digits, bool negative) {
  const Decimal decimal = Split(digits);
  FilterNumber number;
  number.nearest = Nearest(digits, decimal);
  if (negative) number.nearest = -number.nearest;

  constexpr int64_t kInt64Digits = 19;
  uint64_t whole = 0;  // 19 digits fit
  bool beyond = decimal.size() > 0 && decimal.point > kInt64Digits;
  const auto point = static_cast<size_t>(std::clamp<int64_t>(decimal.point, 0, kInt64Digits));
  for (size_t i = 0; i < point; ++i) {
    whole = whole * 10 + static_cast<uint64_t>(i < decimal.size() ? decimal.digit(i) : 0);
  }
  bool fraction = false;
  for (size_t i = point; i < decimal.size() && !fraction; ++i) fraction = decimal.digit(i) != 0;
  constexpr uint64_t kTwo63 = uint64_t{1} << 63;
  // The magnitude of the floor of a negative number rounds up.
  const uint64_t magnitude = negative && fraction ? whole + 1 : whole;
  beyond = beyond || magnitude > (negative ? kTwo63 : kTwo63 - 1);
  if (beyond) {
    number.int64_range = negative ? -1 : 1;
    return number;
  }
  number.floor = static_cast<int64_t>(negative ? 0 - magnitude : magnitude);
  number.integral = !fraction;
  return number;
}

IntRange IntsThat(CompareOp op, const FilterNumber& number) {
  constexpr IntRange kNone{kMax, kMin};
  const bool less = op == CompareOp::kLess || op == CompareOp::kLessEqual;
  const bool greater = op == CompareOp::kGreater || op == CompareOp::kGreaterEqual;
  if (number.int64_range > 0) return less ? IntRange{} : kNone;
  if (number.int64_range < 0) return greater ? IntRange{} : kNone;
  const int64_t floor = number.floor;
  switch (op) {
    case CompareOp::kEqual:
      return number.integral ? IntRange{floor, floor} : kNone;
    case CompareOp::kLess:
      if (!number.integral) return {kMin, floor};
      return floor == kMin ? kNone : IntRange{kMin, floor - 1};
    case CompareOp::kLessEqual:
      return {kMin, floor};
    case CompareOp::kGreaterEqual:
      if (number.integral) return {floor, kMax};
      [[fallthrough]];
    case CompareOp::kGreater:
      return floor == kMax ? kNone : IntRange{floor + 1, kMax};
  }
  return kNone;
}

FloatRange FloatsThat(CompareOp op, const FilterNumber& number) {
  const double value = number.nearest;
  const int side = CompareNearest(number);  // of `value` as seen from the literal
  switch (op) {
    case CompareOp::kEqual:
      return side == 0 ? FloatRange{value, value} : FloatRange{kInfinity, -kInfinity};
    case CompareOp::kLess:
      return {-kInfinity, side >= 0 ? std::nextafter(value, -kInfinity) : value};
    case CompareOp::kLessEqual:
      return {-kInfinity, side > 0 ? std::nextafter(value, -kInfinity) : value};
    case CompareOp::kGreater:
      return {side <= 0 ? std::nextafter(value, kInfinity) : value, kInfinity};
    case CompareOp::kGreaterEqual:
      return {side < 0 ? std::nextafter(value, kInfinity) : value, kInfinity};
  }
  return {};
}

Int64Set::Int64Set(const std::vector<int64_t>& values) {
  const size_t size = std::bit_ceil(2 * values.size() + 2);
  mask_ = size - 1;
  shift_ = 64 - std::countr_zero(size);
  slots_.assign(size, kFree);
  for (const int64_t value : values) {
    if (value == kFree) {
      has_free_key_ = true;
      continue;
    }
    size_t i = Home(value);
    while (slots_[i] != kFree && slots_[i] != value) i = (i + 1) & mask_;
    slots_[i] = value;
  }
}

int64_t DoubleKey(double value) { return std::bit_cast<int64_t>(value == 0 ? 0.0 : value); }

}  // namespace quash
