// Finds a field's type from the values a file holds for it.
#pragma once

#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/schema.h"

namespace quash::cli {

class FieldInference {
 public:
  // text_source: values were told from text (CSV), so that a mixture is text.
  explicit FieldInference(bool text_source) : text_source_(text_source) {}

  // Notes one value. Throws Error naming `where` for what no field can hold:
  // objects, lists in lists, mixed lists, integers beyond 64 bits, bad names.
  //   where  "docs.jsonl:17", "base.npy row 3"; called only for a first sight
  template <typename Where>
  void Add(const std::string& name, const nlohmann::ordered_json& value, const Where& where) {
    const Sight sight = Classify(value);
    Seen& seen = SeenOf(name);
    if (sight == kNull || (sight < kSights && !seen.first[sight].empty())) return;
    Note(name, value, sight, where(), &seen);
  }

  // Whether any row has the field, be it null.
  bool Has(std::string_view name) const { return index_.contains(name); }
  // Whether a field can hold it as a list.
  static bool IsList(const nlohmann::ordered_json& value) {
    const Sight sight = Classify(value);
    return sight == kIntList || sight == kStringList || sight == kEmptyList;
  }
  // The fields in order of appearance. Throws Error on values of types that do
  // not go together, naming the place of each.
  std::vector<Field> Resolve() const;
  // Throws Error unless every value fits the fields of an existing collection.
  void CheckAgainst(const Schema& schema) const;

 private:
  enum Sight {
    kBool,
    kInt,
    kFloat,
    kString,
    kIntList,
    kStringList,
    kEmptyList,
    kSights,
    kNull,
    kOther
  };
  struct Seen {
    std::string name;
    std::array<std::string, kSights> first;  // where each was first seen
  };

  static Sight Classify(const nlohmann::ordered_json& value);
  Seen& SeenOf(const std::string& name);
  void Note(const std::string& name, const nlohmann::ordered_json& value, Sight sight,
            const std::string& where, Seen* seen);
  quash_field_type TypeOf(const Seen& seen) const;
  static bool Fits(Sight sight, quash_field_type type);

  const bool text_source_;
  std::vector<Seen> fields_;
  std::map<std::string, size_t, std::less<>> index_;
};

}  // namespace quash::cli
