// Durable ingest, opening, and searching within a memory budget, through the
// public C API. One measurement per process; one JSON object on standard
// output. Times are wall clock, memory is what /proc/self/status says.
//
//   ingest_bench write  --db DIR --vectors FILE --rows N --batch B ...
//   ingest_bench open   --db DIR --vectors FILE
//   ingest_bench search --db DIR --vectors FILE --budget-mib 64 ...
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench/ingest/process_memory.h"
#include "bench/ingest/vector_source.h"
#include "quashdb.h"

namespace quash::bench {
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;

constexpr char kCollection[] = "bench";
constexpr double kMib = 1 << 20;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void Check(quash_status status) {
  if (status != QUASH_OK) {
    throw std::runtime_error(fmt::format("{}: {}", quash_status_name(status), quash_errmsg()));
  }
}

struct CloseDb {
  void operator()(quash_db* db) const { quash_close(db); }
};
struct FreeCollection {
  void operator()(quash_collection* collection) const { quash_collection_free(collection); }
};
using Db = std::unique_ptr<quash_db, CloseDb>;
using Collection = std::unique_ptr<quash_collection, FreeCollection>;

struct Options {
  std::string db;
  std::string vectors;
  uint64_t rows = 0;
  size_t batch = 10000;
  quash_durability durability = QUASH_DURABILITY_FULL;
  uint32_t bits = 4;
  quash_rerank rerank = QUASH_RERANK_F16;
  double seconds = 1e9;
  uint64_t budget_mib = 0;
  size_t queries = 200;
  size_t k = 10;
  uint32_t threads = 1;
};

Db OpenDb(const Options& options, quash_open_mode mode) {
  quash_open_options open;
  quash_open_options_init(&open);
  open.mode = mode;
  open.durability = options.durability;
  open.memory_budget_bytes = options.budget_mib << 20;
  open.threads = options.threads;
  quash_db* db = nullptr;
  Check(quash_open(options.db.c_str(), &open, &db));
  return Db(db);
}

Collection OpenCollection(quash_db* db) {
  quash_collection* collection = nullptr;
  Check(quash_collection_open(db, kCollection, &collection));
  return Collection(collection);
}

Collection CreateCollection(quash_db* db, const Options& options, uint32_t dim) {
  quash_collection_options create;
  quash_collection_options_init(&create);
  create.dim = dim;
  create.bits = options.bits;
  create.rerank = options.rerank;
  quash_collection* collection = nullptr;
  Check(quash_collection_create(db, kCollection, &create, &collection));
  return Collection(collection);
}

quash_collection_info GetInfo(quash_collection* collection) {
  quash_collection_info info = {};
  info.struct_size = sizeof(info);
  Check(quash_collection_stats(collection, &info));
  return info;
}

// sorted: ascending, not empty.
double Percentile(const std::vector<double>& sorted, double p) {
  return sorted[static_cast<size_t>(p * static_cast<double>(sorted.size() - 1) + 0.5)];
}

json Summary(std::vector<double> values_us) {
  std::sort(values_us.begin(), values_us.end());
  return {{"median_us", Percentile(values_us, 0.5)},
          {"p99_us", Percentile(values_us, 0.99)},
          {"max_us", values_us.back()}};
}

json MemoryJson(const ProcessMemory& memory) {
  return {{"rss_mib", static_cast<double>(memory.rss) / kMib},
          {"anonymous_mib", static_cast<double>(memory.anonymous) / kMib},
          {"file_mib", static_cast<double>(memory.file) / kMib},
          {"peak_mib", static_cast<double>(memory.peak) / kMib}};
}

// Adds `rows` rows or as many as fit in `seconds`. Making the vectors is not
// timed; closing, which makes everything durable, is, separately.
json RunWrite(const Options& options) {
  if (std::filesystem::exists(options.db)) {
    throw std::runtime_error(options.db + " exists; expected a path to make a database at");
  }
  VectorSource source(options.vectors);
  const uint64_t wanted = options.rows > 0 ? options.rows : source.file_rows();
  std::vector<float> vectors(options.batch * source.dim());
  source.Read(0, std::min<uint64_t>(options.batch, wanted), vectors.data());
  TrimHeap();
  ResetPeak();
  const ProcessMemory before = ReadProcessMemory();

  Db db = OpenDb(options, QUASH_OPEN_CREATE);
  Collection collection = CreateCollection(db.get(), options, source.dim());
  std::vector<double> batch_us;
  double add_seconds = 0;
  uint64_t rows = 0;
  while (rows < wanted && add_seconds < options.seconds) {
    const size_t n = static_cast<size_t>(std::min<uint64_t>(options.batch, wanted - rows));
    source.Read(rows, n, vectors.data());
    quash_rows batch;
    quash_rows_init(&batch);
    batch.n = n;
    batch.vectors = vectors.data();
    const Clock::time_point start = Clock::now();
    Check(quash_add(collection.get(), &batch, nullptr));
    const double elapsed = SecondsSince(start);
    add_seconds += elapsed;
    batch_us.push_back(elapsed * 1e6);
    rows += n;
  }
  const quash_collection_info info = GetInfo(collection.get());
  const ProcessMemory loaded = ReadProcessMemory();
  collection.reset();
  const Clock::time_point start = Clock::now();
  Check(quash_close(db.release()));
  const double close_seconds = SecondsSince(start);

  const uint64_t disk_bytes = DiskBytes(options.db);
  const double rate = static_cast<double>(rows) / add_seconds;
  const double durable_rate = static_cast<double>(rows) / (add_seconds + close_seconds);
  return {{"rows", rows},
          {"dim", source.dim()},
          {"batch", options.batch},
          {"add_seconds", add_seconds},
          {"close_seconds", close_seconds},
          {"rows_per_second", rate},
          {"rows_per_second_with_close", durable_rate},
          {"batch_latency", Summary(std::move(batch_us))},
          {"segments", info.segments},
          {"tail_rows", info.tail_rows},
          {"code_bytes_per_row", static_cast<double>(info.code_bytes) / info.rows},
          {"rerank_bytes_per_row", static_cast<double>(info.rerank_bytes) / info.rows},
          {"disk_bytes_per_row", static_cast<double>(disk_bytes) / rows},
          {"memory_before", MemoryJson(before)},
          {"memory_loaded", MemoryJson(loaded)}};
}

// One search, with the vectors of rows the file does not hold as queries: near
// stored rows, equal to none.
class Searcher {
 public:
  Searcher(quash_collection* collection, const Options& options, VectorSource* source)
      : collection_(collection), source_(source), k_(options.k), query_(source->dim()) {
    quash_search_options_init(&search_);
    search_.threads = options.threads;
  }

  // Seconds of query i.
  double Run(uint64_t i) {
    constexpr uint64_t kBeyondAnyRow = uint64_t{1} << 40;
    source_->Read(kBeyondAnyRow + i, 1, query_.data());
    std::vector<int64_t> ids(k_);
    std::vector<float> scores(k_);
    const Clock::time_point start = Clock::now();
    Check(quash_search_into(collection_, query_.data(), 1, k_, &search_, ids.data(), scores.data(),
                            nullptr));
    return SecondsSince(start);
  }

 private:
  quash_collection* collection_;
  VectorSource* source_;
  size_t k_;
  quash_search_options search_;
  std::vector<float> query_;
};

// Time from a closed database to the first answer.
json RunOpen(const Options& options) {
  VectorSource source(options.vectors);
  const ProcessMemory before = ReadProcessMemory();
  const Clock::time_point start = Clock::now();
  Db db = OpenDb(options, QUASH_OPEN_READWRITE);
  const double open_seconds = SecondsSince(start);
  Collection collection = OpenCollection(db.get());
  const double collection_seconds = SecondsSince(start);
  Searcher searcher(collection.get(), options, &source);
  const double first_seconds = searcher.Run(0);
  const double second_seconds = searcher.Run(1);
  const quash_collection_info info = GetInfo(collection.get());
  const ProcessMemory after = ReadProcessMemory();
  return {{"rows", info.rows},
          {"open_ms", open_seconds * 1e3},
          {"open_with_collection_ms", collection_seconds * 1e3},
          {"first_search_ms", first_seconds * 1e3},
          {"second_search_ms", second_seconds * 1e3},
          {"memory_before", MemoryJson(before)},
          {"memory_after", MemoryJson(after)}};
}

// Searches of a database larger than the budget: resident memory before
// opening, after it, and the highest during the queries.
json RunSearch(const Options& options) {
  VectorSource source(options.vectors);
  TrimHeap();
  ResetPeak();
  const ProcessMemory before = ReadProcessMemory();
  Db db = OpenDb(options, QUASH_OPEN_READWRITE);
  Collection collection = OpenCollection(db.get());
  const ProcessMemory opened = ReadProcessMemory();
  Searcher searcher(collection.get(), options, &source);
  std::vector<double> query_us;
  for (size_t i = 0; i < options.queries; ++i) query_us.push_back(searcher.Run(i) * 1e6);
  const ProcessMemory after = ReadProcessMemory();
  const quash_collection_info info = GetInfo(collection.get());
  const double data_bytes = static_cast<double>(info.code_bytes + info.rerank_bytes);
  return {
      {"rows", info.rows},
      {"budget_mib", options.budget_mib},
      {"stored_mib", data_bytes / kMib},
      {"resident_mib_by_library", static_cast<double>(info.resident_bytes) / kMib},
      {"hot_bytes_per_row", static_cast<double>(info.hot_bytes) / info.rows},
      {"first_search_us", query_us.front()},
      {"search", Summary(query_us)},
      {"rss_growth_mib", (static_cast<double>(after.rss) - static_cast<double>(before.rss)) / kMib},
      {"peak_growth_mib",
       (static_cast<double>(after.peak) - static_cast<double>(before.rss)) / kMib},
      {"memory_before", MemoryJson(before)},
      {"memory_opened", MemoryJson(opened)},
      {"memory_after", MemoryJson(after)}};
}

int Main(int argc, char** argv) {
  Options options;
  const std::map<std::string, quash_durability> durabilities = {
      {"full", QUASH_DURABILITY_FULL}, {"normal", QUASH_DURABILITY_NORMAL}};
  const std::map<std::string, quash_rerank> reranks = {{"none", QUASH_RERANK_NONE},
                                                       {"int8", QUASH_RERANK_INT8},
                                                       {"f16", QUASH_RERANK_F16},
                                                       {"f32", QUASH_RERANK_F32}};
  CLI::App app("Measures durable ingest, opening and searching within a memory budget.");
  app.require_subcommand(1);
  CLI::App* write = app.add_subcommand("write", "Makes a database and adds rows to it");
  CLI::App* open = app.add_subcommand("open", "Opens a database, to the first answer");
  CLI::App* search = app.add_subcommand("search", "Searches a database within a memory budget");
  for (CLI::App* command : {write, open, search}) {
    command->add_option("--db", options.db, "Database directory")->required();
    command->add_option("--vectors", options.vectors, ".npy, .fvecs or .bvecs of base vectors")
        ->required()
        ->check(CLI::ExistingFile);
    command->add_option("--threads", options.threads, "Threads per call; 0: one per core");
    command->add_option("--budget-mib", options.budget_mib, "Memory budget; 0: none");
  }
  write->add_option("--rows", options.rows, "Rows to add; 0: those of the file");
  write->add_option("--batch", options.batch, "Rows per call")->check(CLI::Range(1, 1 << 24));
  write->add_option("--seconds", options.seconds, "Stop adding after this time");
  write->add_option("--bits", options.bits, "Bits per coordinate")->check(CLI::Range(1, 4));
  write->add_option("--durability", options.durability, "full: fsync per batch; normal: at close")
      ->transform(CLI::CheckedTransformer(durabilities));
  write->add_option("--rerank", options.rerank, "Rerank tier")
      ->transform(CLI::CheckedTransformer(reranks));
  search->add_option("--queries", options.queries, "Number of queries")
      ->check(CLI::Range(1, 1 << 24));
  search->add_option("-k", options.k, "Results per query")->check(CLI::Range(1u, QUASH_K_MAX));
  CLI11_PARSE(app, argc, argv);

  json result = write->parsed()  ? RunWrite(options)
                : open->parsed() ? RunOpen(options)
                                 : RunSearch(options);
  result["isa"] = quash_isa();
  fmt::print("{}\n", result.dump(2));
  return 0;
}

}  // namespace
}  // namespace quash::bench

int main(int argc, char** argv) {
  try {
    return quash::bench::Main(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "Error: {}\n", error.what());
    return 1;
  }
}
