// Streaming: whole characters, as early as they are certain, and joined exactly what decode gives.
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "rarefy/tokenizer.h"
#include "shared_data.h"

namespace rarefy {
namespace {

std::shared_ptr<const Tokenizer> fixture(const std::string& name) {
  const auto path = testing::source_path("tests/fixtures/tokenizers/" + name + ".json");
  return Tokenizer::from_json(parse_json(read_text(path), name)["tokenizer"].dump(), name);
}

TEST(TextStream, HoldsBytesUntilTheCharacterIsWhole) {
  const auto tokenizer = fixture("gpt2");
  TextStream stream(tokenizer);
  // An emoji as four byte tokens: F0 9F 98 80 in GPT-2's alphabet.
  const char* bytes[] = {"\u00f0", "\u0141", "\u013a"};
  for (const char* byte : bytes) {
    ASSERT_GE(tokenizer->find(byte), 0);
    EXPECT_EQ(stream.push(tokenizer->find(byte)), "");
  }
  EXPECT_EQ(stream.push(tokenizer->find("\u0122")), "\U0001F600");
  EXPECT_EQ(stream.push(tokenizer->find("a")), "a");
  EXPECT_EQ(stream.push(tokenizer->find("\u00f0")), "");
  EXPECT_EQ(stream.flush(), "\uFFFD");
  EXPECT_EQ(stream.push(tokenizer->find("b")), "b");  // begins anew
}

TEST(TextStream, StripsTheFirstSpaceOnly) {
  const auto tokenizer = fixture("llama2");
  TextStream stream(tokenizer);
  const TokenId space = tokenizer->find("\u2581"), letter = tokenizer->find("e");
  EXPECT_EQ(stream.push(tokenizer->find("<s>")), "");
  EXPECT_EQ(stream.push(space), "");
  EXPECT_EQ(stream.push(letter), "e");
  EXPECT_EQ(stream.push(space), " ");
  EXPECT_EQ(stream.push(letter), "e");
  EXPECT_EQ(stream.push(tokenizer->find("<0x0A>")), "");  // the run may go on
  EXPECT_EQ(stream.push(letter), "\ne");
  EXPECT_EQ(stream.push(tokenizer->find("<0xE4>")), "");
  EXPECT_EQ(stream.push(tokenizer->find("<0xBD>")), "");
  EXPECT_EQ(stream.push(letter), "\uFFFD\uFFFDe");
  EXPECT_EQ(stream.flush(), "");
}

TEST(TextStream, JoinedEqualsDecodeForAnyIds) {
  std::mt19937 draw(7);
  for (const char* name : {"gpt2", "llama2", "gemma", "metaspace_first", "metaspace_always",
                           "metaspace_never", "classic", "split_contiguous"}) {
    const auto tokenizer = fixture(name);
    for (int round = 0; round < 60; ++round) {
      std::vector<TokenId> ids(draw() % 40);
      for (TokenId& id : ids)
        id =
            static_cast<TokenId>(draw() % (tokenizer->vocab_size() + 4)) - 2;  // some without token
      for (const bool skip : {true, false}) {
        TextStream stream(tokenizer, skip);
        std::string text;
        for (const TokenId id : ids) text += stream.push(id);
        EXPECT_EQ(text + stream.flush(), tokenizer->decode(ids, skip)) << name;
      }
    }
  }
}

}  // namespace
}  // namespace rarefy
