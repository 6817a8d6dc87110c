// Inserts, deletes and replaces rows for a long time while another thread
// searches, then compares the database with one freshly loaded with the same
// rows: recall, latency, memory, disk.
//
//   churn_bench --db DIR --rows 200000 --operations 20000000
//
// Prints a table line as it goes and, last, one JSON object. The exit status is 1
// if a promise is broken: a row lost, wrong or too many, a ratio beyond
// --tolerance, a reader blocked for longer than --blocked-ms.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "bench/churn/churn_rows.h"
#include "bench/churn/reader.h"
#include "bench/ingest/process_memory.h"
#include "quashdb.h"

namespace quash::bench {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using nlohmann::json;

constexpr double kMib = 1 << 20;

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

struct Options {
  std::string db;
  uint64_t operations = 20'000'000;
  size_t rows = 200'000;
  size_t batch = 500;
  uint32_t dim = 128;
  uint32_t bits = 4;
  size_t k = 10;
  size_t queries = 100;
  uint64_t seed = 1;
  int reports = 20;
  double seconds = 1e9;
  double tolerance = 0.15;
  double blocked_ms = 100;
};

// An open database with its one collection.
struct Database {
  Database(const std::string& path, const Options& options, bool create) : path(path) {
    if (create) fs::remove_all(path);
    quash_open_options open;
    quash_open_options_init(&open);
    open.mode = create ? QUASH_OPEN_CREATE : QUASH_OPEN_READWRITE;
    open.durability = QUASH_DURABILITY_NORMAL;
    quash_db* opened = nullptr;
    Check(quash_open(path.c_str(), &open, &opened));
    db.reset(opened);
    quash_collection* made = nullptr;
    if (create) {
      quash_collection_options settings;
      quash_collection_options_init(&settings);
      settings.dim = options.dim;
      settings.bits = options.bits;
      Check(quash_collection_create(opened, "rows", &settings, &made));
    } else {
      Check(quash_collection_open(opened, "rows", &made));
    }
    collection.reset(made);
  }
  quash_collection_info Info() const {
    quash_collection_info info = {};
    info.struct_size = sizeof(info);
    Check(quash_collection_stats(collection.get(), &info));
    return info;
  }

  std::string path;
  std::unique_ptr<quash_db, CloseDb> db;
  std::unique_ptr<quash_collection, FreeCollection> collection;
};

void Upsert(const Database& database, const VectorMaker& maker, const LiveRows& live,
            const std::vector<size_t>& places) {
  if (places.empty()) return;
  std::vector<int64_t> ids;
  std::vector<float> vectors(places.size() * maker.dim());
  for (size_t i = 0; i < places.size(); ++i) {
    ids.push_back(live.id(places[i]));
    maker.Make(live.id(places[i]), live.version(places[i]), &vectors[i * maker.dim()]);
  }
  quash_rows rows;
  quash_rows_init(&rows);
  rows.n = ids.size();
  rows.int_ids = ids.data();
  rows.vectors = vectors.data();
  Check(quash_upsert(database.collection.get(), &rows));
}

void Load(const Database& database, const VectorMaker& maker, const LiveRows& live, size_t batch) {
  for (size_t begin = 0; begin < live.size(); begin += batch) {
    std::vector<size_t> places;
    for (size_t i = begin; i < std::min(begin + batch, live.size()); ++i) places.push_back(i);
    Upsert(database, maker, live, places);
  }
}

// One batch: as many new rows as deletes on average, and as many replaced.
void Churn(const Database& database, const VectorMaker& maker, const Options& options,
           LiveRows* live, std::mt19937_64& random) {
  const uint64_t dice = random() % 3;
  if (dice == 0) {
    std::vector<size_t> places;
    for (size_t i = 0; i < options.batch; ++i) {
      live->Add();
      places.push_back(live->size() - 1);
    }
    Upsert(database, maker, *live, places);
    return;
  }
  std::set<size_t, std::greater<>> chosen;  // descending: removal moves the last row
  while (chosen.size() < std::min(options.batch, live->size() / 2)) {
    chosen.insert(random() % live->size());
  }
  if (dice == 1 && live->size() + options.batch > options.rows) {
    std::vector<int64_t> doomed;
    for (const size_t place : chosen) doomed.push_back(live->id(place));
    for (const size_t place : chosen) live->Remove(place);
    const quash_ids ids = {doomed.size(), doomed.data(), nullptr};
    uint64_t deleted = 0;
    Check(quash_delete(database.collection.get(), &ids, &deleted));
    if (deleted != doomed.size()) {
      throw std::runtime_error(fmt::format("{} of {} rows were deleted", deleted, doomed.size()));
    }
  } else {
    for (const size_t place : chosen) live->Replace(place);
    Upsert(database, maker, *live, {chosen.begin(), chosen.end()});
  }
}

std::vector<float> MakeQueries(const VectorMaker& maker, size_t n) {
  std::vector<float> queries(n * maker.dim());
  for (size_t i = 0; i < n; ++i) {
    maker.Make(-1 - static_cast<int64_t>(i), 0, &queries[i * maker.dim()]);
  }
  return queries;
}

double Recall(const Database& database, const Options& options, const std::vector<float>& queries,
              const std::vector<int64_t>& truth) {
  std::vector<int64_t> ids(options.queries * options.k);
  std::vector<float> scores(ids.size());
  Check(quash_search_into(database.collection.get(), queries.data(), options.queries, options.k,
                          nullptr, ids.data(), scores.data(), nullptr));
  size_t found = 0;
  for (size_t q = 0; q < options.queries; ++q) {
    const auto begin = truth.begin() + static_cast<std::ptrdiff_t>(q * options.k);
    const std::set<int64_t> nearest(begin, begin + static_cast<std::ptrdiff_t>(options.k));
    for (size_t i = 0; i < options.k; ++i) found += nearest.contains(ids[q * options.k + i]);
  }
  return static_cast<double>(found) / static_cast<double>(ids.size());
}

// Exactly the rows that should be there, by id.
void CheckRows(const Database& database, const LiveRows& live) {
  uint64_t count = 0;
  Check(quash_count(database.collection.get(), nullptr, &count));
  std::vector<int64_t> ids;
  for (size_t i = 0; i < live.size(); ++i) ids.push_back(live.id(i));
  std::vector<uint8_t> found(ids.size());
  const quash_ids all = {ids.size(), ids.data(), nullptr};
  Check(quash_contains(database.collection.get(), &all, found.data()));
  const auto there = static_cast<size_t>(std::count(found.begin(), found.end(), 1));
  if (count != live.size() || there != live.size()) {
    throw std::runtime_error(
        fmt::format("{} rows are stored, {} of the {} expected", count, there, live.size()));
  }
  Check(quash_verify(database.db.get(), nullptr));
}

struct Measured {
  double recall = 0;
  std::vector<double> search_us;  // filled by turns
  std::vector<double> cpu_us;     // processor time of the same searches
  double resident_mib = 0;        // codes, rerank tier, columns
  double rss_mib = 0;             // what opening and searching added to the process
  double disk_mib = 0;
  double read_bytes = 0;  // of a search, mean
  double nprobe = 0;
};

double ThreadSeconds() {
  timespec time = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Until upkeep, which runs while nothing is written, has nothing left to do.
void Settle(const Database& database) {
  constexpr std::chrono::seconds kUnchanged{45};  // measuring recall takes long on a busy machine
  uint64_t generation = 0, bytes = 0;
  for (auto since = Clock::now(); Clock::now() - since < kUnchanged;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    const uint64_t generation_now = database.Info().generation;
    const uint64_t bytes_now = DiskBytes(database.path);
    if (generation_now != generation || bytes_now != bytes) since = Clock::now();
    generation = generation_now;
    bytes = bytes_now;
  }
}

// Alternates between both, so that whatever else the machine does hits both; and which
// goes first, since the second finds the CPU ready for the same query.
void TimeSearches(const Options& options, const std::vector<float>& queries, const Database& first,
                  const Database& second, Measured* of_first, Measured* of_second) {
  quash_search_options search;
  quash_search_options_init(&search);
  search.threads = 1;
  std::vector<int64_t> ids(options.k);
  std::vector<float> scores(options.k);
  for (int round = 0; round < 30; ++round) {
    for (size_t q = 0; q < options.queries; ++q) {
      for (const bool is_first : {round % 2 == 0, round % 2 != 0}) {
        const auto start = Clock::now();
        const double cpu_start = ThreadSeconds();
        Check(quash_search_into((is_first ? first : second).collection.get(),
                                &queries[q * options.dim], 1, options.k, &search, ids.data(),
                                scores.data(), nullptr));
        Measured* measured = is_first ? of_first : of_second;
        measured->cpu_us.push_back((ThreadSeconds() - cpu_start) * 1e6);
        measured->search_us.push_back(
            std::chrono::duration<double, std::micro>(Clock::now() - start).count());
      }
    }
  }
}

// What searches read, which no other program has an influence on.
void CountReads(const Database& database, const Options& options,
                const std::vector<float>& queries, Measured* measured) {
  quash_query* prepared = nullptr;
  Check(quash_query_prepare(database.collection.get(), nullptr, &prepared));
  quash_result* result = nullptr;
  Check(quash_query_run(prepared, queries.data(), options.queries, options.k, &result));
  char* text = nullptr;
  Check(quash_query_explain(prepared, &text));
  const json explained = json::parse(text);
  measured->read_bytes =
      explained.at("bytes_read").get<double>() / static_cast<double>(options.queries);
  measured->nprobe = explained.at("nprobe").get<double>();
  quash_free(text);
  quash_result_free(result);
  quash_query_free(prepared);
}

// Opens a closed database and sees what it takes.
std::unique_ptr<Database> OpenAndMeasure(const std::string& path, const Options& options,
                                         const std::vector<float>& queries,
                                         const std::vector<int64_t>& truth, Measured* measured) {
  TrimHeap();
  const ProcessMemory before = ReadProcessMemory();
  auto database = std::make_unique<Database>(path, options, /*create=*/false);
  measured->recall = Recall(*database, options, queries, truth);
  TrimHeap();
  measured->rss_mib =
      (static_cast<double>(ReadProcessMemory().anonymous) - static_cast<double>(before.anonymous)) /
      kMib;
  measured->resident_mib = static_cast<double>(database->Info().resident_bytes) / kMib;
  measured->disk_mib = static_cast<double>(DiskBytes(path)) / kMib;
  return database;
}

double Percentile(std::vector<double> values, double p) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(p * static_cast<double>(values.size() - 1) + 0.5)];
}

json ToJson(const Measured& m) {
  return {{"recall", m.recall},
          {"search_p50_us", Percentile(m.search_us, 0.5)},
          {"search_cpu_p50_us", Percentile(m.cpu_us, 0.5)},
          {"search_p99_us", Percentile(m.search_us, 0.99)},
          {"resident_mib", m.resident_mib},
          {"rss_mib", m.rss_mib},
          {"disk_mib", m.disk_mib},
          {"read_bytes", m.read_bytes},
          {"nprobe", m.nprobe}};
}

json ToJson(const Latencies& l) {
  return {{"searches", l.searches},
          {"p50_us", l.p50},
          {"p99_us", l.p99},
          {"max_us", l.max},
          {"max_blocked_us", l.max_blocked}};
}

int Run(const Options& options) {
  const VectorMaker maker(options.dim, options.seed);
  const std::vector<float> queries = MakeQueries(maker, options.queries);
  std::mt19937_64 random(options.seed);
  LiveRows live;
  while (live.size() < options.rows) live.Add();
  const std::string churned = options.db + "/churned.qdb", fresh = options.db + "/fresh.qdb";
  fs::create_directories(options.db);

  json result = {{"rows", options.rows},
                 {"dim", options.dim},
                 {"batch", options.batch},
                 {"seed", options.seed},
                 {"series", json::array()}};
  Latencies worst;
  uint64_t done = 0;
  {
    const Database database(churned, options, /*create=*/true);
    Load(database, maker, live, 10'000);
    Reader reader(database.collection.get(), queries, options.dim, options.k);
    const auto start = Clock::now();
    fmt::print("{:>10} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9} {:>8} {:>8} {:>8}\n", "operations",
               "ops/s", "live", "p50 ms", "p99 ms", "max ms", "blocked", "dead", "RSS MiB",
               "disk MiB");
    for (int report = 1; report <= options.reports; ++report) {
      const auto report_start = Clock::now();
      const uint64_t until = options.operations * static_cast<uint64_t>(report) /
                             static_cast<uint64_t>(options.reports);
      const uint64_t before = done;
      while (done < until) {
        Churn(database, maker, options, &live, random);
        done += options.batch;
        if (std::chrono::duration<double>(Clock::now() - start).count() > options.seconds) break;
      }
      const Latencies latencies = reader.Take();
      worst.p50 = std::max(worst.p50, latencies.p50);
      worst.p99 = std::max(worst.p99, latencies.p99);
      worst.max = std::max(worst.max, latencies.max);
      worst.max_blocked = std::max(worst.max_blocked, latencies.max_blocked);
      worst.searches += latencies.searches;
      const double seconds = std::chrono::duration<double>(Clock::now() - report_start).count();
      const quash_collection_info info = database.Info();
      const double rss = static_cast<double>(ReadProcessMemory().anonymous) / kMib;
      const double disk = static_cast<double>(DiskBytes(churned)) / kMib;
      fmt::print(
          "{:>10} {:>8.0f} {:>8} {:>8.2f} {:>9.2f} {:>9.2f} {:>9.2f} {:>8} {:>8.0f} {:>8.0f}\n",
          done, static_cast<double>(done - before) / seconds, live.size(), latencies.p50 / 1e3,
          latencies.p99 / 1e3, latencies.max / 1e3, latencies.max_blocked / 1e3, info.dead_rows,
          rss, disk);
      std::fflush(stdout);
      json line = ToJson(latencies);
      line.update({{"operations", done},
                   {"seconds", seconds},
                   {"live", live.size()},
                   {"dead", info.dead_rows},
                   {"segments", info.segments},
                   {"rss_mib", rss},
                   {"disk_mib", disk}});
      result["series"].push_back(std::move(line));
      if (done < until) break;  // out of time
    }
    CheckRows(database, live);
    // With a concurrent writer, on a fresh load below.
  }
  result["operations"] = done;
  const double left_mib = static_cast<double>(DiskBytes(churned)) / kMib;

  // The same rows, loaded once and compacted; and the latency beside a writer there. The
  // churned one is only given the time in which a database that is not written mends
  // itself.
  Latencies fresh_beside_writer;
  {
    const Database database(fresh, options, /*create=*/true);
    Load(database, maker, live, 10'000);
    Check(quash_compact(database.db.get()));
  }
  Settle(Database(churned, options, /*create=*/false));
  const std::vector<int64_t> truth = NearestRows(live, maker, queries, options.k);
  Measured of_churned, of_fresh, of_compacted, of_fresh_again;
  {
    const auto first = OpenAndMeasure(churned, options, queries, truth, &of_churned);
    const auto second = OpenAndMeasure(fresh, options, queries, truth, &of_fresh);
    CheckRows(*first, live);
    CountReads(*first, options, queries, &of_churned);
    CountReads(*second, options, queries, &of_fresh);
    TimeSearches(options, queries, *first, *second, &of_churned, &of_fresh);
    Check(quash_compact(first->db.get()));
    Check(quash_checkpoint(first->db.get()));
    of_compacted.recall = Recall(*first, options, queries, truth);
    TimeSearches(options, queries, *first, *second, &of_compacted, &of_fresh_again);
    of_compacted.resident_mib = static_cast<double>(first->Info().resident_bytes) / kMib;
    of_compacted.disk_mib = static_cast<double>(DiskBytes(churned)) / kMib;
    Reader reader(second->collection.get(), queries, options.dim, options.k);
    for (uint64_t i = 0; i < std::min<uint64_t>(done / 20, 400 * options.batch);
         i += options.batch) {
      Churn(*second, maker, options, &live, random);
    }
    fresh_beside_writer = reader.Take();
  }
  result["churned"] = ToJson(of_churned);
  result["left_disk_mib"] = left_mib;
  result["fresh"] = ToJson(of_fresh);
  result["beside_writer"] = ToJson(worst);
  result["beside_writer_fresh"] = ToJson(fresh_beside_writer);

  // Overwritten values stay on disk until RocksDB or quash_compact() rewrites them.
  result["compacted"] = {
      {"recall", of_compacted.recall},
      {"resident_mib", of_compacted.resident_mib},
      {"disk_mib", of_compacted.disk_mib},
      {"disk_to_fresh", of_compacted.disk_mib / of_fresh.disk_mib},
      {"search_cpu_p50_to_fresh",
       Percentile(of_compacted.cpu_us, 0.5) / Percentile(of_fresh_again.cpu_us, 0.5)}};

  bool kept = worst.max_blocked <= options.blocked_ms * 1e3;
  json ratios;
  for (const auto& [name, value] : result["churned"].items()) {
    const double ratio = value.get<double>() / result["fresh"][name].get<double>();
    ratios[name] = ratio;
    // Wall clock beside other programs is the machine's; p99 beside a writer is reported.
    // Only one of the two has a tail to read.
    const bool is_judged = name != "search_p99_us" && name != "search_p50_us" &&
                           name != "nprobe" && name != "read_bytes";
    if (!is_judged) continue;
    kept &= name == "recall" ? ratio >= 1 - options.tolerance : ratio <= 1 + options.tolerance;
  }
  result["churned_to_fresh"] = ratios;
  result["blocked_bound_ms"] = options.blocked_ms;
  result["ok"] = kept;
  fmt::print("{}\n", result.dump(1));
  return kept ? 0 : 1;
}

}  // namespace
}  // namespace quash::bench

int main(int argc, char** argv) {
  quash::bench::Options options;
  CLI::App app("Churn: a database after many inserts, deletes and replaced rows");
  app.add_option("--db", options.db, "directory for two databases, made anew")->required();
  app.add_option("--operations", options.operations, "rows inserted, deleted or replaced");
  app.add_option("--rows", options.rows, "live rows");
  app.add_option("--batch", options.batch, "rows of a batch");
  app.add_option("--dim", options.dim, "coordinates");
  app.add_option("--bits", options.bits, "bits per coordinate");
  app.add_option("--seed", options.seed, "of rows, queries and the order of operations");
  app.add_option("--reports", options.reports, "lines of the table");
  app.add_option("--seconds", options.seconds, "stop the churn after this time");
  app.add_option("--tolerance", options.tolerance, "how much worse than fresh is still good");
  app.add_option("--blocked-ms", options.blocked_ms, "longest that a search may be blocked");
  CLI11_PARSE(app, argc, argv);
  try {
    return quash::bench::Run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "churn_bench: {} (seed {})\n", error.what(), options.seed);
    return 1;
  }
}
