// The prompt: libedit with history in ~/.quashdb_history and completion by
// the Tab key.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace quash::cli {

// What the word at the end of a line may become. Each result replaces the
// line's last `word_bytes` bytes.
struct CompletionSet {
  size_t word_bytes = 0;
  std::vector<std::string> candidates;
  std::string after = " ";  // follows the only candidate, unless it is a folder
};

class LineEditor {
 public:
  enum class Outcome { kLine, kEnd, kInterrupted };
  using Completer = std::function<CompletionSet(std::string_view line)>;

  explicit LineEditor(Completer completer);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  // Reads one line, without its line end.
  Outcome Read(const std::string& prompt, std::string* line);
  // Adds a line to the history and its file.
  void Remember(const std::string& line);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quash::cli
