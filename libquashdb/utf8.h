// UTF-8 as RFC 3629 defines it: no overlong forms, surrogates or values past
// U+10FFFF.
#pragma once

#include <string_view>

namespace quash {

bool IsUtf8(std::string_view text);

}  // namespace quash
