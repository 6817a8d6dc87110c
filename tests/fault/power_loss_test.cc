// The power fails at a random moment: with durability full, what was acknowledged
// is there; with normal, the batches up to some point after the last checkpoint,
// and no others. The database opens in either case.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <random>

#include "tests/capi/support.h"
#include "tests/fault/file_journal.h"
#include "tests/fault/options.h"
#include "tests/fault/power_image.h"
#include "tests/fault/workload.h"

namespace fault_test {
namespace {

namespace fs = std::filesystem;
using capi_test::Db;
using capi_test::TempDir;
using file_journal::Event;

constexpr int kImagesPerRun = 25;

// A database that is written to until the power fails.
struct Run {
  bool full = false;  // durability
  // Contents: before, and after each batch of the run. A deque, since the model
  // is large and most are compared by size.
  std::deque<Model> states;
};

// Opens, writes, closes and opens again while every file call is recorded, with
// marks "begin", "done" (durable if full) and "durable" that carry the index of
// a state.
Run WriteAndRecord(const std::string& directory, uint64_t seed, int64_t* next, Model model,
                   std::mt19937_64& random) {
  const std::string path = directory + "/a.qdb";
  Run run;
  run.full = random() % 2 == 0;
  run.states.push_back(std::move(model));
  const auto durability = run.full ? QUASH_DURABILITY_FULL : QUASH_DURABILITY_NORMAL;
  file_journal::Start(directory);
  Db db = capi_test::Open(path, QUASH_OPEN_CREATE, durability);
  Collections collections;
  if (OpenCollections(db.get(), &collections) != QUASH_OK) {
    FreeCollections(collections);
    REQUIRE_OK(CreateCollections(db.get()));
    file_journal::Mark(0, "created");
    REQUIRE_OK(OpenCollections(db.get(), &collections));
  } else {
    file_journal::Mark(0, "created");
    file_journal::Mark(0, "durable");
  }
  const int batches = 10 + static_cast<int>(random() % 40);
  for (int i = 0; i < batches; ++i) {
    if (random() % 25 == 0) {
      FreeCollections(collections);
      REQUIRE_OK(quash_close(db.release()));
      file_journal::Mark(static_cast<int64_t>(run.states.size()) - 1, "durable");
      db = capi_test::Open(path, QUASH_OPEN_READWRITE, durability);
      REQUIRE_OK(OpenCollections(db.get(), &collections));
    }
    const Batch batch = MakeBatch(seed, (*next)++);
    run.states.push_back(run.states.back());
    run.states.back().Apply(batch);
    const auto state = static_cast<int64_t>(run.states.size()) - 1;
    file_journal::Mark(state, "begin");
    REQUIRE_OK(Apply(db.get(), collections, seed, batch));
    const bool checkpoints =
        batch.kind == Batch::Kind::kCheckpoint || batch.kind == Batch::Kind::kCompact;
    file_journal::Mark(state, run.full || checkpoints ? "durable" : "done");
  }
  FreeCollections(collections);
  if (random() % 2 == 0) {
    REQUIRE_OK(quash_close(db.release()));
    file_journal::Mark(static_cast<int64_t>(run.states.size()) - 1, "durable");
  }
  file_journal::Stop();
  return run;
}

// What may be found after a cut: one of the states from `durable` to `begun`.
struct Bounds {
  bool created = false;  // the collections
  int64_t durable = 0;
  int64_t begun = 0;

  void Take(const Event& event, bool full) {
    if (event.bytes == "created") created |= full;
    if (event.bytes == "begin") begun = event.offset;
    if (event.bytes == "durable") {
      durable = event.offset;
      created = true;
    }
  }
};

// Opens what the power cut has left and gives its contents.
Model CheckImage(const std::string& directory, uint64_t seed, const Run& run, const Bounds& bounds,
                 std::mt19937_64& random) {
  const std::string path = directory + "/a.qdb";
  // A database that nobody was told of may be missing or made anew.
  const auto mode = bounds.created ? QUASH_OPEN_READWRITE : QUASH_OPEN_CREATE;
  if (bounds.created && random() % 4 == 0) {
    CHECK_OK(quash_verify(capi_test::Open(path, QUASH_OPEN_READONLY).get(), nullptr));
  }
  const Db db = capi_test::Open(path, mode);
  Collections collections;
  if (OpenCollections(db.get(), &collections) != QUASH_OK) {
    FreeCollections(collections);
    CHECK_MESSAGE(!bounds.created, "collections are lost");
    CHECK_OK(quash_verify(db.get(), nullptr));
    return {};
  }
  Model stored;
  std::string wrong;
  REQUIRE_OK(ReadModel(collections, seed, &stored, &wrong));
  CHECK_MESSAGE(wrong.empty(), wrong);
  bool is_known = false;
  for (int64_t state = bounds.begun; state >= bounds.durable && !is_known; --state) {
    is_known = stored == run.states[static_cast<size_t>(state)];
  }
  CHECK_MESSAGE(is_known, Difference(stored, run.states[static_cast<size_t>(bounds.durable)]));
  char* text = nullptr;
  const quash_status verified = quash_verify(db.get(), &text);
  const std::string report = capi_test::TakeText(text);
  CHECK_MESSAGE(verified == QUASH_OK, report);
  FreeCollections(collections);
  return stored;
}

// Whether opening is refused for the manifest's sake.
bool IsRefusedForManifest(const std::string& directory) {
  quash_open_options options;
  quash_open_options_init(&options);
  options.durability = QUASH_DURABILITY_NORMAL;
  quash_db* db = nullptr;
  const quash_status status = quash_open((directory + "/a.qdb").c_str(), &options, &db);
  if (status == QUASH_OK) CHECK_OK(quash_close(db));
  return status == QUASH_CORRUPT &&
         std::string(quash_errmsg()).find("MANIFEST") != std::string::npos;
}

TEST_SUITE_BEGIN("power_loss");

TEST_CASE("a power cut loses nothing that was durable and leaves no holes") {
  // Run i takes everything from seed + i: --seed S --images 25 repeats one, but
  // for the scheduling of threads.
  const int runs = (options().images + kImagesPerRun - 1) / kImagesPerRun;
  int images = 0, reopened = 0, refused = 0;
  size_t events_seen = 0;
  for (int i = 0; i < runs && HasTime(); ++i) {
    const uint64_t seed = options().seed + static_cast<uint64_t>(i);
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    const TempDir dir;
    const std::string work = fs::canonical(fs::path(dir / "x").parent_path()) / "work";
    const std::string image = dir / "image";
    fs::create_directory(work);
    int64_t next = 0;
    Model model;
    // At times on what an earlier power cut has left.
    for (int left = kImagesPerRun; left > 0;) {
      const int take = std::min(left, 5 + static_cast<int>(random() % kImagesPerRun));
      left -= take;
      const Run run = WriteAndRecord(work, seed, &next, std::move(model), random);
      const auto& events = file_journal::Events();
      events_seen += events.size();
      std::vector<size_t> cuts;  // the number of events before the cut
      for (int cut = 0; cut < take; ++cut) cuts.push_back(random() % (events.size() + 1));
      std::sort(cuts.begin(), cuts.end());
      PowerImage disk(file_journal::Initial());
      Bounds bounds;
      size_t at = 0;
      for (const size_t cut : cuts) {
        for (; at < cut; ++at) {
          disk.Apply(events[at]);
          if (events[at].kind == Event::Kind::kMark) bounds.Take(events[at], run.full);
        }
        CAPTURE(run.full);
        CAPTURE(cut);
        CAPTURE(bounds.durable);
        CAPTURE(bounds.begun);
        while (disk.Write(image, random) && IsRefusedForManifest(image)) ++refused;
        model = CheckImage(image, seed, run, bounds, random);
        ++images;
      }
      fs::remove_all(work);
      fs::rename(image, work);
      ++reopened;
    }
  }
  MESSAGE(images, " images of ", reopened, " runs with ", events_seen, " file calls; ", refused,
          " more were refused for noise in the manifest");
  CHECK(refused < images / 20 + 5);
}

TEST_SUITE_END();

}  // namespace
}  // namespace fault_test
