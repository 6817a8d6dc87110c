#include "cli/schema.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "cli/handles.h"
#include "cli/parser.h"
#include "cli/text.h"

namespace quash::cli {
namespace {

template <typename Enum, size_t kCount>
Enum ParseChoice(std::string_view what, std::string_view name,
                 const std::array<std::pair<const char*, Enum>, kCount>& choices) {
  std::vector<std::string> names;
  for (const auto& [choice, value] : choices) {
    if (EqualsIgnoreCase(name, choice)) return value;
    names.emplace_back(choice);
  }
  throw Error(
      fmt::format("\"{}\" is not a {}; expected one of {}", name, what, fmt::join(names, ", ")));
}

}  // namespace

quash_metric ParseMetric(std::string_view name) {
  return ParseChoice<quash_metric, 4>("metric", name,
                                      {{{"cosine", QUASH_METRIC_COSINE},
                                        {"ip", QUASH_METRIC_IP},
                                        {"l2", QUASH_METRIC_L2},
                                        {"inner_product", QUASH_METRIC_IP}}});
}

quash_rerank ParseRerank(std::string_view name) {
  return ParseChoice<quash_rerank, 4>("rerank tier", name,
                                      {{{"none", QUASH_RERANK_NONE},
                                        {"int8", QUASH_RERANK_INT8},
                                        {"f16", QUASH_RERANK_F16},
                                        {"f32", QUASH_RERANK_F32}}});
}

quash_rotation ParseRotation(std::string_view name) {
  return ParseChoice<quash_rotation, 2>(
      "rotation", name, {{{"hadamard", QUASH_ROTATION_HADAMARD}, {"dense", QUASH_ROTATION_DENSE}}});
}

quash_id_type ParseIdType(std::string_view name) {
  return ParseChoice<quash_id_type, 4>("id type", name,
                                       {{{"int", QUASH_ID_INT64},
                                         {"string", QUASH_ID_STRING},
                                         {"int64", QUASH_ID_INT64},
                                         {"text", QUASH_ID_STRING}}});
}

quash_metric Schema::metric_code() const { return ParseMetric(metric); }

std::string Schema::partition_rows_text() const {
  return partition_rows ? std::to_string(*partition_rows) : "never";
}

const Field* Schema::FindField(std::string_view field) const {
  for (const Field& candidate : fields) {
    if (candidate.name == field) return &candidate;
  }
  return nullptr;
}

std::vector<std::string> Schema::ColumnNames() const {
  std::vector<std::string> names = {"id", "score", "distance", "vector", "document"};
  for (const Field& field : fields) names.push_back(field.name);
  return names;
}

Schema DescribeCollection(quash_collection* collection) {
  char* text = nullptr;
  Check(quash_collection_describe(collection, &text));
  const nlohmann::json json = nlohmann::json::parse(TakeText(text));
  Schema schema;
  schema.name = json.at("name");
  schema.dim = json.at("dim");
  schema.metric = json.at("metric");
  schema.id_type = json.at("id_type");
  schema.bits = json.at("bits");
  schema.rerank = json.at("rerank");
  schema.rotation = json.at("rotation");
  schema.seed = json.at("seed");
  const nlohmann::json& partition_rows = json.at("partition_rows");
  if (!partition_rows.is_null()) schema.partition_rows = partition_rows.get<uint64_t>();
  schema.rows = json.at("rows");
  for (const nlohmann::json& field : json.at("fields")) {
    schema.fields.push_back(
        {field.at("name"), ParseFieldType(field.at("type").get<std::string>())});
  }
  return schema;
}

std::string CreateStatement(const Schema& schema) {
  std::string text = fmt::format(
      "CREATE COLLECTION {} (dim {}, metric {}, bits {}, rerank {}, id {}, rotation {}, seed {}, "
      "partition_rows {})",
      QuoteName(schema.name), schema.dim, schema.metric, schema.bits, schema.rerank,
      schema.has_string_ids() ? "string" : "int", schema.rotation, schema.seed,
      schema.partition_rows_text());
  for (size_t i = 0; i < schema.fields.size(); ++i) {
    const Field& field = schema.fields[i];
    text += i == 0 ? "\n  FIELDS (" : ", ";
    text += QuoteName(field.name) + " " + FieldTypeName(field.type);
  }
  return text + (schema.fields.empty() ? ";" : ");");
}

}  // namespace quash::cli
