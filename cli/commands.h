// The dot-commands.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace quash::cli {

class Shell;

// Runs one line that begins with '.'. Throws Error.
void RunDotCommand(Shell& shell, std::string_view line);

// Without the dot, sorted.
std::vector<std::string> DotCommandNames();

}  // namespace quash::cli
