#include "ops/spmm/scratch.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace rarefy {
namespace {

/// Few and large: a call needs two or three buffers, of sizes that repeat.
constexpr std::size_t kKept = 6;

std::vector<Buffer>& free_list() {
  thread_local std::vector<Buffer> list;
  return list;
}

bool smaller(const Buffer& a, const Buffer& b) {
  return a.size() < b.size();
}

}  // namespace

Scratch::Scratch(std::size_t bytes) {
  std::vector<Buffer>& list = free_list();
  // The smallest that fits, so that a small request does not hold the large buffer.
  Buffer* best = nullptr;
  for (Buffer& candidate : list) {
    if (candidate.size() >= bytes && (best == nullptr || smaller(candidate, *best)))
      best = &candidate;
  }
  if (best != nullptr) {
    buffer_ = std::move(*best);
    list.erase(list.begin() + (best - list.data()));
  } else {
    buffer_ = Buffer(bytes);
  }
}

Scratch::~Scratch() {
  std::vector<Buffer>& list = free_list();
  if (list.size() >= kKept) {
    const auto least = std::min_element(list.begin(), list.end(), smaller);
    if (least->size() < buffer_.size()) *least = std::move(buffer_);
    return;
  }
  list.push_back(std::move(buffer_));
}

}  // namespace rarefy
