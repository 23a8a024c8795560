#include "io/tokenizer/post_processor.h"

#include <fmt/format.h>

#include "base/check.h"
#include "io/tokenizer/bpe.h"
#include "io/tokenizer/fields.h"

namespace rarefy::tokenizer {
namespace {

// ["<s>", 0]: the token and its id.
TokenId read_pair(const Fields& fields, const char* key) {
  const Json& pair = fields.array(key);
  if (pair.size() != 2 || !pair[1].is_number_integer() || pair[1] < 0 || pair[1] > Bpe::kMaxId)
    fields.mismatch(key, "a token and its id");
  return pair[1].get<TokenId>();
}

}  // namespace

PostProcessor::PostProcessor(const Json& json, const std::string& where) {
  if (!json.is_null()) read(json, where);
}

void PostProcessor::read(const Json& json, const std::string& where) {
  const Fields fields(json, where);
  const std::string type = fields.type();
  if (type == "Sequence") {
    const Json& list = fields.array("processors");
    for (std::size_t i = 0; i < list.size(); ++i)
      read(list[i], fmt::format("{}.processors[{}]", where, i));
  } else if (type == "BertProcessing" || type == "RobertaProcessing") {
    templates_.push_back({read_pair(fields, "cls"), kText, read_pair(fields, "sep")});
  } else if (type == "TemplateProcessing") {
    Template wrapped;
    const Json& single = fields.array("single");
    for (std::size_t i = 0; i < single.size(); ++i) {
      const Fields piece(single[i], fmt::format("{}.single[{}]", where, i));
      if (!piece.any("Sequence").is_null()) {
        const Fields sequence(piece.object("Sequence"), piece.where());
        if (sequence.text("id") != "A") sequence.mismatch("id", "A (the one text)");
        wrapped.push_back(kText);
        continue;
      }
      const Fields special(piece.object("SpecialToken"), piece.where());
      const std::string name = special.text("id");
      const Fields known(fields.object("special_tokens"), where + ".special_tokens");
      const Fields token(known.object(name.c_str()), where + ".special_tokens." + name);
      for (const Json& id : token.array("ids")) {
        if (!id.is_number_integer() || id < 0 || id > Bpe::kMaxId) token.mismatch("ids", "ids");
        wrapped.push_back(id.get<TokenId>());
      }
    }
    templates_.push_back(std::move(wrapped));
  } else if (type != "ByteLevel") {
    fields.unsupported_type(
        "Sequence, TemplateProcessing, BertProcessing, RobertaProcessing or ByteLevel");
  }
}

std::vector<TokenId> PostProcessor::apply(std::vector<TokenId> ids) const {
  for (const Template& wrapped : templates_) {
    std::vector<TokenId> out;
    out.reserve(ids.size() + wrapped.size());
    for (const TokenId id : wrapped) {
      if (id == kText) {
        out.insert(out.end(), ids.begin(), ids.end());
      } else {
        out.push_back(id);
      }
    }
    ids = std::move(out);
  }
  return ids;
}

}  // namespace rarefy::tokenizer
