// LIKE patterns: % any run of characters, _ one character, ASCII case ignored,
// no escape character, as in SQLite.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quash {

class LikePattern {
 public:
  // Longer patterns are refused by the parser (SQLite's bound).
  static constexpr size_t kMaxBytes = 50'000;

  //   pattern  valid UTF-8
  explicit LikePattern(std::string_view pattern);

  // Whether all of `text`, valid UTF-8, matches. Each run between two % is
  // sought once from the left, so there is no backtracking: linear in the text
  // for runs without _, at most text times run for those with.
  bool Matches(std::string_view text) const;

 private:
  // What stands between two %.
  struct Run {
    std::string text;              // lower case
    size_t chars = 0;              // characters, _ included
    bool has_any = false;          // holds a _
    std::vector<uint32_t> border;  // longest proper border of each prefix
  };

  static Run MakeRun(std::string_view pattern, bool sought);
  // End of `run` matched at `begin`, or npos.
  static size_t MatchAt(const Run& run, std::string_view text, size_t begin);
  // End of the leftmost match at or after `begin`, or npos.
  static size_t Find(const Run& run, std::string_view text, size_t begin);

  bool has_percent_ = false;
  Run head_;  // before the first %
  Run tail_;  // after the last %
  std::vector<Run> middle_;
};

}  // namespace quash
