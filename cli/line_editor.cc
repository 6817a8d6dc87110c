#include "cli/line_editor.h"

#include <fcntl.h>
#include <histedit.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cwchar>

#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/text.h"

namespace quash::cli {

struct LineEditor::State {
  EditLine* editor = nullptr;
  History* history = nullptr;
  std::string history_path;
  std::string prompt;
  Completer completer;
};

namespace {

constexpr int kHistoryLines = 5000;

// libedit's own reader misses a Ctrl-C that comes before its read() and retries
// after the first EINTR; this one lets Ctrl-C end the line. Decodes one UTF-8
// character.
int ReadCharacter(EditLine*, wchar_t* out) {
  std::mbstate_t state = {};
  while (true) {
    if (!WaitForInput(STDIN_FILENO)) return -1;
    char byte = 0;
    const ssize_t n = read(STDIN_FILENO, &byte, 1);
    if (n == 0) return 0;
    if (n < 0) {
      if (errno == EINTR) continue;
      return -1;
    }
    const size_t length = std::mbrtowc(out, &byte, 1, &state);
    if (length == static_cast<size_t>(-2)) continue;  // more bytes to come
    if (length == static_cast<size_t>(-1)) {
      state = {};
      continue;  // not UTF-8: dropped
    }
    return 1;
  }
}

std::string CommonPrefix(const std::vector<std::string>& words) {
  std::string prefix = words.front();
  for (const std::string& word : words) {
    size_t same = 0;
    while (same < prefix.size() && same < word.size() && prefix[same] == word[same]) ++same;
    prefix.resize(same);
  }
  return prefix;
}

void PrintColumns(const std::vector<std::string>& words) {
  const size_t screen = std::max<size_t>(StderrWidth(), 20) - 2;
  size_t widest = 0;
  for (const std::string& word : words) widest = std::max(widest, DisplayWidth(word) + 2);
  const size_t columns = std::max<size_t>(1, screen / widest);
  std::fputc('\n', stdout);
  for (size_t i = 0; i < words.size(); ++i) {
    const bool last = (i + 1) % columns == 0 || i + 1 == words.size();
    std::fputs(words[i].c_str(), stdout);
    std::fputs(last ? "\n" : std::string(widest - DisplayWidth(words[i]), ' ').c_str(), stdout);
  }
  std::fflush(stdout);
}

}  // namespace

LineEditor::LineEditor(Completer completer) : state_(std::make_unique<State>()) {
  state_->completer = std::move(completer);
  EditLine* editor = el_init("quashdb", stdin, stdout, stderr);
  state_->editor = editor;
  el_set(editor, EL_CLIENTDATA, state_.get());
  el_set(editor, EL_EDITOR, "emacs");
  el_set(editor, EL_GETCFN, &ReadCharacter);
  // At Ctrl-C the terminal drops what was typed and, after the signal, what was
  // printed, the next prompt with it; Read() drops only the former.
  el_set(editor, EL_SETTY, "-d", "+noflsh", nullptr);
  el_set(
      editor, EL_PROMPT, +[](EditLine* e) -> char* {
        State* state = nullptr;
        el_get(e, EL_CLIENTDATA, &state);
        return state->prompt.data();
      });
  el_set(
      editor, EL_ADDFN, "quashdb-complete", "Complete a word",
      +[](EditLine* e, int) -> unsigned char {
        State* state = nullptr;
        el_get(e, EL_CLIENTDATA, &state);
        const LineInfo* info = el_line(e);
        const std::string before(info->buffer, info->cursor);
        const CompletionSet set = state->completer(before);
        if (set.candidates.empty()) return CC_REFRESH_BEEP;
        const std::string prefix = CommonPrefix(set.candidates);
        const bool grows = prefix.size() > set.word_bytes ||
                           (set.candidates.size() == 1 && prefix.size() >= set.word_bytes);
        if (!grows) {
          PrintColumns(set.candidates);
          return CC_REDISPLAY;
        }
        if (set.word_bytes > 0) {  // el_deletestr counts characters
          const std::string word = before.substr(before.size() - set.word_bytes);
          const auto characters = std::count_if(word.begin(), word.end(), [](char c) {
            return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
          });
          el_deletestr(e, static_cast<int>(characters));
        }
        const bool whole = set.candidates.size() == 1 && !prefix.ends_with('/');
        const std::string text = prefix + (whole ? set.after : "");
        el_insertstr(e, text.c_str());
        return CC_REFRESH;
      });
  el_set(editor, EL_BIND, "^I", "quashdb-complete", nullptr);
  el_set(editor, EL_BIND, "^R", "em-inc-search-prev", nullptr);
  el_set(editor, EL_BIND, "\\e[1;5C", "em-next-word", nullptr);
  el_set(editor, EL_BIND, "\\e[1;5D", "ed-prev-word", nullptr);
  el_set(editor, EL_BIND, "\\e[3~", "ed-delete-next-char", nullptr);

  state_->history = history_init();
  HistEvent event;
  history(state_->history, &event, H_SETSIZE, kHistoryLines);
  history(state_->history, &event, H_SETUNIQUE, 1);
  el_set(editor, EL_HIST, history, state_->history);
  if (const char* home = std::getenv("HOME"); home != nullptr) {
    state_->history_path = std::string(home) + "/.quashdb_history";
    history(state_->history, &event, H_LOAD, state_->history_path.c_str());
  }
}

LineEditor::~LineEditor() {
  HistEvent event;
  if (!state_->history_path.empty()) {
    const mode_t before = umask(0077);  // statements may hold private text
    history(state_->history, &event, H_SAVE, state_->history_path.c_str());
    umask(before);
  }
  history_end(state_->history);
  el_end(state_->editor);
}

LineEditor::Outcome LineEditor::Read(const std::string& prompt, std::string* line) {
  state_->prompt = prompt;
  // el_gets() by itself writes the prompt first: until it then turns echoing off,
  // the terminal shows what is typed, and the editor shows it again.
  el_set(state_->editor, EL_PREP_TERM, 1);
  int length = 0;
  const char* text = el_gets(state_->editor, &length);
  if (Interrupted()) {
    tcflush(STDIN_FILENO, TCIFLUSH);
    el_reset(state_->editor);
    std::fputs("^C\n", stdout);
    std::fflush(stdout);
    return Outcome::kInterrupted;
  }
  if (text == nullptr || length <= 0) {
    std::fputc('\n', stdout);
    return Outcome::kEnd;
  }
  line->assign(text, static_cast<size_t>(length));
  while (line->ends_with('\n') || line->ends_with('\r')) line->pop_back();
  return Outcome::kLine;
}

void LineEditor::Remember(const std::string& line) {
  HistEvent event;
  history(state_->history, &event, H_ENTER, line.c_str());
}

}  // namespace quash::cli
