// The writes of the crash test: batch i of a seed is the same in the writing
// child and in the parent's model, whatever became of the batches before it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "quashdb.h"

namespace fault_test {

inline constexpr uint32_t kDim = 20;

// Where a row's contents come from: all follow from these two numbers.
struct Origin {
  int64_t batch;
  int64_t row;
  bool operator==(const Origin&) const = default;
};

// How much is written, by the seed. The files are of the same kinds; what differs is
// what it takes to look through them.
//   kSmall   some hundred rows
//   kListed  "numbers" is partitioned from batch 1 on; seeds 3 of every 8
//   kLarge   some thousand rows in each collection, both partitioned, of which some are
//            written by the thousand, so that segments fill up; seeds 7 of every 8
enum class Size { kSmall, kListed, kLarge };
constexpr Size SizeOf(uint64_t seed) {
  return seed % 8 == 7 ? Size::kLarge : seed % 8 == 3 ? Size::kListed : Size::kSmall;
}

std::vector<float> VectorOf(uint64_t seed, Origin origin);
std::string DocumentOf(Origin origin);

struct Batch {
  enum class Kind { kUpsert, kAdd, kDelete, kDeleteWhere, kCompact, kCheckpoint };
  Kind kind;
  int64_t number;
  std::vector<int64_t> ids;  // of kUpsert, kAdd, kDelete
  int64_t bucket = 0;        // of kDeleteWhere
};

Batch MakeBatch(uint64_t seed, int64_t number);

// The two collections written: "numbers" with int64 ids and float32 originals,
// "names" with string ids and codes only; both are partitioned once they have a
// thousand rows. Every batch but those of maintenance goes to the one its number is
// assigned to.
struct Collections {
  quash_collection* numbers = nullptr;
  quash_collection* names = nullptr;
};
bool IsForNames(const Batch& batch);
std::string NameOf(int64_t id);

quash_status CreateCollections(quash_db* db);
quash_status OpenCollections(quash_db* db, Collections* collections);
void FreeCollections(const Collections& collections);

quash_status Apply(quash_db* db, const Collections& collections, uint64_t seed, const Batch& batch);

// What should be stored: row id -> origin, per collection.
using RowOrigins = std::map<int64_t, Origin>;
struct Model {
  RowOrigins numbers, names;
  void Apply(const Batch& batch);
  bool operator==(const Model&) const = default;
};

// Reads everything back to where it comes from.
//   wrong  out: what contents do not follow from their origin; "" if all do
quash_status ReadModel(const Collections& collections, uint64_t seed, Model* model,
                       std::string* wrong);

// Options of a search that reads every list of a partition index, so that it finds
// what a search of every row finds.
quash_search_options SearchOfLists();

// "" if both hold the same rows, else how they differ.
std::string Difference(const Model& found, const Model& expected);

}  // namespace fault_test
