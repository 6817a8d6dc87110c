// Random filters over random columns against an evaluator that works row by
// row with three-valued logic, and random tokens that must not crash.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "tests/libquashdb/column_segment.h"

namespace quash {
namespace {

using Row = std::vector<Value>;
using Truth = std::optional<bool>;  // empty: unknown

constexpr size_t kIdField = SIZE_MAX;

// LIKE by its definition, trying every split.
bool NaiveLike(std::string_view pattern, std::string_view text) {
  if (pattern.empty()) return text.empty();
  if (pattern[0] == '%') {
    for (size_t i = 0; i <= text.size(); ++i) {
      if (NaiveLike(pattern.substr(1), text.substr(i))) return true;
    }
    return false;
  }
  if (text.empty()) return false;
  size_t length = 1;
  if (pattern[0] == '_') {
    while (length < text.size() && (text[length] & 0xC0) == 0x80) ++length;
  } else if (std::tolower(static_cast<unsigned char>(pattern[0])) !=
             std::tolower(static_cast<unsigned char>(text[0]))) {
    return false;
  }
  return NaiveLike(pattern.substr(1), text.substr(length));
}

// A literal: its text and its value, integers and decimals as long double,
// which holds every int64 and double exactly.
struct Word {
  std::string text;
  std::string string;
  long double number = 0;
};

struct Tree {
  enum Kind { kAnd, kOr, kNot, kConstant, kCompare, kIn, kBetween, kLike, kIsNull, kContains };
  Kind kind;
  std::vector<Tree> children;
  bool constant = false;
  size_t field = 0;
  bool negated = false;
  std::string op;  // comparison, or ANY, ALL, "" of CONTAINS
  std::vector<Word> words;
};

class Generator {
 public:
  Generator(uint64_t seed, quash_id_type id_type) : random_(seed) {
    spec_.id_type = id_type;
    spec_.fields = {{"s", QUASH_FIELD_STRING},      {"i", QUASH_FIELD_INT},
                    {"f", QUASH_FIELD_FLOAT},       {"b", QUASH_FIELD_BOOL},
                    {"t", QUASH_FIELD_STRING_LIST}, {"n", QUASH_FIELD_INT_LIST}};
  }

  const CollectionSpec& spec() const { return spec_; }

  size_t Below(size_t n) { return random_() % n; }
  bool Chance(size_t one_in) { return Below(one_in) == 0; }

  std::string Text() {
    static const char* const kParts[] = {"a", "b", "A", "ab", "\xC3\xA9", "\xE2\x82\xAC", "%", "_"};
    std::string text;
    for (size_t n = Below(4); n > 0; --n) text += kParts[Below(Chance(4) ? 8 : 4)];
    return text;
  }
  int64_t Int() {
    constexpr int64_t kEdges[] = {std::numeric_limits<int64_t>::min(),
                                  std::numeric_limits<int64_t>::min() + 1,
                                  std::numeric_limits<int64_t>::max(),
                                  std::numeric_limits<int64_t>::max() - 1,
                                  (int64_t{1} << 53) + 1,
                                  int64_t{1} << 53,
                                  -(int64_t{1} << 53) - 1};
    return Chance(4) ? kEdges[Below(7)] : static_cast<int64_t>(Below(9)) - 4;
  }
  double Float() {
    return Chance(3) ? static_cast<double>(Int()) : (static_cast<double>(Below(17)) - 8) / 2;
  }

  Row MakeRow() {
    Row row(spec_.fields.size());
    if (!Chance(6)) row[0] = Text();
    if (!Chance(6)) row[1] = Int();
    if (!Chance(6)) row[2] = Float();
    if (!Chance(6)) row[3] = Chance(2);
    if (!Chance(6)) {
      auto& list = row[4].emplace<std::vector<std::string>>();
      for (size_t n = Below(5); n > 0; --n) list.push_back(Text());
    }
    if (!Chance(6)) {
      auto& list = row[5].emplace<std::vector<int64_t>>();
      for (size_t n = Below(5); n > 0; --n) list.push_back(Int());
    }
    return row;
  }
  Id MakeId() {
    if (spec_.id_type == QUASH_ID_INT64) return Int();
    return Text();
  }

  quash_field_type TypeOf(size_t field) const {
    if (field != kIdField) return spec_.fields[field].type;
    return spec_.id_type == QUASH_ID_INT64 ? QUASH_FIELD_INT : QUASH_FIELD_STRING;
  }

  Word MakeWord(quash_field_type type) {
    if (type == QUASH_FIELD_STRING || type == QUASH_FIELD_STRING_LIST) {
      Word word{"'", Text()};
      return {"'" + word.string + "'", word.string};
    }
    if (type == QUASH_FIELD_BOOL) {
      const bool flag = Chance(2);
      return {flag ? "TRUE" : "FALSE", "", static_cast<long double>(flag)};
    }
    if (Chance(2)) {
      const int64_t value = Int();
      return {std::to_string(value), "", static_cast<long double>(value)};
    }
    const int64_t halves = static_cast<int64_t>(Below(17)) - 8;
    return {fmt::format("{:.1f}", static_cast<double>(halves) / 2), "",
            static_cast<long double>(halves) / 2};
  }

  Tree MakeTree(size_t depth) {
    Tree tree;
    if (depth > 0 && !Chance(3)) {
      tree.kind = static_cast<Tree::Kind>(Below(3));
      const size_t n = tree.kind == Tree::kNot ? 1 : 2 + Below(3);
      for (size_t i = 0; i < n; ++i) tree.children.push_back(MakeTree(depth - 1));
      return tree;
    }
    if (Chance(12)) {
      tree.kind = Tree::kConstant;
      tree.constant = Chance(2);
      return tree;
    }
    tree.field = Below(7) == 0 ? kIdField : Below(spec_.fields.size());
    tree.negated = Chance(2);
    const quash_field_type type = TypeOf(tree.field);
    if (Chance(6)) {
      tree.kind = Tree::kIsNull;
      return tree;
    }
    if (type == QUASH_FIELD_STRING_LIST || type == QUASH_FIELD_INT_LIST) {
      static const char* const kOps[] = {"", "ANY", "ALL"};
      tree.kind = Tree::kContains;
      tree.op = kOps[Below(3)];
      for (size_t n = tree.op.empty() ? 1 : 1 + Below(5); n > 0; --n) {
        tree.words.push_back(MakeWord(type));
      }
      return tree;
    }
    switch (Below(type == QUASH_FIELD_BOOL ? 2 : type == QUASH_FIELD_STRING ? 4 : 3)) {
      case 0: {
        static const char* const kOps[] = {"=", "==", "!=", "<>", "<", "<=", ">", ">="};
        tree.kind = Tree::kCompare;
        tree.negated = false;
        tree.op = kOps[Below(type == QUASH_FIELD_BOOL ? 4 : 8)];
        tree.words = {MakeWord(type)};
        break;
      }
      case 1:
        tree.kind = Tree::kIn;
        for (size_t n = Chance(4) ? 40 : 1 + Below(4); n > 0; --n) {
          tree.words.push_back(MakeWord(type));
        }
        break;
      case 2:
        tree.kind = Tree::kBetween;
        tree.words = {MakeWord(type), MakeWord(type)};
        break;
      default: {
        tree.kind = Tree::kLike;
        std::string pattern;
        for (size_t n = Below(4); n > 0; --n) pattern += Chance(2) ? Text() : Chance(2) ? "%" : "_";
        tree.words = {Word{"'" + pattern + "'", pattern}};
      }
    }
    return tree;
  }

  std::string Print(const Tree& tree) {
    const auto joined = [&](const char* word) {
      std::string text = "(";
      for (size_t i = 0; i < tree.children.size(); ++i) {
        if (i > 0) text += word;
        text += Print(tree.children[i]);
      }
      return text + ")";
    };
    const auto list = [&] {
      std::string text = " (";
      for (size_t i = 0; i < tree.words.size(); ++i)
        text += (i > 0 ? ", " : "") + tree.words[i].text;
      return text + ")";
    };
    const std::string name =
        tree.field == kIdField ? "id" : spec_.fields[tree.field < 6 ? tree.field : 0].name;
    const std::string negation = tree.negated ? " NOT" : "";
    switch (tree.kind) {
      case Tree::kAnd:
        return joined(" AND ");
      case Tree::kOr:
        return joined(" OR ");
      case Tree::kNot:
        return "NOT " + joined("");
      case Tree::kConstant:
        return tree.constant ? "TRUE" : "FALSE";
      case Tree::kCompare:
        return name + " " + tree.op + " " + tree.words[0].text;
      case Tree::kIn:
        return name + negation + " IN" + list();
      case Tree::kBetween:
        return name + negation + " BETWEEN " + tree.words[0].text + " AND " + tree.words[1].text;
      case Tree::kLike:
        return name + negation + " LIKE " + tree.words[0].text;
      case Tree::kIsNull:
        return name + " IS" + negation + " NULL";
      case Tree::kContains:
        return name + negation + " CONTAINS " +
               (tree.op.empty() ? tree.words[0].text : tree.op + list());
    }
    return "";
  }

 private:
  std::mt19937_64 random_;
  CollectionSpec spec_;
};

// -1, 0, 1 as the value is below, equal to or above the word.
int Order(const Value& value, const Word& word) {
  if (const auto* text = std::get_if<std::string>(&value)) {
    const int order = text->compare(word.string);
    return (order > 0) - (order < 0);
  }
  long double number = 0;
  if (const auto* flag = std::get_if<bool>(&value)) number = *flag;
  if (const auto* integer = std::get_if<int64_t>(&value))
    number = static_cast<long double>(*integer);
  if (const auto* real = std::get_if<double>(&value)) number = *real;
  return (number > word.number) - (number < word.number);
}

bool Holds(const Value& value, const Word& word) {
  if (const auto* texts = std::get_if<std::vector<std::string>>(&value)) {
    return std::find(texts->begin(), texts->end(), word.string) != texts->end();
  }
  const auto& numbers = std::get<std::vector<int64_t>>(value);
  return std::any_of(numbers.begin(), numbers.end(), [&](int64_t number) {
    return static_cast<long double>(number) == word.number;
  });
}

Truth Evaluate(const Tree& tree, const Row& row, const Value& id) {
  if (tree.kind == Tree::kConstant) return tree.constant;
  if (tree.kind == Tree::kNot) {
    const Truth inner = Evaluate(tree.children[0], row, id);
    return inner ? Truth(!*inner) : inner;
  }
  if (tree.kind == Tree::kAnd || tree.kind == Tree::kOr) {
    const bool decisive = tree.kind == Tree::kOr;
    Truth result = !decisive;
    for (const Tree& child : tree.children) {
      const Truth inner = Evaluate(child, row, id);
      if (inner == Truth(decisive)) return decisive;
      if (!inner) result = inner;
    }
    return result;
  }
  const Value& value = tree.field == kIdField ? id : row[tree.field];
  const bool is_null = std::holds_alternative<std::monostate>(value);
  if (tree.kind == Tree::kIsNull) return is_null != tree.negated;
  if (is_null) return std::nullopt;
  bool result = false;
  const auto is_equal = [&](const Word& word) { return Order(value, word) == 0; };
  const auto holds = [&](const Word& word) { return Holds(value, word); };
  switch (tree.kind) {
    case Tree::kCompare: {
      const int order = Order(value, tree.words[0]);
      if (tree.op == "=" || tree.op == "==") result = order == 0;
      if (tree.op == "!=" || tree.op == "<>") result = order != 0;
      if (tree.op == "<") result = order < 0;
      if (tree.op == "<=") result = order <= 0;
      if (tree.op == ">") result = order > 0;
      if (tree.op == ">=") result = order >= 0;
      break;
    }
    case Tree::kIn:
      result = std::any_of(tree.words.begin(), tree.words.end(), is_equal);
      break;
    case Tree::kBetween:
      result = Order(value, tree.words[0]) >= 0 && Order(value, tree.words[1]) <= 0;
      break;
    case Tree::kLike:
      result = NaiveLike(tree.words[0].string, std::get<std::string>(value));
      break;
    default:
      result = tree.op == "ALL" ? std::all_of(tree.words.begin(), tree.words.end(), holds)
                                : std::any_of(tree.words.begin(), tree.words.end(), holds);
  }
  return result != tree.negated;
}

TEST_CASE("random filters agree with a row-by-row evaluation") {
  size_t matched = 0, total = 0;
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    Generator random(seed, seed % 2 == 0 ? QUASH_ID_INT64 : QUASH_ID_STRING);
    const size_t n = 1 + random.Below(seed % 3 == 0 ? 40 : 200);
    std::vector<Row> rows;
    std::vector<Id> ids;
    for (size_t r = 0; r < n; ++r) {
      rows.push_back(random.MakeRow());
      ids.push_back(random.MakeId());
    }
    const ColumnSegment segment(random.spec(), rows, ids);
    std::vector<uint32_t> interest = AllRows(segment);
    if (seed % 4 == 0) {
      for (uint32_t& word : interest) word &= static_cast<uint32_t>(random.Below(SIZE_MAX));
    }
    for (int i = 0; i < 40; ++i) {
      const Tree tree = random.MakeTree(random.Below(4));
      const std::string text = random.Print(tree);
      CAPTURE(seed);
      CAPTURE(text);
      std::shared_ptr<const Filter> filter;
      const Status parsed = Filter::Parse(text, random.spec(), &filter);
      REQUIRE_MESSAGE(parsed.ok(), parsed.message());
      std::vector<uint32_t> found = interest;
      REQUIRE(filter->Apply(segment, &found).ok());
      for (size_t r = 0; r < n; ++r) {
        const Value id = std::holds_alternative<int64_t>(ids[r])
                             ? Value(std::get<int64_t>(ids[r]))
                             : Value(std::get<std::string>(ids[r]));
        const bool expected =
            (interest[r / 32] >> r % 32 & 1) && Evaluate(tree, rows[r], id) == Truth(true);
        const bool actual = found[r / 32] >> r % 32 & 1;
        if (actual != expected) {
          CAPTURE(r);
          REQUIRE(actual == expected);
        }
        matched += actual;
        ++total;
      }
      if (n % 32 != 0) REQUIRE((found.back() >> n % 32) == 0);
    }
  }
  // Neither all nor nothing: the comparison above saw both.
  CHECK(matched > total / 10);
  CHECK(matched < total * 9 / 10);
}

TEST_CASE("any tokens parse or fail with an offset inside the text") {
  static const char* const kTokens[] = {
      "s",        "i",    "f",     "b",          "t",
      "n",        "id",   "nope",  "\"s\"",      "\"",
      "'x'",      "'",    "1",     "-",          "+",
      "2.5",      "1e9",  "1e",    ".",          "9223372036854775808",
      "=",        "==",   "!=",    "<>",         "<",
      "<=",       ">",    ">=",    "(",          ")",
      "((",       ",",    "IN",    "NOT",        "BETWEEN",
      "AND",      "OR",   "LIKE",  "IS",         "NULL",
      "CONTAINS", "ANY",  "ALL",   "TRUE",       "FALSE",
      "--",       "/*",   "*/",    ";",          "\x80",
      "\n",       "'%_'", "i = 1", "s IN ('a',", "t CONTAINS"};
  size_t good = 0;
  for (uint64_t seed = 0; seed < 60000; ++seed) {
    Generator random(seed, QUASH_ID_INT64);
    std::string text;
    for (size_t k = random.Below(9); k > 0; --k) {
      text += kTokens[random.Below(std::size(kTokens))];
      if (!random.Chance(6)) text += ' ';
    }
    std::shared_ptr<const Filter> filter;
    const Status status = Filter::Parse(text, random.spec(), &filter);
    CAPTURE(text);
    if (status.ok()) {
      ++good;
      REQUIRE(filter != nullptr);
      continue;
    }
    REQUIRE(filter == nullptr);
    REQUIRE(!status.message().empty());
    REQUIRE(status.offset() >= 0);
    REQUIRE(static_cast<size_t>(status.offset()) <= text.size());
  }
  CHECK(good > 100);
}

}  // namespace
}  // namespace quash
