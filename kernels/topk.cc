#include "kernels/topk.h"

#include <algorithm>

namespace quash {

void TopK::Shrink() {
  std::nth_element(buffer_, buffer_ + capacity_ - 1, buffer_ + size_, Better);
  size_ = capacity_;
  threshold_ = buffer_[capacity_ - 1].score;
}

size_t TopK::Finish() {
  if (size_ > capacity_) Shrink();
  std::sort(buffer_, buffer_ + size_, Better);
  return size_;
}

}  // namespace quash
