#include "io/tokenizer/string_index.h"

#include <algorithm>
#include <cstring>

namespace rarefy::tokenizer {
namespace {

// Eight bytes a step, each step a multiplication by an odd constant and a fold of the high half:
// words are short, so set-up cost is all that counts.
std::uint32_t hash_of(std::string_view key) {
  constexpr std::uint64_t kOdd = 0x9E3779B97F4A7C15;
  std::uint64_t h = key.size() * kOdd;
  const char* p = key.data();
  std::size_t left = key.size();
  while (left >= 8) {
    std::uint64_t word;
    std::memcpy(&word, p, 8);
    h = (h ^ word) * kOdd;
    h ^= h >> 32;
    p += 8;
    left -= 8;
  }
  if (left > 0) {
    std::uint64_t word = 0;
    std::memcpy(&word, p, left);
    h = (h ^ word) * kOdd;
    h ^= h >> 32;
  }
  return static_cast<std::uint32_t>((h * kOdd) >> 32);
}

}  // namespace

std::int32_t StringIndex::find(std::string_view key) const {
  if (slots_.empty()) return -1;
  const std::uint32_t hash = hash_of(key);
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t i = hash & mask;; i = (i + 1) & mask) {
    const Slot& slot = slots_[i];
    if (slot.number < 0) return -1;
    if (slot.hash == hash && at(slot.number) == key) return slot.number;
  }
}

std::int32_t StringIndex::insert(std::string_view key) {
  if (2 * (ends_.size() + 1) > slots_.size()) grow();
  const std::uint32_t hash = hash_of(key);
  const std::size_t mask = slots_.size() - 1;
  std::size_t i = hash & mask;
  for (; slots_[i].number >= 0; i = (i + 1) & mask) {
    if (slots_[i].hash == hash && at(slots_[i].number) == key) return slots_[i].number;
  }
  slots_[i] = {hash, size()};
  bytes_ += key;
  ends_.push_back(bytes_.size());
  return slots_[i].number;
}

void StringIndex::clear() {
  bytes_.clear();
  ends_.resize(1);
  std::fill(slots_.begin(), slots_.end(), Slot{});
}

void StringIndex::grow() {
  std::vector<Slot> old(std::max<std::size_t>(64, 2 * slots_.size()));
  old.swap(slots_);
  const std::size_t mask = slots_.size() - 1;
  for (const Slot& slot : old) {
    if (slot.number < 0) continue;
    std::size_t i = slot.hash & mask;
    while (slots_[i].number >= 0) i = (i + 1) & mask;
    slots_[i] = slot;
  }
}

}  // namespace rarefy::tokenizer
