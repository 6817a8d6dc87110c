#include "cli/export.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>

#include "cli/interrupt.h"
#include "cli/matrix.h"
#include "cli/result_rows.h"
#include "cli/text.h"

namespace quash::cli {
namespace {

// A file written beside its final name and renamed when complete.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path) : path_(path), partial_(path + ".part") {
    file_ = std::fopen(partial_.c_str(), "wb");
    if (file_ == nullptr) Fail();
  }
  ~OutputFile() {
    if (file_ == nullptr) return;
    std::fclose(file_);
    std::remove(partial_.c_str());
  }
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void Write(std::string_view bytes) {
    if (std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size()) Fail();
  }
  void Rewind() {
    if (std::fseek(file_, 0, SEEK_SET) != 0) Fail();
  }
  void Finish() {
    std::FILE* file = file_;
    file_ = nullptr;
    if (std::fclose(file) != 0 || std::rename(partial_.c_str(), path_.c_str()) != 0) {
      const int error = errno;
      std::remove(partial_.c_str());
      errno = error;
      Fail();
    }
  }

 private:
  [[noreturn]] void Fail() const {
    throw Error(fmt::format("cannot write {}: {}", path_, std::strerror(errno)));
  }

  const std::string path_;
  const std::string partial_;
  std::FILE* file_ = nullptr;
};

// Names of the vectors and documents in the file: "vector" and "document" unless
// fields are called that, as an import of it is to tell them apart.
std::string FreeName(std::string name, const Schema& schema) {
  while (schema.FindField(name) != nullptr) name += '_';
  return name;
}
std::string VectorName(const Schema& schema) { return FreeName("vector", schema); }
std::string DocumentName(const Schema& schema) { return FreeName("document", schema); }

class Exporter {
 public:
  virtual ~Exporter() = default;
  virtual uint32_t include() const = 0;
  virtual void Row(const quash_result* result, size_t row) = 0;
  virtual void Finish() = 0;
};

class JsonlExporter : public Exporter {
 public:
  JsonlExporter(const std::string& path, const Schema& schema, bool vectors)
      : file_(path),
        schema_(schema),
        vectors_(vectors),
        vector_key_(fmt::format(",{}:", JsonString(VectorName(schema)))),
        document_key_(fmt::format(",{}:", JsonString(DocumentName(schema)))) {}

  uint32_t include() const override {
    return QUASH_INCLUDE_METADATA | QUASH_INCLUDE_DOCUMENTS |
           (vectors_ ? QUASH_INCLUDE_VECTORS : 0);
  }
  void Row(const quash_result* result, size_t row) override {
    const nlohmann::json id = RowId(result, row);
    std::string line =
        "{\"id\":" + (id.is_string() ? JsonString(id.get<std::string>()) : id.dump());
    if (vectors_) {
      line +=
          vector_key_ + VectorJson(quash_result_vectors(result) + row * schema_.dim, schema_.dim);
    }
    // The fields as the library wrote them: an object without its braces.
    const std::string_view metadata = quash_result_metadata(result, row);
    if (metadata.size() > 2) line += fmt::format(",{}", metadata.substr(1, metadata.size() - 2));
    const char* document = quash_result_document(result, row);
    if (document != nullptr) line += document_key_ + JsonString(document);
    file_.Write(line + "}\n");
  }
  void Finish() override { file_.Finish(); }

 private:
  OutputFile file_;
  const Schema& schema_;
  const bool vectors_;
  const std::string vector_key_;
  const std::string document_key_;
};

class CsvExporter : public Exporter {
 public:
  CsvExporter(const std::string& path, const Schema& schema, bool vectors)
      : file_(path), schema_(schema) {
    std::vector<Name> names = {{"id"}};
    if (vectors) names.push_back({"vector"});
    for (const Field& field : schema.fields) names.push_back({field.name, 0, true});
    names.push_back({"document"});
    columns_ = ResolveColumns(names, schema, false);
    writer_ = MakeRowWriter({Mode::kCsv, true, "", 0, false},
                            [this](std::string_view text) { file_.Write(text); });
    std::vector<std::string> header;
    for (const ResultColumn& column : columns_) {
      const bool vector = column.kind == ResultColumn::Kind::kVector;
      const bool document = column.kind == ResultColumn::Kind::kDocument;
      header.push_back(vector ? VectorName(schema) : document ? DocumentName(schema) : column.name);
    }
    writer_->Begin(header);
  }

  uint32_t include() const override { return Includes(columns_); }
  void Row(const quash_result* result, size_t row) override {
    writer_->Add(RowCells(columns_, schema_, result, row));
  }
  void Finish() override {
    writer_->End();
    file_.Finish();
  }

 private:
  OutputFile file_;
  const Schema& schema_;
  std::vector<ResultColumn> columns_;
  std::unique_ptr<RowWriter> writer_;
};

class NpyExporter : public Exporter {
 public:
  NpyExporter(const std::string& path, const Schema& schema)
      : file_(path),
        rest_(std::filesystem::path(path).replace_extension(".jsonl").string(), schema, false),
        dim_(schema.dim) {
    file_.Write(Header());  // once more with the number of rows, at the end
  }

  uint32_t include() const override { return rest_.include() | QUASH_INCLUDE_VECTORS; }
  void Row(const quash_result* result, size_t row) override {
    const float* vector = quash_result_vectors(result) + row * dim_;
    file_.Write({reinterpret_cast<const char*>(vector), dim_ * sizeof(float)});
    rest_.Row(result, row);
    ++rows_;
  }
  void Finish() override {
    file_.Rewind();
    file_.Write(Header());
    file_.Finish();
    rest_.Finish();
  }

 private:
  // Version 1.0, always 128 bytes.
  std::string Header() const {
    constexpr size_t kHeaderBytes = 128;
    std::string dict =
        fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows_, dim_);
    const size_t length = kHeaderBytes - 10;
    dict.resize(length - 1, ' ');
    std::string header("\x93NUMPY\x01\x00", 8);
    header += static_cast<char>(length & 0xFF);
    header += static_cast<char>(length >> 8);
    return header + dict + '\n';
  }

  OutputFile file_;
  JsonlExporter rest_;
  const uint32_t dim_;
  uint64_t rows_ = 0;
};

std::unique_ptr<Exporter> MakeExporter(const ExportOptions& options, const Schema& schema) {
  const std::string extension = Extension(options.file);
  if (extension == ".jsonl" || extension == ".ndjson") {
    return std::make_unique<JsonlExporter>(options.file, schema, !options.no_vectors);
  }
  if (extension == ".csv") {
    return std::make_unique<CsvExporter>(options.file, schema, !options.no_vectors);
  }
  if (extension == ".npy") return std::make_unique<NpyExporter>(options.file, schema);
  throw Error(fmt::format("{}: expected a name ending in .jsonl, .csv or .npy", options.file));
}

}  // namespace

void Export(Session& session, const ExportOptions& options) {
  const Collection collection = session.OpenCollection(session.CollectionOrOnly(options.collection));
  const Schema schema = DescribeCollection(collection.get());
  const char* filter = options.filter.empty() ? nullptr : options.filter.c_str();
  uint64_t total = 0;
  Check(quash_count(collection.get(), filter, &total));
  const std::unique_ptr<Exporter> exporter = MakeExporter(options, schema);
  quash_iterator* raw = nullptr;
  Check(quash_iterate(collection.get(), filter, exporter->include(), &raw));
  const RowIterator iterator(raw);
  constexpr size_t kRowsPerCall = 256;
  uint64_t done = 0;
  std::optional<ProgressBar> bar(std::in_place, "exporting", "rows", session.settings.progress);
  while (true) {
    ThrowIfInterrupted();
    quash_result* page = nullptr;
    Check(quash_iterator_next(iterator.get(), kRowsPerCall, &page));
    const Result result(page);
    const size_t rows = quash_result_offsets(page)[1];
    if (rows == 0) break;
    for (size_t row = 0; row < rows; ++row) exporter->Row(page, row);
    bar->Update(done += rows, total);
  }
  exporter->Finish();
  bar.reset();  // its line is free again
  session.Remark(fmt::format("{} rows exported to {}", FormatCount(done), options.file));
  if (DocumentName(schema) != "document" || VectorName(schema) != "vector") {
    session.Remark(
        fmt::format("fields have the usual names; import it with --vector-field {} "
                    "--document-field {}",
                    VectorName(schema), DocumentName(schema)));
  }
}

}  // namespace quash::cli
