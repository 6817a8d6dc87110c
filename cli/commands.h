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

// What the arguments of a dot-command are, for completion.
enum class ArgumentKind { kNone, kSwitch, kMode, kTopic, kCollection, kFile };
ArgumentKind DotCommandArguments(std::string_view name);

}  // namespace quash::cli
