#include "cli/verbs.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "cli/bench.h"
#include "cli/export.h"
#include "cli/import.h"
#include "cli/matrix.h"
#include "cli/parser.h"
#include "cli/plot.h"
#include "cli/statements.h"
#include "cli/text.h"

namespace quash::cli {
namespace {

std::function<quash_open_mode()> Always(quash_open_mode mode) {
  return [mode] { return mode; };
}

// The collection of a verb: second positional of a subcommand, first of a
// dot-command.
void AddCollection(CLI::App& app, std::string* collection) {
  app.add_option("collection", *collection, "Collection")->required();
}
void AddCollectionOrOnly(CLI::App& app, std::string* collection) {
  app.add_option("collection", *collection, "Collection (default: the only one)");
}

BoundVerb DefineImport(CLI::App& app, bool subcommand) {
  const auto options = std::make_shared<ImportOptions>();
  if (subcommand) {
    AddCollection(app, &options->collection);
    app.add_option("file,--vectors", options->file, "File to import")->required();
  } else {
    app.add_option("file,--vectors", options->file, "File to import")->required();
    app.add_option("collection,--collection", options->collection,
                   "Collection (default: the file's name)");
  }
  app.add_flag("--create", options->create,
               "Make the collection, with field types found in the file");
  app.add_flag("--replace", options->replace, "Replace rows whose id is stored");
  app.add_option("--metadata", options->metadata, "JSON Lines beside a vector file, row by row");
  app.add_option("--ids", options->ids, "Ids of a vector file: .npy integers, or one per line");
  app.add_option("--id-field", options->id_field, "Key or column of the id")->capture_default_str();
  app.add_option("--vector-field", options->vector_field, "Key or column of the vector")
      ->capture_default_str();
  app.add_option("--document-field", options->document_field, "Key or column of the document")
      ->capture_default_str();
  app.add_option("--fields", options->fields, "The only fields to take, comma-separated")
      ->delimiter(',');
  app.add_option("--metric", options->metric, "With --create: cosine, ip or l2")
      ->capture_default_str();
  app.add_option("--bits", options->bits, "With --create: bits per coordinate, 1 to 4")
      ->capture_default_str();
  app.add_option("--rerank", options->rerank, "With --create: none, int8, f16 or f32")
      ->capture_default_str();
  app.add_option("--partition-rows", options->partition_rows,
                 "With --create: rows from which it is partitioned; 0: 100000");
  const auto source = std::make_shared<std::unique_ptr<RowSource>>();
  return {[options, source](Session& session) { Import(session, *options, std::move(*source)); },
          [options] { return options->create ? QUASH_OPEN_CREATE : QUASH_OPEN_READWRITE; },
          [options, source] {
            if (options->create) *source = OpenSource(*options);
          }};
}

BoundVerb DefineExport(CLI::App& app, bool subcommand) {
  const auto options = std::make_shared<ExportOptions>();
  if (subcommand) AddCollection(app, &options->collection);
  app.add_option("file", options->file, "File to write: .jsonl, .csv or .npy")->required();
  if (!subcommand) {
    app.add_option("collection,--collection", options->collection,
                   "Collection (default: the only one)");
  }
  app.add_option("--filter", options->filter, "Only rows matching this WHERE text");
  app.add_flag("--no-vectors", options->no_vectors, "Leave vectors out of .jsonl and .csv");
  return {[options](Session& session) { Export(session, *options); }, Always(QUASH_OPEN_READONLY)};
}

struct SearchOptions {
  std::string collection;
  std::optional<std::string> vector;
  std::optional<std::string> id;
  std::optional<std::string> queries;
  std::optional<uint64_t> row;
  std::string filter;
  std::vector<std::string> columns;
  uint64_t k = 10;
  bool exact = false;
  std::optional<double> recall;
  std::optional<uint64_t> nprobe;
  std::optional<uint64_t> candidates;
  std::optional<double> min_score;
  bool explain = false;
};

// The error with the place in the option's text that it blames.
Error WithExcerpt(const Error& error, const std::string& text, size_t offset) {
  return Error(fmt::format("{}\n{}", error.what(), Excerpt(text, offset, StderrWidth())),
               std::nullopt, error.exit_code());
}

std::vector<float> VectorOption(const std::string& text) {
  try {
    return ParseVector(text);
  } catch (const Error& error) {
    throw error.offset() ? WithExcerpt(error, text, *error.offset()) : error;
  }
}

void RunSearchVerb(Session& session, const SearchOptions& options) {
  Select select;
  select.collection.text = options.collection;
  Nearest nearest;
  if (options.vector) {
    nearest.vector = VectorOption(*options.vector);
  } else if (options.queries) {
    nearest.kind = Nearest::Kind::kFile;
    nearest.file = *options.queries;
    nearest.row = options.row;
  } else {
    nearest.kind = Nearest::Kind::kId;
    const Schema schema = DescribeCollection(session.OpenCollection(options.collection).get());
    nearest.id = *options.id;
    if (!schema.has_string_ids()) {
      nearest.id = Value::parse(*options.id, nullptr, false);
      if (!nearest.id.is_number_integer()) {
        throw Error(fmt::format("id \"{}\" is not an integer", *options.id));
      }
    }
  }
  select.nearest = std::move(nearest);
  constexpr size_t kFilterBegin = 1;  // the other offsets, which say nothing, are 0
  if (!options.filter.empty()) select.where = FilterText{options.filter, kFilterBegin};
  for (const std::string& column : options.columns) select.columns.push_back({column});
  select.limit = options.k;
  if (options.exact) select.options.push_back({{"exact"}, true});
  if (options.recall) select.options.push_back({{"recall"}, *options.recall});
  if (options.nprobe) select.options.push_back({{"nprobe"}, *options.nprobe});
  if (options.candidates) select.options.push_back({{"candidates"}, *options.candidates});
  if (options.min_score) select.options.push_back({{"min_score"}, *options.min_score});
  try {
    options.explain ? RunExplain(session, select) : RunSelect(session, select);
  } catch (const Error& error) {
    const size_t offset = error.offset().value_or(0);
    throw offset < kFilterBegin ? error : WithExcerpt(error, options.filter, offset - kFilterBegin);
  }
}

BoundVerb DefineSearch(CLI::App& app, bool) {
  const auto options = std::make_shared<SearchOptions>();
  AddCollection(app, &options->collection);
  CLI::Option_group* query = app.add_option_group("query");
  query->add_option("--vector", options->vector, "Query vector: \"[0.1, 0.2, ...]\"");
  query->add_option("--id", options->id, "Id of a stored row whose vector is the query");
  CLI::Option* queries = query->add_option("--queries", options->queries, "Vector file of queries");
  query->require_option(1);
  app.add_option("--row", options->row, "The only row of --queries to search for, from 0")
      ->needs(queries);
  app.add_option("-k,--k", options->k, "Results per query")->capture_default_str();
  app.add_option("--filter", options->filter, "WHERE text that results must match");
  app.add_option("--columns", options->columns, "Columns to show, comma-separated")->delimiter(',');
  app.add_flag("--exact", options->exact, "Score every row from the rerank tier");
  app.add_option("--recall", options->recall,
                 "Share of the best rows to find in a partitioned collection, above 0 to 1");
  app.add_option("--nprobe", options->nprobe, "Lists to probe, instead of --recall");
  app.add_option("--candidates", options->candidates, "Survivors of the plane scan");
  app.add_option("--min-score", options->min_score, "Lowest score of a result");
  app.add_flag("--explain", options->explain, "Show how the search was done instead");
  return {[options](Session& session) { RunSearchVerb(session, *options); },
          Always(QUASH_OPEN_READONLY)};
}

BoundVerb DefineBackup(CLI::App& app, bool) {
  const auto path = std::make_shared<std::string>();
  app.add_option("target", *path, "Directory to make")->required();
  const auto run = [path](Session& session) {
    {
      const WithProgress progress(session, "backing up");
      Check(quash_backup(session.db(), path->c_str()));
    }
    session.Remark(fmt::format("backed up to {}", *path));
  };
  return {run, Always(QUASH_OPEN_READWRITE)};  // to flush first
}

BoundVerb DefineRestore(CLI::App& app, bool) {
  const auto from = std::make_shared<std::string>();
  const auto to = std::make_shared<std::string>();
  app.add_option("backup", *from, "Directory that backup made")->required();
  app.add_option("target", *to, "Database directory to make")->required();
  const auto run = [from, to](Session& session) {
    Check(quash_restore(from->c_str(), to->c_str()));
    session.Remark(fmt::format("restored to {}", *to));
  };
  return {run, Always(QUASH_OPEN_READONLY)};
}

void RunCheck(Session& session) {
  char* text = nullptr;
  quash_status status;
  {
    const WithProgress progress(session, "checking");
    status = quash_verify(session.db(), &text);
  }
  if (status != QUASH_OK && status != QUASH_CORRUPT) Check(status);
  const std::string message = status == QUASH_OK ? "" : quash_errmsg();
  const nlohmann::json report = nlohmann::json::parse(TakeText(text), nullptr, false);
  if (session.settings.mode == Mode::kJson && report.is_object()) {
    session.Write(report.dump() + "\n");
  } else if (report.is_object()) {
    const auto count = [&](const char* key) { return report.value(key, uint64_t{0}); };
    session.Write(fmt::format("{} collections, {} rows, {} segments, {} read\n",
                              count("collections"), FormatCount(count("rows")),
                              FormatCount(count("segments")), FormatBytes(count("bytes"))));
    for (const nlohmann::json& problem : report.value("problems", nlohmann::json::array())) {
      session.Write((problem.is_string() ? problem.get<std::string>() : problem.dump()) + "\n");
    }
    if (status == QUASH_OK) session.Write("ok\n");
  }
  if (status == QUASH_CORRUPT) throw Error(message, std::nullopt, kExitDamaged);
}

BoundVerb DefineCheck(CLI::App&, bool) { return {RunCheck, Always(QUASH_OPEN_READONLY)}; }

// Nested JSON as "a.b.c" and value.
void Flatten(const std::string& prefix, const nlohmann::json& json,
             std::vector<std::vector<Cell>>* rows) {
  if (!json.is_structured()) {
    const bool bytes = prefix.ends_with("_bytes") && json.is_number_unsigned();
    const std::string text = json.is_string() ? json.get<std::string>() : json.dump();
    rows->push_back(
        {Cell::Text(prefix),
         bytes ? Cell::Text(fmt::format("{} ({})", text, FormatBytes(json))) : Cell::Text(text)});
    return;
  }
  for (const auto& [key, value] : json.items()) {
    std::string name = key;
    if (json.is_array() && value.is_object() && value.contains("name")) {
      name = value["name"].get<std::string>();
    }
    Flatten(prefix.empty() ? name : prefix + "." + name, value, rows);
  }
}

BoundVerb DefineStats(CLI::App& app, bool) {
  const auto name = std::make_shared<std::string>();
  app.add_option("collection", *name, "Only this collection");
  const auto run = [name](Session& session) {
    char* text = nullptr;
    Check(quash_stats(session.db(), &text));
    nlohmann::json stats = nlohmann::json::parse(TakeText(text));
    if (!name->empty()) {
      session.OpenCollection(*name);  // the error for a wrong name
      nlohmann::json all = stats.value("collections", nlohmann::json::array());
      for (const nlohmann::json& one : all) {
        if (one.value("name", "") == *name) stats = one;
      }
    }
    if (session.settings.mode == Mode::kJson) {
      session.Write(stats.dump(2) + "\n");
      return;
    }
    std::vector<std::vector<Cell>> rows;
    Flatten("", stats, &rows);
    session.Print({"statistic", "value"}, std::move(rows));
  };
  return {run, Always(QUASH_OPEN_READONLY)};
}

BoundVerb DefineMeasure(CLI::App& app, bool) {
  const auto options = std::make_shared<MeasureOptions>();
  AddCollectionOrOnly(app, &options->collection);
  app.add_option("-k,--k", options->k, "Results per query")->capture_default_str();
  app.add_option("--target", options->target,
                 "Find the smallest widths and fewest lists with this recall, 0 to 1")
      ->check(CLI::Range(0.0, 1.0).description(""));
  app.add_option("--sample", options->sample, "Queries")->capture_default_str();
  app.add_option("--queries", options->queries, "Vector file of queries (default: stored rows)");
  app.add_flag("--apply", options->apply, "Keep what was found as the collection's default");
  return {[options](Session& session) {
            if (!options->queries.empty()) session.RefuseIfSafe("--queries");
            Measure(session, *options);
          },
          [options] { return options->apply ? QUASH_OPEN_READWRITE : QUASH_OPEN_READONLY; }};
}

BoundVerb DefineBench(CLI::App& app, bool) {
  const auto options = std::make_shared<BenchOptions>();
  AddCollectionOrOnly(app, &options->collection);
  app.add_option("-k,--k", options->k, "Results per query")->capture_default_str();
  app.add_option("--queries", options->queries, "Vector file of queries (default: stored rows)");
  app.add_option("-n,--count", options->count, "Queries at most")->capture_default_str();
  app.add_option("--recall", options->recall, "Recall to aim at in a partitioned collection");
  app.add_option("--nprobe", options->nprobe, "Lists to probe, instead of --recall");
  app.add_option("--candidates", options->candidates, "Survivors of the plane scan");
  app.add_option("--rerank-candidates", options->rerank_candidates,
                 "Rows scored from the rerank tier");
  app.add_option("--planes", options->planes,
                 "Bit planes scanned over all rows, 1 or 2, or 4 for all");
  app.add_option("--filter", options->filter, "WHERE text that results must match");
  return {[options](Session& session) {
            if (!options->queries.empty()) session.RefuseIfSafe("--queries");
            Bench(session, *options);
          },
          Always(QUASH_OPEN_READONLY)};
}

struct GpuOptions {
  std::string collection;
  std::vector<std::string> devices;
  uint64_t budget_mib = 0;
  bool off = false;
};

void AttachGpu(Session& session, const GpuOptions& options) {
  const Collection collection = session.OpenCollection(session.CollectionOrOnly(options.collection));
  if (options.off) {
    Check(quash_collection_detach_gpu(collection.get()));
    return;
  }
  quash_gpu_options gpu;
  quash_gpu_options_init(&gpu);
  std::vector<int> devices;
  for (const std::string& text : options.devices) {
    if (text == "all") {
      gpu.device = QUASH_GPU_ALL;
    } else {
      devices.push_back(std::stoi(text));  // checked by CLI11
    }
  }
  if (gpu.device != QUASH_GPU_ALL && !devices.empty()) {
    gpu.devices = devices.data();
    gpu.num_devices = devices.size();
  }
  gpu.budget_bytes = options.budget_mib << 20;
  Check(quash_collection_attach_gpu(collection.get(), &gpu));
}

BoundVerb DefineGpu(CLI::App& app, bool) {
  const auto options = std::make_shared<GpuOptions>();
  AddCollectionOrOnly(app, &options->collection);
  app.add_option("--device", options->devices,
                 "CUDA ordinals, the segments divided between them, or all (default: 0)")
      ->delimiter(',')
      ->allow_extra_args(false)  // what follows is the collection
      ->check((CLI::Range(0, 1 << 16) | CLI::IsMember({"all"})).description(""));
  app.add_option("--budget", options->budget_mib,
                 "MiB of each device's memory (default: 90% of the free)")
      ->check(CLI::Range(uint64_t{0}, uint64_t{1} << 40).description(""));
  app.add_flag("--off", options->off, "Back to the CPU");
  return {[options](Session& session) { AttachGpu(session, *options); },
          Always(QUASH_OPEN_READONLY)};
}

BoundVerb DefinePlot(CLI::App& app, bool) {
  const auto options = std::make_shared<PlotOptions>();
  AddCollection(app, &options->collection);
  app.add_option("file", options->file, "Picture to write, as plot.png")->required();
  app.add_option("--kind", options->kind, "recall: against latency; map: rows in two dimensions")
      ->check(CLI::IsMember({"recall", "map"}))
      ->capture_default_str();
  app.add_option("--by", options->by, "map: the field that gives the colours");
  return {[options](Session& session) { Plot(session, *options); }, Always(QUASH_OPEN_READONLY)};
}

BoundVerb DefineCompact(CLI::App&, bool) {
  const auto run = [](Session& session) {
    const WithProgress progress(session, "compacting");
    Check(quash_compact(session.db()));
  };
  return {run, Always(QUASH_OPEN_READWRITE)};
}

}  // namespace

const std::vector<Verb>& Verbs() {
  static const std::vector<Verb> kVerbs = {
      {"import", "Import a .npy, .fvecs, .bvecs, .ivecs, .jsonl or .csv file", true, true, true,
       true, DefineImport},
      {"search", "Search for the nearest rows", false, true, true, false, DefineSearch},
      {"export", "Export a collection to .jsonl, .csv or .npy", true, true, true, true,
       DefineExport},
      {"backup", "Write a consistent copy of the database", true, true, true, true, DefineBackup},
      {"restore", "Verify a backup and copy it to a new database", true, false, true, true,
       DefineRestore},
      {"check", "Verify every checksum and that all parts agree", false, true, true, true,
       DefineCheck},
      {"stats", "Show sizes, settings and memory use", false, true, true, true, DefineStats},
      {"measure", "Measure recall against exact search, and tune to a target", false, true, true,
       true, DefineMeasure},
      {"bench", "Measure latency, throughput and recall", false, true, true, true, DefineBench},
      {"plot", "Draw recall against latency, or a map of the rows, by the Python package", true,
       true, true, true, DefinePlot},
      {"compact", "Rewrite segments with deleted rows and reclaim their space", false, true, true,
       true, DefineCompact},
      {"gpu", "Search a collection on a GPU; EXPLAIN tells what ran where", false, true, false,
       true, DefineGpu}};
  return kVerbs;
}

const Verb* FindVerb(std::string_view name) {
  const auto found = std::find_if(Verbs().begin(), Verbs().end(),
                                  [&](const Verb& verb) { return verb.name == name; });
  return found == Verbs().end() ? nullptr : &*found;
}

void RunVerb(Session& session, const Verb& verb, const std::vector<std::string>& words) {
  if (verb.touches_files) session.RefuseIfSafe("." + verb.name);
  CLI::App app(verb.summary, "." + verb.name);
  app.set_help_flag("--help", "Show this text");
  const BoundVerb bound = verb.define(app, false);
  std::vector<std::string> reversed(words.rbegin(), words.rend());  // as CLI11 takes them
  try {
    app.parse(reversed);
  } catch (const CLI::CallForHelp&) {
    session.Write(app.help());
    return;
  } catch (const CLI::ParseError& error) {
    throw Error(fmt::format("{} (.help {})", error.what(), verb.name));
  }
  bound.run(session);
}

std::vector<std::string> VerbOptions(const Verb& verb) {
  CLI::App app;
  verb.define(app, false);
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

std::string VerbHelp(const Verb& verb) {
  CLI::App app(verb.summary, "." + verb.name);
  app.set_help_flag("--help", "Show this text");
  verb.define(app, false);
  return app.help();
}

}  // namespace quash::cli
