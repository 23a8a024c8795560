#include "rarefy/tokenizer.h"

#include <algorithm>
#include <unordered_set>

#include "base/check.h"
#include "base/files.h"
#include "io/tokenizer/fields.h"
#include "io/tokenizer/tokenizer_impl.h"
#include "io/tokenizer/unicode.h"

namespace rarefy {
namespace {

const Json& member(const Json& json, const char* key) {
  static const Json null;
  const auto found = json.find(key);
  return found == json.end() ? null : *found;
}

const Json& checked(const Json& json, const std::string& file) {
  if (!json.is_object())
    fail(ErrorKind::kCorrupt, "{}: expected an object, found {}", file, io::excerpt(json));
  if (!member(json, "model").is_object()) {
    fail(ErrorKind::kCorrupt, "{}: expected an object for 'model', found {}", file,
         io::excerpt(member(json, "model")));
  }
  return json;
}

}  // namespace

Tokenizer::Impl::Impl(const Json& json, const std::string& file)
    : model(member(checked(json, file), "model"), file + ": model"),
      normalizers(tokenizer::read_normalizers(member(json, "normalizer"), file + ": normalizer")),
      pre_tokenizers(member(json, "pre_tokenizer"), file + ": pre_tokenizer"),
      post_processor(member(json, "post_processor"), file + ": post_processor"),
      decoder(member(json, "decoder"), file + ": decoder") {
  const auto name = [&](TokenId id, std::string_view text) {
    if (static_cast<std::size_t>(id) >= tokens.size()) tokens.resize(id + 1);
    tokens[id] = text;
  };
  for (std::int32_t i = 0; i < model.tokens().size(); ++i)
    name(model.id_of(i), model.tokens().at(i));
  const auto list =
      tokenizer::read_added_tokens(member(json, "added_tokens"), file + ": added_tokens", model);
  for (const auto& token : list) {
    if (static_cast<std::size_t>(token.id) < tokens.size() && !tokens[token.id].empty() &&
        tokens[token.id] != token.content) {
      fail(ErrorKind::kCorrupt,
           "{}: added_tokens: expected an id of its own for '{}', found {} of '{}'", file,
           token.content, token.id, tokens[token.id]);
    }
    name(token.id, token.content);
    if (added.insert(token.content) == static_cast<std::int32_t>(added_ids.size()))
      added_ids.push_back(token.id);
  }
  special.assign(tokens.size(), false);
  for (const auto& token : list) {
    if (token.special) special[token.id] = true;
  }
  // Special tokens come first: of two that normalise to the same text, the first is found.
  for (const bool wanted : {true, false}) {
    for (const auto& token : list) {
      if (token.special != wanted) continue;
      if (!token.normalized) {
        as_given.add(token, token.content);
        continue;
      }
      tokenizer::Section section{token.content, false};
      for (const auto& normalizer : normalizers) normalizer->apply(section);
      after_normalizing.add(token, section.text);
      if (section.text != token.content) normalised[token.id] = section.text;
    }
  }
  std::unordered_set<std::string_view> special_contents;
  for (const auto& token : list) {
    if (token.special) special_contents.insert(token.content);
  }
  hidden.assign(tokens.size(), false);
  for (const auto& token : list) {
    const auto changed = normalised.find(token.id);
    hidden[token.id] = special_contents.contains(
        changed == normalised.end() ? std::string_view(token.content) : changed->second);
  }
}

std::unique_ptr<Tokenizer::Impl::Scratch> Tokenizer::Impl::take_scratch() const {
  const std::lock_guard lock(mutex_);
  if (idle_.empty()) return std::make_unique<Scratch>();
  auto scratch = std::move(idle_.back());
  idle_.pop_back();
  return scratch;
}

void Tokenizer::Impl::give_back(std::unique_ptr<Scratch> scratch) const {
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(scratch));
}

void Tokenizer::Impl::encode_part(std::string_view text, bool at_start, Scratch& scratch,
                                  std::vector<TokenId>& out) const {
  tokenizer::Section section;
  if (!normalizers.empty()) {
    section = {std::string(text), at_start};
    for (const auto& normalizer : normalizers) normalizer->apply(section);
    text = section.text;
    at_start = section.at_start;
  }
  const auto encode_word = [&](std::string_view word, bool) {
    model.encode(word, scratch.bpe, out);
  };
  std::vector<tokenizer::TextPart> parts;
  after_normalizing.cut(text, parts);
  for (const auto& part : parts) {
    if (part.id >= 0) {
      out.push_back(part.id);
    } else {
      pre_tokenizers.run(text.substr(part.span.begin, part.span.end - part.span.begin),
                         at_start && part.span.begin == 0, scratch.buffers,
                         tokenizer::WordSink(encode_word));
    }
  }
}

const std::string* Tokenizer::Impl::shown(TokenId id, bool skip_special) const {
  if (id < 0 || static_cast<std::size_t>(id) >= tokens.size()) return nullptr;
  if (tokens[id].empty() && model.find("") != id) return nullptr;
  if (skip_special && hidden[id]) return nullptr;
  const auto changed = normalised.find(id);
  return changed == normalised.end() ? &tokens[id] : &changed->second;
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

std::shared_ptr<const Tokenizer> Tokenizer::load(const std::filesystem::path& path) {
  const std::filesystem::path file =
      std::filesystem::is_directory(path) ? path / "tokenizer.json" : path;
  return from_json(read_text(file), file.string());
}

std::shared_ptr<const Tokenizer> Tokenizer::from_json(std::string_view json,
                                                      const std::string& file_name) {
  const Json parsed = parse_json(json, file_name);
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::make_unique<Impl>(parsed, file_name)));
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, bool add_special) const {
  std::string repaired;
  if (!tokenizer::is_utf8(text)) {
    tokenizer::append_lossy(repaired, text);
    text = repaired;
  }
  std::vector<TokenId> ids;
  std::vector<tokenizer::TextPart> parts;
  impl_->as_given.cut(text, parts);
  auto scratch = impl_->take_scratch();
  for (const auto& part : parts) {
    if (part.id >= 0) {
      ids.push_back(part.id);
    } else {
      impl_->encode_part(text.substr(part.span.begin, part.span.end - part.span.begin),
                         part.span.begin == 0, *scratch, ids);
    }
  }
  impl_->give_back(std::move(scratch));
  return add_special ? impl_->post_processor.apply(std::move(ids)) : ids;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  tokenizer::Decoding decoding(impl_->decoder);
  for (const TokenId id : ids) {
    if (const std::string* token = impl_->shown(id, skip_special)) decoding.push(*token);
  }
  decoding.finish();
  return decoding.take();
}

std::int64_t Tokenizer::vocab_size() const {
  return static_cast<std::int64_t>(impl_->tokens.size());
}

const std::string& Tokenizer::token(TokenId id) const {
  static const std::string none;
  if (id < 0 || static_cast<std::size_t>(id) >= impl_->tokens.size()) return none;
  return impl_->tokens[id];
}

TokenId Tokenizer::find(std::string_view token) const {
  const std::int32_t number = impl_->added.find(token);
  return number >= 0 ? impl_->added_ids[number] : impl_->model.find(token);
}

bool Tokenizer::is_special(TokenId id) const {
  return id >= 0 && static_cast<std::size_t>(id) < impl_->special.size() && impl_->special[id];
}

}  // namespace rarefy
