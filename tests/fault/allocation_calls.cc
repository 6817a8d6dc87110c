#include "tests/fault/allocation_calls.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>

#include "tests/capi/support.h"
#include "tests/fault/failing_alloc.h"

namespace fault_test {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kDim = 16;

void Say(const std::string& line) {
  std::puts(line.c_str());
  std::fflush(stdout);
}

void Must(quash_status status, const char* what) {
  if (status == QUASH_OK) return;
  Say(fmt::format("X {}: {} {}", what, quash_status_name(status), quash_errmsg()));
  std::exit(1);
}

// Rows of both collections, made before any allocation fails.
struct Inputs {
  capi_test::Rows numbers = capi_test::SampleRows(120, kDim, 2000, 5);
  capi_test::Rows replaced = capi_test::SampleRows(200, kDim, 100, 6);
  capi_test::Rows many = capi_test::SampleRows(4200, kDim, 10'000, 7);
  capi_test::Rows names = capi_test::SampleRows(60, kDim, 3000, 8);
  std::vector<float> queries = capi_test::RandomVectors(3, kDim, 9);
  std::vector<int64_t> int_ids, out_ids;
  std::vector<const char*> text_ids = {"row 3", "row 7", "unknown"};
  std::vector<uint8_t> found = std::vector<uint8_t>(1000);
  std::vector<int64_t> ids = std::vector<int64_t>(100);
  std::vector<float> scores = std::vector<float>(100);

  Inputs() {
    for (int64_t id = 0; id < 400; id += 2) int_ids.push_back(id);
    out_ids.resize(4200);
    many.metadata.clear();  // as many allocations as in the calls of fewer rows
    many.documents.clear();
    for (capi_test::Rows* rows : {&numbers, &replaced, &many, &names}) {
      if (rows == &names) NameRows(rows);
      rows->Get();
    }
  }
  static void NameRows(capi_test::Rows* rows) {
    for (const int64_t id : rows->int_ids) rows->string_ids.push_back(fmt::format("row {}", id));
    rows->int_ids.clear();
  }
  quash_ids Ints() const { return {int_ids.size(), int_ids.data(), nullptr}; }
  quash_ids Texts() const { return {text_ids.size(), nullptr, text_ids.data()}; }
};

Inputs& inputs() {
  static Inputs inputs;
  return inputs;
}

// What a call wrote, by its place: it may be looked up before the call is made.
quash_status Text(quash_status status, char* const* text) {
  if (status == QUASH_OK) quash_free(*text);
  return status;
}

quash_status Free(quash_status status, quash_result* const* result) {
  if (status == QUASH_OK) quash_result_free(*result);
  return status;
}

quash_status Search(quash_collection* collection, bool exact, const char* filter,
                    uint32_t include) {
  quash_search_options options;
  quash_search_options_init(&options);
  options.exact = exact;
  options.filter = filter;
  options.include = include;
  quash_result* result = nullptr;
  return Free(quash_search(collection, inputs().queries.data(), 3, 10, &options, &result), &result);
}

quash_status OpenAndClose(const std::string& path, quash_open_mode mode) {
  quash_open_options options;
  quash_open_options_init(&options);
  options.mode = mode;
  options.durability = QUASH_DURABILITY_NORMAL;
  options.threads = 1;
  quash_db* db = nullptr;
  const quash_status status = quash_open(path.c_str(), &options, &db);
  // Closing writes; that it copes with a lack of memory is tried by itself.
  failing_alloc::Stop();
  return status == QUASH_OK ? quash_close(db) : status;
}

void CreateSample(World& world, const char* name, bool strings) {
  const auto fields = capi_test::SampleFields();
  quash_collection_options options;
  quash_collection_options_init(&options);
  options.dim = kDim;
  options.metric = strings ? QUASH_METRIC_COSINE : QUASH_METRIC_L2;
  options.id_type = strings ? QUASH_ID_STRING : QUASH_ID_INT64;
  options.rerank = strings ? QUASH_RERANK_INT8 : QUASH_RERANK_F32;
  options.fields = fields.data();
  options.num_fields = fields.size();
  options.partition_rows = strings ? UINT64_MAX : 1000;
  quash_collection* collection = nullptr;
  Must(quash_collection_create(world.db(), name, &options, &collection), "creating");
  capi_test::Rows rows = capi_test::SampleRows(strings ? 600 : 1100, kDim, 0, 1);
  if (strings) Inputs::NameRows(&rows);
  Must(quash_add(collection, rows.Get(), nullptr), "adding");
  Must(quash_compact(world.db()), "compacting");  // seals, and makes lists
  const int64_t doomed[] = {0, 1, 2, 33, 34};
  const quash_ids ids = {5, doomed, nullptr};
  if (!strings) Must(quash_delete(collection, &ids, nullptr), "deleting");
  capi_test::Rows tail = capi_test::SampleRows(40, kDim, 1100, 2);
  if (strings) Inputs::NameRows(&tail);
  Must(quash_add(collection, tail.Get(), nullptr), "adding");
  quash_collection_free(collection);
}

std::string& Path() {  // made before allocations fail
  static std::string path;
  return path;
}

quash_query*& Query() {
  static quash_query* query = nullptr;
  return query;
}

quash_iterator*& Iterator() {
  static quash_iterator* iterator = nullptr;
  return iterator;
}

void PrepareQuery(World& world) {
  quash_query_free(Query());
  quash_search_options options;
  quash_search_options_init(&options);
  options.filter = "bucket > 2";
  Must(quash_query_prepare(world.numbers(), &options, &Query()), "preparing");
}

void PrepareAndRunQuery(World& world) {
  PrepareQuery(world);
  quash_result* result = nullptr;
  Must(quash_query_run(Query(), inputs().queries.data(), 2, 5, &result), "running");
  quash_result_free(result);
}

// Where a call that is refused may have done some of what changes no row.
void ResetWorld(World& world) { world.Reset(); }

constexpr uint32_t kAll = QUASH_INCLUDE_METADATA | QUASH_INCLUDE_DOCUMENTS | QUASH_INCLUDE_VECTORS;

}  // namespace

World::World(const std::string& directory) : directory_(directory) {
  quash_open_options options;
  quash_open_options_init(&options);
  options.durability = QUASH_DURABILITY_NORMAL;
  options.threads = 1;
  Must(quash_open(path("original").c_str(), &options, &db_), "making the database");
  CreateSample(*this, "numbers", false);
  CreateSample(*this, "names", true);
  Close();
  Reset();
}

World::~World() { Close(); }

void World::Open() {
  quash_open_options options;
  quash_open_options_init(&options);
  options.durability = QUASH_DURABILITY_NORMAL;
  options.threads = 1;
  Must(quash_open(path("a.qdb").c_str(), &options, &db_), "opening");
  Must(quash_collection_open(db_, "numbers", &numbers_), "opening numbers");
  Must(quash_collection_open(db_, "names", &names_), "opening names");
}

void World::Close() {
  quash_query_free(Query());
  quash_iterator_free(Iterator());
  Query() = nullptr;
  Iterator() = nullptr;
  quash_collection_free(numbers_);
  quash_collection_free(names_);
  numbers_ = names_ = nullptr;
  if (db_ != nullptr) Must(quash_close(db_), "closing");
  db_ = nullptr;
}

void World::Reset() {
  Close();
  fs::remove_all(path("a.qdb"));
  fs::copy(path("original"), path("a.qdb"), fs::copy_options::recursive);
  Open();
}

void World::Reopen() {
  Close();
  Open();
}

std::string World::Dump() const {
  std::string dump;
  Must(capi_test::TryDump(db_, &dump, capi_test::Vectors::kBytes), "reading everything");
  char* text = nullptr;
  Must(quash_collection_list(db_, &text), "listing");
  dump += text;
  quash_free(text);
  for (quash_collection* collection : {numbers_, names_}) {
    // A dropped collection has no description.
    if (quash_collection_describe(collection, &text) != QUASH_OK) continue;
    dump += text;
    quash_free(text);
  }
  return dump;
}

const std::vector<AllocatingCall>& AllocatingCalls() {
  static const std::vector<AllocatingCall> calls = {
      {"open_create",
       [](World& world) {
         Path() = world.path("new.qdb");
         fs::remove_all(Path());
       },
       [](World&) { return OpenAndClose(Path(), QUASH_OPEN_CREATE); }},
      {"open_readwrite",
       [](World& world) {
         Path() = world.path("copy.qdb");
         fs::remove_all(Path());
         fs::copy(world.path("original"), Path(), fs::copy_options::recursive);
       },
       [](World&) { return OpenAndClose(Path(), QUASH_OPEN_READWRITE); }},
      {"open_readonly", [](World& world) { Path() = world.path("original"); },
       [](World&) { return OpenAndClose(Path(), QUASH_OPEN_READONLY); }},
      {"open_follower", [](World& world) { Path() = world.path("a.qdb"); },
       [](World&) { return OpenAndClose(Path(), QUASH_OPEN_FOLLOWER); }},
      {"open_memory", [](World&) { Path() = ":memory:"; },
       [](World&) { return OpenAndClose(Path(), QUASH_OPEN_CREATE); }},
      {"checkpoint", ResetWorld, [](World& world) { return quash_checkpoint(world.db()); }},
      {"refresh", nullptr, [](World& world) { return quash_refresh(world.db()); }},
      {"backup",
       [](World& world) {
         Path() = world.path("backup");
         fs::remove_all(Path());
       },
       [](World& world) { return quash_backup(world.db(), Path().c_str()); }},
      {"restore",
       [](World& world) {
         static std::string from;
         from = world.path("original");
         Path() = world.path("restored");
         fs::remove_all(Path());
       },
       [](World& world) {
         static const std::string from = world.path("original");
         return quash_restore(from.c_str(), Path().c_str());
       }},
      {"verify", nullptr,
       [](World& world) {
         char* text = nullptr;
         return Text(quash_verify(world.db(), &text), &text);
       }},
      {"stats", nullptr,
       [](World& world) {
         char* text = nullptr;
         return Text(quash_stats(world.db(), &text), &text);
       }},
      {"collection_list", nullptr,
       [](World& world) {
         char* text = nullptr;
         return Text(quash_collection_list(world.db(), &text), &text);
       }},
      {"collection_describe", nullptr,
       [](World& world) {
         char* text = nullptr;
         return Text(quash_collection_describe(world.numbers(), &text), &text);
       }},
      {"collection_stats", nullptr,
       [](World& world) {
         quash_collection_info info = {};
         info.struct_size = sizeof(info);
         return quash_collection_stats(world.names(), &info);
       }},
      {"collection_open", nullptr,
       [](World& world) {
         quash_collection* collection = nullptr;
         const quash_status status = quash_collection_open(world.db(), "names", &collection);
         if (status == QUASH_OK) quash_collection_free(collection);
         return status;
       }},
      {"collection_create", nullptr,
       [](World& world) {
         const quash_field field = {"year", QUASH_FIELD_INT};
         quash_collection_options options;
         quash_collection_options_init(&options);
         options.dim = 24;
         options.fields = &field;
         options.num_fields = 1;
         quash_collection* collection = nullptr;
         const quash_status status = quash_collection_create(
             world.db(), "a collection with a name of some length", &options, &collection);
         if (status == QUASH_OK) quash_collection_free(collection);
         return status;
       }},
      {"collection_drop", nullptr,
       [](World& world) { return quash_collection_drop(world.db(), "names"); }},
      {"collection_add_field", nullptr,
       [](World& world) {
         const quash_field field = {"a_field_with_a_name_of_some_length", QUASH_FIELD_STRING};
         return quash_collection_add_field(world.numbers(), &field);
       }},
      {"attach_gpu", nullptr,
       [](World& world) {
         const quash_status status = quash_collection_attach_gpu(world.numbers(), nullptr);
         return status == QUASH_UNSUPPORTED ? QUASH_OK : status;
       }},
      {"add", nullptr,
       [](World& world) {
         return quash_add(world.numbers(), &inputs().numbers.view.rows, inputs().out_ids.data());
       }},
      {"add_sealing", nullptr,
       [](World& world) {
         return quash_add(world.numbers(), &inputs().many.view.rows, inputs().out_ids.data());
       }},
      {"add_strings", nullptr,
       [](World& world) { return quash_add(world.names(), &inputs().names.view.rows, nullptr); }},
      {"upsert", nullptr,  // so many that the segment is written again
       [](World& world) { return quash_upsert(world.numbers(), &inputs().replaced.view.rows); }},
      {"delete", nullptr,
       [](World& world) {
         const quash_ids ids = inputs().Ints();
         uint64_t deleted = 0;
         return quash_delete(world.numbers(), &ids, &deleted);
       }},
      {"delete_strings", nullptr,
       [](World& world) {
         const quash_ids ids = inputs().Texts();
         return quash_delete(world.names(), &ids, nullptr);
       }},
      {"delete_where", nullptr,
       [](World& world) {
         uint64_t deleted = 0;
         return quash_delete_where(world.numbers(), "lang = 'en' OR bucket IN (1, 2, 3)", &deleted);
       }},
      {"compact", ResetWorld, [](World& world) { return quash_compact(world.db()); }},
      {"search", nullptr, [](World& world) { return Search(world.numbers(), false, nullptr, 0); }},
      {"search_exact", nullptr,
       [](World& world) { return Search(world.numbers(), true, nullptr, kAll); }},
      {"search_filtered", nullptr,
       [](World& world) {
         return Search(world.names(), false, "tags CONTAINS 'a' OR lang LIKE 'd%' AND price > 1",
                       kAll);
       }},
      {"search_into", nullptr,
       [](World& world) {
         return quash_search_into(world.numbers(), inputs().queries.data(), 3, 10, nullptr,
                                  inputs().ids.data(), inputs().scores.data(), nullptr);
       }},
      {"search_by_id", nullptr,
       [](World& world) {
         const int64_t id = 50;
         const quash_ids ids = {1, &id, nullptr};
         quash_result* result = nullptr;
         return Free(quash_search_by_id(world.numbers(), &ids, 5, nullptr, &result), &result);
       }},
      {"query_prepare", nullptr,
       [](World& world) {
         quash_search_options options;
         quash_search_options_init(&options);
         options.filter = "NOT (fresh = TRUE) AND sizes CONTAINS ANY (1, 2)";
         quash_query* query = nullptr;
         const quash_status status = quash_query_prepare(world.numbers(), &options, &query);
         if (status == QUASH_OK) quash_query_free(query);
         return status;
       }},
      {"query_run", PrepareQuery,
       [](World&) {
         quash_result* result = nullptr;
         return Free(quash_query_run(Query(), inputs().queries.data(), 3, 7, &result), &result);
       }},
      {"query_explain", PrepareAndRunQuery,
       [](World&) {
         char* text = nullptr;
         return Text(quash_query_explain(Query(), &text), &text);
       }},
      {"get", nullptr,
       [](World& world) {
         const quash_ids ids = inputs().Ints();
         quash_result* result = nullptr;
         return Free(quash_get(world.numbers(), &ids, kAll, &result), &result);
       }},
      {"contains", nullptr,
       [](World& world) {
         const quash_ids ids = inputs().Texts();
         return quash_contains(world.names(), &ids, inputs().found.data());
       }},
      {"count", nullptr,
       [](World& world) {
         uint64_t count = 0;
         return quash_count(world.names(), "price BETWEEN 1 AND 20.5 AND lang IS NOT NULL", &count);
       }},
      {"iterate", nullptr,
       [](World& world) {
         quash_iterator* iterator = nullptr;
         const quash_status status = quash_iterate(world.names(), "bucket < 5", kAll, &iterator);
         if (status == QUASH_OK) quash_iterator_free(iterator);
         return status;
       }},
      {"iterator_next",
       [](World& world) {
         quash_iterator_free(Iterator());
         Must(quash_iterate(world.names(), "bucket < 5", kAll, &Iterator()), "iterating");
       },
       [](World&) {
         quash_result* result = nullptr;
         return Free(quash_iterator_next(Iterator(), 50, &result), &result);
       }},
      {"measure", nullptr,
       [](World& world) {
         quash_measure_options options;
         quash_measure_options_init(&options);
         options.sample = 8;
         options.target_recall = 0.9;
         options.apply = 1;
         quash_measure_report report = {};
         report.struct_size = sizeof(report);
         return quash_measure(world.numbers(), &options, &report);
       }},
  };
  return calls;
}

namespace {

// Which of them fail, in turn.
std::vector<uint64_t> Chosen(const std::vector<failing_alloc::Allocation>& own,
                             const AllocationRun& run) {
  std::vector<uint64_t> numbers;
  std::map<uint64_t, uint64_t> of_stack;
  for (const auto& [number, stack] : own) {
    if (run.per_stack == 0 || of_stack[stack]++ < run.per_stack) numbers.push_back(number);
  }
  // What is allocated depends a little on what went before: beyond the last too,
  // until nothing fails.
  const uint64_t last = own.empty() ? 0 : own.back().number;
  for (uint64_t beyond = 1; beyond <= 5; ++beyond) numbers.push_back(last + beyond);
  const size_t step = run.limit == 0 ? 1 : std::max<size_t>(1, numbers.size() / run.limit);
  std::vector<uint64_t> chosen;
  for (size_t i = 0; i < numbers.size(); i += step) chosen.push_back(numbers[i]);
  return chosen;
}

}  // namespace

int FailAllocations(const std::string& name, const std::string& directory,
                    const AllocationRun& run) {
  const AllocatingCall* call = nullptr;
  for (const AllocatingCall& known : AllocatingCalls()) {
    if (name == known.name) call = &known;
  }
  if (call == nullptr) return 2;
  World world(directory);
  inputs();
  const std::string before = world.Dump();
  const auto attempt = [&](uint64_t number) {
    if (run.cold) world.Reopen();
    if (call->prepare) call->prepare(world);
    failing_alloc::Start(number, run.from_there);
    const quash_status status = call->call(world);
    failing_alloc::Stop();
    return status;
  };
  // The counted run finds caches as the ones that follow do.
  Must(attempt(0), "unhindered");
  world.Reset();
  if (!run.cold) (void)world.Dump();
  Must(attempt(0), "unhindered");
  const std::vector<failing_alloc::Allocation> own = failing_alloc::OwnAllocations();
  const std::string after = world.Dump();
  world.Reset();
  if (!run.cold) (void)world.Dump();

  uint64_t failures = 0, refused = 0, completed = 0;
  for (const uint64_t number : Chosen(own, run)) {
    Say(fmt::format("N {}", number));
    const quash_status status = attempt(number);
    failures += failing_alloc::Failed() > 0;
    if (status == QUASH_OK) {
      // What is not needed for the result may fail unseen.
      ++completed;
      if (const std::string now = world.Dump(); now != after) {
        Say(fmt::format("X allocation {}: it succeeded, and the database is not what it should be",
                        number));
      }
      if (after != before || failing_alloc::Failed() > 0) world.Reset();
      continue;
    }
    ++refused;
    if (status != QUASH_NOMEM || failing_alloc::Failed() == 0) {
      Say(fmt::format("X allocation {}: {} {}", number, quash_status_name(status), quash_errmsg()));
    }
    if (world.Dump() != before) {
      Say(fmt::format("X allocation {}: it was refused, and the database has changed", number));
      world.Reset();
    }
  }
  // The handle has not suffered.
  if (const quash_status status = attempt(0); status != QUASH_OK || world.Dump() != after) {
    Say(fmt::format("X afterwards: {} {}", quash_status_name(status), quash_errmsg()));
  }
  if (const quash_status status = quash_verify(world.db(), nullptr); status != QUASH_OK) {
    Say(fmt::format("X verify afterwards: {} {}", quash_status_name(status), quash_errmsg()));
  }
  Say(fmt::format("T {} {} {} {}", own.size(), failures, refused, completed));
  return 0;
}

}  // namespace fault_test
