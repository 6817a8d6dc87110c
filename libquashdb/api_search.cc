// quash_search() and its kin, prepared queries.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/dispatch.h"
#include "libquashdb/api_handles.h"
#include "libquashdb/executor_parallel.h"
#include "libquashdb/gpu_group.h"
#include "libquashdb/json_text.h"
#include "libquashdb/partition.h"
#include "libquashdb/recall_curve.h"
#include "libquashdb/row_reader.h"

using quash::Error;
using quash::Guard;
using quash::Hit;
using quash::NullArgument;
using quash::SnapshotRef;
using quash::Status;
using quash::WithCollection;

namespace {

Status CheckQueries(const float* queries, size_t nq, size_t k, const quash::CollectionSpec& spec) {
  if (k == 0) return Error(QUASH_INVALID, "k is 0, expected 1 to {}", QUASH_K_MAX);
  if (k > QUASH_K_MAX) return Error(QUASH_LIMIT, "k is {}, expected 1 to {}", k, QUASH_K_MAX);
  if (nq > QUASH_BATCH_ROWS_MAX || nq * k > size_t{QUASH_BATCH_ROWS_MAX} * 16) {
    return Error(QUASH_LIMIT, "{} queries with k {} in one call, expected at most {} results", nq,
                 k, size_t{QUASH_BATCH_ROWS_MAX} * 16);
  }
  if (nq == 0) return Status();
  if (queries == nullptr) return NullArgument("queries");
  return quash::CheckVectors(queries, nq, spec, "query");
}

Status DefaultedOptions(const quash_search_options* options, quash_search_options* out) {
  quash_search_options_init(out);
  return quash::CopyOptions(options, "quash_search_options", out);
}

Status Run(quash::DatabaseHandle* handle, const quash::Snapshot& snapshot, const float* queries,
           size_t nq, size_t k, quash::SearchPlan plan, std::vector<std::vector<Hit>>* hits,
           quash::SearchStats* stats) {
  QUASH_RETURN_IF_ERROR(CheckQueries(queries, nq, k, *snapshot.spec));
  plan.k = k;
  if (plan.exact || nq >= QUASH_PROGRESS_QUERIES_MIN) plan.progress = handle->progress();
  plan.recall = quash::RecallInForce(snapshot, plan);
  return quash::Search(snapshot, queries, nq, plan, hits, stats);
}

Status SearchToResult(quash_collection* handle, const quash::Snapshot& snapshot,
                      const float* queries, size_t nq, size_t k,
                      const quash_search_options* options, quash_result** out_result) {
  quash_search_options given;
  QUASH_RETURN_IF_ERROR(DefaultedOptions(options, &given));
  quash::SearchPlan plan;
  QUASH_RETURN_IF_ERROR(quash::MakeSearchPlan(
      given, *snapshot.spec, handle->handle->database().options().threads, &plan));
  const size_t threads = quash::ThreadCount(plan.threads);
  std::vector<std::vector<Hit>> hits;
  QUASH_RETURN_IF_ERROR(
      Run(handle->handle.get(), snapshot, queries, nq, k, std::move(plan), &hits, nullptr));
  auto result = std::make_unique<quash_result>();
  QUASH_RETURN_IF_ERROR(quash::FillResult(*handle->collection, snapshot, hits,
                                          /*with_scores=*/true, given.include, threads,
                                          result.get()));
  *out_result = result.release();
  return Status();
}

std::string DeviceText(const quash::SearchStats& stats, size_t nq, const std::string& gpu) {
  if (stats.gpu_queries == 0) return "cpu";
  return gpu + (stats.gpu_queries < nq ? "+cpu" : "");
}

quash::JsonObject ExplainJson(const quash_query& query) {
  using quash::JsonText;
  const quash::SearchPlan& plan = query.plan;
  const quash::SearchStats& stats = query.stats;
  const quash::SearchWidths& measured = query.measured;
  const bool probed = stats.lists > 0;
  const double recall_at_nprobe =
      probed ? quash::RecallOf(measured.recall_curve, static_cast<double>(stats.nprobe)) : -1;
  quash::JsonArray stages;
  uint64_t bytes = 0;
  for (const quash::StageStats& stage : stats.stages) {
    stages.Add(quash::JsonObject({{"name", stage.name},
                                  {"rows_in", stage.rows_in},
                                  {"rows_out", stage.rows_out},
                                  {"bytes", stage.bytes}}));
    bytes += stage.bytes;
  }
  quash::JsonObject explain({
      {"device", DeviceText(stats, query.nq, query.gpu)},
      {"gpu_note", stats.gpu_note.empty() ? JsonText(nullptr) : JsonText(stats.gpu_note)},
      {"kernel", quash::Kernels().name},
      {"mode", stats.mode},
      {"rows", stats.rows},
      {"matching_rows", stats.matching_rows},
      {"selectivity",
       stats.rows == 0 ? 0.0 : static_cast<double>(stats.matching_rows) / stats.rows},
      {"filter", plan.filter ? JsonText(plan.filter->text()) : JsonText(nullptr)},
      {"lists", stats.lists},
      {"nprobe", stats.nprobe},
      {"recall_target",
       probed && plan.nprobe == 0 ? JsonText(query.recall_target) : JsonText(nullptr)},
      {"indexed_rows", query.indexed_rows},
      {"recall_at_nprobe", recall_at_nprobe >= 0 ? JsonText(recall_at_nprobe) : JsonText(nullptr)},
      {"candidates", stats.widths.candidates},
      {"rerank_candidates", stats.widths.rerank_candidates},
      {"planes", stats.widths.planes},
      {"stages", stages},
      {"bytes_read", bytes},
      {"elapsed_us", stats.elapsed_us}});
  explain.Add("measured_recall", measured.measured_recall >= 0
                                     ? JsonText(measured.measured_recall)
                                     : JsonText(nullptr));
  return explain;
}

}  // namespace

extern "C" {

void quash_search_options_init(quash_search_options* options) {
  if (options == nullptr) return;
  *options = quash_search_options{};
  options->struct_size = sizeof(*options);
  options->min_score = -std::numeric_limits<double>::infinity();
}

quash_status quash_search(quash_collection* collection, const float* queries, size_t nq, size_t k,
                          const quash_search_options* options, quash_result** out_result) {
  return WithCollection(collection, [&](quash::Collection& opened) -> Status {
    if (out_result == nullptr) return NullArgument("out_result");
    SnapshotRef snapshot;
    QUASH_RETURN_IF_ERROR(opened.GetSnapshot(&snapshot));
    return SearchToResult(collection, *snapshot, queries, nq, k, options, out_result);
  });
}

quash_status quash_search_into(quash_collection* collection, const float* queries, size_t nq,
                               size_t k, const quash_search_options* options, int64_t* ids,
                               float* scores, uint32_t* counts) {
  return WithCollection(collection, [&](quash::Collection& opened) -> Status {
    if (nq != 0 && ids == nullptr) return NullArgument("ids");
    if (nq != 0 && scores == nullptr) return NullArgument("scores");
    SnapshotRef snapshot;
    QUASH_RETURN_IF_ERROR(opened.GetSnapshot(&snapshot));
    if (snapshot->spec->id_type != QUASH_ID_INT64) {
      return Error(QUASH_MISUSE, "collection \"{}\" has string ids, expected quash_search()",
                   snapshot->spec->name);
    }
    quash_search_options given;
    QUASH_RETURN_IF_ERROR(DefaultedOptions(options, &given));
    quash::SearchPlan plan;
    QUASH_RETURN_IF_ERROR(quash::MakeSearchPlan(
        given, *snapshot->spec, collection->handle->database().options().threads, &plan));
    const size_t threads = quash::ThreadCount(plan.threads);
    std::vector<std::vector<Hit>> hits;
    QUASH_RETURN_IF_ERROR(
        Run(collection->handle.get(), *snapshot, queries, nq, k, std::move(plan), &hits, nullptr));
    return quash::FillArrays(*snapshot, hits, k, threads, ids, scores, counts);
  });
}

quash_status quash_search_by_id(quash_collection* collection, const quash_ids* ids, size_t k,
                                const quash_search_options* options, quash_result** out_result) {
  return WithCollection(collection, [&](quash::Collection& opened) -> Status {
    if (out_result == nullptr) return NullArgument("out_result");
    SnapshotRef snapshot;
    QUASH_RETURN_IF_ERROR(opened.GetSnapshot(&snapshot));
    const quash::CollectionSpec& spec = *snapshot->spec;
    std::vector<quash::Id> parsed;
    QUASH_RETURN_IF_ERROR(quash::ParseIds(ids, spec, &parsed));
    std::vector<quash::Collection::Location> locations;
    QUASH_RETURN_IF_ERROR(opened.Find(*snapshot, parsed, &locations));
    if (parsed.size() * uint64_t{spec.dim} * sizeof(float) > QUASH_BATCH_BYTES_MAX) {
      return Error(QUASH_LIMIT, "{} queries of dim {} in one call, expected at most {} bytes",
                   parsed.size(), spec.dim, QUASH_BATCH_BYTES_MAX);
    }
    std::vector<float> queries(parsed.size() * spec.dim);
    for (size_t i = 0; i < parsed.size(); ++i) {
      if (locations[i].segment == quash::Collection::kMissing) {
        return spec.id_type == QUASH_ID_INT64
                   ? Error(QUASH_NOT_FOUND, "no row has id {}", std::get<int64_t>(parsed[i]))
                   : Error(QUASH_NOT_FOUND, "no row has id '{}'",
                           std::get<std::string>(parsed[i]));
      }
      QUASH_RETURN_IF_ERROR(quash::ReadVector(*snapshot, locations[i].segment, locations[i].row,
                                              queries.data() + i * spec.dim));
    }
    return SearchToResult(collection, *snapshot, queries.data(), parsed.size(), k, options,
                          out_result);
  });
}

quash_status quash_query_prepare(quash_collection* collection, const quash_search_options* options,
                                 quash_query** out_query) {
  return WithCollection(collection, [&](quash::Collection& opened) -> Status {
    if (out_query == nullptr) return NullArgument("out_query");
    SnapshotRef snapshot;
    QUASH_RETURN_IF_ERROR(opened.GetSnapshot(&snapshot));
    quash_search_options given;
    QUASH_RETURN_IF_ERROR(DefaultedOptions(options, &given));
    auto query = std::make_unique<quash_query>();
    QUASH_RETURN_IF_ERROR(quash::MakeSearchPlan(
        given, *snapshot->spec, collection->handle->database().options().threads, &query->plan));
    query->handle = collection->handle;
    query->collection = collection->collection;
    query->include = given.include;
    *out_query = query.release();
    return Status();
  });
}

quash_status quash_query_run(quash_query* query, const float* queries, size_t nq, size_t k,
                             quash_result** out_result) {
  return Guard([&]() -> Status {
    if (query == nullptr) return NullArgument("query");
    if (out_result == nullptr) return NullArgument("out_result");
    quash::Call call(*query->handle);
    QUASH_RETURN_IF_ERROR(call.status());
    SnapshotRef snapshot;
    QUASH_RETURN_IF_ERROR(query->collection->GetSnapshot(&snapshot));
    std::vector<std::vector<Hit>> hits;
    quash::SearchStats stats;
    QUASH_RETURN_IF_ERROR(
        Run(query->handle.get(), *snapshot, queries, nq, k, query->plan, &hits, &stats));
    auto result = std::make_unique<quash_result>();
    QUASH_RETURN_IF_ERROR(quash::FillResult(*query->collection, *snapshot, hits,
                                            /*with_scores=*/true, query->include,
                                            quash::ThreadCount(query->plan.threads), result.get()));
    query->stats = std::move(stats);
    query->measured = snapshot->widths;
    const double recall = quash::RecallInForce(*snapshot, query->plan);
    query->recall_target = recall > 0 ? recall : quash::kDefaultRecall;
    query->indexed_rows =
        snapshot->partitions != nullptr ? snapshot->partitions->num_rows() : 0;
    query->nq = nq;
    query->gpu = snapshot->gpu != nullptr ? snapshot->gpu->text() : std::string();
    query->has_run = true;
    *out_result = result.release();
    return Status();
  });
}

quash_status quash_query_explain(quash_query* query, char** out_json) {
  return Guard([&]() -> Status {
    if (query == nullptr) return NullArgument("query");
    if (out_json == nullptr) return NullArgument("out_json");
    if (!query->has_run) {
      return Error(QUASH_MISUSE, "the query has not run, expected quash_query_run() before");
    }
    return quash::CopyText(ExplainJson(*query).text(), out_json);
  });
}

void quash_query_free(quash_query* query) { delete query; }

}  // extern "C"
