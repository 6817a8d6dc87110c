#include "cli/import.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <optional>
#include <unordered_map>

#include "cli/field_inference.h"
#include "cli/interrupt.h"
#include "cli/matrix.h"
#include "cli/row_batch.h"
#include "cli/text.h"

namespace quash::cli {
namespace {

// Rows are committed in batches of about this many bytes, well below the
// library's limit even with one more row of the largest size.
constexpr uint64_t kBatchBytes = 64 << 20;
constexpr size_t kBatchRows = 1 << 18;

// What the first pass found out.
struct Survey {
  uint64_t rows = 0;
  uint32_t dim = 0;
  bool has_ids = false;
  bool string_ids = false;
  bool has_documents = false;
};

// Refuses an id seen before, naming both places.
class DuplicateIds {
 public:
  void Add(const nlohmann::json& id, const RowSource& source, uint64_t row) {
    const auto [entry, added] = id.is_string() ? Insert(texts_, id.get<std::string>(), row)
                                               : Insert(integers_, id.get<int64_t>(), row);
    if (!added) {
      throw Error(
          fmt::format("{}: id {} was given before, by row {}", source.Where(), id.dump(), entry));
    }
  }

 private:
  template <typename Key>
  static std::pair<uint64_t, bool> Insert(std::unordered_map<Key, uint64_t>& seen, Key id,
                                          uint64_t row) {
    const auto [entry, added] = seen.try_emplace(std::move(id), row);
    return {entry->second, added};
  }

  std::unordered_map<std::string, uint64_t> texts_;
  std::unordered_map<int64_t, uint64_t> integers_;
};

// What the library would refuse when the rows before are written already.
void CheckVector(const std::vector<float>& vector, quash_metric metric, quash_rerank rerank,
                 const RowSource& source) {
  if (metric == QUASH_METRIC_COSINE) {
    double norm_sq = 0;
    for (const float x : vector) norm_sq += double{x} * x;
    if (norm_sq < 1e-37) {
      throw Error(
          fmt::format("{}: the vector has norm {:.3g}: cosine is not defined for a zero "
                      "vector",
                      source.Where(), std::sqrt(norm_sq)));
    }
  } else if (rerank == QUASH_RERANK_F16) {
    for (const float x : vector) {
      if (std::fabs(x) <= 65504) continue;
      throw Error(
          fmt::format("{}: coordinate {} is beyond 65504, the most that rerank f16 holds: "
                      "use rerank f32",
                      source.Where(), x));
    }
  }
}

void CheckId(const nlohmann::json& id, const RowSource& source) {
  if (id.is_number_integer()) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() <= INT64_MAX) return;
    throw Error(fmt::format("{}: id {} is beyond 64-bit integers", source.Where(), id.dump()));
  }
  if (!id.is_string()) {
    throw Error(fmt::format("{}: id {} is neither an integer nor text", source.Where(), id.dump()));
  }
  const std::string& text = id.get_ref<const std::string&>();
  if (text.empty()) throw Error(fmt::format("{}: the id is empty", source.Where()));
  if (text.find('\0') != std::string::npos) {
    throw Error(fmt::format("{}: NUL byte in the id", source.Where()));
  }
  if (text.size() > QUASH_ID_BYTES_MAX) {
    throw Error(fmt::format("{}: the id is {} bytes long; expected at most {}", source.Where(),
                            text.size(), QUASH_ID_BYTES_MAX));
  }
}

size_t TextBytes(const OrderedJson& value) {
  if (value.is_string()) return value.get_ref<const std::string&>().size();
  size_t bytes = 8;  // of a number
  if (value.is_structured()) {
    for (const OrderedJson& item : value) bytes += TextBytes(item);
  }
  return bytes;
}

void CheckTexts(const ImportRow& row, const RowSource& source) {
  if (row.document && row.document->find('\0') != std::string::npos) {
    throw Error(fmt::format("{}: NUL byte in the document", source.Where()));
  }
  if (row.document && row.document->size() > QUASH_DOCUMENT_BYTES_MAX) {
    throw Error(fmt::format("{}: the document is {} bytes long; expected at most {}",
                            source.Where(), row.document->size(), QUASH_DOCUMENT_BYTES_MAX));
  }
  constexpr size_t kMostPerByte = 6;  // JSON's \u001f
  if (TextBytes(row.metadata) <= QUASH_METADATA_BYTES_MAX / kMostPerByte) return;
  const size_t bytes = row.metadata.dump().size();
  if (bytes > QUASH_METADATA_BYTES_MAX) {
    throw Error(fmt::format("{}: the fields are {} bytes of JSON; expected at most {}",
                            source.Where(), bytes, QUASH_METADATA_BYTES_MAX));
  }
}

Survey SurveyRows(Session& session, RowSource* source, const std::string& file, quash_metric metric,
                  quash_rerank rerank, FieldInference* fields) {
  Survey survey;
  DuplicateIds duplicates;
  ProgressBar bar("checking", "rows", session.settings.progress);
  ImportRow row;
  bool mixed_ids = false;
  while (source->Next(&row)) {
    ThrowIfInterrupted();
    bar.Update(survey.rows, 0);
    const auto where = [&] { return source->Where(); };
    const bool first = survey.rows++ == 0;
    if (first) {
      survey.dim = static_cast<uint32_t>(std::min<size_t>(row.vector.size(), UINT32_MAX));
      survey.has_ids = !row.id.is_null();
    }
    if (row.vector.size() != survey.dim) {
      throw Error(fmt::format("{}: the vector has {} coordinates; the first row's has {}", where(),
                              row.vector.size(), survey.dim));
    }
    CheckVector(row.vector, metric, rerank, *source);
    CheckTexts(row, *source);
    survey.has_documents |= row.document.has_value();
    if (survey.has_ids != !row.id.is_null()) {
      throw Error(fmt::format("{}: {} id; the first row has {}", where(),
                              row.id.is_null() ? "no" : "an", survey.has_ids ? "one" : "none"));
    }
    if (survey.has_ids) {
      CheckId(row.id, *source);
      mixed_ids = mixed_ids || (survey.rows > 1 && row.id.is_string() != survey.string_ids);
      survey.string_ids = survey.string_ids || row.id.is_string();
      if (mixed_ids && !source->ids_are_text()) {
        throw Error(
            fmt::format("{}: id {}; ids must be all integers or all text", where(), row.id.dump()));
      }
      duplicates.Add(row.id, *source, survey.rows - 1);
    }
    for (const auto& [name, value] : row.metadata.items()) fields->Add(name, value, where);
  }
  if (survey.rows == 0) throw Error(fmt::format("{}: the file has no rows", file));
  return survey;
}

// A name given on purpose that nothing in the file has is misspelt.
void CheckNames(const ImportOptions& options, const Survey& survey, const RowSource& source,
                const FieldInference& fields) {
  const std::string& file = options.metadata.empty() ? options.file : options.metadata;
  const auto refuse = [&](const char* option, const std::string& name) {
    if (source.HasColumn(name)) return;  // empty in every row
    throw Error(fmt::format("no row of {} has a \"{}\" ({})", file, name, option));
  };
  const ImportOptions defaults;
  if (options.id_field != defaults.id_field && !survey.has_ids) {
    refuse("--id-field", options.id_field);
  }
  if (options.document_field != defaults.document_field && !survey.has_documents) {
    refuse("--document-field", options.document_field);
  }
  for (const std::string& field : options.fields) {
    if (!fields.Has(field)) refuse("--fields", field);
  }
}

Collection CreateFor(Session& session, const ImportOptions& options, const Survey& survey,
                     const std::vector<Field>& inferred) {
  quash_collection_options create;
  quash_collection_options_init(&create);
  create.dim = survey.dim;
  create.metric = ParseMetric(options.metric);
  create.rerank = ParseRerank(options.rerank);
  create.bits = options.bits;
  create.partition_rows = options.partition_rows;
  create.id_type = survey.string_ids ? QUASH_ID_STRING : QUASH_ID_INT64;
  std::vector<quash_field> fields;
  for (const Field& field : inferred) fields.push_back({field.name.c_str(), field.type});
  create.fields = fields.data();
  create.num_fields = fields.size();
  quash_collection* collection = nullptr;
  Check(quash_collection_create(session.db(), options.collection.c_str(), &create, &collection));
  return Collection(collection);
}

void CheckFits(const ImportOptions& options, const Survey& survey, const Schema& schema) {
  if (survey.dim != schema.dim) {
    throw Error(fmt::format("{} has vectors of {} coordinates; those of {} have {}", options.file,
                            survey.dim, QuoteName(schema.name), schema.dim));
  }
  if (schema.has_string_ids() && !survey.has_ids) {
    throw Error(fmt::format("{} has string ids, {} has none (--ids, --id-field)",
                            QuoteName(schema.name), options.file));
  }
  if (survey.has_ids && survey.string_ids != schema.has_string_ids()) {
    throw Error(fmt::format("{} has {} ids, {} has {} ids", options.file,
                            survey.string_ids ? "string" : "integer", QuoteName(schema.name),
                            schema.has_string_ids() ? "string" : "integer"));
  }
  if (options.replace && !survey.has_ids) {
    throw Error("--replace needs ids in the file (--ids, --id-field)");
  }
}

void WriteRows(Session& session, RowSource* source, const ImportOptions& options,
               const Survey& survey, const Schema& schema, quash_collection* collection) {
  std::optional<ProgressBar> bar(std::in_place, "importing", "rows", session.settings.progress);
  RowBatch batch(schema.has_string_ids(), schema.dim);
  uint64_t committed = 0;
  const auto flush = [&] {
    const size_t rows = batch.rows();
    try {
      batch.Write(collection, options.replace, "--replace");
    } catch (const Error& error) {
      if (committed == 0) throw;
      throw Error(fmt::format("{}; in the batch that begins with row {}", error.what(), committed),
                  std::nullopt, error.exit_code());
    }
    committed += rows;
  };
  try {
    ImportRow row;
    while (source->Next(&row)) {
      ThrowIfInterrupted();
      std::string metadata = row.metadata.empty() ? "" : row.metadata.dump();
      try {
        batch.Add(row.id, row.vector, std::move(metadata), std::move(row.document));
      } catch (const Error& error) {
        throw Error(fmt::format("{}: {}", source->Where(), error.what()));
      }
      bar->Update(committed + batch.rows(), survey.rows);
      if (batch.bytes() >= kBatchBytes || batch.rows() >= kBatchRows) flush();
    }
    if (batch.rows() > 0) flush();
  } catch (const Error& error) {
    throw Error(fmt::format("{}; {} of {} rows were imported", error.what(), FormatCount(committed),
                            FormatCount(survey.rows)),
                std::nullopt, error.exit_code());
  }
  const double seconds = bar->elapsed_seconds();
  bar.reset();  // its line is free again
  session.Remark(fmt::format("{} rows imported into {} in {:.1f} s", FormatCount(committed),
                             QuoteName(schema.name), seconds));
}

}  // namespace

std::unique_ptr<RowSource> OpenSource(const ImportOptions& options) {
  const std::string extension = Extension(options.file);
  const bool matrix = IsMatrixPath(options.file);
  if (!matrix && (!options.metadata.empty() || !options.ids.empty())) {
    throw Error("--metadata and --ids go with .npy, .fvecs, .bvecs and .ivecs files only");
  }
  if (matrix) return OpenMatrixSource(options);
  if (extension == ".jsonl" || extension == ".ndjson") return OpenJsonlSource(options);
  if (extension == ".csv") return OpenCsvSource(options);
  if (extension == ".parquet") {
    throw Error(
        fmt::format("{}: parquet is not read directly; with pandas and pyarrow installed, "
                    "pandas.read_parquet(path).to_json(\"rows.jsonl\", orient=\"records\", "
                    "lines=True) makes a file that is",
                    options.file));
  }
  if (extension == ".h5" || extension == ".hdf5") {
    throw Error(
        fmt::format("{}: HDF5 is not read directly; with numpy and h5py installed, "
                    "numpy.save(\"vectors.npy\", h5py.File(path)[name][:]) makes a file "
                    "that is",
                    options.file));
  }
  const bool packed = extension == ".xz" || extension == ".gz" || extension == ".zst";
  const bool pipe = options.file == "-" || options.file.starts_with("/dev/");
  throw Error(fmt::format("{}: expected a .npy, .fvecs, .bvecs, .ivecs, .jsonl or .csv file{}",
                          options.file,
                          packed ? "; unpack it first"
                          : pipe ? "; a pipe cannot be read twice"
                                 : ""));
}

void Import(Session& session, ImportOptions options, std::unique_ptr<RowSource> source) {
  if (options.collection.empty()) {
    options.collection = std::filesystem::path(options.file).stem().string();
  }
  const std::vector<std::string> names = session.CollectionNames();
  const bool exists = std::find(names.begin(), names.end(), options.collection) != names.end();
  if (!exists && !options.create) {
    throw Error(fmt::format("no collection {}{}; --create makes it", QuoteName(options.collection),
                            DidYouMean(options.collection, names)));
  }
  if (source == nullptr) source = OpenSource(options);
  FieldInference fields(source->is_text());
  Collection collection;
  quash_metric metric = ParseMetric(options.metric);
  quash_rerank rerank = ParseRerank(options.rerank);
  if (exists) {
    collection = session.OpenCollection(options.collection);
    const Schema existing = DescribeCollection(collection.get());
    metric = existing.metric_code();
    rerank = ParseRerank(existing.rerank);
  }
  Survey survey = SurveyRows(session, source.get(), options.file, metric, rerank, &fields);
  CheckNames(options, survey, *source, fields);
  if (!exists) collection = CreateFor(session, options, survey, fields.Resolve());
  const Schema schema = DescribeCollection(collection.get());
  // Text ids that look like numbers are still text to a string collection.
  if (source->ids_are_text() && survey.has_ids && schema.has_string_ids()) survey.string_ids = true;
  CheckFits(options, survey, schema);
  if (exists) fields.CheckAgainst(schema);
  source->SetTypes(schema.fields, schema.has_string_ids());
  source->Rewind();
  try {
    WriteRows(session, source.get(), options, survey, schema, collection.get());
  } catch (...) {
    // A collection made for this import does not outlive its failure, unless
    // rows were committed to it.
    if (!exists && DescribeCollection(collection.get()).rows == 0) {
      Check(quash_collection_drop(session.db(), options.collection.c_str()));
    }
    throw;
  }
}

}  // namespace quash::cli
