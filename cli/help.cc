#include "cli/help.h"

namespace quash::cli {
namespace {

struct Topic {
  std::string_view name;
  std::string_view text;
};

constexpr Topic kTopics[] = {
    {"create",
     R"(CREATE COLLECTION [IF NOT EXISTS] name (option value, ...) [FIELDS (name TYPE, ...)];
  dim N               coordinates per vector, required
  metric M            cosine (default), ip or l2
  bits N              1 to 4 per coordinate, default 4
  rerank R            f16 (default), f32, int8 or none: the tier that results are
                      rescored from; none saves space and gives up exact search
  id T                int (default) or string
  rotation R, seed N  hadamard (default) or dense; default seed 42
  partition_rows N    rows from which searches read the nearest lists instead of
                      every row: default 100000, never, or at least 1000
  types               BOOL, INT, FLOAT, STRING, INT[], STRING[]
Example
  CREATE COLLECTION docs (dim 384, metric cosine, id string)
    FIELDS (section STRING, size_kb INT, tags STRING[]);
)"},
    {"drop", "DROP COLLECTION [IF EXISTS] name;\n"},
    {"alter", "ALTER COLLECTION name ADD FIELD field TYPE;\n  Existing rows hold NULL.\n"},
    {"insert", R"(INSERT [OR REPLACE] INTO name [(column, ...)] VALUES (value, ...), (...), ...;
  Columns are id, vector, document and the collection's fields; without names
  the values are id, vector, every field in order, and optionally document.
  Values: numbers, 'text' ('' for a quote), TRUE, FALSE, NULL, [lists]. A
  statement's rows are written all or none. Without id, an int collection
  assigns it.
Example
  INSERT INTO docs (id, vector, section) VALUES ('a', [0.1, 0.2], 'libs');
)"},
    {"delete", "DELETE FROM name WHERE filter;\n  WHERE TRUE deletes every row. .help where\n"},
    {"select", R"(SELECT * | column, ... | COUNT(*) FROM name
  [NEAREST TO [number, ...] | NEAREST TO ID id | NEAREST TO FILE 'q.npy' [ROW n]]
  [WHERE filter] [WITH (option value, ...)] [LIMIT n] [AFTER (score, id)];
  columns    id, score, distance, vector, document and fields; "score" in quotes
             is a field of that name. * leaves the vector out.
  score      higher is better: inner product (ip), cosine, or minus the squared
             distance (l2)
  distance   lower is better: -score (ip), 1 - score (cosine), squared (l2)
  LIMIT      results per query, default 10; without NEAREST TO, every row
  AFTER      the next page: the last row's score and id
  FILE       without ROW, every row of the file is a query
  options    exact TRUE, recall x, nprobe n, candidates n, rerank_candidates n,
             planes 1|2|4, min_score x, threads n; written recall 0.95, recall = 0.95
             or recall => 0.95
Example
  SELECT id, score, section FROM docs NEAREST TO ID 'a' WHERE size_kb < 500 LIMIT 5;
)"},
    {"where", R"(A filter compares fields and id:
  = == != <> < <= > >=     BETWEEN a AND b     IN (...)     NOT IN (...)
  LIKE 'lib%' (% any run, _ one character)     IS NULL     IS NOT NULL
  list CONTAINS x     list CONTAINS ANY (...)     list CONTAINS ALL (...)
  AND     OR     NOT     ( )     TRUE     FALSE
Comparing with NULL is unknown, and unknown does not match.
)"},
    {"explain",
     "EXPLAIN SELECT ...;\n  Runs the search and shows its stages: rows, bytes, kernel, recall.\n"},
    {"describe", "DESCRIBE name;\n  The columns of a collection.\n"},
    {"show",
     "SHOW COLLECTIONS;\n  Every collection with its rows and settings. .collections lists names "
     "only.\n"}};

}  // namespace

std::vector<std::string> StatementTopics() {
  std::vector<std::string> topics;
  for (const Topic& topic : kTopics) topics.emplace_back(topic.name);
  return topics;
}

std::string_view StatementHelp(std::string_view name) {
  for (const Topic& topic : kTopics) {
    if (topic.name == name) return topic.text;
  }
  return {};
}

}  // namespace quash::cli
