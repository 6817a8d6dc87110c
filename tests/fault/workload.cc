#include "tests/fault/workload.h"

#include <fmt/format.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <random>

namespace fault_test {
namespace {

constexpr int64_t kBuckets = 50;
constexpr uint64_t kPartitionRows = 1000;  // the least: soon there is an index

int64_t BucketOf(Origin origin) { return (origin.batch * 31 + origin.row) % kBuckets; }

std::string MetadataOf(Origin origin) {
  return fmt::format(R"({{"batch":{},"row":{},"bucket":{}}})", origin.batch, origin.row,
                     BucketOf(origin));
}

// Ids below it are hit by upserts and deletes.
int64_t IdSpan(Size size) {
  switch (size) {
    case Size::kSmall:
      return 400;
    case Size::kListed:
      return 1600;
    default:
      return 4000;
  }
}

// splitmix64: a good start from any two numbers, in a few nanoseconds.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

quash_status Write(quash_collection* collection, uint64_t seed, const Batch& batch,
                   bool string_ids) {
  std::vector<float> vectors;
  std::vector<std::string> names, metadata, documents;
  for (size_t i = 0; i < batch.ids.size(); ++i) {
    const Origin origin = {batch.number, static_cast<int64_t>(i)};
    const auto vector = VectorOf(seed, origin);
    vectors.insert(vectors.end(), vector.begin(), vector.end());
    names.push_back(NameOf(batch.ids[i]));
    metadata.push_back(MetadataOf(origin));
    documents.push_back(DocumentOf(origin));
  }
  const auto pointers = [](const std::vector<std::string>& texts) {
    std::vector<const char*> result;
    for (const std::string& text : texts) result.push_back(text.c_str());
    return result;
  };
  const auto name_pointers = pointers(names);
  const auto metadata_pointers = pointers(metadata);
  const auto document_pointers = pointers(documents);
  quash_rows rows;
  quash_rows_init(&rows);
  rows.n = batch.ids.size();
  if (string_ids) {
    rows.string_ids = name_pointers.data();
  } else {
    rows.int_ids = batch.ids.data();
  }
  rows.vectors = vectors.data();
  rows.metadata = metadata_pointers.data();
  rows.documents = document_pointers.data();
  return batch.kind == Batch::Kind::kAdd ? quash_add(collection, &rows, nullptr)
                                         : quash_upsert(collection, &rows);
}

// Rows of one page; false if one of them is not what its origin says.
bool TakeRows(const quash_result* page, uint64_t seed, bool string_ids, RowOrigins* rows) {
  const size_t n = quash_result_offsets(page)[1];
  for (size_t i = 0; i < n; ++i) {
    // Where it says to come from; then all of it must be as it is from there.
    const char* metadata = quash_result_metadata(page, i);
    Origin origin = {};
    if (std::sscanf(metadata, R"({"batch":%)" SCNd64 R"(,"row":%)" SCNd64, &origin.batch,
                    &origin.row) != 2 ||
        metadata != MetadataOf(origin)) {
      return false;
    }
    int64_t id;
    if (string_ids) {
      const std::string name = quash_result_string_id(page, i);
      id = name.size() > 5 ? std::stoll(name.substr(5)) : -1;
      if (name != NameOf(id)) return false;
    } else {
      id = quash_result_int_ids(page)[i];
      const auto vector = VectorOf(seed, origin);
      const float* stored = quash_result_vectors(page) + i * kDim;
      if (!std::equal(vector.begin(), vector.end(), stored)) return false;
    }
    const char* document = quash_result_document(page, i);
    if (document == nullptr || document != DocumentOf(origin)) return false;
    if (!rows->emplace(id, origin).second) return false;
  }
  return true;
}

quash_status ReadRows(quash_collection* collection, uint64_t seed, bool string_ids,
                      RowOrigins* rows, bool* right) {
  quash_iterator* iterator = nullptr;
  // The codes that "names" holds give its vectors back approximately.
  quash_status status = quash_iterate(
      collection, nullptr,
      QUASH_INCLUDE_METADATA | QUASH_INCLUDE_DOCUMENTS | (string_ids ? 0 : QUASH_INCLUDE_VECTORS),
      &iterator);
  if (status != QUASH_OK) return status;
  for (*right = true; *right;) {
    quash_result* page = nullptr;
    status = quash_iterator_next(iterator, 2000, &page);
    if (status != QUASH_OK) break;
    const bool at_end = quash_result_offsets(page)[1] == 0;
    *right = TakeRows(page, seed, string_ids, rows);
    quash_result_free(page);
    if (at_end) break;
  }
  quash_iterator_free(iterator);
  return status;
}

std::string RowDifference(const char* what, const RowOrigins& found, const RowOrigins& expected) {
  if (found == expected) return "";
  size_t lost = 0, extra = 0;
  for (const auto& row : expected) {
    const auto it = found.find(row.first);
    lost += it == found.end() || it->second != row.second;
  }
  for (const auto& row : found) extra += !expected.contains(row.first);
  return fmt::format("{}: {} rows lost or stale, {} rows too many of {}; ", what, lost, extra,
                     expected.size());
}

quash_status Delete(quash_collection* collection, const Batch& batch, bool string_ids) {
  std::vector<std::string> names;
  std::vector<const char*> pointers;
  for (const int64_t id : batch.ids) names.push_back(NameOf(id));
  for (const std::string& name : names) pointers.push_back(name.c_str());
  quash_ids ids = {batch.ids.size(), nullptr, nullptr};
  if (string_ids) {
    ids.string_ids = pointers.data();
  } else {
    ids.int_ids = batch.ids.data();
  }
  return quash_delete(collection, &ids, nullptr);
}

}  // namespace

std::vector<float> VectorOf(uint64_t seed, Origin origin) {
  uint64_t state = Mix(Mix(Mix(seed) + static_cast<uint64_t>(origin.batch)) +
                       static_cast<uint64_t>(origin.row));
  std::vector<float> vector(kDim);
  for (float& x : vector) {
    state = Mix(state);
    x = static_cast<float>(static_cast<int64_t>(state) >> 40) * 0x1p-23f;  // -1 to 1
  }
  return vector;
}

std::string DocumentOf(Origin origin) {
  return fmt::format("row {} of batch {}", origin.row, origin.batch);
}

Batch MakeBatch(uint64_t seed, int64_t number) {
  const Size size = SizeOf(seed);
  Batch batch;
  batch.number = number;
  if (size == Size::kListed && number == 1) {
    batch.kind = Batch::Kind::kUpsert;
    for (uint64_t id = 0; id < kPartitionRows + kPartitionRows / 4; ++id) {
      batch.ids.push_back(static_cast<int64_t>(id));
    }
    return batch;
  }
  std::mt19937_64 random(Mix(Mix(seed) + static_cast<uint64_t>(number)));
  const uint64_t dice = random() % 100;
  if (dice < 4) {
    batch.kind = Batch::Kind::kCompact;
  } else if (dice < 8) {
    batch.kind = Batch::Kind::kCheckpoint;
  } else if (dice < 14) {
    batch.kind = Batch::Kind::kDeleteWhere;
    batch.bucket = static_cast<int64_t>(random() % kBuckets);
  } else {
    // Mostly small, at times enough to seal a segment.
    const bool is_large = size == Size::kLarge && random() % 20 == 0;
    const size_t rows = is_large ? 500 + random() % 2500 : 1 + random() % 60;
    if (dice < 30) {
      batch.kind = Batch::Kind::kAdd;  // ids of its own
      for (size_t i = 0; i < rows; ++i) {
        batch.ids.push_back(1'000'000 + number * 10'000 + static_cast<int64_t>(i));
      }
    } else {
      batch.kind = dice < 80 ? Batch::Kind::kUpsert : Batch::Kind::kDelete;
      const int64_t first = static_cast<int64_t>(random() % IdSpan(size));
      const int64_t stride = 1 + static_cast<int64_t>(random() % 3);
      for (size_t i = 0; i < rows; ++i) {
        batch.ids.push_back(first + stride * static_cast<int64_t>(i));
      }
    }
  }
  return batch;
}

bool IsForNames(const Batch& batch) { return batch.number % 3 == 0; }

std::string NameOf(int64_t id) { return fmt::format("name-{:07}", id); }

quash_status CreateCollections(quash_db* db) {
  const quash_field fields[] = {
      {"batch", QUASH_FIELD_INT}, {"row", QUASH_FIELD_INT}, {"bucket", QUASH_FIELD_INT}};
  quash_collection_options options;
  quash_collection_options_init(&options);
  options.dim = kDim;
  options.metric = QUASH_METRIC_L2;
  options.rerank = QUASH_RERANK_F32;
  options.fields = fields;
  options.num_fields = 3;
  options.partition_rows = kPartitionRows;
  const quash_status status = quash_collection_create(db, "numbers", &options, nullptr);
  // The power may have gone between the two.
  if (status != QUASH_OK && status != QUASH_EXISTS) return status;
  options.metric = QUASH_METRIC_IP;
  options.id_type = QUASH_ID_STRING;
  options.rerank = QUASH_RERANK_NONE;
  return quash_collection_create(db, "names", &options, nullptr);
}

quash_status OpenCollections(quash_db* db, Collections* collections) {
  const quash_status status = quash_collection_open(db, "numbers", &collections->numbers);
  if (status != QUASH_OK) return status;
  return quash_collection_open(db, "names", &collections->names);
}

void FreeCollections(const Collections& collections) {
  quash_collection_free(collections.numbers);
  quash_collection_free(collections.names);
}

quash_status Apply(quash_db* db, const Collections& collections, uint64_t seed,
                   const Batch& batch) {
  const bool for_names = IsForNames(batch);
  quash_collection* target = for_names ? collections.names : collections.numbers;
  switch (batch.kind) {
    case Batch::Kind::kUpsert:
    case Batch::Kind::kAdd:
      return Write(target, seed, batch, for_names);
    case Batch::Kind::kDelete:
      return Delete(target, batch, for_names);
    case Batch::Kind::kDeleteWhere:
      return quash_delete_where(target, fmt::format("bucket = {}", batch.bucket).c_str(), nullptr);
    case Batch::Kind::kCompact:
      return quash_compact(db);
    case Batch::Kind::kCheckpoint:
      return quash_checkpoint(db);
  }
  return QUASH_INTERNAL;
}

void Model::Apply(const Batch& batch) {
  auto& rows = IsForNames(batch) ? names : numbers;
  switch (batch.kind) {
    case Batch::Kind::kUpsert:
    case Batch::Kind::kAdd:
      for (size_t i = 0; i < batch.ids.size(); ++i) {
        rows[batch.ids[i]] = {batch.number, static_cast<int64_t>(i)};
      }
      break;
    case Batch::Kind::kDelete:
      for (const int64_t id : batch.ids) rows.erase(id);
      break;
    case Batch::Kind::kDeleteWhere:
      std::erase_if(rows, [&](const auto& row) { return BucketOf(row.second) == batch.bucket; });
      break;
    case Batch::Kind::kCompact:
    case Batch::Kind::kCheckpoint:
      break;
  }
}

quash_status ReadModel(const Collections& collections, uint64_t seed, Model* model,
                       std::string* wrong) {
  *model = {};
  wrong->clear();
  bool right = false;
  quash_status status = ReadRows(collections.numbers, seed, false, &model->numbers, &right);
  if (status != QUASH_OK) return status;
  if (!right) *wrong += "a row of numbers has contents that are not its own; ";
  status = ReadRows(collections.names, seed, true, &model->names, &right);
  if (status != QUASH_OK) return status;
  if (!right) *wrong += "a row of names has contents that are not its own; ";
  return QUASH_OK;
}

quash_search_options SearchOfLists() {
  quash_search_options options;
  quash_search_options_init(&options);
  options.nprobe = UINT32_MAX;
  return options;
}

std::string Difference(const Model& found, const Model& expected) {
  return RowDifference("numbers", found.numbers, expected.numbers) +
         RowDifference("names", found.names, expected.names);
}

}  // namespace fault_test
