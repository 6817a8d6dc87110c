#include "cli/completion.h"

#include <algorithm>
#include <filesystem>

#include "cli/commands.h"
#include "cli/lexer.h"
#include "cli/schema.h"
#include "cli/text.h"

namespace quash::cli {
namespace {

void Offer(std::string_view word, std::string candidate, std::vector<std::string>* out) {
  const bool fits = candidate.size() >= word.size() &&
                    EqualsIgnoreCase(std::string_view(candidate).substr(0, word.size()), word);
  if (fits) out->push_back(std::move(candidate));
}

// Names of files that begin with `word`; directories end with '/'.
std::vector<std::string> Files(const std::string& word) {
  namespace fs = std::filesystem;
  std::vector<std::string> files;
  const fs::path path(word);
  const fs::path folder = path.parent_path();
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder.empty() ? "." : folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(path.filename().string())) continue;
    files.push_back((folder / name).string() + (entry.is_directory(error) ? "/" : ""));
  }
  return files;
}

}  // namespace

CompletionSet Completions(const Session& session, std::string_view line) {
  const size_t blank = line.find_last_of(" \t(,");
  const std::string_view word = line.substr(blank == std::string_view::npos ? 0 : blank + 1);
  CompletionSet set;
  set.word_bytes = word.size();
  const bool dot_command = line.starts_with('.');
  if (dot_command && word.size() == line.size()) {
    for (const std::string& name : DotCommandNames()) Offer(word, "." + name, &set.candidates);
  } else {
    if (dot_command && !session.settings.safe) set.candidates = Files(std::string(word));
    if (!dot_command) {
      // In the case the user writes keywords in.
      const bool lower = !word.empty() && word[0] >= 'a' && word[0] <= 'z';
      for (const std::string& keyword : Keywords()) {
        Offer(word, lower ? ToLower(keyword) : keyword, &set.candidates);
      }
    }
    try {
      for (const std::string& name : session.CollectionNames()) {
        Offer(word, QuoteName(name), &set.candidates);
        const Schema schema = DescribeCollection(session.OpenCollection(name).get());
        for (const Field& field : schema.fields) {
          Offer(word, QuoteName(field.name), &set.candidates);
        }
      }
    } catch (const Error&) {
      // No database is open: nothing to offer from it.
    }
  }
  std::sort(set.candidates.begin(), set.candidates.end());
  set.candidates.erase(std::unique(set.candidates.begin(), set.candidates.end()),
                       set.candidates.end());
  return set;
}

}  // namespace quash::cli
