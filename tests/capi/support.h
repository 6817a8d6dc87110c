// What the C API tests share: owners for handles, checks of status and
// message, seeded data, and a whole-database dump for "nothing has changed".
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quashdb.h"

namespace capi_test {

#define REQUIRE_OK(call)                                                                           \
  do {                                                                                             \
    const quash_status status_ = (call);                                                           \
    REQUIRE_MESSAGE(status_ == QUASH_OK, #call, " gave ", std::string(quash_status_name(status_)), \
                    ": ", std::string(quash_errmsg()));                                            \
  } while (0)

#define CHECK_OK(call)                                                                           \
  do {                                                                                           \
    const quash_status status_ = (call);                                                         \
    CHECK_MESSAGE(status_ == QUASH_OK, #call, " gave ", std::string(quash_status_name(status_)), \
                  ": ", std::string(quash_errmsg()));                                            \
  } while (0)

// The call gives `code` with a message that has `text` in it.
#define CHECK_FAILS(call, code, text)                                                          \
  do {                                                                                         \
    const quash_status status_ = (call);                                                       \
    const std::string message_ = status_ == QUASH_OK ? "" : quash_errmsg();                    \
    CHECK_MESSAGE(status_ == (code), #call, " gave ", std::string(quash_status_name(status_)), \
                  ": ", message_);                                                             \
    if (status_ == (code)) {                                                                   \
      CHECK_MESSAGE(message_.find(text) != std::string::npos, #call, " said: ", message_,      \
                    ", expected: ", (text));                                                   \
    }                                                                                          \
  } while (0)

template <typename T, auto Free>
struct Deleter {
  void operator()(T* object) const { Free(object); }
};
using Db = std::unique_ptr<quash_db, Deleter<quash_db, quash_close>>;
using Collection =
    std::unique_ptr<quash_collection, Deleter<quash_collection, quash_collection_free>>;
using Result = std::unique_ptr<quash_result, Deleter<quash_result, quash_result_free>>;
using Query = std::unique_ptr<quash_query, Deleter<quash_query, quash_query_free>>;
using Iterator = std::unique_ptr<quash_iterator, Deleter<quash_iterator, quash_iterator_free>>;

// Takes over text of a char** out parameter.
std::string TakeText(char* text);
nlohmann::json TakeJson(char* text);

// A directory that is removed with all in it.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

Db Open(const std::string& path, quash_open_mode mode = QUASH_OPEN_CREATE,
        quash_durability durability = QUASH_DURABILITY_NORMAL);

struct Settings {
  uint32_t dim = 16;
  quash_metric metric = QUASH_METRIC_COSINE;
  quash_id_type id_type = QUASH_ID_INT64;
  uint32_t bits = 4;
  quash_rerank rerank = QUASH_RERANK_F32;
  quash_rotation rotation = QUASH_ROTATION_HADAMARD;
  std::vector<quash_field> fields = {};
};

// bucket INT, lang STRING, price FLOAT, fresh BOOL, tags STRING[], sizes INT[]
std::vector<quash_field> SampleFields();

Collection Create(quash_db* db, const char* name, const Settings& settings);
Collection OpenCollection(quash_db* db, const char* name);

// Seeded normal vectors, [n, dim].
std::vector<float> RandomVectors(size_t n, size_t dim, uint64_t seed);

// Rows owned by the test; Get() points into them. Empty members are left NULL.
struct Rows {
  size_t n = 0;
  std::vector<float> vectors = {};
  std::vector<int64_t> int_ids = {};
  std::vector<std::string> string_ids = {};
  std::vector<std::string> metadata = {};
  std::vector<std::optional<std::string>> documents = {};

  // What Get() hands out.
  struct View {
    quash_rows rows = {};
    std::vector<const char*> string_ids = {}, metadata = {}, documents = {};
  };
  View view = {};

  const quash_rows* Get();
};

// Rows first_id .. first_id + n - 1: vectors of `seed`, metadata of
// SampleFields() that follows from the id, a document for every other row.
Rows SampleRows(size_t n, size_t dim, int64_t first_id, uint64_t seed);

std::vector<int64_t> IntIds(const quash_result* result, size_t query = 0);
std::vector<float> Scores(const quash_result* result, size_t query = 0);

uint64_t Count(quash_collection* collection, const char* filter = nullptr);

// The score as quashdb.h defines it, in double.
double ExactScore(quash_metric metric, const float* query, const float* vector, size_t dim);

// Everything a reader can see of the database, as text; vectors as their bytes where
// time matters.
enum class Vectors { kText, kBytes };
std::string Dump(quash_db* db);
quash_status TryDump(quash_db* db, std::string* dump,
                     Vectors form = Vectors::kText);  // may be used outside of tests

// Checks at the end of its scope that a database is what it was.
class Unchanged {
 public:
  explicit Unchanged(quash_db* db) : db_(db), before_(Dump(db)) {}
  ~Unchanged() { CHECK_MESSAGE(Dump(db_) == before_, "the database has changed"); }

 private:
  quash_db* db_;
  std::string before_;
};

// This program again in another process, as `--child` and the arguments: a role
// that RunChildRole() plays.
class Child {
 public:
  explicit Child(const std::vector<std::string>& arguments);
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  std::string ReadLine();  // "" at the end of its output
  void Write(std::string_view line);
  int Wait();  // exit code, or -signal; closes its input first
  void Kill();
  void Signal(int signal);

 private:
  int pid_ = -1;
  int input_ = -1;
  int output_ = -1;
  std::string unread_;  // of its output
  bool waited_ = false;
  int exit_code_ = 0;
};

// Plays the role in argv, if there is one, and gives the exit code. Every test
// program has its own.
std::optional<int> RunChildRole(int argc, char** argv);

// From here on children are forked from a process that has this program loaded and
// has done nothing yet, instead of loading it again. To be called first in main();
// afterwards one thread may use Child at a time.
using ChildRole = std::optional<int> (*)(int argc, char** argv);
void StartForkServer(ChildRole role);

}  // namespace capi_test
