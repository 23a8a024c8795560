// Reading the model of tokenizer.json, and what may be wrong with it.
#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "base/check.h"
#include "io/tokenizer/bpe.h"
#include "io/tokenizer/fields.h"

namespace rarefy::tokenizer {

Bpe::Bpe(const Json& json, const std::string& where) {
  const Fields fields(json, where);
  // Files of old versions leave the type out; merges tell BPE.
  const std::string type = fields.text("type", json.contains("merges") ? "BPE" : "none");
  if (type != "BPE")
    fail(ErrorKind::kUnsupported, "{}: expected the type BPE, found {}", where, type);
  const Json& dropout = fields.any("dropout");
  if (!dropout.is_null() && !(dropout.is_number() && dropout.get<double>() == 0))
    fields.unsupported("dropout", "none");
  prefix_ = fields.text("continuing_subword_prefix", "");
  suffix_ = fields.text("end_of_word_suffix", "");
  byte_fallback_ = fields.boolean("byte_fallback", false);
  fuse_unk_ = fields.boolean("fuse_unk", false);
  ignore_merges_ = fields.boolean("ignore_merges", false);

  read_vocabulary(fields.object("vocab"), where);
  read_merges(fields.array("merges"), where);

  for (int byte = 0; byte < 256; ++byte) bytes_[byte] = find(fmt::format("<0x{:02X}>", byte));
  const std::string unk = fields.text("unk_token", "");
  if (!fields.any("unk_token").is_null()) {
    unk_ = find(unk);
    if (unk_ < 0) {
      fail(ErrorKind::kCorrupt, "{}.unk_token: expected a token of the vocabulary, found '{}'",
           where, unk);
    }
  }
}

void Bpe::read_vocabulary(const Json& vocab, const std::string& where) {
  ids_.reserve(vocab.size());
  std::vector<std::int32_t> number_of;  // by id
  for (const auto& [token, value] : vocab.items()) {
    if (!value.is_number_integer() || value < 0 || value > kMaxId) {
      fail(ErrorKind::kCorrupt, "{}.vocab['{}']: expected an id from 0 to {}, found {}", where,
           token, kMaxId, io::excerpt(value));
    }
    const auto id = value.get<TokenId>();
    if (static_cast<std::size_t>(id) >= number_of.size()) {
      number_of.resize(std::max<std::size_t>(static_cast<std::size_t>(id) + 1, vocab.size()), -1);
    }
    if (number_of[id] >= 0) {
      fail(ErrorKind::kCorrupt, "{}.vocab: expected distinct ids, found {} for '{}' and '{}'",
           where, id, tokens_.at(number_of[id]), token);
    }
    number_of[id] = tokens_.insert(token);
    ids_.push_back(id);
  }
}

void Bpe::read_merges(const Json& merges, const std::string& where) {
  std::size_t slots = 16;
  while (slots < 2 * (merges.size() + 1)) slots *= 2;
  merges_.assign(slots, Merge{});
  std::string joined;
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const auto here = [&] { return fmt::format("{}.merges[{}]", where, rank); };
    const Json& merge = merges[rank];
    std::string_view left, right;
    if (merge.is_string()) {
      const std::string_view both = merge.get_ref<const std::string&>();
      const std::size_t space = both.find(' ');
      if (space == std::string_view::npos || both.find(' ', space + 1) != std::string_view::npos) {
        fail(ErrorKind::kCorrupt, "{}: expected two tokens with a space between, found '{}'",
             here(), both);
      }
      left = both.substr(0, space);
      right = both.substr(space + 1);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      left = merge[0].get_ref<const std::string&>();
      right = merge[1].get_ref<const std::string&>();
    } else {
      fail(ErrorKind::kCorrupt, "{}: expected two tokens, found {}", here(), io::excerpt(merge));
    }
    const auto id_of_token = [&](std::string_view token) {
      const TokenId id = find(token);
      if (id < 0) {
        fail(ErrorKind::kCorrupt, "{}: expected tokens of the vocabulary, found '{}'", here(),
             token);
      }
      return id;
    };
    joined = left;
    if (right.size() < prefix_.size()) {
      fail(ErrorKind::kCorrupt, "{}: expected a token that begins with '{}', found '{}'", here(),
           prefix_, right);
    }
    joined += right.substr(prefix_.size());
    const std::uint64_t pair =
        static_cast<std::uint64_t>(static_cast<std::uint32_t>(id_of_token(left))) << 32 |
        static_cast<std::uint32_t>(id_of_token(right));
    insert_merge({pair, static_cast<std::int32_t>(rank), id_of_token(joined)});
  }
}

}  // namespace rarefy::tokenizer
