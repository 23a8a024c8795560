// Files that are wrong, and parts that Rarefy does not run: one line that names file and field.
#include <gtest/gtest.h>

#include <string>

#include "base/json.h"
#include "io/expect_error.h"
#include "io/temporary_directory.h"
#include "rarefy/tokenizer.h"

namespace rarefy {
namespace {

using testing::expect_error;

Json small() {
  return Json::parse(R"({"added_tokens": [], "normalizer": null, "pre_tokenizer": null,
    "post_processor": null, "decoder": null,
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})");
}

std::shared_ptr<const Tokenizer> load(const Json& json) {
  return Tokenizer::from_json(json.dump(), "t.json");
}

void refuses(const char* pointer, const Json& value, ErrorKind kind,
             std::initializer_list<const char*> parts) {
  Json json = small();
  json[Json::json_pointer(pointer)] = value;
  SCOPED_TRACE(std::string(pointer) + " = " + value.dump());
  expect_error([&] { load(json); }, kind, {"t.json"});
  expect_error([&] { load(json); }, kind, parts);
}

TEST(TokenizerErrors, TheSmallFileItselfWorks) {
  EXPECT_EQ(load(small())->encode("aba"), (std::vector<TokenId>{2, 0}));
}

TEST(TokenizerErrors, WrongModels) {
  using enum ErrorKind;
  refuses("/model", nullptr, kCorrupt, {"'model'", "null"});
  refuses("/model/type", "Unigram", kUnsupported, {"model", "BPE", "Unigram"});
  refuses("/model/vocab", nullptr, kCorrupt, {"vocab", "object"});
  refuses("/model/vocab/a", -1, kCorrupt, {"vocab['a']", "-1"});
  refuses("/model/vocab/a", 1, kCorrupt, {"distinct ids", "1", "'a'", "'b'"});
  refuses("/model/vocab/a", 1e12, kCorrupt, {"vocab['a']"});
  refuses("/model/vocab/a", 99999999999, kCorrupt, {"vocab['a']", "99999999999"});
  refuses("/model/vocab/a", "x", kCorrupt, {"vocab['a']", "\"x\""});
  refuses("/model/merges", nullptr, kCorrupt, {"merges", "array"});
  refuses("/model/merges/0", "a c", kCorrupt, {"merges[0]", "'c'"});
  refuses("/model/merges/0", "b a", kCorrupt, {"merges[0]", "'ba'"});
  refuses("/model/merges/0", "ab", kCorrupt, {"merges[0]", "'ab'"});
  refuses("/model/merges/0", Json::array({"a"}), kCorrupt, {"merges[0]", "two tokens"});
  refuses("/model/merges/0", 7, kCorrupt, {"merges[0]", "7"});
  refuses("/model/dropout", 0.1, kUnsupported, {"dropout", "0.1"});
  refuses("/model/unk_token", "<unk>", kCorrupt, {"unk_token", "'<unk>'"});
  refuses("/model/byte_fallback", 3, kCorrupt, {"byte_fallback", "3"});
}

TEST(TokenizerErrors, UnsupportedParts) {
  using enum ErrorKind;
  refuses("/normalizer", {{"type", "Precompiled"}}, kUnsupported, {"normalizer", "Precompiled"});
  refuses("/normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "Nmt"}}}}}, kUnsupported,
          {"normalizer.normalizers[0]", "Nmt"});
  refuses("/pre_tokenizer", {{"type", "UnicodeScripts"}}, kUnsupported, {"UnicodeScripts"});
  refuses("/post_processor", {{"type", "Other"}}, kUnsupported, {"post_processor", "Other"});
  refuses("/decoder", {{"type", "WordPiece"}}, kUnsupported, {"decoder", "WordPiece"});
  refuses("/decoder", {{"type", "CTC"}}, kUnsupported, {"decoder", "CTC"});
  refuses("/decoder", 3, kCorrupt, {"decoder", "object"});
  refuses("/decoder", Json::object(), kCorrupt, {"decoder", "type"});
}

TEST(TokenizerErrors, PatternsThatDoNotCompile) {
  using enum ErrorKind;
  const auto split = [](const char* pattern) {
    return Json{{"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", pattern}}}};
  };
  for (const char* pattern : {"(", "a)", "[a", R"(\p{NoSuchScript})", "(?~ab)", "(?s:.)", R"(\)",
                              "a**", R"(\x{110000})", R"(\xff)", "[[:graph:]]"})
    refuses("/pre_tokenizer", split(pattern), kUnsupported, {"pre_tokenizer.pattern", pattern});
  refuses("/pre_tokenizer", {{"type", "Split"}, {"behavior", "X"}, {"pattern", {{"String", "a"}}}},
          kCorrupt, {"behavior", "X"});
  refuses("/pre_tokenizer", {{"type", "Split"}}, kCorrupt, {"pattern"});
}

TEST(TokenizerErrors, BacktrackingWithoutEndIsAnError) {
  Json json = small();
  json["pre_tokenizer"] = {
      {"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", "(a|aa)+$(?<!a)"}}}};
  const auto tokenizer = load(json);
  expect_error([&] { (void)tokenizer->encode(std::string(200, 'a')); }, ErrorKind::kUnsupported,
               {"pre_tokenizer.pattern", "limit"});
  EXPECT_EQ(tokenizer->encode("b"), (std::vector<TokenId>{1}));  // it works on after that
}

TEST(TokenizerErrors, DeepPatternsDoNotOverflowTheStack) {
  Json json = small();
  json["pre_tokenizer"] = {
      {"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", "(?:a|b)*"}}}};
  std::string text(300'000, 'b');
  EXPECT_EQ(load(json)->encode(text).size(), text.size());
}

TEST(TokenizerErrors, WrongAddedTokens) {
  using enum ErrorKind;
  const auto added = [](TokenId id, const char* content) {
    return Json::array({{{"id", id}, {"content", content}, {"special", true}}});
  };
  refuses("/added_tokens", added(-1, "<s>"), kCorrupt, {"added_tokens[0]", "id", "-1"});
  refuses("/added_tokens", added(2, "<s>"), kCorrupt, {"added_tokens", "'<s>'", "2", "'ab'"});
  refuses("/added_tokens", added(1, "a"), kCorrupt, {"added_tokens[0]", "id", "0"});
  refuses("/added_tokens", added(9, ""), kCorrupt, {"added_tokens[0]", "content"});
  refuses("/added_tokens", Json::object(), kCorrupt, {"added_tokens", "array"});
  Json twice = added(9, "<s>");
  twice.push_back(added(9, "</s>")[0]);
  refuses("/added_tokens", twice, kCorrupt, {"added_tokens[1]", "9", "'<s>'"});
  refuses("/post_processor",
          {{"type", "TemplateProcessing"},
           {"single", {{{"SpecialToken", {{"id", "<s>"}}}}}},
           {"special_tokens", Json::object()}},
          kCorrupt, {"special_tokens", "<s>"});
}

TEST(TokenizerErrors, FilesThatAreNotThere) {
  const testing::TemporaryDirectory folder;
  expect_error([&] { (void)Tokenizer::load(folder.path()); }, ErrorKind::kIo, {"tokenizer.json"});
  folder.write("tokenizer.json", "{\"model\": ");
  expect_error([&] { (void)Tokenizer::load(folder.path()); }, ErrorKind::kCorrupt,
               {"tokenizer.json"});
  folder.write("tokenizer.json", "[]");
  expect_error([&] { (void)Tokenizer::load(folder.path()); }, ErrorKind::kCorrupt,
               {"tokenizer.json", "object"});
}

}  // namespace
}  // namespace rarefy
