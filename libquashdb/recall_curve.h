// What a collection keeps of measured recall, for those who search.
#pragma once

#include <cstdint>
#include <span>

#include "libquashdb/executor.h"
#include "libquashdb/schema.h"
#include "libquashdb/snapshot.h"

namespace quash {

// Measured recall of `nprobe` lists, between two points on the line over
// log(nprobe); -1 if the curve is empty or begins above it. Past its end: the
// last point's.
double RecallOf(std::span<const RecallPoint> curve, double nprobe);

// The fewest lists that give `recall`, read in the same way and rounded up; 0 if
// the curve does not reach it.
uint32_t NprobeFor(std::span<const RecallPoint> curve, double recall);

// SearchPlan::recall of a search that a caller asks for: a plan without lists and
// recall of its own aims at what the collection keeps. 0: neither has any. A GPU
// scans every row.
double RecallInForce(const Snapshot& snapshot, const SearchPlan& plan);

}  // namespace quash
