// Recursive descent, as deep as the parentheses at most; see FILTERS.md for the
// grammar.
#include "libquashdb/filter_parser.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "libquashdb/filter_lexer.h"
#include "libquashdb/names.h"
#include "libquashdb/suggest.h"

namespace quash {
namespace {

using Kind = FilterTokenKind;

struct Literal {
  enum class Type : uint8_t { kString, kNumber, kBool };
  Type type = Type::kNumber;
  size_t offset = 0;
  std::string text;  // strings
  FilterNumber number;
  bool flag = false;
};

// The left side of a predicate.
struct Operand {
  uint32_t field = 0;  // or FilterNode::kId
  quash_field_type type = QUASH_FIELD_INT;
  std::string name;

  bool is_list() const { return type == QUASH_FIELD_INT_LIST || type == QUASH_FIELD_STRING_LIST; }
};

struct Operator {
  std::string_view symbol;
  CompareOp op;
  bool negated;
};
constexpr Operator kOperators[] = {
    {"=", CompareOp::kEqual, false},   {"==", CompareOp::kEqual, false},
    {"!=", CompareOp::kEqual, true},   {"<>", CompareOp::kEqual, true},
    {"<", CompareOp::kLess, false},    {"<=", CompareOp::kLessEqual, false},
    {">", CompareOp::kGreater, false}, {">=", CompareOp::kGreaterEqual, false}};

StringRangeFilter StringsThat(CompareOp op, std::string text) {
  StringRangeFilter range;
  const bool less = op == CompareOp::kLess || op == CompareOp::kLessEqual;
  range.has_low = !less;
  range.has_high = less || op == CompareOp::kEqual;
  range.low_open = op == CompareOp::kGreater;
  range.high_open = op == CompareOp::kLess;
  if (range.has_low) range.low = text;
  if (range.has_high) range.high = std::move(text);
  return range;
}

template <typename T>
void SortDistinct(std::vector<T>* values) {
  std::sort(values->begin(), values->end());
  values->erase(std::unique(values->begin(), values->end()), values->end());
}

std::string Shown(const FilterToken& token) {
  if (token.kind == Kind::kEnd) return "the end";
  if (token.kind == Kind::kString && token.text.size() <= 40) return std::string(token.text);
  if (token.kind == Kind::kQuotedName) return QuoteForMessage(token.Value());
  return QuoteForMessage(token.text);
}

class Parser {
 public:
  Parser(std::string_view text, const CollectionSpec& spec) : lexer_(text), spec_(spec) {}

  Status Parse(FilterNode* root) {
    QUASH_RETURN_IF_ERROR(Advance());
    if (token_.kind == Kind::kEnd) return Fail("the filter is empty");
    QUASH_RETURN_IF_ERROR(ParseOr(false, root));
    if (token_.kind == Kind::kEnd) return Status();
    return Expected("AND, OR or the end");
  }

 private:
  Status Advance() { return lexer_.Next(&token_); }

  Status Fail(std::string_view message) const {
    return FilterError(QUASH_SYNTAX, token_.offset, message);
  }
  Status Expected(std::string_view what) const {
    return Fail(fmt::format("expected {}, found {}", what, Shown(token_)));
  }

  Status TakeKeyword(std::string_view word, bool* taken) {
    *taken = token_.IsKeyword(word);
    return *taken ? Advance() : Status();
  }
  Status ExpectSymbol(std::string_view symbol) {
    if (!token_.Is(symbol)) return Expected(symbol);
    return Advance();
  }

  // Operands of one AND or OR. `negated`: the whole stands under a NOT.
  template <typename Node>
  static void Join(std::vector<FilterNode> children, FilterNode* out) {
    if (children.size() == 1) {
      *out = std::move(children[0]);
    } else {
      out->what = Node{std::move(children)};
    }
  }

  Status ParseOr(bool negated, FilterNode* out) {
    std::vector<FilterNode> children;
    bool more = true;
    while (more) {
      QUASH_RETURN_IF_ERROR(ParseAnd(negated, &children.emplace_back()));
      QUASH_RETURN_IF_ERROR(TakeKeyword("OR", &more));
    }
    negated ? Join<AndFilter>(std::move(children), out) : Join<OrFilter>(std::move(children), out);
    return Status();
  }

  Status ParseAnd(bool negated, FilterNode* out) {
    std::vector<FilterNode> children;
    bool more = true;
    while (more) {
      QUASH_RETURN_IF_ERROR(ParseNot(negated, &children.emplace_back()));
      QUASH_RETURN_IF_ERROR(TakeKeyword("AND", &more));
    }
    negated ? Join<OrFilter>(std::move(children), out) : Join<AndFilter>(std::move(children), out);
    return Status();
  }

  Status ParseNot(bool negated, FilterNode* out) {
    while (token_.IsKeyword("NOT")) {
      negated = !negated;
      QUASH_RETURN_IF_ERROR(Advance());
    }
    if (token_.Is("(")) {
      if (++depth_ > QUASH_FILTER_DEPTH_MAX) {
        return FilterError(QUASH_LIMIT, token_.offset,
                           fmt::format("more than {} parentheses deep", QUASH_FILTER_DEPTH_MAX));
      }
      QUASH_RETURN_IF_ERROR(Advance());
      QUASH_RETURN_IF_ERROR(ParseOr(negated, out));
      --depth_;
      if (!token_.Is(")")) return Expected("AND, OR or )");
      return Advance();
    }
    if (token_.IsKeyword("TRUE") || token_.IsKeyword("FALSE")) {
      out->what = ConstantFilter{token_.IsKeyword("TRUE") != negated};
      return Advance();
    }
    return ParsePredicate(negated, out);
  }

  Status ParsePredicate(bool negated, FilterNode* out) {
    Operand operand;
    QUASH_RETURN_IF_ERROR(ParseOperand(&operand));
    out->field = operand.field;
    bool taken = false;
    for (const Operator& known : kOperators) {
      if (!token_.Is(known.symbol)) continue;
      out->negated = negated != known.negated;
      return ParseComparison(operand, known.op, out);
    }
    QUASH_RETURN_IF_ERROR(TakeKeyword("IS", &taken));
    if (taken) {
      QUASH_RETURN_IF_ERROR(TakeKeyword("NOT", &taken));
      if (!token_.IsKeyword("NULL")) return Expected(taken ? "NULL" : "NULL or NOT NULL");
      out->negated = negated != taken;
      out->what = NullFilter{};
      return Advance();
    }
    QUASH_RETURN_IF_ERROR(TakeKeyword("NOT", &taken));
    out->negated = negated != taken;
    if (token_.IsKeyword("IN")) return ParseIn(operand, out);
    if (token_.IsKeyword("BETWEEN")) return ParseBetween(operand, out);
    if (token_.IsKeyword("LIKE")) return ParseLike(operand, out);
    if (token_.IsKeyword("CONTAINS")) return ParseContains(operand, out);
    if (taken) return Expected("IN, BETWEEN, LIKE or CONTAINS");
    if (operand.type == QUASH_FIELD_BOOL) {
      return Expected(fmt::format("an operator, as in \"{} = TRUE\"", operand.name));
    }
    return Expected("=, !=, <, <=, >, >=, IN, BETWEEN, LIKE, CONTAINS, IS or NOT");
  }

  Status ParseOperand(Operand* operand) {
    if (token_.kind == Kind::kString) {
      return Expected("a field's name (names take \"double\" quotes, text takes 'single' ones)");
    }
    const bool bare = token_.kind == Kind::kWord;
    if ((!bare && token_.kind != Kind::kQuotedName) || (bare && IsFilterKeyword(token_.text))) {
      return Expected("a field's name");
    }
    operand->name = token_.Value();
    if (const std::optional<size_t> field = spec_.FindField(operand->name)) {
      operand->field = static_cast<uint32_t>(*field);
      operand->type = spec_.fields[*field].type;
      return Advance();
    }
    const bool is_id = operand->name == "id" ||
                       (bare && operand->name.size() == 2 && (operand->name[0] | 0x20) == 'i' &&
                        (operand->name[1] | 0x20) == 'd');
    if (is_id) {
      operand->field = FilterNode::kId;
      operand->type = spec_.id_type == QUASH_ID_INT64 ? QUASH_FIELD_INT : QUASH_FIELD_STRING;
      return Advance();
    }
    std::vector<std::string_view> names{"id"};
    for (const Field& field : spec_.fields) names.push_back(field.name);
    return FilterError(QUASH_NOT_FOUND, token_.offset,
                       fmt::format("no field {} in collection {}{}", QuoteForMessage(operand->name),
                                   QuoteForMessage(spec_.name), Suggestion(operand->name, names)));
  }

  // The operand in messages.
  static std::string Described(const Operand& operand) {
    return fmt::format("{}{} ({})", operand.field == FilterNode::kId ? "" : "field ",
                       QuoteForMessage(operand.name), FieldTypeName(operand.type));
  }

  Status WrongOperator(const Operand& operand, std::string_view hint) const {
    return FilterError(
        QUASH_TYPE, token_.offset,
        fmt::format("{} does not apply to {}; {}", token_.text, Described(operand), hint));
  }

  // Lists have CONTAINS only.
  Status CheckScalar(const Operand& operand) const {
    if (!operand.is_list()) return Status();
    return WrongOperator(operand, "lists take CONTAINS");
  }

  Status ParseLiteral(const Operand& operand, Literal* literal) {
    literal->offset = token_.offset;
    const FilterToken first = token_;
    if (token_.kind == Kind::kString) {
      literal->type = Literal::Type::kString;
      literal->text = token_.Value();
    } else if (token_.IsKeyword("TRUE") || token_.IsKeyword("FALSE")) {
      literal->type = Literal::Type::kBool;
      literal->flag = token_.IsKeyword("TRUE");
    } else if (token_.kind == Kind::kNumber || token_.Is("-") || token_.Is("+")) {
      literal->type = Literal::Type::kNumber;
      if (token_.kind == Kind::kSymbol) QUASH_RETURN_IF_ERROR(Advance());
      if (token_.kind != Kind::kNumber) return Expected("a number");
      literal->number = ParseFilterNumber(token_.text, first.Is("-"));
    } else if (token_.IsKeyword("NULL")) {
      return Fail("NULL equals nothing, not even NULL; use IS NULL or IS NOT NULL");
    } else if (token_.kind == Kind::kQuotedName || token_.kind == Kind::kWord) {
      return Expected("a literal (text takes 'single' quotes)");
    } else {
      return Expected("a literal");
    }
    QUASH_RETURN_IF_ERROR(CheckLiteral(operand, *literal, first));
    return Advance();
  }

  static Status CheckLiteral(const Operand& operand, const Literal& literal,
                             const FilterToken& token) {
    Literal::Type wanted = Literal::Type::kNumber;
    const char* expected = "a number";
    if (operand.type == QUASH_FIELD_BOOL) {
      wanted = Literal::Type::kBool;
      expected = "TRUE or FALSE";
    } else if (operand.type == QUASH_FIELD_STRING || operand.type == QUASH_FIELD_STRING_LIST) {
      wanted = Literal::Type::kString;
      expected = "text in 'single' quotes";
    }
    if (literal.type == wanted) return Status();
    return FilterError(QUASH_TYPE, literal.offset,
                       fmt::format("{} takes {}, not {}", Described(operand), expected,
                                   token.kind == Kind::kSymbol ? "a number" : Shown(token)));
  }

  Status ParseComparison(const Operand& operand, CompareOp op, FilterNode* out) {
    QUASH_RETURN_IF_ERROR(CheckScalar(operand));
    if (operand.type == QUASH_FIELD_BOOL && op != CompareOp::kEqual) {
      return WrongOperator(operand, "bools take = and !=");
    }
    QUASH_RETURN_IF_ERROR(Advance());
    Literal literal;
    QUASH_RETURN_IF_ERROR(ParseLiteral(operand, &literal));
    if (operand.type == QUASH_FIELD_BOOL) {
      out->what = IntRangeFilter{{literal.flag, literal.flag}};
    } else if (operand.type == QUASH_FIELD_INT) {
      out->what = IntRangeFilter{IntsThat(op, literal.number)};
    } else if (operand.type == QUASH_FIELD_FLOAT) {
      out->what = FloatRangeFilter{FloatsThat(op, literal.number)};
    } else {
      out->what = StringsThat(op, std::move(literal.text));
    }
    return Status();
  }

  Status ParseBetween(const Operand& operand, FilterNode* out) {
    QUASH_RETURN_IF_ERROR(CheckScalar(operand));
    if (operand.type == QUASH_FIELD_BOOL) return WrongOperator(operand, "bools take = and !=");
    QUASH_RETURN_IF_ERROR(Advance());
    Literal low, high;
    QUASH_RETURN_IF_ERROR(ParseLiteral(operand, &low));
    bool taken = false;
    QUASH_RETURN_IF_ERROR(TakeKeyword("AND", &taken));
    if (!taken) return Expected("AND and the upper bound of BETWEEN");
    QUASH_RETURN_IF_ERROR(ParseLiteral(operand, &high));
    if (operand.type == QUASH_FIELD_INT) {
      const IntRange above = IntsThat(CompareOp::kGreaterEqual, low.number);
      const IntRange below = IntsThat(CompareOp::kLessEqual, high.number);
      out->what =
          IntRangeFilter{{std::max(above.low, below.low), std::min(above.high, below.high)}};
    } else if (operand.type == QUASH_FIELD_FLOAT) {
      out->what = FloatRangeFilter{{FloatsThat(CompareOp::kGreaterEqual, low.number).low,
                                    FloatsThat(CompareOp::kLessEqual, high.number).high}};
    } else {
      StringRangeFilter range;
      range.has_low = range.has_high = true;
      range.low = std::move(low.text);
      range.high = std::move(high.text);
      out->what = std::move(range);
    }
    return Status();
  }

  Status ParseLike(const Operand& operand, FilterNode* out) {
    if (operand.type != QUASH_FIELD_STRING) {
      return WrongOperator(operand, operand.is_list() ? "lists take CONTAINS" : "LIKE is for text");
    }
    QUASH_RETURN_IF_ERROR(Advance());
    Literal pattern;
    QUASH_RETURN_IF_ERROR(ParseLiteral(operand, &pattern));
    if (pattern.text.size() > LikePattern::kMaxBytes) {
      return FilterError(
          QUASH_LIMIT, pattern.offset,
          fmt::format("LIKE pattern is longer than {} bytes", LikePattern::kMaxBytes));
    }
    out->what = LikeFilter{LikePattern(pattern.text)};
    return Status();
  }

  // ( literal, ... )
  Status ParseList(const Operand& operand, std::vector<Literal>* list) {
    QUASH_RETURN_IF_ERROR(ExpectSymbol("("));
    while (true) {
      QUASH_RETURN_IF_ERROR(ParseLiteral(operand, &list->emplace_back()));
      if (!token_.Is(",")) break;
      QUASH_RETURN_IF_ERROR(Advance());
    }
    if (!token_.Is(")")) return Expected(", or )");
    return Advance();
  }

  // Integers within int64 only: no other number equals one.
  static std::vector<int64_t> Ints(const std::vector<Literal>& list) {
    std::vector<int64_t> values;
    for (const Literal& literal : list) {
      if (literal.type == Literal::Type::kBool) {
        values.push_back(literal.flag);
      } else if (literal.number.integral) {
        values.push_back(literal.number.floor);
      }
    }
    return values;
  }

  static std::vector<std::string> Strings(std::vector<Literal>* list) {
    std::vector<std::string> values;
    values.reserve(list->size());
    for (Literal& literal : *list) values.push_back(std::move(literal.text));
    SortDistinct(&values);
    return values;
  }

  Status ParseIn(const Operand& operand, FilterNode* out) {
    QUASH_RETURN_IF_ERROR(CheckScalar(operand));
    QUASH_RETURN_IF_ERROR(Advance());
    std::vector<Literal> list;
    QUASH_RETURN_IF_ERROR(ParseList(operand, &list));
    if (operand.type == QUASH_FIELD_STRING) {
      out->what = StringSetFilter(Strings(&list));
    } else if (operand.type == QUASH_FIELD_FLOAT) {
      std::vector<int64_t> keys;
      for (const Literal& literal : list) {
        const FloatRange equal = FloatsThat(CompareOp::kEqual, literal.number);
        if (equal.low <= equal.high) keys.push_back(DoubleKey(equal.low));
      }
      out->what = FloatSetFilter{Int64Set(keys)};
    } else {
      out->what = IntSetFilter{Int64Set(Ints(list))};
    }
    return Status();
  }

  Status ParseContains(const Operand& operand, FilterNode* out) {
    if (!operand.is_list()) {
      return WrongOperator(operand, operand.type == QUASH_FIELD_STRING
                                        ? "to seek inside text use LIKE '%text%'"
                                        : "CONTAINS is for lists");
    }
    QUASH_RETURN_IF_ERROR(Advance());
    const bool all = token_.IsKeyword("ALL");
    std::vector<Literal> list;
    if (all || token_.IsKeyword("ANY")) {
      QUASH_RETURN_IF_ERROR(Advance());
      QUASH_RETURN_IF_ERROR(ParseList(operand, &list));
    } else if (token_.Is("(")) {
      return Expected("a literal, or ANY or ALL before (");
    } else {
      QUASH_RETURN_IF_ERROR(ParseLiteral(operand, &list.emplace_back()));
    }
    if (operand.type == QUASH_FIELD_STRING_LIST) {
      out->what = StringListFilter{Strings(&list), all};
      return Status();
    }
    std::vector<int64_t> values = Ints(list);
    SortDistinct(&values);
    // No int list has an element that is no integer; "any of none" matches none.
    if (all && HasOther(list)) {
      out->what = IntListFilter{{}, false};
    } else {
      out->what = IntListFilter{std::move(values), all};
    }
    return Status();
  }

  static bool HasOther(const std::vector<Literal>& list) {
    return std::any_of(list.begin(), list.end(),
                       [](const Literal& literal) { return !literal.number.integral; });
  }

  FilterLexer lexer_;
  const CollectionSpec& spec_;
  FilterToken token_;
  unsigned depth_ = 0;
};

}  // namespace

Status ParseFilter(std::string_view text, const CollectionSpec& spec, FilterNode* root) {
  if (text.size() > QUASH_FILTER_BYTES_MAX) {
    return Error(QUASH_LIMIT, "filter is longer than {} bytes", QUASH_FILTER_BYTES_MAX);
  }
  return Parser(text, spec).Parse(root);
}

}  // namespace quash
