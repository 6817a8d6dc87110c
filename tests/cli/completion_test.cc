#include "cli/completion.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "cli/statements.h"
#include "tests/cli/temporary_folder.h"

namespace quash::cli {
namespace {

using Words = std::vector<std::string>;

class Fixture {
 public:
  Fixture() {
    session_.Open(":memory:", QUASH_OPEN_CREATE);
    RunStatement(session_,
                 "CREATE COLLECTION notes (dim 2) FIELDS (lang STRING, year INT, \"to\" INT)");
    RunStatement(session_, "CREATE COLLECTION books (dim 2) FIELDS (title STRING)");
  }
  // What Tab offers at the end of a line.
  Words At(std::string_view line, std::string_view before = "") {
    return Completions(session_, before, line).candidates;
  }
  Session& session() { return session_; }

 private:
  Session session_;
};

bool Offers(const Words& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

TEST_CASE_FIXTURE(Fixture, "statements are completed by their grammar") {
  CHECK(At("SEL") == Words{"SELECT"});
  CHECK(At("sel") == Words{"select"});
  CHECK(At("SELECT id FROM ") == Words{"books", "notes"});
  CHECK(At("DROP COLLECTION b") == Words{"books"});
  CHECK(At("CREATE COLLECTION b").empty());
  CHECK(At("SELECT id FROM notes N") == Words{"NEAREST TO"});
  CHECK(At("SELECT id FROM notes NEAREST TO ") == Words{"FILE", "ID"});
  CHECK(At("SHOW ") == Words{"COLLECTIONS"});
  CHECK(At("CREATE COLLECTION x (dim 2, metric co") == Words{"cosine"});
  CHECK(At("CREATE COLLECTION x (dim 2, r") == Words{"rerank", "rotation"});
  CHECK(At("CREATE COLLECTION x (dim 2) FIELDS (a IN") == Words{"INT", "INT[]"});
  CHECK(At("SELECT id FROM notes NEAREST TO ID 1 WITH (ca") == Words{"candidates"});
  CHECK(At("SELECT id FROM notes WHERE lang IS ") == Words{"NOT NULL", "NULL"});
}

TEST_CASE_FIXTURE(Fixture, "fields are those of the collection") {
  const Words fields = At("SELECT id FROM notes WHERE ");
  CHECK(Offers(fields, "year"));
  CHECK(Offers(fields, "\"to\""));
  CHECK_FALSE(Offers(fields, "title"));
  CHECK(Offers(At("SELECT ti"), "title"));  // not yet known of which
  CHECK(At("  WHERE ye", "SELECT id FROM notes\n") == Words{"year"});
  CHECK(At("INSERT INTO notes (id, la") == Words{"lang"});
  CHECK_FALSE(Offers(At("SELECT id FROM notes WHERE year "), "year"));
  CHECK(Offers(At("SELECT id FROM notes WHERE year = 3 A"), "AND"));
}

TEST_CASE_FIXTURE(Fixture, "dot-commands are completed with what they take") {
  CHECK(At(".mod") == Words{".mode"});
  CHECK(At(".mode m") == Words{"markdown"});
  CHECK(At(".timer ") == Words{"off", "on"});
  CHECK(At(".help dele") == Words{"delete"});
  CHECK(At(".schema n") == Words{"notes"});
  CHECK(At(".measure ") == Words{"books", "notes"});
  CHECK(At(".measure --tar") == Words{"--target"});
  CHECK(At(".plot ") == Words{"books", "notes"});
  CHECK(At(".collections x").empty());
}

TEST_CASE_FIXTURE(Fixture, "files are completed where a file can be, but not with --safe") {
  const TemporaryFolder folder;
  std::ofstream(folder.path() / "queries.npy");
  std::filesystem::create_directory(folder.path() / "quiet");
  const std::string at = folder.path().string() + "/qu";
  const Words both = {at + "eries.npy", at + "iet/"};
  CHECK(At(".read " + at) == both);
  const CompletionSet quoted =
      Completions(session(), "", "SELECT id FROM notes NEAREST TO FILE '" + at);
  CHECK(quoted.candidates == both);
  CHECK(quoted.word_bytes == at.size());
  CHECK(quoted.after == "' ");
  CHECK(At("SELECT id FROM notes WHERE lang = '" + at).empty());
  std::ofstream(folder.path() / "my queries.npy");
  const std::string parent = folder.path().string();
  CHECK(At(".read " + parent + "/m") == Words{fmt::format("\"{}/my queries.npy\"", parent)});
  session().settings.safe = true;
  CHECK(At(".read " + at).empty());
  CHECK(At("SELECT id FROM notes NEAREST TO FILE '" + at).empty());
}

}  // namespace
}  // namespace quash::cli
