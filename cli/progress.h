// A progress bar on stderr, shown only on a terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace quash::cli {

class ProgressBar {
 public:
  //   label    "importing"
  //   unit     "rows"; empty: a percentage only
  //   enabled  false: every call does nothing
  ProgressBar(std::string label, std::string unit, bool enabled);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // total 0: unknown. Redraws at most ten times a second.
  void Update(uint64_t done, uint64_t total);
  double elapsed_seconds() const;

 private:
  using Clock = std::chrono::steady_clock;

  const std::string label_;
  const std::string unit_;
  const bool enabled_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point drawn_ = start_;
  bool visible_ = false;
};

// "1:02:03", "02:03" or "4 s".
std::string FormatDuration(double seconds);

}  // namespace quash::cli
