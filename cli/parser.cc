#include "cli/parser.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "cli/error.h"
#include "cli/lexer.h"
#include "cli/text.h"

namespace quash::cli {
namespace {

using Words = std::vector<std::string>;

std::string Found(const Token& token) {
  if (token.kind == TokenKind::kEnd) return "the end of the statement";
  return Truncate(OneLine(token.text), 40);
}

// What people type who come from other databases, and what to write here.
std::string Habit(std::string_view word) {
  constexpr std::pair<std::string_view, std::string_view> kHabits[] = {
      {"BEGIN", "every statement is a transaction of its own"},
      {"COMMIT", "every statement is a transaction of its own"},
      {"GROUP", "there is no GROUP BY"},
      {"INDEX", "collections need no index"},
      {"JOIN", "a SELECT reads one collection"},
      {"MERGE", "INSERT OR REPLACE INTO does that"},
      {"OFFSET", "AFTER (score, id) gives the next page"},
      {"ORDER", "NEAREST TO puts the best rows first"},
      {"ROLLBACK", "every statement is a transaction of its own"},
      {"TABLE", "write COLLECTION"},
      {"TABLES", "write COLLECTIONS"},
      {"TRUNCATE", "DELETE FROM name WHERE TRUE does that"},
      {"UPDATE", "INSERT OR REPLACE INTO writes whole rows anew"},
      {"UPSERT", "INSERT OR REPLACE INTO does that"},
      {"USE", ".open FILE opens another database"},
      {"VACUUM", ".compact does that"}};
  for (const auto& [name, advice] : kHabits) {
    if (EqualsIgnoreCase(word, name)) return fmt::format("; {}", advice);
  }
  return "";
}

// Recursive descent with one token of lookahead. Nothing recurses by the
// input's nesting, so no input can exhaust the stack.
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text), lexer_(text) { Advance(); }

  Statement Parse() {
    Statement statement = ParseAny();
    if (token_.Is(';')) Advance();
    if (token_.kind != TokenKind::kEnd) Fail("the end of the statement", {});
    return statement;
  }

  std::vector<float> ParseWholeVector() {
    std::vector<float> vector = Vector();
    if (token_.kind != TokenKind::kEnd) Fail("the end of the vector", {});
    return vector;
  }

 private:
  void Advance() {
    end_of_last_ = token_.offset + token_.text.size();
    token_ = lexer_.Next();
  }

  [[noreturn]] void Fail(std::string_view expected, const Words& candidates) {
    std::string message = fmt::format("expected {}, found {}", expected, Found(token_));
    if (token_.kind == TokenKind::kWord) {
      const std::string habit = Habit(token_.text);
      message += habit.empty() ? DidYouMean(token_.text, candidates) : habit;
    }
    throw Error(message, token_.offset);
  }

  bool AcceptWord(std::string_view word) {
    if (!token_.IsWord(word)) return false;
    Advance();
    return true;
  }
  void ExpectWord(std::string_view word) {
    if (!AcceptWord(word)) Fail(word, {std::string(word)});
  }
  bool Accept(char symbol) {
    if (!token_.Is(symbol)) return false;
    Advance();
    return true;
  }
  void Expect(char symbol) {
    if (!Accept(symbol)) Fail(fmt::format("'{}'", symbol), {});
  }

  Name ExpectName(std::string_view what) {
    if (token_.kind != TokenKind::kWord && token_.kind != TokenKind::kQuoted) Fail(what, {});
    Name name{token_.Value(), token_.offset, token_.kind == TokenKind::kQuoted};
    Advance();
    return name;
  }

  Statement ParseAny() {
    if (AcceptWord("CREATE")) return ParseCreate();
    if (AcceptWord("DROP")) return ParseDrop();
    if (AcceptWord("ALTER")) return ParseAlter();
    if (AcceptWord("INSERT")) return ParseInsert();
    if (AcceptWord("DELETE")) return ParseDelete();
    if (AcceptWord("SELECT")) return ParseSelect();
    if (AcceptWord("EXPLAIN")) {
      ExpectWord("SELECT");
      return Explain{ParseSelect()};
    }
    if (AcceptWord("SHOW")) {
      ExpectWord("COLLECTIONS");
      return ShowCollections{};
    }
    if (AcceptWord("DESCRIBE")) return Describe{ExpectName("a collection name")};
    Fail("a statement (CREATE, DROP, ALTER, INSERT, DELETE, SELECT, EXPLAIN, SHOW or DESCRIBE)",
         {"CREATE", "DROP", "ALTER", "INSERT", "DELETE", "SELECT", "EXPLAIN", "SHOW", "DESCRIBE"});
  }

  CreateCollection ParseCreate() {
    ExpectWord("COLLECTION");
    CreateCollection create;
    if (AcceptWord("IF")) {
      ExpectWord("NOT");
      ExpectWord("EXISTS");
      create.if_not_exists = true;
    }
    create.name = ExpectName("a collection name");
    create.options = ParseOptions();
    if (AcceptWord("FIELDS")) {
      Expect('(');
      do {
        create.fields.push_back(ParseField());
      } while (Accept(','));
      Expect(')');
    }
    return create;
  }

  DropCollection ParseDrop() {
    ExpectWord("COLLECTION");
    DropCollection drop;
    if (AcceptWord("IF")) {
      ExpectWord("EXISTS");
      drop.if_exists = true;
    }
    drop.name = ExpectName("a collection name");
    return drop;
  }

  AddField ParseAlter() {
    ExpectWord("COLLECTION");
    AddField alter;
    alter.collection = ExpectName("a collection name");
    ExpectWord("ADD");
    AcceptWord("FIELD");
    alter.field = ParseField();
    return alter;
  }

  FieldSpec ParseField() {
    FieldSpec field;
    field.name = ExpectName("a field name");
    if (token_.kind != TokenKind::kWord)
      Fail("a type (BOOL, INT, FLOAT, STRING, INT[], STRING[])", {});
    const size_t offset = token_.offset;
    std::string type(token_.text);
    Advance();
    if (Accept('[')) {
      Expect(']');
      type += "[]";
    }
    try {
      field.type = ParseFieldType(type);
    } catch (const Error& error) {
      throw Error(error.what(), offset);
    }
    return field;
  }

  // (name value, name = value, name => value, ...)
  std::vector<Option> ParseOptions() {
    std::vector<Option> options;
    Expect('(');
    do {
      Option option;
      option.name = ExpectName("an option name");
      for (const Option& earlier : options) {
        if (!EqualsIgnoreCase(earlier.name.text, option.name.text)) continue;
        throw Error(fmt::format("{} given twice", option.name.text), option.name.offset);
      }
      if (token_.kind == TokenKind::kSymbol && token_.text == "=>") {
        Advance();
      } else {
        Accept('=');
      }
      if (token_.kind == TokenKind::kWord && !token_.IsWord("TRUE") && !token_.IsWord("FALSE")) {
        option.value = ToLower(token_.text);
        Advance();
      } else {
        option.value = Scalar();
      }
      options.push_back(std::move(option));
    } while (Accept(','));
    Expect(')');
    return options;
  }

  Insert ParseInsert() {
    Insert insert;
    if (AcceptWord("OR")) {
      ExpectWord("REPLACE");
      insert.replace = true;
    }
    ExpectWord("INTO");
    insert.collection = ExpectName("a collection name");
    if (Accept('(')) {
      do {
        insert.columns.push_back(ExpectName("a column name"));
      } while (Accept(','));
      Expect(')');
    }
    ExpectWord("VALUES");
    do {
      InsertRow row;
      row.offset = token_.offset;
      Expect('(');
      do {
        row.values.push_back(ScalarOrList());
      } while (Accept(','));
      Expect(')');
      if (!insert.columns.empty() && row.values.size() != insert.columns.size()) {
        throw Error(
            fmt::format("{} values for {} columns", row.values.size(), insert.columns.size()),
            row.offset);
      }
      insert.rows.push_back(std::move(row));
    } while (Accept(','));
    return insert;
  }

  Delete ParseDelete() {
    Delete remove;
    ExpectWord("FROM");
    remove.collection = ExpectName("a collection name");
    if (token_.kind == TokenKind::kEnd || token_.Is(';')) {
      throw Error("DELETE needs WHERE; WHERE TRUE deletes every row", token_.offset);
    }
    ExpectWord("WHERE");
    remove.where = ParseFilter({});
    return remove;
  }

  Select ParseSelect() {
    Select select;
    ParseColumns(&select);
    ExpectWord("FROM");
    select.collection = ExpectName("a collection name");
    const Words clauses = {"NEAREST", "WHERE", "WITH", "LIMIT", "AFTER"};
    while (token_.kind != TokenKind::kEnd && !token_.Is(';')) {
      const Token clause = token_;
      const auto once = [&](bool seen) {
        if (seen) throw Error(fmt::format("{} given twice", ToUpper(clause.text)), clause.offset);
      };
      if (AcceptWord("NEAREST")) {
        once(select.nearest.has_value());
        select.nearest = ParseNearest();
      } else if (AcceptWord("WHERE")) {
        once(select.where.has_value());
        select.where = ParseFilter(clauses);
      } else if (AcceptWord("WITH")) {
        once(!select.options.empty());
        select.options = ParseOptions();
      } else if (AcceptWord("LIMIT")) {
        once(select.limit.has_value());
        select.limit = Count("a number of rows");
      } else if (AcceptWord("AFTER")) {
        once(select.after.has_value());
        select.after = ParseCursor();
      } else {
        Fail("NEAREST TO, WHERE, WITH, LIMIT, AFTER or ';'", clauses);
      }
    }
    return select;
  }

  void ParseColumns(Select* select) {
    if (Accept('*')) return;
    do {
      const bool count = token_.IsWord("COUNT");
      select->columns.push_back(ExpectName("*, COUNT(*) or column names"));
      if (count && Accept('(')) {
        if (select->columns.size() > 1) {
          throw Error("COUNT(*) stands alone", select->columns.back().offset);
        }
        Expect('*');
        Expect(')');
        select->columns.clear();
        select->count = true;
        return;
      }
    } while (Accept(','));
  }

  Nearest ParseNearest() {
    Nearest nearest;
    ExpectWord("TO");
    nearest.offset = token_.offset;
    if (AcceptWord("ID")) {
      nearest.kind = Nearest::Kind::kId;
      nearest.id = Scalar();
    } else if (AcceptWord("FILE")) {
      nearest.kind = Nearest::Kind::kFile;
      if (token_.kind != TokenKind::kString) Fail("a 'file name'", {});
      nearest.file = token_.Value();
      Advance();
      if (AcceptWord("ROW")) nearest.row = Count("a row number");
    } else if (token_.Is('[')) {
      nearest.vector = Vector();
    } else {
      Fail("[numbers], ID or FILE", {"ID", "FILE"});
    }
    return nearest;
  }

  Cursor ParseCursor() {
    Cursor cursor;
    Expect('(');
    const size_t offset = token_.offset;
    const Value score = Scalar();
    if (!score.is_number()) throw Error("the cursor's score must be a number", offset);
    cursor.score = score.get<double>();
    Expect(',');
    cursor.id = Scalar();
    Expect(')');
    return cursor;
  }

  // Takes the filter's text as it stands, up to a clause that may follow it.
  FilterText ParseFilter(const Words& clauses) {
    const size_t begin = token_.offset;
    size_t end = begin;
    int depth = 0;
    while (token_.kind != TokenKind::kEnd && !token_.Is(';')) {
      if (token_.Is('(')) ++depth;
      if (token_.Is(')')) --depth;
      bool clause = false;
      for (const std::string& word : clauses)
        clause = clause || (depth <= 0 && token_.IsWord(word));
      if (clause) break;
      Advance();
      end = end_of_last_;
    }
    if (end == begin) Fail("a filter", {});
    return {std::string(text_.substr(begin, end - begin)), begin};
  }

  uint64_t Count(std::string_view what) {
    uint64_t count = 0;
    const char* end = token_.text.data() + token_.text.size();
    const auto [parsed, error] = std::from_chars(token_.text.data(), end, count);
    if (token_.kind != TokenKind::kNumber || error != std::errc() || parsed != end) Fail(what, {});
    Advance();
    return count;
  }

  Value Number(bool negative) {
    std::string text(token_.text);
    if (negative) text.insert(0, 1, '-');
    const char* begin = text.data();
    const char* end = begin + text.size();
    const size_t offset = token_.offset;
    Advance();
    int64_t integer = 0;
    const auto as_integer = std::from_chars(begin, end, integer);
    if (as_integer.ec == std::errc() && as_integer.ptr == end) return integer;
    double real = 0;
    const auto as_real = std::from_chars(begin, end, real);
    if (as_real.ec != std::errc() || as_real.ptr != end || !std::isfinite(real)) {
      throw Error(fmt::format("{} is out of range", text), offset);
    }
    return real;
  }

  Value Scalar() {
    if (token_.Is('-') || token_.Is('+')) {
      const bool negative = token_.Is('-');
      Advance();
      if (token_.kind != TokenKind::kNumber) Fail("a number", {});
      return Number(negative);
    }
    if (token_.kind == TokenKind::kNumber) return Number(false);
    if (token_.kind == TokenKind::kString) {
      Value value = token_.Value();
      Advance();
      return value;
    }
    if (AcceptWord("NULL")) return nullptr;
    if (AcceptWord("TRUE")) return true;
    if (AcceptWord("FALSE")) return false;
    if (token_.kind == TokenKind::kQuoted) {
      throw Error(fmt::format("{} is a name; text goes in single quotes: {}", token_.text,
                              QuoteString(token_.Value())),
                  token_.offset);
    }
    Fail("a value (number, 'text', NULL, TRUE or FALSE)", {"NULL", "TRUE", "FALSE"});
  }

  Value ScalarOrList() {
    if (!Accept('[')) return Scalar();
    Value list = Value::array();
    if (Accept(']')) return list;
    do {
      list.push_back(Scalar());
    } while (Accept(','));
    Expect(']');
    return list;
  }

  std::vector<float> Vector() {
    Expect('[');
    std::vector<float> vector;
    do {
      const size_t offset = token_.offset;
      const Value value = Scalar();
      const float x = value.is_number() ? value.get<float>() : NAN;
      if (!std::isfinite(x)) {
        throw Error("a vector's coordinates must be numbers in float range", offset);
      }
      vector.push_back(x);
    } while (Accept(','));
    Expect(']');
    return vector;
  }

  std::string_view text_;
  Lexer lexer_;
  Token token_;
  size_t end_of_last_ = 0;
};

struct TypeName {
  std::string_view name;
  quash_field_type type;
};
constexpr TypeName kTypeNames[] = {
    {"BOOL", QUASH_FIELD_BOOL},         {"INT", QUASH_FIELD_INT},
    {"FLOAT", QUASH_FIELD_FLOAT},       {"STRING", QUASH_FIELD_STRING},
    {"INT[]", QUASH_FIELD_INT_LIST},    {"STRING[]", QUASH_FIELD_STRING_LIST},
    {"BOOLEAN", QUASH_FIELD_BOOL},      {"INTEGER", QUASH_FIELD_INT},
    {"DOUBLE", QUASH_FIELD_FLOAT},      {"REAL", QUASH_FIELD_FLOAT},
    {"TEXT", QUASH_FIELD_STRING},       {"INTEGER[]", QUASH_FIELD_INT_LIST},
    {"TEXT[]", QUASH_FIELD_STRING_LIST}};

}  // namespace

bool Name::IsBuiltin(std::string_view builtin) const {
  return !quoted && EqualsIgnoreCase(text, builtin);
}

Statement ParseStatement(std::string_view text) { return Parser(text).Parse(); }

std::vector<float> ParseVector(std::string_view text) { return Parser(text).ParseWholeVector(); }

quash_field_type ParseFieldType(std::string_view text) {
  Words names;
  for (const TypeName& entry : kTypeNames) {
    if (EqualsIgnoreCase(text, entry.name)) return entry.type;
    names.emplace_back(entry.name);
  }
  throw Error(
      fmt::format("\"{}\" is not a type; the types are BOOL, INT, FLOAT, STRING, INT[] and "
                  "STRING[]{}",
                  text, DidYouMean(text, names)));
}

std::string FieldTypeName(quash_field_type type) {
  for (const TypeName& entry : kTypeNames) {
    if (entry.type == type) return std::string(entry.name);
  }
  return "?";
}

}  // namespace quash::cli
