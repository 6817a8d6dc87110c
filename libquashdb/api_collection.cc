// Collections: create, open, drop, list, describe, statistics.

#include <span>
#include <vector>

#include "libquashdb/api_handles.h"
#include "libquashdb/gpu_group.h"
#include "libquashdb/json_text.h"
#include "libquashdb/metadata.h"
#include "libquashdb/names.h"
#include "libquashdb/utf8.h"

using quash::Error;
using quash::NullArgument;
using quash::Status;
using quash::WithCollection;
using quash::WithCollectionToWrite;
using quash::WithDatabase;
using quash::WithDatabaseToWrite;

namespace {

constexpr uint32_t kDenseDimMax = 4096;  // kernels/rotation.h
// Fuzzers are built with less, to come to lists in a few dozen rows.
#ifndef QUASHDB_MIN_PARTITION_ROWS
#define QUASHDB_MIN_PARTITION_ROWS 1000
#endif
constexpr uint64_t kMinPartitionRows = QUASHDB_MIN_PARTITION_ROWS;

Status CheckName(const char* name, std::string* out) {
  if (name == nullptr) return NullArgument("name");
  const size_t length = strnlen(name, QUASH_NAME_BYTES_MAX + 1);
  if (length == 0) return Error(QUASH_INVALID, "collection name is empty");
  if (length > QUASH_NAME_BYTES_MAX) {
    return Error(QUASH_LIMIT, "collection name is longer than {} bytes", QUASH_NAME_BYTES_MAX);
  }
  const std::string_view text(name, length);
  if (!quash::IsUtf8(text)) return Error(QUASH_INVALID, "collection name is not valid UTF-8");
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      return Error(QUASH_INVALID, "collection name has control character {:#04x}",
                   static_cast<unsigned char>(c));
    }
  }
  out->assign(text);
  return Status();
}

//   argument  that has the field, for messages
Status CopyField(const quash_field& field, const std::string& argument, quash::Field* out) {
  if (field.name == nullptr) return Error(QUASH_INVALID, "{}.name is NULL", argument);
  if (const uint32_t type = quash::EnumNumber(field.type); type > QUASH_FIELD_STRING_LIST) {
    return Error(QUASH_INVALID, "field \"{}\" has type {}, expected a quash_field_type",
                 field.name, type);
  }
  const size_t length = strnlen(field.name, QUASH_NAME_BYTES_MAX + 1);
  *out = {std::string(field.name, length), field.type};
  return Status();
}

Status MakeSpec(const char* name, const quash_collection_options& options,
                quash::CollectionSpec* spec) {
  QUASH_RETURN_IF_ERROR(CheckName(name, &spec->name));
  if (options.dim == 0) {
    return Error(QUASH_INVALID, "dim is 0, expected 1 to {}", QUASH_DIM_MAX);
  }
  if (options.dim > QUASH_DIM_MAX) {
    return Error(QUASH_LIMIT, "dim is {}, expected 1 to {}", options.dim, QUASH_DIM_MAX);
  }
  const auto check_enum = [](const char* what, const auto& value, uint32_t largest) {
    const uint32_t number = quash::EnumNumber(value);
    return number <= largest ? Status()
                             : Error(QUASH_INVALID, "{} is {}, expected 0 to {}", what, number,
                                     largest);
  };
  QUASH_RETURN_IF_ERROR(check_enum("metric", options.metric, QUASH_METRIC_L2));
  QUASH_RETURN_IF_ERROR(check_enum("id_type", options.id_type, QUASH_ID_STRING));
  QUASH_RETURN_IF_ERROR(check_enum("rerank", options.rerank, QUASH_RERANK_F32));
  QUASH_RETURN_IF_ERROR(check_enum("rotation", options.rotation, QUASH_ROTATION_DENSE));
  if (options.bits < 1 || options.bits > 4) {
    return Error(QUASH_INVALID, "bits is {}, expected 1 to 4", options.bits);
  }
  if (options.rotation == QUASH_ROTATION_DENSE && options.dim > kDenseDimMax) {
    return Error(QUASH_LIMIT, "dim is {}, expected at most {} with the dense rotation",
                 options.dim, kDenseDimMax);
  }
  if (options.partition_rows != 0 && options.partition_rows < kMinPartitionRows) {
    return Error(QUASH_INVALID, "partition_rows is {}, expected 0 or at least {}",
                 options.partition_rows, kMinPartitionRows);
  }
  if (options.num_fields > QUASH_FIELDS_MAX) {
    return Error(QUASH_LIMIT, "num_fields is {}, expected at most {}", options.num_fields,
                 QUASH_FIELDS_MAX);
  }
  if (options.num_fields > 0 && options.fields == nullptr) return NullArgument("fields");
  spec->dim = options.dim;
  spec->metric = options.metric;
  spec->id_type = options.id_type;
  spec->bits = options.bits;
  spec->rerank = options.rerank;
  spec->rotation = options.rotation;
  spec->seed = options.seed;
  spec->partition_rows =
      options.partition_rows != 0 ? options.partition_rows : quash::kDefaultPartitionRows;
  spec->fields.resize(options.num_fields);
  for (size_t i = 0; i < options.num_fields; ++i) {
    QUASH_RETURN_IF_ERROR(
        CopyField(options.fields[i], fmt::format("fields[{}]", i), &spec->fields[i]));
  }
  return quash::CheckFields(spec->fields);
}

Status MakeHandle(quash_db* db, std::shared_ptr<quash::Collection> collection,
                  quash_collection** out) {
  *out = new quash_collection{db->handle, std::move(collection)};
  return Status();
}

}  // namespace

extern "C" {

void quash_collection_options_init(quash_collection_options* options) {
  if (options == nullptr) return;
  *options = quash_collection_options{};
  options->struct_size = sizeof(*options);
  options->metric = QUASH_METRIC_COSINE;
  options->bits = 4;
  options->rerank = QUASH_RERANK_F16;
  options->seed = 42;
}

quash_status quash_collection_create(quash_db* db, const char* name,
                                     const quash_collection_options* options,
                                     quash_collection** out_collection) {
  return WithDatabaseToWrite(db, [&](quash::Database& database) -> Status {
    if (options == nullptr) return NullArgument("options");
    quash_collection_options given;
    quash_collection_options_init(&given);
    QUASH_RETURN_IF_ERROR(quash::CopyOptions(options, "quash_collection_options", &given));
    quash::CollectionSpec spec;
    QUASH_RETURN_IF_ERROR(MakeSpec(name, given, &spec));
    // The handle first: nothing may fail once the collection is there.
    auto made = std::make_unique<quash_collection>();
    made->handle = db->handle;
    QUASH_RETURN_IF_ERROR(database.CreateCollection(std::move(spec), &made->collection));
    if (out_collection != nullptr) *out_collection = made.release();
    return Status();
  });
}

quash_status quash_collection_open(quash_db* db, const char* name,
                                   quash_collection** out_collection) {
  return WithDatabase(db, [&](quash::Database& database) -> Status {
    if (out_collection == nullptr) return NullArgument("out_collection");
    std::string checked;
    QUASH_RETURN_IF_ERROR(CheckName(name, &checked));
    std::shared_ptr<quash::Collection> collection;
    QUASH_RETURN_IF_ERROR(database.OpenCollection(checked, &collection));
    return MakeHandle(db, std::move(collection), out_collection);
  });
}

void quash_collection_free(quash_collection* collection) { delete collection; }

quash_status quash_collection_drop(quash_db* db, const char* name) {
  return WithDatabaseToWrite(db, [&](quash::Database& database) -> Status {
    std::string checked;
    QUASH_RETURN_IF_ERROR(CheckName(name, &checked));
    return database.DropCollection(checked);
  });
}

quash_status quash_collection_list(quash_db* db, char** out_json) {
  return WithDatabase(db, [&](quash::Database& database) -> Status {
    if (out_json == nullptr) return NullArgument("out_json");
    std::vector<std::string> names;
    QUASH_RETURN_IF_ERROR(database.ListCollections(&names));
    quash::JsonArray list;
    for (const std::string& name : names) list.Add(name);
    return quash::CopyText(list.text(), out_json);
  });
}

quash_status quash_collection_describe(quash_collection* collection, char** out_json) {
  return WithCollection(collection, [&](quash::Collection& opened) -> Status {
    if (out_json == nullptr) return NullArgument("out_json");
    quash::SnapshotRef snapshot;
    QUASH_RETURN_IF_ERROR(opened.GetSnapshot(&snapshot));
    const quash::CollectionSpec& spec = *snapshot->spec;
    quash::JsonArray fields;
    for (const quash::Field& field : spec.fields) {
      fields.Add(quash::JsonObject(
          {{"name", field.name}, {"type", quash::FieldTypeName(field.type)}}));
    }
    quash::JsonObject description({{"name", spec.name},
                                      {"dim", spec.dim},
                                      {"metric", quash::MetricName(spec.metric)},
                                      {"id_type", quash::IdTypeName(spec.id_type)},
                                      {"bits", spec.bits},
                                      {"rerank", quash::RerankName(spec.rerank)},
                                      {"rotation", quash::RotationName(spec.rotation)},
                                      {"seed", spec.seed},
                                      {"partition_rows", spec.partition_rows == UINT64_MAX
                                                             ? quash::JsonText(nullptr)
                                                             : spec.partition_rows},
                                      {"rows", snapshot->live_rows},
                                      {"fields", fields}});
    if (snapshot->gpu != nullptr) {
      quash::JsonArray gpus;
      for (const auto& image : snapshot->gpu->images()) {
        gpus.Add(quash::JsonObject({{"device", image->device()},
                                    {"name", image->device_name()},
                                    {"budget_bytes", image->budget_bytes()},
                                    {"used_bytes", image->used_bytes()}}));
      }
      description.Add("gpu", gpus);
    }
    return quash::CopyText(description.text(), out_json);
  });
}

quash_status quash_collection_add_field(quash_collection* collection, const quash_field* field) {
  return WithCollectionToWrite(collection, [&](quash::Collection& opened) -> Status {
    if (field == nullptr) return NullArgument("field");
    quash::Field added;
    QUASH_RETURN_IF_ERROR(CopyField(*field, "field", &added));
    return opened.AddField(added);
  });
}

void quash_gpu_options_init(quash_gpu_options* options) {
  if (options == nullptr) return;
  *options = quash_gpu_options{};
  options->struct_size = sizeof(*options);
}

quash_status quash_collection_attach_gpu(quash_collection* collection,
                                         const quash_gpu_options* options) {
  return WithCollection(collection, [&](quash::Collection& opened) -> Status {
    quash_gpu_options given;
    quash_gpu_options_init(&given);
    QUASH_RETURN_IF_ERROR(quash::CopyOptions(options, "quash_gpu_options", &given));
    std::span<const int> devices(&given.device, 1);
    if (given.devices != nullptr) {
      if (given.num_devices == 0) {
        return Error(QUASH_INVALID, "num_devices is 0, expected 1 or more");
      }
      devices = {given.devices, given.num_devices};
    }
    const quash::cuda::DeviceScope scope;
    std::shared_ptr<quash::GpuGroup> group;
    QUASH_RETURN_IF_ERROR(quash::GpuGroup::Open(devices, given.budget_bytes, &group));
    quash::SnapshotRef snapshot;
    QUASH_RETURN_IF_ERROR(opened.GetSnapshot(&snapshot));
    std::vector<std::shared_ptr<const quash::GpuView>> views;
    QUASH_RETURN_IF_ERROR(group->View(*snapshot, /*with_tail=*/false, &views));
    return opened.AttachGpu(std::move(group));
  });
}

quash_status quash_collection_detach_gpu(quash_collection* collection) {
  return WithCollection(collection,
                        [&](quash::Collection& opened) { return opened.AttachGpu(nullptr); });
}

quash_status quash_collection_stats(quash_collection* collection,
                                    quash_collection_info* out_info) {
  return WithCollection(collection, [&](quash::Collection& opened) -> Status {
    if (out_info == nullptr) return NullArgument("out_info");
    const size_t size = out_info->struct_size;
    if (size < sizeof(size_t) || size > sizeof(quash_collection_info)) {
      return Error(QUASH_INVALID, "quash_collection_info.struct_size is {}, expected {}", size,
                   sizeof(quash_collection_info));
    }
    quash_collection_info info{};
    QUASH_RETURN_IF_ERROR(opened.Stats(&info));
    info.struct_size = size;
    std::memcpy(out_info, &info, size);
    return Status();
  });
}

}  // extern "C"
