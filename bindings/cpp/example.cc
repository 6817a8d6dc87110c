// Stores four points with metadata and finds the nearest two to a fifth.
//   c++ -std=c++17 example.cc -lquashdb && ./a.out
#include <cstdio>
#include <string>
#include <vector>

#include "quashdb.hpp"

int main() {
  try {
    auto db = quashdb::Database::Open(":memory:");
    quashdb::CollectionOptions options(4);
    options.metric = QUASH_METRIC_L2;
    options.fields = {{"lang", QUASH_FIELD_STRING}};
    auto points = db.CreateCollection("points", options);

    const std::vector<float> vectors = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 1, 1, 0, 0};
    const std::vector<std::string> metadata = {R"({"lang": "en"})", R"({"lang": "de"})",
                                               R"({"lang": "en"})", R"({"lang": "en"})"};
    quashdb::Rows rows;
    rows.vectors = vectors;
    rows.metadata = metadata;
    points.Add(rows);

    quashdb::SearchOptions search;
    search.filter = "lang = 'en'";
    search.include = QUASH_INCLUDE_METADATA;
    const float query[] = {0.9f, 0.8f, 0, 0};
    const quashdb::Result found = points.Search(query, 2, search);
    for (std::size_t row = found.begin(0); row < found.end(0); ++row) {
      std::printf("%lld  %.4f  %s\n", static_cast<long long>(found.int_ids()[row]),
                  found.scores()[row], std::string(*found.metadata(row)).c_str());
    }
  } catch (const quashdb::Error& error) {
    std::fprintf(stderr, "%s: %s\n", quash_status_name(error.status()), error.what());
    return 1;
  }
  return 0;
}
