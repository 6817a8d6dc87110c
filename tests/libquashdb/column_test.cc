#include "libquashdb/column.h"

#include <doctest/doctest.h>

#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace quash {
namespace {

using Strings = std::vector<std::string>;
using Ints = std::vector<int64_t>;

constexpr quash_field_type kTypes[] = {QUASH_FIELD_BOOL,     QUASH_FIELD_INT,
                                       QUASH_FIELD_FLOAT,    QUASH_FIELD_STRING,
                                       QUASH_FIELD_INT_LIST, QUASH_FIELD_STRING_LIST};

std::vector<Value> RandomValues(quash_field_type type, size_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto text = [&] {
    return std::string(random() % 4, static_cast<char>('a' + random() % 3));
  };
  const auto number = [&] { return static_cast<int64_t>(random() % 9) - 4; };
  std::vector<Value> values(n);
  for (Value& value : values) {
    if (random() % 5 == 0) continue;
    switch (type) {
      case QUASH_FIELD_BOOL:
        value = random() % 2 == 0;
        break;
      case QUASH_FIELD_INT:
        value = static_cast<int64_t>(random());
        break;
      case QUASH_FIELD_FLOAT:
        value = static_cast<double>(number()) / 3;
        break;
      case QUASH_FIELD_STRING:
        value = text();
        break;
      case QUASH_FIELD_INT_LIST: {
        Ints list(random() % 4);
        for (int64_t& element : list) element = number();
        value = list;
        break;
      }
      case QUASH_FIELD_STRING_LIST: {
        Strings list(random() % 4);
        for (std::string& element : list) element = text();
        value = list;
        break;
      }
    }
  }
  return values;
}

// The value of a row, read through the accessors.
Value ValueOf(const Column& column, size_t row) {
  if (column.is_null(row)) return Value();
  switch (column.type()) {
    case QUASH_FIELD_BOOL:
      return column.ints()[row] != 0;
    case QUASH_FIELD_INT:
      return column.ints()[row];
    case QUASH_FIELD_FLOAT:
      return column.floats()[row];
    case QUASH_FIELD_STRING:
      return std::string(column.dictionary_string(column.codes()[row]));
    default:
      break;
  }
  Ints ints;
  Strings strings;
  for (uint32_t i = column.offsets()[row]; i < column.offsets()[row + 1]; ++i) {
    const uint32_t code = column.codes()[i];
    if (column.type() == QUASH_FIELD_INT_LIST) {
      ints.push_back(column.dictionary_ints()[code]);
    } else {
      strings.emplace_back(column.dictionary_string(code));
    }
  }
  return column.type() == QUASH_FIELD_INT_LIST ? Value(ints) : Value(strings);
}

void CheckHolds(const Column& column, quash_field_type type, const std::vector<Value>& values) {
  REQUIRE(column.type() == type);
  REQUIRE(column.rows() == values.size());
  REQUIRE(column.valid().size() == (values.size() + 31) / 32);
  for (size_t row = 0; row < values.size(); ++row) {
    CAPTURE(row);
    REQUIRE(ValueOf(column, row) == values[row]);
  }
  // The dictionary holds each value once, ascending.
  for (size_t code = 1; code < column.dictionary_size(); ++code) {
    if (type == QUASH_FIELD_INT_LIST) {
      REQUIRE(column.dictionary_ints()[code - 1] < column.dictionary_ints()[code]);
    } else {
      REQUIRE(column.dictionary_string(code - 1) < column.dictionary_string(code));
    }
  }
}

TEST_CASE("columns hold what they were built from, before and after storage") {
  for (const quash_field_type type : kTypes) {
    for (const size_t n : {0, 1, 31, 32, 33, 500}) {
      CAPTURE(type);
      CAPTURE(n);
      const std::vector<Value> values = RandomValues(type, n, n + 17);
      const auto column = Column::Build(type, values);
      REQUIRE(column != nullptr);
      CheckHolds(*column, type, values);
      const std::string bytes = column->Serialize();
      REQUIRE(bytes.size() % 8 == 0);
      std::shared_ptr<const Column> parsed;
      const Status status = Column::Parse(bytes, &parsed);
      REQUIRE_MESSAGE(status.ok(), status.message());
      CheckHolds(*parsed, type, values);
      REQUIRE(parsed->Serialize() == bytes);
      REQUIRE(parsed->memory_bytes() >= n / 8);
    }
  }
}

TEST_CASE("extreme and empty values") {
  const std::vector<Value> ints = {std::numeric_limits<int64_t>::min(),
                                   std::numeric_limits<int64_t>::max(), Value(), int64_t{0}};
  CheckHolds(*Column::Build(QUASH_FIELD_INT, ints), QUASH_FIELD_INT, ints);
  const std::vector<Value> strings = {"", Value(), std::string("a\0b", 3), "", "\xC3\xA9"};
  const auto column = Column::Build(QUASH_FIELD_STRING, strings);
  CheckHolds(*column, QUASH_FIELD_STRING, strings);
  CHECK(column->dictionary_size() == 3);
  const std::vector<Value> lists = {Strings{}, Value(), Strings{"", ""}};
  CheckHolds(*Column::Build(QUASH_FIELD_STRING_LIST, lists), QUASH_FIELD_STRING_LIST, lists);
}

TEST_CASE("a value of another type is null") {
  const std::vector<Value> values = {int64_t{1}, "x", 2.0, true, Ints{1}, Strings{"x"}};
  for (size_t t = 0; t < std::size(kTypes); ++t) {
    const auto column = Column::Build(kTypes[t], values);
    size_t filled = 0;
    for (size_t row = 0; row < values.size(); ++row) filled += !column->is_null(row);
    CAPTURE(t);
    CHECK(filled == 1);
  }
}

TEST_CASE("a column of nulls equals one built of nulls") {
  for (const quash_field_type type : kTypes) {
    const auto nulls = Column::Nulls(type, 45);
    const std::vector<Value> values(45);
    CheckHolds(*nulls, type, values);
    CHECK(nulls->Serialize() == Column::Build(type, values)->Serialize());
    std::shared_ptr<const Column> parsed;
    CHECK(Column::Parse(nulls->Serialize(), &parsed).ok());
  }
}

TEST_CASE("damaged bytes are refused or read as a sound column") {
  std::mt19937_64 random(3);
  size_t refused = 0;
  for (const quash_field_type type : kTypes) {
    const std::string bytes = Column::Build(type, RandomValues(type, 70, 5))->Serialize();
    std::shared_ptr<const Column> parsed;
    for (size_t size = 0; size < bytes.size(); ++size) {
      REQUIRE(Column::Parse(std::string_view(bytes).substr(0, size), &parsed).code() ==
              QUASH_CORRUPT);
    }
    REQUIRE(Column::Parse(bytes + std::string(8, '\0'), &parsed).code() == QUASH_CORRUPT);
    for (int i = 0; i < 4000; ++i) {
      std::string damaged = bytes;
      for (size_t flips = 1 + random() % 3; flips > 0; --flips) {
        // The header more often, as everything hangs on it.
        const size_t at = random() % (i % 2 == 0 ? 48 : damaged.size());
        damaged[at] = static_cast<char>(random() % 4 == 0 ? random() : damaged[at] ^ 1);
      }
      const Status status = Column::Parse(damaged, &parsed);
      if (!status.ok()) {
        REQUIRE(status.code() == QUASH_CORRUPT);
        ++refused;
        continue;
      }
      for (size_t row = 0; row < parsed->rows(); ++row) ValueOf(*parsed, row);
      REQUIRE(parsed->Serialize() == damaged);
    }
  }
  CHECK(refused > 10'000);
}

}  // namespace
}  // namespace quash
