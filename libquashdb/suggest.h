// "Did you mean" for misspelt names.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace quash {

// The name nearest to `wanted`: fewest edits (insert, delete, replace, swap of
// neighbours; ASCII case ignored) up to a third of its length, else one that
// `wanted` begins or that begins `wanted`. "" if none is near.
std::string NearestName(std::string_view wanted, std::span<const std::string_view> names);

// `text` in double quotes, cut to about 48 bytes at a character boundary: for
// messages that name what a user wrote.
std::string QuoteForMessage(std::string_view text);

// `; did you mean "x"?`, or `; expected "a", "b" or "c"` where nothing is near
// and there are few names, or "".
std::string Suggestion(std::string_view wanted, std::span<const std::string_view> names);

}  // namespace quash
