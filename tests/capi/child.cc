// Roles for a second process:
//   open PATH MODE   opens, prints the outcome, closes
//   hold PATH MODE   opens, prints the outcome, closes at the end of its input
//   write PATH       read-write; each input line is a command on collection
//                    "rows" (dim 16), answered by its outcome:
//                    add N FIRST_ID SEED | delete FILTER | field NAME |
//                    compact | checkpoint
//   nobody PATH      as a user who may only read: opens read-only, searches,
//                    verifies, tries to write and to open for writing; prints
//                    the outcome of each
// An outcome is a status name and, unless QUASH_OK, the message.
#include <unistd.h>

#include <iostream>
#include <sstream>

#include "tests/capi/support.h"

namespace capi_test {
namespace {

void Say(quash_status status) {
  std::cout << quash_status_name(status);
  if (status != QUASH_OK) std::cout << ' ' << quash_errmsg();
  std::cout << std::endl;
}

quash_status OpenFor(const char* path, const std::string& mode, quash_db** db) {
  quash_open_options options;
  quash_open_options_init(&options);
  options.mode = mode == "readonly"   ? QUASH_OPEN_READONLY
                 : mode == "follower" ? QUASH_OPEN_FOLLOWER
                                      : QUASH_OPEN_READWRITE;
  options.durability = QUASH_DURABILITY_NORMAL;
  return quash_open(path, &options, db);
}

quash_status Obey(quash_db* db, quash_collection* rows, const std::string& line) {
  std::istringstream words(line);
  std::string verb, rest;
  words >> verb;
  if (verb == "add") {
    size_t n = 0;
    int64_t first_id = 0;
    uint64_t seed = 0;
    words >> n >> first_id >> seed;
    return quash_add(rows, SampleRows(n, 16, first_id, seed).Get(), nullptr);
  }
  std::getline(words >> std::ws, rest);
  if (verb == "delete") return quash_delete_where(rows, rest.c_str(), nullptr);
  if (verb == "field") {
    const quash_field field = {rest.c_str(), QUASH_FIELD_STRING};
    return quash_collection_add_field(rows, &field);
  }
  if (verb == "compact") return quash_compact(db);
  if (verb == "checkpoint") return quash_checkpoint(db);
  return QUASH_INTERNAL;
}

int ReadAsNobody(const char* path) {
  constexpr uid_t kNobody = 65534;
  if (getuid() == 0 && (setgid(kNobody) != 0 || setuid(kNobody) != 0)) return 2;
  quash_db* db = nullptr;
  quash_status status = OpenFor(path, "readonly", &db);
  Say(status);
  if (status != QUASH_OK) return 1;
  quash_collection* rows = nullptr;
  if (quash_collection_open(db, "rows", &rows) != QUASH_OK) return 1;
  const std::vector<float> query = RandomVectors(1, 16, 1);
  quash_result* result = nullptr;
  Say(quash_search(rows, query.data(), 1, 10, nullptr, &result));
  quash_result_free(result);
  Say(quash_verify(db, nullptr));
  Say(Obey(db, rows, "add 1 1 1"));
  quash_collection_free(rows);
  Say(quash_close(db));
  Say(OpenFor(path, "readwrite", &db));
  Say(OpenFor(path, "follower", &db));
  (void)quash_close(db);
  return 0;
}

}  // namespace

std::optional<int> RunChildRole(int argc, char** argv) {
  if (argc < 4 || std::string(argv[1]) != "--child") return std::nullopt;
  if (argv[2] == std::string("nobody")) return ReadAsNobody(argv[3]);
  const std::string role = argv[2], mode = argc > 4 ? argv[4] : "readwrite";
  quash_db* db = nullptr;
  const quash_status status = OpenFor(argv[3], mode, &db);
  Say(status);
  if (status != QUASH_OK) return 1;
  std::string line;
  if (role == "hold") {
    while (std::getline(std::cin, line)) {
    }
  } else if (role == "write") {
    quash_collection* rows = nullptr;  // checks of doctest need a test around them
    if (quash_collection_open(db, "rows", &rows) != QUASH_OK) return 1;
    while (std::getline(std::cin, line)) Say(Obey(db, rows, line));
    quash_collection_free(rows);
  }
  return quash_close(db) == QUASH_OK ? 0 : 1;
}

}  // namespace capi_test
