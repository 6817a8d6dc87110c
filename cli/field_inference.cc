#include "cli/field_inference.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/error.h"
#include "cli/parser.h"
#include "cli/text.h"

namespace quash::cli {
namespace {

constexpr const char* kSightNames[] = {"BOOL",  "INT",      "FLOAT",        "STRING",
                                       "INT[]", "STRING[]", "an empty list"};

bool IsInteger(const nlohmann::ordered_json& value) {
  return value.is_number_integer() &&
         !(value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX);
}

bool IsFieldName(const std::string& name) {
  const auto letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  return !name.empty() && letter(name[0]) && std::all_of(name.begin(), name.end(), [&](char c) {
    return letter(c) || (c >= '0' && c <= '9');
  });
}

}  // namespace

FieldInference::Sight FieldInference::Classify(const nlohmann::ordered_json& value) {
  if (value.is_null()) return kNull;
  if (value.is_boolean()) return kBool;
  if (IsInteger(value)) return kInt;
  if (value.is_number_float()) return kFloat;
  if (value.is_string()) return kString;
  if (!value.is_array()) return kOther;
  if (value.empty()) return kEmptyList;
  if (std::all_of(value.begin(), value.end(), IsInteger)) return kIntList;
  const auto is_string = [](const nlohmann::ordered_json& item) { return item.is_string(); };
  return std::all_of(value.begin(), value.end(), is_string) ? kStringList : kOther;
}

FieldInference::Seen& FieldInference::SeenOf(const std::string& name) {
  const auto [entry, added] = index_.try_emplace(name, fields_.size());
  if (added) {
    fields_.emplace_back();
    fields_.back().name = name;
  }
  return fields_[entry->second];
}

void FieldInference::Note(const std::string& name, const nlohmann::ordered_json& value, Sight sight,
                          const std::string& where, Seen* seen) {
  if (sight == kOther) {
    throw Error(fmt::format(
        "{}: field \"{}\" holds {}; expected true, false, a 64-bit integer, a number, text, or a "
        "list of integers or of texts (--fields names the fields to take)",
        where, name,
        Truncate(value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace),
                 60)));
  }
  if (!IsFieldName(name)) {
    throw Error(
        fmt::format("{}: \"{}\" cannot be a field name; expected a letter or _, then "
                    "letters, digits or _ (--fields names the fields to take)",
                    where, name));
  }
  seen->first[sight] = where;
}

quash_field_type FieldInference::TypeOf(const Seen& seen) const {
  std::vector<Sight> sights;
  for (int sight = 0; sight < kSights; ++sight) {
    if (!seen.first[static_cast<size_t>(sight)].empty())
      sights.push_back(static_cast<Sight>(sight));
  }
  constexpr quash_field_type kTypes[] = {QUASH_FIELD_BOOL,     QUASH_FIELD_INT,
                                         QUASH_FIELD_FLOAT,    QUASH_FIELD_STRING,
                                         QUASH_FIELD_INT_LIST, QUASH_FIELD_STRING_LIST};
  for (const quash_field_type type : kTypes) {
    const auto fits = [&](Sight sight) { return Fits(sight, type); };
    const bool only_empty = sights.size() == 1 && sights[0] == kEmptyList;
    if (only_empty && type != QUASH_FIELD_STRING_LIST) continue;
    if (!sights.empty() && std::all_of(sights.begin(), sights.end(), fits)) return type;
  }
  if (sights.empty() || text_source_) return QUASH_FIELD_STRING;
  throw Error(
      fmt::format("field \"{}\" is {} at {} and {} at {}; make it one type, or leave it "
                  "out with --fields",
                  seen.name, kSightNames[sights[0]], seen.first[sights[0]], kSightNames[sights[1]],
                  seen.first[sights[1]]));
}

bool FieldInference::Fits(Sight sight, quash_field_type type) {
  switch (sight) {
    case kBool:
      return type == QUASH_FIELD_BOOL;
    case kInt:
      return type == QUASH_FIELD_INT || type == QUASH_FIELD_FLOAT;
    case kFloat:
      return type == QUASH_FIELD_FLOAT;
    case kString:
      return type == QUASH_FIELD_STRING;
    case kIntList:
      return type == QUASH_FIELD_INT_LIST;
    case kStringList:
      return type == QUASH_FIELD_STRING_LIST;
    case kEmptyList:
      return type == QUASH_FIELD_INT_LIST || type == QUASH_FIELD_STRING_LIST;
    default:
      return false;
  }
}

std::vector<Field> FieldInference::Resolve() const {
  std::vector<Field> fields;
  for (const Seen& seen : fields_) fields.push_back({seen.name, TypeOf(seen)});
  return fields;
}

void FieldInference::CheckAgainst(const Schema& schema) const {
  for (const Seen& seen : fields_) {
    const Field* field = schema.FindField(seen.name);
    if (field == nullptr) {
      throw Error(fmt::format(
          "{} has no field \"{}\"{}; add it with ALTER COLLECTION {} ADD FIELD "
          "{} {}, or leave it out with --fields",
          QuoteName(schema.name), seen.name, DidYouMean(seen.name, schema.ColumnNames()),
          QuoteName(schema.name), QuoteName(seen.name), FieldTypeName(TypeOf(seen))));
    }
    for (int sight = 0; sight < kSights; ++sight) {
      const std::string& where = seen.first[static_cast<size_t>(sight)];
      const bool as_text = text_source_ && field->type == QUASH_FIELD_STRING;
      if (where.empty() || as_text || Fits(static_cast<Sight>(sight), field->type)) continue;
      throw Error(fmt::format("{}: field \"{}\" is {}; the collection has it as {}", where,
                              seen.name, kSightNames[sight], FieldTypeName(field->type)));
    }
  }
}

}  // namespace quash::cli
