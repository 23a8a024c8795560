// Ids that tokenizers puts around those of the text: BOS, EOS.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "rarefy/tokenizer.h"

namespace rarefy::tokenizer {

/// A list of ids that wraps each text, from any nesting of TemplateProcessing (its template for one
/// text), BertProcessing, RobertaProcessing, ByteLevel (which moves offsets only) and Sequence.
class PostProcessor {
 public:
  /// kUnsupported names any other type.
  PostProcessor(const Json& json, const std::string& where);

  /// The ids of the text, wrapped.
  [[nodiscard]] std::vector<TokenId> apply(std::vector<TokenId> ids) const;

 private:
  static constexpr TokenId kText = -1;  // stands for the ids of the text
  using Template = std::vector<TokenId>;
  void read(const Json& json, const std::string& where);
  std::vector<Template> templates_;  // applied one after the other
};

}  // namespace rarefy::tokenizer
