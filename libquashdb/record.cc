#include "libquashdb/record.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "libquashdb/part.h"
#include "libquashdb/vector_alignment.h"
#include "record_generated.h"

namespace quash {
namespace {

flatbuffers::Offset<fb::FieldValue> EncodeValue(uint16_t field, const Value& value,
                                                flatbuffers::FlatBufferBuilder* builder) {
  flatbuffers::Offset<flatbuffers::String> text;
  flatbuffers::Offset<flatbuffers::Vector<int64_t>> integers;
  flatbuffers::Offset<flatbuffers::Vector<flatbuffers::Offset<flatbuffers::String>>> texts;
  if (const auto* string = std::get_if<std::string>(&value)) text = builder->CreateString(*string);
  if (const auto* list = std::get_if<std::vector<int64_t>>(&value)) {
    integers = builder->CreateVector(*list);
  }
  if (const auto* list = std::get_if<std::vector<std::string>>(&value)) {
    texts = builder->CreateVectorOfStrings(*list);
  }
  fb::FieldValueBuilder table(*builder);
  table.add_field(field);
  table.add_type(static_cast<uint8_t>(value.index() - 1));
  if (const bool* boolean = std::get_if<bool>(&value)) table.add_integer(*boolean ? 1 : 0);
  if (const int64_t* integer = std::get_if<int64_t>(&value)) table.add_integer(*integer);
  if (const double* number = std::get_if<double>(&value)) table.add_number(*number);
  if (!text.IsNull()) table.add_text(text);
  if (!integers.IsNull()) table.add_integers(integers);
  if (!texts.IsNull()) table.add_texts(texts);
  return table.Finish();
}

// The alternatives of Value follow quash_field_type, after monostate.
static_assert(std::is_same_v<std::variant_alternative_t<QUASH_FIELD_BOOL + 1, Value>, bool>);
static_assert(std::is_same_v<std::variant_alternative_t<QUASH_FIELD_STRING_LIST + 1, Value>,
                             std::vector<std::string>>);

bool DecodeValue(const fb::FieldValue& stored, Value* value) {
  switch (stored.type()) {
    case QUASH_FIELD_BOOL:
      *value = stored.integer() != 0;
      return true;
    case QUASH_FIELD_INT:
      *value = stored.integer();
      return true;
    case QUASH_FIELD_FLOAT:
      *value = stored.number();
      return true;
    case QUASH_FIELD_STRING:
      if (stored.text() == nullptr) return false;
      *value = stored.text()->str();
      return true;
    case QUASH_FIELD_INT_LIST:
      if (stored.integers() == nullptr || !IsAligned(*stored.integers())) return false;
      *value = std::vector<int64_t>(stored.integers()->begin(), stored.integers()->end());
      return true;
    case QUASH_FIELD_STRING_LIST: {
      if (stored.texts() == nullptr) return false;
      std::vector<std::string> texts;
      for (const flatbuffers::String* text : *stored.texts()) texts.push_back(text->str());
      *value = std::move(texts);
      return true;
    }
    default:
      return false;
  }
}

}  // namespace

std::string EncodeRecord(const Record& record) {
  const bool has_values = std::any_of(record.values.begin(), record.values.end(),
                                      [](const Value& value) { return value.index() != 0; });
  if (!has_values && !record.has_document) return "";
  flatbuffers::FlatBufferBuilder builder(256);
  std::vector<flatbuffers::Offset<fb::FieldValue>> values;
  for (size_t f = 0; f < record.values.size(); ++f) {
    if (record.values[f].index() == 0) continue;
    values.push_back(EncodeValue(static_cast<uint16_t>(f), record.values[f], &builder));
  }
  const auto value_list = builder.CreateVector(values);
  flatbuffers::Offset<flatbuffers::String> document;
  if (record.has_document) document = builder.CreateString(record.document);
  builder.Finish(fb::CreateRecord(builder, value_list, document));
  return {reinterpret_cast<const char*>(builder.GetBufferPointer()), builder.GetSize()};
}

Status DecodeRecord(std::string_view bytes, const CollectionSpec& spec, Record* out) {
  // The verifier of FlatBuffers 2.0 lets misaligned buffers through.
  AlignedBuffer aligned(bytes.size());
  std::memcpy(aligned.data(), bytes.data(), bytes.size());
  flatbuffers::Verifier verifier(aligned.data(), aligned.size());
  if (!fb::VerifyRecordBuffer(verifier)) {
    return Error(QUASH_CORRUPT, "a metadata record of collection \"{}\" is damaged", spec.name);
  }
  const fb::Record* stored = fb::GetRecord(aligned.data());
  Record record;
  record.values.resize(spec.fields.size());
  if (stored->values() != nullptr) {
    for (const fb::FieldValue* value : *stored->values()) {
      // Fields younger than a held snapshot are none of its business.
      if (value->field() >= spec.fields.size()) continue;
      if (value->type() != static_cast<uint8_t>(spec.fields[value->field()].type) ||
          !DecodeValue(*value, &record.values[value->field()])) {
        return Error(QUASH_CORRUPT,
                     "a metadata record of collection \"{}\" does not fit field \"{}\"", spec.name,
                     spec.fields[value->field()].name);
      }
    }
  }
  if (stored->document() != nullptr) {
    record.has_document = true;
    record.document = stored->document()->str();
  }
  *out = std::move(record);
  return Status();
}

}  // namespace quash
