// What tokenizers does to text before it looks for words.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/json.h"

namespace rarefy::tokenizer {

/// A section of text between added tokens. `at_start` says whether its first character is the
/// first of the whole input: Metaspace's prepend scheme "first" asks.
struct Section {
  std::string text;
  bool at_start = false;
};

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual void apply(Section& section) const = 0;
};

/// In the order of application; empty for null. Sequence, Prepend, Replace, NFC, NFD, NFKC, NFKD,
/// Lowercase, Strip, StripAccents, ByteLevel; kUnsupported names any other. Normal forms are those
/// of the installed utf8proc's Unicode version.
using Normalizers = std::vector<std::unique_ptr<const Normalizer>>;
Normalizers read_normalizers(const Json& json, const std::string& where);

}  // namespace rarefy::tokenizer
