// One run of the shell: the open database, the settings and the output that
// statements and commands share.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cli/handles.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/row_writer.h"

namespace quash::cli {

struct Settings {
  Mode mode = Mode::kTable;
  bool headers = true;
  bool timer = false;
  bool echo = false;
  bool bail = true;
  bool progress = true;
  bool interactive = false;
  bool safe = false;  // nothing that reads or writes files of the user's choice
  std::string null_text;
  std::vector<std::string> pager;  // program and arguments; empty: none
  quash_durability durability = QUASH_DURABILITY_FULL;
  uint64_t memory_budget_bytes = 0;
  uint32_t threads = 0;
};

class Session {
 public:
  Session() = default;
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Closes the open database, if any, and opens another. On failure nothing
  // is open any more, except that the failed path is remembered.
  void Open(const std::string& path, quash_open_mode mode);
  // Closes, reporting what could not be made durable.
  void Close();

  quash_db* db() const;  // throws Error if none is open
  bool is_open() const { return db_ != nullptr; }
  const std::string& path() const { return path_; }
  quash_open_mode open_mode() const { return open_mode_; }

  //   offset  of the name in the statement, for the error
  Collection OpenCollection(const std::string& name,
                            std::optional<size_t> offset = std::nullopt) const;
  std::vector<std::string> CollectionNames() const;
  // `name`, or if it is empty the only collection there is.
  std::string CollectionOrOnly(const std::string& name) const;

  // Writer for results in the current mode.
  std::unique_ptr<RowWriter> Rows();
  // Whole small tables.
  void Print(const std::vector<std::string>& columns, std::vector<std::vector<Cell>> rows);
  void Write(std::string_view text) { output.Write(text); }
  // A remark, written only when someone is looking.
  void Remark(std::string_view text);

  // Throws Error if --safe forbids `what`.
  void RefuseIfSafe(std::string_view what) const;

  Settings settings;
  Output output;

 private:
  friend class WithProgress;
  static int OnProgress(void* session, uint64_t done, uint64_t total);

  Database db_;
  std::string path_;
  quash_open_mode open_mode_ = QUASH_OPEN_CREATE;
  ProgressBar* progress_ = nullptr;
};

// While it lives, the library's progress reports are drawn as a bar.
class WithProgress {
 public:
  WithProgress(Session& session, std::string label, std::string unit = "");
  ~WithProgress();

 private:
  Session& session_;
  ProgressBar bar_;
};

}  // namespace quash::cli
