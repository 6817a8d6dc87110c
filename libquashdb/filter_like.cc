#include "libquashdb/filter_like.h"

#include <algorithm>
#include <utility>

namespace quash {
namespace {

constexpr size_t kNone = std::string_view::npos;

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }
bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

size_t NextChar(std::string_view text, size_t at) {
  ++at;
  while (at < text.size() && IsContinuation(text[at])) ++at;
  return at;
}

}  // namespace

LikePattern::Run LikePattern::MakeRun(std::string_view pattern, bool sought) {
  Run run;
  run.text.resize(pattern.size());
  std::transform(pattern.begin(), pattern.end(), run.text.begin(), Lower);
  run.chars = pattern.size() -
              static_cast<size_t>(std::count_if(pattern.begin(), pattern.end(), IsContinuation));
  run.has_any = pattern.find('_') != kNone;
  if (run.has_any || !sought) return run;
  run.border.assign(run.text.size(), 0);
  uint32_t matched = 0;
  for (size_t i = 1; i < run.text.size(); ++i) {
    while (matched > 0 && run.text[i] != run.text[matched]) matched = run.border[matched - 1];
    if (run.text[i] == run.text[matched]) ++matched;
    run.border[i] = matched;
  }
  return run;
}

LikePattern::LikePattern(std::string_view pattern) {
  const size_t first = pattern.find('%');
  if (first == kNone) {
    head_ = MakeRun(pattern, false);
    return;
  }
  has_percent_ = true;
  const size_t last = pattern.rfind('%');
  head_ = MakeRun(pattern.substr(0, first), false);
  tail_ = MakeRun(pattern.substr(last + 1), false);
  for (size_t begin = first + 1; begin <= last;) {
    const size_t end = pattern.find('%', begin);
    if (end > begin) middle_.push_back(MakeRun(pattern.substr(begin, end - begin), true));
    begin = end + 1;
  }
}

size_t LikePattern::MatchAt(const Run& run, std::string_view text, size_t begin) {
  size_t at = begin;
  for (const char c : run.text) {
    if (at == text.size()) return kNone;
    if (c == '_') {
      at = NextChar(text, at);
    } else if (Lower(text[at]) == c) {
      ++at;
    } else {
      return kNone;
    }
  }
  return at;
}

size_t LikePattern::Find(const Run& run, std::string_view text, size_t begin) {
  if (run.has_any) {
    for (size_t at = begin; at < text.size(); at = NextChar(text, at)) {
      if (const size_t end = MatchAt(run, text, at); end != kNone) return end;
    }
    return kNone;
  }
  size_t matched = 0;  // Knuth-Morris-Pratt
  for (size_t at = begin; at < text.size(); ++at) {
    const char c = Lower(text[at]);
    while (matched > 0 && c != run.text[matched]) matched = run.border[matched - 1];
    if (c == run.text[matched]) ++matched;
    if (matched == run.text.size()) return at + 1;
  }
  return kNone;
}

bool LikePattern::Matches(std::string_view text) const {
  size_t at = MatchAt(head_, text, 0);
  if (at == kNone) return false;
  if (!has_percent_) return at == text.size();
  // The tail takes its number of characters from the end.
  size_t end = text.size();
  for (size_t chars = tail_.chars; chars > 0; --chars) {
    if (end <= at) return false;
    do {
      --end;
    } while (end > at && IsContinuation(text[end]));
  }
  if (MatchAt(tail_, text, end) != text.size()) return false;
  const std::string_view middle = text.substr(0, end);
  for (const Run& run : middle_) {
    at = Find(run, middle, at);
    if (at == kNone) return false;
  }
  return true;
}

}  // namespace quash
