#include "io/tokenizer/bpe.h"

#include <fmt/format.h>

#include <algorithm>

#include "io/tokenizer/unicode.h"

namespace rarefy::tokenizer {
namespace {

// Longer words are rare and cost memory; the cache starts afresh when it holds this much.
constexpr std::size_t kLongestCachedWord = 256;
constexpr std::int32_t kMostCachedWords = 1 << 17;
constexpr std::size_t kMostCachedBytes = std::size_t{4} << 20;

std::uint64_t pair_of(TokenId left, TokenId right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

std::size_t hash_of(std::uint64_t pair) {
  return static_cast<std::size_t>((pair * 0x9E3779B97F4A7C15) >> 29);
}

}  // namespace

void Bpe::insert_merge(const Merge& merge) {
  const std::size_t mask = merges_.size() - 1;
  std::size_t i = hash_of(merge.pair) & mask;
  while (merges_[i].merged >= 0 && merges_[i].pair != merge.pair) i = (i + 1) & mask;
  merges_[i] = merge;  // of two merges of one pair the later counts
}

const Bpe::Merge* Bpe::find_merge(TokenId left, TokenId right) const {
  const std::uint64_t pair = pair_of(left, right);
  const std::size_t mask = merges_.size() - 1;
  for (std::size_t i = hash_of(pair) & mask; merges_[i].merged >= 0; i = (i + 1) & mask) {
    if (merges_[i].pair == pair) return &merges_[i];
  }
  return nullptr;
}

TokenId Bpe::find(std::string_view token) const {
  const std::int32_t number = tokens_.find(token);
  return number < 0 ? -1 : ids_[number];
}

void Bpe::encode(std::string_view word, BpeScratch& scratch, std::vector<TokenId>& out) const {
  if (word.empty()) return;
  const bool cached = word.size() <= kLongestCachedWord;
  if (cached) {
    const std::int32_t seen = scratch.words_.find(word);
    if (seen >= 0) {
      out.insert(out.end(), scratch.ids_.begin() + static_cast<std::ptrdiff_t>(scratch.ends_[seen]),
                 scratch.ids_.begin() + static_cast<std::ptrdiff_t>(scratch.ends_[seen + 1]));
      return;
    }
  }
  const std::size_t first = out.size();
  const TokenId whole = ignore_merges_ ? find(word) : -1;
  if (whole >= 0) {
    out.push_back(whole);
  } else {
    split_into_symbols(word, scratch);
    merge_symbols(scratch);
    for (const auto& symbol : scratch.symbols_) {
      if (symbol.id >= 0) out.push_back(symbol.id);
    }
  }
  if (!cached) return;
  if (scratch.words_.size() >= kMostCachedWords || scratch.words_.bytes() >= kMostCachedBytes) {
    scratch.words_.clear();
    scratch.ends_.resize(1);
    scratch.ids_.clear();
  }
  scratch.words_.insert(word);
  scratch.ids_.insert(scratch.ids_.end(), out.begin() + static_cast<std::ptrdiff_t>(first),
                      out.end());
  scratch.ends_.push_back(scratch.ids_.size());
}

void Bpe::split_into_symbols(std::string_view word, BpeScratch& scratch) const {
  auto& symbols = scratch.symbols_;
  symbols.clear();
  const auto add = [&](TokenId id) {
    const auto index = static_cast<std::int32_t>(symbols.size());
    if (index > 0) symbols.back().next = index;
    symbols.push_back({id, index - 1, -1});
  };
  bool unknown = false;  // one that waits for its neighbours
  std::string decorated;
  for (std::size_t at = 0; at < word.size();) {
    const std::size_t length = code_point_at(word, at).length;
    std::string_view piece = word.substr(at, length);
    if ((at > 0 && !prefix_.empty()) || (at + length == word.size() && !suffix_.empty())) {
      decorated.assign(at > 0 ? prefix_ : std::string());
      decorated += piece;
      if (at + length == word.size()) decorated += suffix_;
      piece = decorated;
    }
    at += length;
    const TokenId id = find(piece);
    if (id >= 0) {
      if (unknown) add(unk_);
      unknown = false;
      add(id);
      continue;
    }
    if (byte_fallback_) {
      const auto byte_id = [&](char c) { return bytes_[static_cast<unsigned char>(c)]; };
      if (std::all_of(piece.begin(), piece.end(), [&](char c) { return byte_id(c) >= 0; })) {
        // An unknown token that waits is added after these, as tokenizers does it.
        for (const char c : piece) add(byte_id(c));
        continue;
      }
    }
    if (unk_ < 0) continue;
    if (unknown && !fuse_unk_) add(unk_);
    unknown = true;
  }
  if (unknown) add(unk_);
}

void Bpe::push_candidate(BpeScratch& scratch, std::int32_t left, std::int32_t right) const {
  const Merge* merge = find_merge(scratch.symbols_[left].id, scratch.symbols_[right].id);
  if (merge == nullptr) return;
  scratch.heap_.push_back({left, merge->rank, merge->merged});
}

// Merges by rank, leftmost first. Candidates whose symbols changed meanwhile are recognised when
// they come up: their pair no longer gives the same token.
void Bpe::merge_symbols(BpeScratch& scratch) const {
  auto& symbols = scratch.symbols_;
  auto& heap = scratch.heap_;
  const auto later = [](const BpeScratch::Candidate& a, const BpeScratch::Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  heap.clear();
  for (std::int32_t i = 0; i + 1 < static_cast<std::int32_t>(symbols.size()); ++i)
    push_candidate(scratch, i, i + 1);
  std::make_heap(heap.begin(), heap.end(), later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const BpeScratch::Candidate top = heap.back();
    heap.pop_back();
    const auto left = static_cast<std::int32_t>(top.position);
    auto& symbol = symbols[left];
    if (symbol.id < 0 || symbol.next < 0) continue;
    const Merge* merge = find_merge(symbol.id, symbols[symbol.next].id);
    if (merge == nullptr || merge->merged != top.merged) continue;
    auto& gone = symbols[symbol.next];
    symbol.id = top.merged;
    symbol.next = gone.next;
    gone.id = -1;
    if (symbol.next >= 0) symbols[symbol.next].previous = left;
    if (symbol.previous >= 0) {
      const std::size_t before = heap.size();
      push_candidate(scratch, symbol.previous, left);
      if (heap.size() > before) std::push_heap(heap.begin(), heap.end(), later);
    }
    if (symbol.next >= 0) {
      const std::size_t before = heap.size();
      push_candidate(scratch, left, symbol.next);
      if (heap.size() > before) std::push_heap(heap.begin(), heap.end(), later);
    }
  }
}

}  // namespace rarefy::tokenizer
