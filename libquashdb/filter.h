// Filters: the SQL WHERE subset documented in quashdb.h, parsed once against a
// collection's fields, evaluated column-wise per segment to row bitmaps.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "libquashdb/schema.h"
#include "libquashdb/segment.h"
#include "libquashdb/status.h"

namespace quash {

struct FilterNode;  // filter_ast.h

class Filter {
 public:
  // Parses and type-checks (the language: FILTERS.md). QUASH_SYNTAX, QUASH_TYPE,
  // QUASH_NOT_FOUND for an unknown field (naming the nearest), QUASH_LIMIT; all
  // with the offset of what is wrong, except for a text too long.
  static Status Parse(std::string_view text, const CollectionSpec& spec,
                      std::shared_ptr<const Filter>* out);
  ~Filter();

  // Clears every bit of `rows` whose row does not match (unknown counts as no
  // match).
  //   rows  [segment.num_blocks()] in: rows of interest, out: those matching;
  //         undefined on error
  // QUASH_CORRUPT for a column that does not fit the segment, QUASH_IO and the
  // like from reading it. May run on several threads at once.
  Status Apply(const Segment& segment, std::vector<uint32_t>* rows) const;

  const std::string& text() const { return text_; }

 private:
  Filter() = default;
  std::string text_;
  std::unique_ptr<const FilterNode> root_;
};

}  // namespace quash
