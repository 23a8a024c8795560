// A set of strings numbered in the order of insertion: vocabularies and word caches.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rarefy::tokenizer {

/// Open addressing with linear probing over at most 2³¹-1 strings; the bytes of all strings lie in
/// one arena, so a lookup touches one slot and one string.
class StringIndex {
 public:
  /// Number of `key`, or -1.
  [[nodiscard]] std::int32_t find(std::string_view key) const;
  /// Number of `key`, inserted when it is new (then it equals the former size()).
  std::int32_t insert(std::string_view key);
  [[nodiscard]] std::string_view at(std::int32_t number) const {
    return {bytes_.data() + ends_[number], ends_[number + 1] - ends_[number]};
  }
  [[nodiscard]] std::int32_t size() const { return static_cast<std::int32_t>(ends_.size() - 1); }
  [[nodiscard]] std::size_t bytes() const { return bytes_.size(); }
  void clear();  ///< Keeps the memory.

 private:
  struct Slot {
    std::uint32_t hash = 0;
    std::int32_t number = -1;
  };
  void grow();

  std::string bytes_;
  std::vector<std::size_t> ends_{0};  // string i lies in [ends_[i], ends_[i + 1])
  std::vector<Slot> slots_;           // a power of two, at most half full
};

}  // namespace rarefy::tokenizer
