#include "cli/output.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "cli/error.h"

namespace quash::cli {
namespace {

bool ColorsWanted() {
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  const bool refused = no_color != nullptr && no_color[0] != '\0';
  return !refused && !(term != nullptr && std::strcmp(term, "dumb") == 0);
}

// Rows and columns of a terminal; 24 by 80 where it does not tell.
winsize Screen(int fd) {
  winsize size = {};
  if (ioctl(fd, TIOCGWINSZ, &size) != 0) size = {};
  if (size.ws_col == 0) size.ws_col = 80;
  if (size.ws_row == 0) size.ws_row = 24;
  return size;
}

}  // namespace

void Output::FailToWrite() const {
  // As with "quashdb ... | head": the reader has seen enough.
  const bool unread = errno == EPIPE && file_ == stdout;
  throw Error(fmt::format("cannot write {}: {}", target_, std::strerror(errno)), std::nullopt,
              unread ? kExitNoReader : kExitError);
}

Output::Output() = default;
Output::~Output() {
  if (file_ != stdout) std::fclose(file_);
}

void Output::BeginPage(const std::vector<std::string>& words) {
  if (file_ != stdout || words.empty() || !isatty(STDOUT_FILENO)) return;
  Flush();
  pager_ = std::make_unique<Pager>(words, Screen(STDOUT_FILENO).ws_row, width());
}

void Output::EndPage() {
  if (pager_ == nullptr) return;
  pager_->Close();
  pager_.reset();
  Flush();
}

void Output::Write(std::string_view text) {
  if (pager_ != nullptr && file_ == stdout) {
    pager_->Write(text);
    return;
  }
  if (std::fwrite(text.data(), 1, text.size(), file_) != text.size()) FailToWrite();
}

void Output::Flush() {
  if (std::fflush(file_) != 0) FailToWrite();
}

void Output::Close() {
  if (file_ == stdout) return;
  std::FILE* file = file_;
  const std::string target = target_;
  file_ = stdout;
  target_ = "stdout";
  if (std::fclose(file) != 0) {
    throw Error(fmt::format("cannot write {}: {}", target, std::strerror(errno)));
  }
}

void Output::Redirect(const std::string& path, bool once) {
  EndPage();
  Flush();
  Close();
  once_ = once;
  if (path == "stdout") return;
  std::FILE* file = std::fopen(path.c_str(), "w");
  if (file == nullptr) {
    throw Error(fmt::format("cannot open {}: {}", path, std::strerror(errno)));
  }
  file_ = file;
  target_ = path;
}

void Output::Finished() {
  if (once_) Close();
  once_ = false;
  Flush();
}

size_t Output::width() const {
  return isatty(fileno(file_)) ? Screen(fileno(file_)).ws_col : 0;
}

bool Output::color() const { return isatty(fileno(file_)) && ColorsWanted(); }

bool StderrIsTerminal() { return isatty(STDERR_FILENO) != 0; }

size_t StderrWidth() { return StderrIsTerminal() ? Screen(STDERR_FILENO).ws_col : 0; }

std::string Style(std::string_view sgr, std::string_view text, bool enabled) {
  return enabled ? fmt::format("\033[{}m{}\033[0m", sgr, text) : std::string(text);
}

}  // namespace quash::cli
