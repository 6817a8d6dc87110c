// quash_measure().
#include <cstring>

#include "libquashdb/api_handles.h"
#include "libquashdb/measure.h"

using quash::Error;
using quash::NullArgument;
using quash::Status;
using quash::WithCollection;

namespace {

constexpr size_t kDefaultSample = 200;
constexpr size_t kDefaultK = 10;

Status CheckReportSize(const quash_measure_report* report) {
  if (report == nullptr) return NullArgument("out_report");
  if (report->struct_size < sizeof(size_t) || report->struct_size > sizeof(*report)) {
    return Error(QUASH_INVALID, "quash_measure_report.struct_size is {}, expected {}",
                 report->struct_size, sizeof(*report));
  }
  return Status();
}

Status CheckQueries(const quash_measure_options& options, const quash::CollectionSpec& spec) {
  if (options.queries == nullptr) {
    if (options.nq != 0) {
      return Error(QUASH_INVALID, "queries is NULL and nq is {}, expected 0", options.nq);
    }
    if (options.sample == 0) return Error(QUASH_INVALID, "sample is 0, expected at least 1");
    if (options.sample > QUASH_BATCH_ROWS_MAX) {
      return Error(QUASH_LIMIT, "sample is {}, expected at most {}", options.sample,
                   QUASH_BATCH_ROWS_MAX);
    }
    return Status();
  }
  if (options.nq == 0) return Error(QUASH_INVALID, "nq is 0, expected at least 1 query");
  if (options.nq > QUASH_BATCH_ROWS_MAX) {
    return Error(QUASH_LIMIT, "nq is {}, expected at most {}", options.nq, QUASH_BATCH_ROWS_MAX);
  }
  return quash::CheckVectors(options.queries, options.nq, spec, "query");
}

Status MakeRequest(const quash_measure_options& options, const quash::CollectionSpec& spec,
                   uint32_t threads, quash::MeasureRequest* request) {
  if (options.k == 0) return Error(QUASH_INVALID, "k is 0, expected 1 to {}", QUASH_K_MAX);
  if (options.k > QUASH_K_MAX) {
    return Error(QUASH_LIMIT, "k is {}, expected 1 to {}", options.k, QUASH_K_MAX);
  }
  if (!(options.target_recall >= 0 && options.target_recall <= 1)) {
    return Error(QUASH_INVALID, "target_recall is {}, expected 0 to 1", options.target_recall);
  }
  QUASH_RETURN_IF_ERROR(CheckQueries(options, spec));
  request->sample = options.sample;
  request->queries = options.queries;
  request->nq = options.nq;
  request->k = options.k;
  request->target_recall = options.target_recall;
  request->seed = options.seed;
  request->threads = threads;
  return Status();
}

void FillReport(const quash::MeasureReport& measured, quash_measure_report* out) {
  quash_measure_report report{};
  report.struct_size = out->struct_size;
  report.recall = measured.recall;
  report.recall_low = measured.recall_low;
  report.exact_us = measured.exact_us;
  report.search_us = measured.search_us;
  report.candidates = measured.widths.candidates;
  report.rerank_candidates = measured.widths.rerank_candidates;
  report.planes = measured.widths.planes;
  report.queries = measured.queries;
  report.nprobe = static_cast<uint32_t>(measured.nprobe);
  std::memcpy(out, &report, report.struct_size);
}

}  // namespace

extern "C" {

void quash_measure_options_init(quash_measure_options* options) {
  if (options == nullptr) return;
  *options = quash_measure_options{};
  options->struct_size = sizeof(*options);
  options->sample = kDefaultSample;
  options->k = kDefaultK;
}

quash_status quash_measure(quash_collection* collection, const quash_measure_options* options,
                           quash_measure_report* out_report) {
  return WithCollection(collection, [&](quash::Collection& opened) -> Status {
    QUASH_RETURN_IF_ERROR(CheckReportSize(out_report));
    quash_measure_options given;
    quash_measure_options_init(&given);
    QUASH_RETURN_IF_ERROR(quash::CopyOptions(options, "quash_measure_options", &given));
    quash::SnapshotRef snapshot;
    QUASH_RETURN_IF_ERROR(opened.GetSnapshot(&snapshot));
    quash::DatabaseHandle& handle = *collection->handle;
    quash::MeasureRequest request;
    QUASH_RETURN_IF_ERROR(
        MakeRequest(given, *snapshot->spec, handle.database().options().threads, &request));
    // Refused before the time is spent, not after.
    const quash_open_mode mode = handle.database().options().mode;
    if (given.apply && (mode == QUASH_OPEN_READONLY || mode == QUASH_OPEN_FOLLOWER)) {
      return Error(QUASH_READONLY, "the database is open for reading, and apply would write");
    }
    if (given.apply) QUASH_RETURN_IF_ERROR(handle.CheckNotInProgress());
    quash::MeasureReport measured;
    QUASH_RETURN_IF_ERROR(quash::Measure(*snapshot, request, handle.progress(), &measured));
    if (given.apply) QUASH_RETURN_IF_ERROR(opened.SetWidths(measured.keep));
    FillReport(measured, out_report);
    return Status();
  });
}

}  // extern "C"
