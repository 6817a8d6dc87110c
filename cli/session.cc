#include "cli/session.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/interrupt.h"
#include "cli/text.h"

namespace quash::cli {

Session::~Session() = default;

void Session::Open(const std::string& path, quash_open_mode mode) {
  Close();
  path_ = path;
  open_mode_ = mode;
  quash_open_options options;
  quash_open_options_init(&options);
  options.mode = mode;
  options.durability = settings.durability;
  options.memory_budget_bytes = settings.memory_budget_bytes;
  options.threads = settings.threads;
  quash_db* db = nullptr;
  const quash_status status = quash_open(path.c_str(), &options, &db);
  if (status == QUASH_BUSY) {
    const std::string message = quash_errmsg();
    const bool may_follow = message.find("as follower") != std::string::npos;
    throw Error(message + (may_follow ? " (--follow)" : ""));
  }
  Check(status);
  db_.reset(db);
  Check(quash_set_progress(db, OnProgress, this));
}

void Session::Close() {
  if (db_ != nullptr) Check(quash_close(db_.release()));
}

quash_db* Session::db() const {
  if (db_ == nullptr) throw Error("no database is open; use .open FILE");
  return db_.get();
}

Collection Session::OpenCollection(const std::string& name, std::optional<size_t> offset) const {
  quash_collection* collection = nullptr;
  const quash_status status = quash_collection_open(db(), name.c_str(), &collection);
  if (status == QUASH_NOT_FOUND) {
    const std::string message = quash_errmsg();
    // The library may already have named the nearest one.
    const bool suggested = message.find("did you mean") != std::string::npos;
    throw Error(message + (suggested ? "" : DidYouMean(name, CollectionNames())), offset);
  }
  Check(status, offset);
  return Collection(collection);
}

std::vector<std::string> Session::CollectionNames() const {
  char* text = nullptr;
  Check(quash_collection_list(db(), &text));
  return nlohmann::json::parse(TakeText(text)).get<std::vector<std::string>>();
}

std::string Session::CollectionOrOnly(const std::string& name) const {
  if (!name.empty()) return name;
  const std::vector<std::string> names = CollectionNames();
  if (names.empty()) throw Error("the database has no collection yet; CREATE COLLECTION makes one");
  if (names.size() > 1) {
    throw Error(fmt::format("name one of the {} collections: {}", names.size(),
                            fmt::join(names, ", ")));
  }
  return names.front();
}

std::unique_ptr<RowWriter> Session::Rows() {
  WriterOptions options;
  options.mode = settings.mode;
  options.headers = settings.headers;
  options.null_text = settings.null_text;
  options.width = output.width();
  options.color = output.color();
  return MakeRowWriter(options, [this](std::string_view text) { output.Write(text); });
}

void Session::Print(const std::vector<std::string>& columns, std::vector<std::vector<Cell>> rows) {
  const std::unique_ptr<RowWriter> writer = Rows();
  writer->Begin(columns);
  for (std::vector<Cell>& row : rows) writer->Add(std::move(row));
  writer->End();
}

void Session::Remark(std::string_view text) {
  const bool is_terminal = StderrIsTerminal();
  if (is_terminal && output.paging()) {  // which has the terminal
    try {
      output.Write(fmt::format("{}\n", text));
    } catch (const PagerQuit&) {  // the next result ends what is shown
    }
  } else if (is_terminal || settings.interactive) {
    fmt::print(stderr, "{}\n", text);
  }
}

void Session::RefuseIfSafe(std::string_view what) const {
  if (settings.safe) throw Error(fmt::format("{} is not allowed with --safe", what));
}

int Session::OnProgress(void* session, uint64_t done, uint64_t total) {
  ProgressBar* bar = static_cast<Session*>(session)->progress_;
  if (bar != nullptr) bar->Update(done, total);
  return Interrupted() ? 1 : 0;
}

WithProgress::WithProgress(Session& session, std::string label, std::string unit)
    : session_(session), bar_(std::move(label), std::move(unit), session.settings.progress) {
  session_.progress_ = &bar_;
}

WithProgress::~WithProgress() { session_.progress_ = nullptr; }

}  // namespace quash::cli
