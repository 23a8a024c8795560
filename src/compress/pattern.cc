// Names of methods and mask patterns.
#include <charconv>

#include "base/check.h"
#include "rarefy/compress.h"

namespace rarefy {
namespace {

/// "<a><separator><b>", both plain positive decimals, nothing else.
bool parse_pair(std::string_view text, char separator, std::int64_t& a, std::int64_t& b) {
  const std::size_t at = text.find(separator);
  if (at == std::string_view::npos) return false;
  const auto whole = [](std::string_view digits, std::int64_t& value) {
    const char* end = digits.data() + digits.size();
    const auto [stop, error] = std::from_chars(digits.data(), end, value);
    return error == std::errc() && stop == end && value > 0;
  };
  return whole(text.substr(0, at), a) && whole(text.substr(at + 1), b);
}

}  // namespace

const char* to_string(PruneMethod method) {
  switch (method) {
    case PruneMethod::kMagnitude:
      return "magnitude";
    case PruneMethod::kWanda:
      return "wanda";
    case PruneMethod::kSparseGpt:
      return "sparsegpt";
  }
  return "magnitude";
}

std::optional<PruneMethod> parse_prune_method(std::string_view name) {
  for (const PruneMethod method :
       {PruneMethod::kMagnitude, PruneMethod::kWanda, PruneMethod::kSparseGpt}) {
    if (name == to_string(method)) return method;
  }
  return std::nullopt;
}

const char* to_string(PruneScope scope) {
  switch (scope) {
    case PruneScope::kDefault:
      return "default";
    case PruneScope::kTensor:
      return "tensor";
    case PruneScope::kRow:
      return "row";
    case PruneScope::kGlobal:
      return "global";
  }
  return "default";
}

std::optional<PruneScope> parse_prune_scope(std::string_view name) {
  for (const PruneScope scope :
       {PruneScope::kDefault, PruneScope::kTensor, PruneScope::kRow, PruneScope::kGlobal}) {
    if (name == to_string(scope)) return scope;
  }
  return std::nullopt;
}

PrunePattern PrunePattern::parse(std::string_view text) {
  PrunePattern pattern;
  if (text == "unstructured" || text == "0:0") return pattern;
  if (parse_pair(text, ':', pattern.a, pattern.b)) {
    pattern.kind = Kind::kNm;
    require(pattern.a < pattern.b, "mask pattern '{}': expected n:m with n kept of m, n < m", text);
    return pattern;
  }
  if (parse_pair(text, 'x', pattern.a, pattern.b)) {
    pattern.kind = Kind::kBlock;
    return pattern;
  }
  fail(ErrorKind::kInvalidArgument,
       "mask pattern '{}': expected 'unstructured', n:m such as '2:4', or rows x columns such as "
       "'32x32'",
       text);
}

std::string PrunePattern::name() const {
  switch (kind) {
    case Kind::kUnstructured:
      return "unstructured";
    case Kind::kNm:
      return fmt::format("{}:{}", a, b);
    case Kind::kBlock:
      return fmt::format("{}x{}", a, b);
  }
  return "unstructured";
}

std::optional<double> PrunePattern::implied_sparsity() const {
  if (kind != Kind::kNm) return std::nullopt;
  return 1.0 - static_cast<double>(a) / static_cast<double>(b);
}

Support PrunePattern::fits(std::int64_t rows, std::int64_t cols) const {
  if (kind == Kind::kNm && cols % b != 0) {
    return Support::no(fmt::format("pattern {} needs a number of columns divisible by {}, got {}",
                                   name(), b, cols));
  }
  if (kind == Kind::kBlock && (rows % a != 0 || cols % b != 0)) {
    return Support::no(
        fmt::format("pattern {} needs rows divisible by {} and columns by {}, got {}x{}", name(), a,
                    b, rows, cols));
  }
  return Support::yes();
}

}  // namespace rarefy
