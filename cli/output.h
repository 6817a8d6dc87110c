// Where results go: standard output or a file, and what the terminal can do.
#pragma once

#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cli/pager.h"

namespace quash::cli {

class Output {
 public:
  Output();
  ~Output();
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  // Throws Error if the text cannot be written (disk full, closed pipe).
  void Write(std::string_view text);
  void Flush();

  // Until EndPage(), what does not fit on the terminal is shown by a pager; does
  // nothing where output goes elsewhere. See Pager for the words.
  void BeginPage(const std::vector<std::string>& words);
  // Waits for the user to leave the pager.
  void EndPage();
  // Between the two: what is written may be kept, or shown by the pager.
  bool paging() const { return pager_ != nullptr && file_ == stdout; }

  // Sends what follows to a new file, or with "stdout" back to the terminal.
  //   once  true: only until Finished()
  void Redirect(const std::string& path, bool once);
  // The statement or command that `once` was meant for has ended.
  void Finished();

  const std::string& target() const { return target_; }
  // Columns to fit results in; 0: no limit (not a terminal).
  size_t width() const;
  // Whether results may be coloured: a terminal, and NO_COLOR unset.
  bool color() const;

 private:
  void Close();
  [[noreturn]] void FailToWrite() const;  // by errno

  std::FILE* file_ = stdout;
  std::string target_ = "stdout";
  bool once_ = false;
  std::unique_ptr<Pager> pager_;
};

// Whether messages on stderr may be coloured or show progress.
bool StderrIsTerminal();
// Columns of that terminal; 0: none.
size_t StderrWidth();
// `text` in the given SGR style if `enabled`, as Style("1", "bold", true).
std::string Style(std::string_view sgr, std::string_view text, bool enabled);

}  // namespace quash::cli
