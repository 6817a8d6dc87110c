// Which row has a slot, in a segment whose slots have gaps: two cache lines instead of
// a binary search.
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

namespace quash {

class SlotMap {
 public:
  // So far apart that bits would take more than a search is worth.
  static bool TooSparse(uint64_t span, size_t rows) { return span > 64 * uint64_t{rows}; }

  //   slots  ascending, at most 65,535
  explicit SlotMap(std::span<const uint64_t> slots) : first_(slots.front()) {
    words_.resize((slots.back() - first_) / 64 + 1);
    for (const uint64_t slot : slots) {
      words_[(slot - first_) / 64].slots |= uint64_t{1} << (slot - first_) % 64;
    }
    uint32_t before = 0;
    for (Word& word : words_) {
      word.before = before;
      before += static_cast<uint32_t>(std::popcount(word.slots));
    }
  }

  // False if no row has it.
  bool Find(uint64_t slot, uint32_t* row) const {
    const uint64_t at = slot - first_;
    if (slot < first_ || at / 64 >= words_.size()) return false;
    const Word& word = words_[at / 64];
    if ((word.slots >> at % 64 & 1) == 0) return false;
    const uint64_t smaller = word.slots & ((uint64_t{1} << at % 64) - 1);
    *row = word.before + static_cast<uint32_t>(std::popcount(smaller));
    return true;
  }
  // Fetches into the CPU's caches what Find() will read.
  void Fetch(uint64_t slot) const {
    if (const uint64_t word = (slot - first_) / 64; word < words_.size()) {
      __builtin_prefetch(&words_[word]);
    }
  }
  size_t memory_bytes() const { return sizeof(SlotMap) + words_.size() * sizeof(Word); }

 private:
  struct Word {
    uint64_t slots = 0;   // bit i: first_ + 64 * word + i
    uint32_t before = 0;  // rows with smaller slots than these
  };
  uint64_t first_;
  std::vector<Word> words_;
};

}  // namespace quash
