#include "cli/completion.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "cli/commands.h"
#include "cli/help.h"
#include "cli/lexer.h"
#include "cli/schema.h"
#include "cli/text.h"
#include "cli/verbs.h"

namespace quash::cli {
namespace {

using Words = std::vector<std::string>;

void Offer(std::string_view word, std::string candidate, Words* out) {
  const bool fits = candidate.size() >= word.size() &&
                    EqualsIgnoreCase(std::string_view(candidate).substr(0, word.size()), word);
  if (fits) out->push_back(std::move(candidate));
}

void OfferAll(std::string_view word, const Words& candidates, Words* out) {
  for (const std::string& candidate : candidates) Offer(word, candidate, out);
}

// Keywords in the case that the user writes them in.
void OfferKeywords(std::string_view word, const Words& keywords, Words* out) {
  const bool lower = !word.empty() && word[0] >= 'a' && word[0] <= 'z';
  for (const std::string& keyword : keywords) Offer(word, lower ? ToLower(keyword) : keyword, out);
}

// Names of files that begin with `word`; directories end with '/'.
void OfferFiles(const std::string& word, Words* out) {
  namespace fs = std::filesystem;
  const fs::path path(word);
  const fs::path folder = path.parent_path();
  std::error_code error;
  for (fs::directory_iterator entry(folder.empty() ? "." : folder, error), end;
       !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    std::error_code no_type;
    if (!name.starts_with(path.filename().string())) continue;
    out->push_back((folder / name).string() + (entry->is_directory(no_type) ? "/" : ""));
  }
}

void OfferCollections(const Session& session, std::string_view word, Words* out) {
  try {
    for (const std::string& name : session.CollectionNames()) Offer(word, QuoteName(name), out);
  } catch (const Error&) {
    // No database is open: nothing to offer from it.
  }
}

// Fields of one collection, or of all if there is none of that name.
void OfferFields(const Session& session, const std::string& collection, std::string_view word,
                 Words* out) {
  try {
    Words names = session.CollectionNames();
    if (std::find(names.begin(), names.end(), collection) != names.end()) names = {collection};
    for (const std::string& name : names) {
      const Schema schema = DescribeCollection(session.OpenCollection(name).get());
      for (const Field& field : schema.fields) Offer(word, QuoteName(field.name), out);
    }
  } catch (const Error&) {
    // As above.
  }
}

// Tokens of a statement's text before the cursor; what no token can be made of
// ends the list.
std::vector<Token> Tokens(std::string_view text) {
  std::vector<Token> tokens;
  try {
    Lexer lexer(text);
    for (Token token = lexer.Next(); token.kind != TokenKind::kEnd; token = lexer.Next()) {
      tokens.push_back(token);
    }
  } catch (const Error&) {
    // An open quote, for one.
  }
  return tokens;
}

class StatementCompletion {
 public:
  StatementCompletion(const Session& session, std::string_view text, std::string_view word,
                      Words* out)
      : session_(session), tokens_(Tokens(text)), word_(word), out_(out) {}

  void Run() {
    if (tokens_.empty()) {
      Keywords({"ALTER", "CREATE", "DELETE", "DESCRIBE", "DROP", "EXPLAIN", "INSERT", "SELECT",
                "SHOW"});
      return;
    }
    const Token& last = tokens_.back();
    const bool after_name = last.kind == TokenKind::kWord || last.kind == TokenKind::kQuoted;
    const auto is = [&](std::string_view keyword) { return last.IsWord(keyword); };
    if (is("FROM") || is("INTO") || is("DESCRIBE") || IsSchemaName()) {
      OfferCollections(session_, word_, out_);
      if (Starts("CREATE")) out_->clear();
      if (is("COLLECTION")) Keywords({Starts("CREATE") ? "IF NOT EXISTS" : "IF EXISTS"});
    } else if (is("CREATE") || is("DROP") || is("ALTER")) {
      Keywords({"COLLECTION"});
    } else if (is("SHOW")) {
      Keywords({"COLLECTIONS"});
    } else if (is("EXPLAIN")) {
      Keywords({"SELECT"});
    } else if (is("INSERT")) {
      Keywords({"INTO", "OR REPLACE INTO"});
    } else if (is("NEAREST")) {
      Keywords({"TO"});
    } else if (is("TO")) {
      Keywords({"FILE", "ID"});
    } else if (is("IS")) {
      Keywords({"NOT NULL", "NULL"});
    } else if (is("CONTAINS")) {
      Keywords({"ALL (", "ANY ("});
    } else if (Starts("CREATE")) {
      Creating(after_name);
    } else if (OpenParenthesisAfter("WITH")) {
      OfferAll(word_,
               {"candidates", "exact", "min_score", "nprobe", "planes", "recall",
                "rerank_candidates", "threads"},
               out_);
    } else if (Has("WHERE")) {
      Filtering(last);
    } else if (Starts("SELECT") || Starts("EXPLAIN")) {
      Has("FROM") ? Keywords({"AFTER (", "LIMIT", "NEAREST TO", "WHERE", "WITH ("}) : Columns(last);
    } else if (Starts("DELETE")) {
      Keywords({"FROM", "WHERE"});
    } else if (Starts("INSERT")) {
      Keywords({"VALUES"});
      if (!Has("VALUES")) {
        OfferAll(word_, {"document", "id", "vector"}, out_);
        Fields();
      }
    } else if (Starts("ALTER")) {
      Keywords({"ADD FIELD", "BOOL", "FLOAT", "INT", "INT[]", "STRING", "STRING[]"});
    }
  }

 private:
  void Keywords(const Words& keywords) { OfferKeywords(word_, keywords, out_); }

  bool Starts(std::string_view keyword) const { return tokens_.front().IsWord(keyword); }
  bool Has(std::string_view keyword) const {
    return std::any_of(tokens_.begin(), tokens_.end(),
                       [&](const Token& token) { return token.IsWord(keyword); });
  }
  bool IsSchemaName() const {  // DROP COLLECTION IF EXISTS |
    return tokens_.back().IsWord("COLLECTION") || tokens_.back().IsWord("EXISTS");
  }
  // Whether the cursor is inside the parentheses that follow a keyword.
  bool OpenParenthesisAfter(std::string_view keyword) const {
    bool inside = false;
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (tokens_[i].Is('(') && i > 0 && tokens_[i - 1].IsWord(keyword)) inside = true;
      if (tokens_[i].Is(')')) inside = false;
    }
    return inside;
  }
  // What FROM, INTO or COLLECTION names.
  std::string Collection() const {
    for (size_t i = 0; i + 1 < tokens_.size(); ++i) {
      if (tokens_[i].IsWord("FROM") || tokens_[i].IsWord("INTO")) return tokens_[i + 1].Value();
    }
    return "";
  }
  void Fields() { OfferFields(session_, Collection(), word_, out_); }

  void Creating(bool after_name) {
    const Token& last = tokens_.back();
    const auto is = [&](std::string_view keyword) { return last.IsWord(keyword); };
    if (OpenParenthesisAfter("FIELDS")) {
      if (after_name) Keywords({"BOOL", "FLOAT", "INT", "INT[]", "STRING", "STRING[]"});
    } else if (last.Is('(') || last.Is(',')) {
      OfferAll(word_, {"bits", "dim", "id", "metric", "partition_rows", "rerank", "rotation", "seed"},
               out_);
    } else if (is("metric")) {
      OfferAll(word_, {"cosine", "ip", "l2"}, out_);
    } else if (is("rerank")) {
      OfferAll(word_, {"f16", "f32", "int8", "none"}, out_);
    } else if (is("rotation")) {
      OfferAll(word_, {"dense", "hadamard"}, out_);
    } else if (is("id")) {
      OfferAll(word_, {"int", "string"}, out_);
    } else if (last.Is(')')) {
      Keywords({"FIELDS ("});
    }
  }

  void Columns(const Token& last) {
    const bool wants_column = last.IsWord("SELECT") || last.Is(',');
    if (!wants_column) {
      Keywords({"FROM"});
      return;
    }
    OfferAll(word_, {"distance", "document", "id", "score", "vector"}, out_);
    if (last.IsWord("SELECT")) Keywords({"COUNT(*)"});
    Fields();
  }

  void Filtering(const Token& last) {
    const bool wants_operand =
        last.IsWord("WHERE") || last.IsWord("AND") || last.IsWord("OR") || last.Is('(') ||
        (last.IsWord("NOT") && tokens_.size() > 1 && !tokens_[tokens_.size() - 2].IsWord("IS"));
    if (wants_operand) {
      OfferAll(word_, {"id"}, out_);
      Keywords({"NOT"});
      Fields();
    } else {
      Keywords({"AFTER (", "AND", "BETWEEN", "CONTAINS", "IN (", "IS", "LIKE", "LIMIT",
                "NEAREST TO", "NOT", "NULL", "OR", "WITH ("});
    }
  }

  const Session& session_;
  const std::vector<Token> tokens_;
  const std::string_view word_;
  Words* out_;
};

void CompleteDotCommand(const Session& session, std::string_view line, std::string_view word,
                        Words* out) {
  if (word.size() == line.size()) {
    for (const std::string& name : DotCommandNames()) Offer(word, "." + name, out);
    return;
  }
  const std::string name = ToLower(line.substr(1, line.find_first_of(" \t") - 1));
  const std::string_view earlier = Trim(line.substr(0, line.size() - word.size()));
  const Verb* verb = FindVerb(name);
  if (word.starts_with("-") && verb != nullptr && verb->is_dot_command) {
    OfferAll(word, VerbOptions(*verb), out);
    return;
  }
  ArgumentKind kind = DotCommandArguments(name);
  if (earlier.ends_with("--collection") || (name == "plot" && earlier == ".plot")) {
    kind = ArgumentKind::kCollection;
  } else if (earlier.ends_with("--queries")) {
    kind = ArgumentKind::kFile;
  }
  switch (kind) {
    case ArgumentKind::kNone:
      break;
    case ArgumentKind::kSwitch:
      OfferAll(word, {"off", "on"}, out);
      break;
    case ArgumentKind::kMode:
      OfferAll(word, ModeNames(), out);
      break;
    case ArgumentKind::kTopic:
      OfferAll(word, DotCommandNames(), out);
      OfferAll(word, StatementTopics(), out);
      break;
    case ArgumentKind::kCollection:
      OfferCollections(session, word, out);
      break;
    case ArgumentKind::kFile:
      if (session.settings.safe) break;
      OfferFiles(std::string(word), out);
      for (std::string& file : *out) {
        if (file.find_first_of(" \t'") != std::string::npos && !file.ends_with('/')) {
          file = fmt::format("\"{}\"", file);  // one word
        }
      }
      break;
  }
}

}  // namespace

CompletionSet Completions(const Session& session, std::string_view before, std::string_view line) {
  CompletionSet set;
  const std::string text = std::string(before) + std::string(line);
  const bool dot_command = Trim(before).empty() && line.starts_with('.');
  if (!dot_command && std::count(text.begin(), text.end(), '\'') % 2 == 1) {
    // Inside 'text': only a file can be completed.
    const size_t quote = text.rfind('\'');
    const std::vector<Token> tokens = Tokens(std::string_view(text).substr(0, quote));
    const bool file = !tokens.empty() && tokens.back().IsWord("FILE");
    set.word_bytes = text.size() - quote - 1;
    if (file && !session.settings.safe && set.word_bytes <= line.size()) {
      OfferFiles(text.substr(quote + 1), &set.candidates);
      set.after = "' ";
    }
  } else {
    const size_t blank = line.find_last_of(" \t(,=<>");
    const std::string_view word = line.substr(blank == std::string_view::npos ? 0 : blank + 1);
    set.word_bytes = word.size();
    if (dot_command) {
      CompleteDotCommand(session, line, word, &set.candidates);
    } else {
      const std::string_view earlier(text.data(), text.size() - word.size());
      StatementCompletion(session, earlier, word, &set.candidates).Run();
    }
  }
  std::sort(set.candidates.begin(), set.candidates.end());
  set.candidates.erase(std::unique(set.candidates.begin(), set.candidates.end()),
                       set.candidates.end());
  return set;
}

}  // namespace quash::cli
