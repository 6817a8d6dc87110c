// Reading a measured curve of recall against probed lists.
#pragma once

#include <cstdint>
#include <span>

#include "libquashdb/schema.h"

namespace quash {

// Measured recall of `nprobe` lists, between two points on the line over
// log(nprobe); -1 if the curve is empty or begins above it. Past its end: the
// last point's.
double RecallOf(std::span<const RecallPoint> curve, double nprobe);

// The fewest lists that give `recall`, read in the same way and rounded up; 0 if
// the curve does not reach it.
uint32_t NprobeFor(std::span<const RecallPoint> curve, double recall);

}  // namespace quash
