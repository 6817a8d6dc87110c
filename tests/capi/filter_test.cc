// Filters through the C API, over sealed segments, a tail and reopening.
#include <algorithm>
#include <functional>

#include "tests/capi/support.h"

namespace capi_test {
namespace {

TEST_SUITE_BEGIN("filter");

constexpr int64_t kRows = 5000;

bool HasPrice(int64_t id) { return id % 10 != 9; }
double Price(int64_t id) { return static_cast<double>(id % 7) / 4; }

struct Case {
  const char* filter;
  std::function<bool(int64_t)> matches;
};

std::vector<Case> Cases() {
  return {
      {"lang = 'en'", [](int64_t id) { return id % 5 == 0; }},
      {"lang == 'xx'", [](int64_t) { return false; }},
      {"lang <> 'en' AND lang != 'de'", [](int64_t id) { return id % 5 >= 2; }},
      {"lang > 'en' and lang <= 'it'", [](int64_t id) { return id % 5 == 2 || id % 5 == 3; }},
      {"lang IN ('pl', 'fr', 'zz')", [](int64_t id) { return id % 5 == 4 || id % 5 == 2; }},
      {"lang LIKE '%E%'", [](int64_t id) { return id % 5 == 0 || id % 5 == 1; }},
      {"lang NOT LIKE '_t'", [](int64_t id) { return id % 5 != 3; }},
      {"bucket BETWEEN 10 AND 19", [](int64_t id) { return id % 1000 / 10 == 1; }},
      {"bucket NOT BETWEEN 10 AND 989",
       [](int64_t id) { return id % 1000 < 10 || id % 1000 > 989; }},
      {"bucket > 10.5 AND bucket < 12", [](int64_t id) { return id % 1000 == 11; }},
      {"price = 0.25", [](int64_t id) { return HasPrice(id) && id % 7 == 1; }},
      {"price >= 1", [](int64_t id) { return HasPrice(id) && Price(id) >= 1; }},
      {"NOT price >= 1", [](int64_t id) { return HasPrice(id) && Price(id) < 1; }},
      {"price IS NULL", [](int64_t id) { return !HasPrice(id); }},
      {"price IS NOT NULL", HasPrice},
      {"price < 1 OR price IS NULL", [](int64_t id) { return !HasPrice(id) || Price(id) < 1; }},
      {"fresh = TRUE", [](int64_t id) { return id % 2 == 0; }},
      {"NOT fresh = true", [](int64_t id) { return id % 2 != 0; }},
      {"tags CONTAINS 't1'", [](int64_t id) { return id % 3 == 1; }},
      {"tags CONTAINS ALL ('all', 't2')", [](int64_t id) { return id % 3 == 2; }},
      {"tags CONTAINS ANY ('t0', 't2')", [](int64_t id) { return id % 3 != 1; }},
      {"tags NOT CONTAINS 't1'", [](int64_t id) { return id % 3 != 1; }},
      {"sizes CONTAINS 3", [](int64_t id) { return id % 4 == 3; }},
      {"id >= 4990", [](int64_t id) { return id >= 4990; }},
      {"\"id\" IN (1, 2, 99999)", [](int64_t id) { return id == 1 || id == 2; }},
      {"(lang = 'en' OR lang = 'de') AND NOT (fresh = TRUE) -- comment",
       [](int64_t id) { return id % 5 <= 1 && id % 2 != 0; }},
      {"TRUE", [](int64_t) { return true; }},
      {"FALSE OR FALSE", [](int64_t) { return false; }},
  };
}

void CheckCases(quash_collection* c) {
  const auto query = RandomVectors(1, 16, 2);
  for (const Case& test : Cases()) {
    CAPTURE(test.filter);
    std::vector<int64_t> expected;
    for (int64_t id = 0; id < kRows; ++id) {
      if (id % 97 != 0 && test.matches(id)) expected.push_back(id);
    }
    CHECK(Count(c, test.filter) == expected.size());
    // Searching for all of them and iterating find the same rows.
    quash_search_options options;
    quash_search_options_init(&options);
    options.filter = test.filter;
    quash_result* raw = nullptr;
    REQUIRE_OK(quash_search(c, query.data(), 1, kRows, &options, &raw));
    const Result found(raw);
    auto ids = IntIds(raw);
    std::sort(ids.begin(), ids.end());
    CHECK(ids == expected);
    quash_iterator* iterator = nullptr;
    REQUIRE_OK(quash_iterate(c, test.filter, 0, &iterator));
    const Iterator owned(iterator);
    REQUIRE_OK(quash_iterator_next(iterator, kRows, &raw));
    const Result iterated(raw);
    CHECK(IntIds(raw) == expected);
  }
}

TEST_CASE("filters find the rows they say") {
  const TempDir dir;
  Db db = Open(dir / "a.qdb");
  Collection c = Create(db.get(), "c", {.fields = SampleFields()});
  REQUIRE_OK(quash_add(c.get(), SampleRows(3500, 16, 0, 1).Get(), nullptr));
  REQUIRE_OK(quash_compact(db.get()));
  REQUIRE_OK(quash_add(c.get(), SampleRows(kRows - 3500, 16, 3500, 2).Get(), nullptr));
  std::vector<int64_t> gone;
  for (int64_t id = 0; id < kRows; id += 97) gone.push_back(id);
  const quash_ids ids = {gone.size(), gone.data(), nullptr};
  REQUIRE_OK(quash_delete(c.get(), &ids, nullptr));
  SUBCASE("sealed and tail") { CheckCases(c.get()); }
  SUBCASE("compacted and reopened") {
    REQUIRE_OK(quash_compact(db.get()));
    c.reset();
    db.reset();
    db = Open(dir / "a.qdb", QUASH_OPEN_READONLY);
    c = OpenCollection(db.get(), "c");
    CheckCases(c.get());
  }
}

TEST_CASE("errors in a filter name the place and change nothing") {
  const Db db = Open(":memory:");
  const Collection c = Create(db.get(), "c", {.fields = SampleFields()});
  REQUIRE_OK(quash_add(c.get(), SampleRows(10, 16, 0, 1).Get(), nullptr));
  const Unchanged unchanged(db.get());
  struct Error {
    const char* filter;
    quash_status status;
    long offset;
    const char* message;
  };
  const Error errors[] = {
      {"", QUASH_SYNTAX, 0, "empty"},
      {"lang = ", QUASH_SYNTAX, 7, "expected a literal"},
      {"lang = 'en' lang = 'de'", QUASH_SYNTAX, 12, "expected AND, OR or the end"},
      {"lang = 'en", QUASH_SYNTAX, 7, "without closing"},
      {"(lang = 'en'", QUASH_SYNTAX, 12, "expected AND, OR or )"},
      {"bucket = 'x'", QUASH_TYPE, 9, "takes a number"},
      {"lang > 5", QUASH_TYPE, 7, "takes text"},
      {"tags = 'x'", QUASH_TYPE, 5, "CONTAINS"},
      {"fresh < TRUE", QUASH_TYPE, 6, "bool"},
  };
  const auto query = RandomVectors(1, 16, 2);
  for (const Error& error : errors) {
    CAPTURE(error.filter);
    uint64_t count = 77;
    CHECK_FAILS(quash_count(c.get(), error.filter, &count), error.status, error.message);
    CHECK(quash_error_offset() == error.offset);
    CHECK(count == 77);
    CHECK_FAILS(quash_delete_where(c.get(), error.filter, &count), error.status, error.message);
    CHECK(quash_error_offset() == error.offset);
    CHECK(count == 77);
    quash_search_options options;
    quash_search_options_init(&options);
    options.filter = error.filter;
    quash_result* result = nullptr;
    CHECK_FAILS(quash_search(c.get(), query.data(), 1, 5, &options, &result), error.status,
                error.message);
    CHECK(quash_error_offset() == error.offset);
    CHECK(result == nullptr);
    quash_query* prepared = nullptr;
    CHECK_FAILS(quash_query_prepare(c.get(), &options, &prepared), error.status, error.message);
    CHECK(prepared == nullptr);
    quash_iterator* iterator = nullptr;
    CHECK_FAILS(quash_iterate(c.get(), error.filter, 0, &iterator), error.status, error.message);
    CHECK(iterator == nullptr);
  }
  uint64_t count = 77;
  CHECK_FAILS(quash_count(c.get(), "lanq = 'en'", &count), QUASH_NOT_FOUND,
              "did you mean \"lang\"");
  const std::string deep = std::string(65, '(') + "TRUE" + std::string(65, ')');
  CHECK_FAILS(quash_count(c.get(), deep.c_str(), &count), QUASH_LIMIT, "64");
  const std::string longest(QUASH_FILTER_BYTES_MAX + 1, ' ');
  CHECK_FAILS(quash_count(c.get(), longest.c_str(), &count), QUASH_LIMIT, "1048576");
  CHECK_FAILS(quash_delete_where(c.get(), nullptr, &count), QUASH_INVALID, "filter");
  CHECK(count == 77);
  // An error without a place has offset -1.
  CHECK_FAILS(quash_count(c.get(), nullptr, nullptr), QUASH_INVALID, "out_count");
  CHECK(quash_error_offset() == -1);
}

TEST_SUITE_END();

}  // namespace
}  // namespace capi_test
