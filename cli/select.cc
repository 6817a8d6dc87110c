// SELECT and EXPLAIN: searches, scans and counts.
#include <fmt/format.h>

#include <cmath>

#include "cli/interrupt.h"
#include "cli/matrix.h"
#include "cli/result_rows.h"
#include "cli/row_batch.h"
#include "cli/statements.h"
#include "cli/text.h"

namespace quash::cli {
namespace {

constexpr uint64_t kDefaultLimit = 10;

struct Search {
  quash_search_options options;
  size_t k = kDefaultLimit;
  std::string cursor_id;       // what options.cursor_string_id points to
  std::vector<float> queries;  // [nq, dim]
  size_t nq = 0;
  bool many = false;  // results carry their query's number
};

const std::vector<std::string> kSearchOptions = {
    "exact", "recall", "nprobe", "candidates", "rerank_candidates", "planes", "min_score",
    "threads"};

uint32_t Width(const Option& option) {
  const Value& value = option.value;
  if (!value.is_number_integer() || value < 0 || value > UINT32_MAX) {
    throw Error(fmt::format("{} must be a whole number, not {}", option.name.text, value.dump()),
                option.name.offset);
  }
  return value.get<uint32_t>();
}

void SetOption(const Option& option, quash_search_options* options) {
  const auto is = [&](std::string_view name) { return EqualsIgnoreCase(option.name.text, name); };
  if (is("exact")) {
    if (!option.value.is_boolean()) {
      throw Error("exact must be TRUE or FALSE", option.name.offset);
    }
    options->exact = option.value.get<bool>() ? 1 : 0;
  } else if (is("min_score")) {
    if (!option.value.is_number()) throw Error("min_score must be a number", option.name.offset);
    options->min_score = option.value.get<double>();
  } else if (is("recall")) {
    if (!option.value.is_number()) throw Error("recall must be a number", option.name.offset);
    options->recall = option.value.get<double>();
    if (!(options->recall > 0 && options->recall <= 1)) {
      throw Error(fmt::format("recall is {}, expected above 0, at most 1", option.value.dump()),
                  option.name.offset);
    }
  } else if (is("nprobe")) {
    options->nprobe = Width(option);
  } else if (is("candidates")) {
    options->candidates = Width(option);
  } else if (is("rerank_candidates")) {
    options->rerank_candidates = Width(option);
  } else if (is("planes")) {
    options->planes = Width(option);
  } else if (is("threads")) {
    options->threads = Width(option);
  } else {
    throw Error(
        fmt::format("no option \"{}\"; the options are {}{}", option.name.text,
                    fmt::join(kSearchOptions, ", "), DidYouMean(option.name.text, kSearchOptions)),
        option.name.offset);
  }
}

void LoadQueries(Session& session, const Nearest& nearest, uint32_t dim, Search* search) {
  if (nearest.kind == Nearest::Kind::kVector) {
    search->queries = nearest.vector;
    search->nq = 1;
  } else if (nearest.kind == Nearest::Kind::kFile) {
    session.RefuseIfSafe("NEAREST TO FILE");
    const std::unique_ptr<MatrixReader> file = OpenMatrix(nearest.file);
    const uint64_t first = nearest.row.value_or(0);
    if (first >= file->rows()) {
      throw Error(fmt::format("{} has rows 0 to {}, no row {}", nearest.file,
                              static_cast<int64_t>(file->rows()) - 1, first),
                  nearest.offset);
    }
    if (file->dim() != dim) {
      throw Error(fmt::format("{} has vectors of {} coordinates; the collection's have {}",
                              nearest.file, file->dim(), dim),
                  nearest.offset);
    }
    search->nq = nearest.row ? 1 : file->rows();
    search->many = search->nq > 1;
    if (search->nq > QUASH_BATCH_ROWS_MAX ||
        search->nq * dim * sizeof(float) > QUASH_BATCH_BYTES_MAX) {
      throw Error(
          fmt::format("{} has too many rows for one search; name one with ROW n", nearest.file),
          nearest.offset);
    }
    search->queries.resize(search->nq * dim);
    file->Read(first, search->nq, search->queries.data());
    return;
  }
  if (search->nq == 1 && search->queries.size() != dim) {
    throw Error(fmt::format("the vector has {} coordinates; the collection's have {}",
                            search->queries.size(), dim),
                nearest.offset);
  }
}

Search PrepareSearch(Session& session, const Select& select, const Schema& schema,
                     uint32_t include) {
  Search search;
  quash_search_options_init(&search.options);
  search.options.include = include;
  if (select.where) search.options.filter = select.where->text.c_str();
  for (const Option& option : select.options) SetOption(option, &search.options);
  // A range search is after every row in range, as far as one call goes.
  const bool range = search.options.min_score > -INFINITY;
  search.k = select.limit.value_or(range ? QUASH_K_MAX : kDefaultLimit);
  if (select.after) {
    search.options.has_cursor = 1;
    search.options.cursor_score = static_cast<float>(select.after->score);
    IdList check(schema.has_string_ids());
    check.Add(select.after->id);
    if (schema.has_string_ids()) {
      search.cursor_id = select.after->id.get<std::string>();
    } else {
      search.options.cursor_int_id = select.after->id.get<int64_t>();
    }
  }
  LoadQueries(session, *select.nearest, schema.dim, &search);
  return search;
}

// Search holds the cursor's text, which moves with it.
quash_search_options* Options(Search* search) {
  if (search->options.has_cursor != 0) {
    search->options.cursor_string_id = search->cursor_id.c_str();
  }
  return &search->options;
}

std::optional<size_t> FilterOffset(const Select& select) {
  return select.where ? std::optional<size_t>(select.where->offset) : std::nullopt;
}

// The stored vector of the row that NEAREST TO ID names.
std::vector<float> StoredVector(quash_collection* collection, const Nearest& nearest,
                                const Schema& schema) {
  IdList list(schema.has_string_ids());
  try {
    list.Add(nearest.id);
  } catch (const Error& error) {
    throw Error(error.what(), nearest.offset);
  }
  const quash_ids ids = list.View();
  quash_result* raw = nullptr;
  Check(quash_get(collection, &ids, QUASH_INCLUDE_VECTORS, &raw), nearest.offset);
  const Result result(raw);
  if (quash_result_offsets(raw)[1] == 0) {
    throw Error(fmt::format("no row with id {}", nearest.id.dump()), nearest.offset);
  }
  const float* vector = quash_result_vectors(raw);
  return {vector, vector + schema.dim};
}

void RunSearch(Session& session, const Select& select, quash_collection* collection,
               const Schema& schema, const std::vector<ResultColumn>& columns) {
  Search search = PrepareSearch(session, select, schema, Includes(columns));
  Result result;
  if (search.k > 0) {
    if (select.nearest->kind == Nearest::Kind::kId) {
      search.queries = StoredVector(collection, *select.nearest, schema);
      search.nq = 1;
    }
    quash_result* raw = nullptr;
    CheckFilter(quash_search(collection, search.queries.data(), search.nq, search.k,
                             Options(&search), &raw),
                FilterOffset(select));
    result.reset(raw);
  }
  const std::unique_ptr<RowWriter> writer = session.Rows();
  writer->Begin(Headings(columns, search.many));
  for (size_t query = 0; result != nullptr && query < search.nq; ++query) {
    const size_t* offsets = quash_result_offsets(result.get());
    for (size_t row = offsets[query]; row < offsets[query + 1]; ++row) {
      ThrowIfInterrupted();
      std::vector<Cell> cells = RowCells(columns, schema, result.get(), row);
      if (search.many) cells.insert(cells.begin(), Cell::Count(query));
      writer->Add(std::move(cells));
    }
  }
  writer->End();
}

void RunScan(Session& session, const Select& select, quash_collection* collection,
             const Schema& schema, const std::vector<ResultColumn>& columns) {
  constexpr size_t kRowsPerCall = 256;
  quash_iterator* raw = nullptr;
  CheckFilter(quash_iterate(collection, select.where ? select.where->text.c_str() : nullptr,
                            Includes(columns), &raw),
              FilterOffset(select));
  const RowIterator iterator(raw);
  const std::unique_ptr<RowWriter> writer = session.Rows();
  writer->Begin(Headings(columns));
  uint64_t left = select.limit.value_or(UINT64_MAX);
  while (left > 0) {
    ThrowIfInterrupted();
    quash_result* page = nullptr;
    Check(quash_iterator_next(iterator.get(), std::min<uint64_t>(left, kRowsPerCall), &page));
    const Result result(page);
    const size_t rows = quash_result_offsets(page)[1];
    if (rows == 0) break;
    for (size_t row = 0; row < rows; ++row) {
      writer->Add(RowCells(columns, schema, page, row));
    }
    left -= rows;
  }
  writer->End();
}

uint64_t CountRows(quash_collection* collection, const Select& select) {
  uint64_t count = 0;
  CheckFilter(quash_count(collection, select.where ? select.where->text.c_str() : nullptr, &count),
              FilterOffset(select));
  return count;
}

void RefuseSearchClauses(const Select& select, std::string_view what) {
  if (!select.options.empty()) {
    throw Error(fmt::format("WITH sets how a search is done; {} has no NEAREST TO", what),
                select.options.front().name.offset);
  }
  if (select.after) throw Error(fmt::format("AFTER needs NEAREST TO"), select.collection.offset);
}

std::string Plain(const nlohmann::json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_float()) return fmt::format("{:.4f}", value.get<double>());
  return value.is_null() ? "" : value.dump();
}

// One table of the stages, then one of everything else.
void PrintExplanation(Session& session, const nlohmann::json& explanation) {
  if (session.settings.mode == Mode::kJson) {
    session.Write(explanation.dump(2) + "\n");
    return;
  }
  std::vector<std::vector<Cell>> stages;
  for (const nlohmann::json& stage : explanation.value("stages", nlohmann::json::array())) {
    const auto count = [&](const char* key) {
      return stage.contains(key) && stage[key].is_number() ? Cell::Count(stage[key].get<uint64_t>())
                                                           : Cell::Null();
    };
    stages.push_back(
        {Cell::Text(stage.value("name", "")), count("rows_in"), count("rows_out"), count("bytes")});
  }
  session.Print({"stage", "rows in", "rows out", "bytes"}, std::move(stages));
  std::vector<std::vector<Cell>> properties;
  for (const auto& [key, value] : explanation.items()) {
    if (key == "stages") continue;
    std::string text = Plain(value);
    if (key == "measured_recall" && value.is_null()) {
      text = fmt::format("unknown; .measure finds it");
    }
    if (key == "filter" && value.is_null()) text = "none";
    if (key == "recall_at_nprobe" && value.is_number()) text += " (measured)";
    properties.push_back({Cell::Text(key), Cell::Text(text)});
  }
  session.Write("\n");
  session.Print({"property", "value"}, std::move(properties));
}

}  // namespace

void RunSelect(Session& session, const Select& select) {
  const Collection collection =
      session.OpenCollection(select.collection.text, select.collection.offset);
  if (select.count) {
    if (select.nearest) {
      throw Error("COUNT(*) counts the rows of a filter; NEAREST TO has no effect on it",
                  select.nearest->offset);
    }
    RefuseSearchClauses(select, "COUNT(*)");
    session.Print({"count"}, {{Cell::Count(CountRows(collection.get(), select))}});
    return;
  }
  const Schema schema = DescribeCollection(collection.get());
  const std::vector<ResultColumn> columns =
      ResolveColumns(select.columns, schema, select.nearest.has_value());
  if (select.nearest) {
    RunSearch(session, select, collection.get(), schema, columns);
  } else {
    RefuseSearchClauses(select, "this SELECT");
    RunScan(session, select, collection.get(), schema, columns);
  }
}

void RunExplain(Session& session, const Select& select) {
  const Collection collection =
      session.OpenCollection(select.collection.text, select.collection.offset);
  const Schema schema = DescribeCollection(collection.get());
  if (!select.nearest) {
    RefuseSearchClauses(select, "this SELECT");
    const uint64_t matching = CountRows(collection.get(), select);
    PrintExplanation(
        session,
        {{"mode", select.count ? "count" : "scan in insertion order"},
         {"rows", schema.rows},
         {"matching_rows", matching},
         {"filter", select.where ? nlohmann::json(select.where->text) : nullptr},
         {"stages", {{{"name", "filter"}, {"rows_in", schema.rows}, {"rows_out", matching}}}}});
    return;
  }
  const std::vector<ResultColumn> columns = ResolveColumns(select.columns, schema, true);
  Search search = PrepareSearch(session, select, schema, Includes(columns));
  if (select.nearest->kind == Nearest::Kind::kId) {
    search.queries = StoredVector(collection.get(), *select.nearest, schema);
    search.nq = 1;
  }
  quash_query* raw_query = nullptr;
  CheckFilter(quash_query_prepare(collection.get(), Options(&search), &raw_query),
              FilterOffset(select));
  const Query query(raw_query);
  quash_result* raw = nullptr;
  Check(quash_query_run(raw_query, search.queries.data(), search.nq, search.k, &raw));
  const Result result(raw);
  char* text = nullptr;
  Check(quash_query_explain(raw_query, &text));
  PrintExplanation(session, nlohmann::json::parse(TakeText(text)));
}

}  // namespace quash::cli
