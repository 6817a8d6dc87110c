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

}  // namespace

Output::Output() = default;
Output::~Output() {
  if (file_ != stdout) std::fclose(file_);
}

void Output::Write(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), file_) != text.size()) {
    throw Error(fmt::format("cannot write {}: {}", target_, std::strerror(errno)));
  }
}

void Output::Flush() {
  if (std::fflush(file_) != 0) {
    throw Error(fmt::format("cannot write {}: {}", target_, std::strerror(errno)));
  }
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
  if (!isatty(fileno(file_))) return 0;
  winsize size = {};
  if (ioctl(fileno(file_), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

bool Output::color() const { return isatty(fileno(file_)) && ColorsWanted(); }

bool StderrIsTerminal() { return isatty(STDERR_FILENO) != 0; }

std::string Style(std::string_view sgr, std::string_view text, bool enabled) {
  return enabled ? fmt::format("\033[{}m{}\033[0m", sgr, text) : std::string(text);
}

}  // namespace quash::cli
