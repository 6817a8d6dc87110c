#include "cli/progress.h"

#include <fmt/format.h>

#include <cstdio>
#include <utility>

#include "cli/output.h"
#include "cli/text.h"

namespace quash::cli {

ProgressBar::ProgressBar(std::string label, std::string unit, bool enabled)
    : label_(std::move(label)), unit_(std::move(unit)), enabled_(enabled && StderrIsTerminal()) {}

ProgressBar::~ProgressBar() {
  if (visible_) fmt::print(stderr, "\r\033[K");
}

double ProgressBar::elapsed_seconds() const {
  return std::chrono::duration<double>(Clock::now() - start_).count();
}

void ProgressBar::Update(uint64_t done, uint64_t total) {
  if (!enabled_) return;
  const Clock::time_point now = Clock::now();
  if (now - drawn_ < std::chrono::milliseconds(100)) return;
  drawn_ = now;
  visible_ = true;
  const double seconds = elapsed_seconds();
  const double rate = static_cast<double>(done) / seconds;
  std::string line = label_;
  if (total > 0) {
    constexpr uint64_t kBarWidth = 24;
    const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
    const auto filled = static_cast<size_t>(share * kBarWidth);
    line += fmt::format(" {:3.0f}% [{}{}]", share * 100, std::string(filled, '#'),
                        std::string(kBarWidth - filled, '.'));
  }
  if (!unit_.empty()) {
    const std::string of = total > 0 ? fmt::format("/{}", FormatCount(total)) : "";
    line += fmt::format(" {}{} {}, {}/s", FormatCount(done), of, unit_,
                        FormatCount(static_cast<uint64_t>(rate)));
  }
  if (total > done && done > 0) {
    line += ", " + FormatDuration(static_cast<double>(total - done) / rate) + " left";
  }
  // A line that wraps could not be overwritten.
  const size_t columns = StderrWidth();
  fmt::print(stderr, "\r{}\033[K", Truncate(line, columns > 1 ? columns - 1 : 1));
  std::fflush(stderr);
}

std::string FormatDuration(double seconds) {
  const auto whole = static_cast<uint64_t>(seconds + 0.5);
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{:02}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

}  // namespace quash::cli
