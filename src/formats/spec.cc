#include <fmt/format.h>

#include <charconv>

#include "rarefy/matrix.h"

namespace rarefy {
namespace {

/// Two positive numbers with `separator` between them and nothing else: "16x32", "2:4".
std::optional<std::pair<int, int>> parse_pair(std::string_view text, char separator) {
  int first = 0;
  int second = 0;
  const char* end = text.data() + text.size();
  const auto [middle, error] = std::from_chars(text.data(), end, first);
  if (error != std::errc{} || middle == end || *middle != separator) return std::nullopt;
  const auto [stop, error2] = std::from_chars(middle + 1, end, second);
  if (error2 != std::errc{} || stop != end || first <= 0 || second <= 0) return std::nullopt;
  return std::pair{first, second};
}

/// Drops `end` from the end of `text` and says whether it was there.
bool drop_end(std::string_view& text, std::string_view end) {
  if (!text.ends_with(end)) return false;
  text.remove_suffix(end.size());
  return true;
}

/// What follows "hybrid": "64x64-27-rows-cols".
std::optional<FormatSpec> parse_hybrid(std::string_view text) {
  const bool sort_cols = drop_end(text, "-cols");
  const bool sort_rows = drop_end(text, "-rows");
  const std::size_t dash = text.find('-');
  if (dash == std::string_view::npos) return std::nullopt;
  const auto block = parse_pair(text.substr(0, dash), 'x');
  int below = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data() + dash + 1, end, below);
  if (!block || error != std::errc{} || stop != end || below < 0) return std::nullopt;
  return format::hybrid(block->first, block->second, below, sort_rows, sort_cols);
}

}  // namespace

std::string FormatSpec::name() const {
  switch (format) {
    case Format::kDense:
      return block_rows == 0 ? "dense" : fmt::format("dense{}x{}", block_rows, block_cols);
    case Format::kCsr:
      return index_bits == 32 ? "csr" : fmt::format("csr{}", index_bits);
    case Format::kBitmap:
      return "bitmap";
    case Format::kDelta:
      return fmt::format("delta{}", index_bits);
    case Format::kWindow:
      return "window";
    case Format::kCsb:
      return "csb";
    case Format::kSell:
      return fmt::format("sell{}", index_bits);
    case Format::kNm:
      return fmt::format("{}:{}", n, m);
    case Format::kBsr:
      return fmt::format("bsr{}x{}", block_rows, block_cols);
    case Format::kHybrid:
      return fmt::format("hybrid{}x{}-{}{}{}", block_rows, block_cols, sparse_below,
                         sort_rows ? "-rows" : "", sort_cols ? "-cols" : "");
  }
  return "unknown";
}

std::optional<FormatSpec> FormatSpec::parse(std::string_view name) {
  for (const FormatSpec& spec :
       {format::kDense, format::kCsr32, format::kCsr16, format::kBitmap, format::kDelta4,
        format::kDelta8, format::kWindow, format::kCsb, format::kSell8, format::kSell16}) {
    if (name == spec.name()) return spec;
  }
  if (name.starts_with("dense")) {
    if (const auto tile = parse_pair(name.substr(5), 'x'))
      return format::dense_tiles(tile->first, tile->second);
    return std::nullopt;
  }
  if (name.starts_with("bsr")) {
    if (const auto block = parse_pair(name.substr(3), 'x'))
      return format::bsr(block->first, block->second);
    return std::nullopt;
  }
  if (name.starts_with("hybrid")) return parse_hybrid(name.substr(6));
  if (const auto group = parse_pair(name, ':')) return format::nm(group->first, group->second);
  return std::nullopt;
}

}  // namespace rarefy
