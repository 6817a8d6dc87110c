// A filter tree over one segment's columns.
#pragma once

#include <cstdint>
#include <vector>

#include "libquashdb/filter_ast.h"
#include "libquashdb/segment.h"
#include "libquashdb/status.h"

namespace quash {

//   rows  [segment.num_blocks()] in: rows of interest, out: those matching;
//         undefined on error
// Columns are read when a predicate first needs them. QUASH_CORRUPT if one
// does not fit the segment, and whatever reading it gives.
Status EvaluateFilter(const FilterNode& root, const Segment& segment, std::vector<uint32_t>* rows);

}  // namespace quash
