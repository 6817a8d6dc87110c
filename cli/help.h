// The texts of `.help select` and the other statements.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace quash::cli {

std::vector<std::string> StatementTopics();
// The text on a lower-case topic, or "".
std::string_view StatementHelp(std::string_view topic);

}  // namespace quash::cli
