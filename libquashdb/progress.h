// What long calls tell the caller.
#pragma once

#include <cstdint>
#include <functional>

namespace quash {

// (done, total) in a unit of the call, total 0 while unknown -> true to stop. Called on
// the thread that made the call. May be empty.
using Progress = std::function<bool(uint64_t done, uint64_t total)>;

}  // namespace quash
