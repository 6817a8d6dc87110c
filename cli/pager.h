// Shows long output one screen at a time, by less or another program.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

namespace quash::cli {

// Thrown where more is written after the user has left the pager: what was being
// shown is over, and that is no error.
struct PagerQuit {};

// Keeps what is written until it is known whether it fits on the screen. If it
// does, it goes to standard output when the pager is closed; if not, the program
// starts and is given that and all that follows. It is run without a shell.
class Pager {
 public:
  //   words  program and arguments
  //   rows, columns  of the screen
  Pager(std::vector<std::string> words, size_t rows, size_t columns);
  ~Pager();
  Pager(const Pager&) = delete;
  Pager& operator=(const Pager&) = delete;

  // Throws PagerQuit.
  void Write(std::string_view text);
  // Writes what was kept, or waits until the user leaves the program.
  void Close();

 private:
  void Start();
  void Send(std::string_view text);

  std::vector<std::string> words_;
  size_t rows_;
  size_t columns_;
  std::string kept_;
  size_t rows_kept_ = 0;
  size_t line_cells_ = 0;  // of the unfinished line
  bool plain_ = false;     // the program could not be started
  pid_t process_ = 0;
  int pipe_ = -1;
};

// Words of QUASHDB_PAGER, else PAGER, else "less"; empty: "" or "cat" asked for none.
std::vector<std::string> DefaultPager();

}  // namespace quash::cli
