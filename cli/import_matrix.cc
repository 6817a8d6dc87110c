// Vector files, with optional metadata and ids in files beside them.
#include <fmt/format.h>

#include <cmath>

#include "cli/import.h"
#include "cli/line_reader.h"
#include "cli/matrix.h"
#include "cli/text.h"

namespace quash::cli {
namespace {

class MatrixSource : public RowSource {
 public:
  explicit MatrixSource(const ImportOptions& options)
      : options_(options), matrix_(OpenMatrix(options.file)) {
    if (!options.metadata.empty()) metadata_ = std::make_unique<LineReader>(options.metadata);
    if (options.ids.empty()) return;
    if (Extension(options.ids) == ".npy") {
      integer_ids_ = ReadNpyIntegers(options.ids);
      if (integer_ids_.size() != matrix_->rows()) {
        throw Error(fmt::format("{} has {} ids for the {} rows of {}", options.ids,
                                integer_ids_.size(), matrix_->rows(), options.file));
      }
    } else {
      id_lines_ = std::make_unique<LineReader>(options.ids);
    }
  }

  bool Next(ImportRow* row) override {
    if (next_ == matrix_->rows()) {
      ExpectEnd(metadata_.get());
      ExpectEnd(id_lines_.get());
      return false;
    }
    if (next_ == chunk_begin_ + chunk_rows_) ReadChunk();
    ++next_;
    OrderedJson object = OrderedJson::object();
    if (metadata_ != nullptr) {
      const std::string_view line = LineFor(metadata_.get());
      object = ParseLine(line, metadata_->Where());
    }
    TakeObject(std::move(object), options_, "", metadata_ ? metadata_->Where() : Where(), row);
    const float* vector = &chunk_[(next_ - 1 - chunk_begin_) * matrix_->dim()];
    row->vector.assign(vector, vector + matrix_->dim());
    for (uint32_t i = 0; i < matrix_->dim(); ++i) {
      if (std::isfinite(vector[i])) continue;
      throw Error(fmt::format("{}: coordinate {} is {}; expected finite numbers in float range",
                              Where(), i, vector[i]));
    }
    if (!integer_ids_.empty()) row->id = integer_ids_[next_ - 1];
    if (id_lines_ != nullptr) {
      const std::string_view text = Trim(LineFor(id_lines_.get()));
      if (!IsUtf8(text)) throw Error(fmt::format("{}: not UTF-8", id_lines_->Where()));
      const std::optional<int64_t> integer = IntegerFromText(text);
      row->id = integer && !string_ids_ ? nlohmann::json(*integer) : nlohmann::json(text);
    }
    return true;
  }

  std::string Where() const override {
    return fmt::format("{} row {}", matrix_->path(), next_ == 0 ? 0 : next_ - 1);
  }

  bool ids_are_text() const override { return id_lines_ != nullptr; }
  void SetTypes(const std::vector<Field>&, bool string_ids) override { string_ids_ = string_ids; }

  void Rewind() override {
    next_ = chunk_begin_ = chunk_rows_ = 0;
    if (metadata_ != nullptr) metadata_->Rewind();
    if (id_lines_ != nullptr) id_lines_->Rewind();
  }

 private:
  void ReadChunk() {
    constexpr uint64_t kChunkBytes = 4 << 20;
    const uint64_t row_bytes = matrix_->dim() * sizeof(float);
    chunk_begin_ = next_;
    chunk_rows_ = std::min(matrix_->rows() - next_, std::max<uint64_t>(1, kChunkBytes / row_bytes));
    chunk_.resize(chunk_rows_ * matrix_->dim());
    matrix_->Read(chunk_begin_, chunk_rows_, chunk_.data());
  }

  std::string_view LineFor(LineReader* lines) const {
    std::string_view line;
    if (!lines->Next(&line)) {
      throw Error(fmt::format("{} ends after {} lines; {} has {} rows", lines->file().path(),
                              lines->line(), matrix_->path(), matrix_->rows()));
    }
    return line;
  }
  void ExpectEnd(LineReader* lines) const {
    std::string_view line;
    while (lines != nullptr && lines->Next(&line)) {
      if (Trim(line).empty()) continue;
      throw Error(fmt::format("{}: more lines than the {} rows of {}", lines->Where(),
                              matrix_->rows(), matrix_->path()));
    }
  }

  const ImportOptions options_;
  const std::unique_ptr<MatrixReader> matrix_;
  std::unique_ptr<LineReader> metadata_;
  std::unique_ptr<LineReader> id_lines_;
  std::vector<int64_t> integer_ids_;
  bool string_ids_ = false;  // lines of digits are texts
  std::vector<float> chunk_;
  uint64_t chunk_begin_ = 0;
  uint64_t chunk_rows_ = 0;
  uint64_t next_ = 0;
};

}  // namespace

std::unique_ptr<RowSource> OpenMatrixSource(const ImportOptions& options) {
  return std::make_unique<MatrixSource>(options);
}

}  // namespace quash::cli
