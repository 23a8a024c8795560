#include <gtest/gtest.h>

#include "rarefy/compress.h"

namespace rarefy {
namespace {

TEST(PrunePattern, NamesRoundTrip) {
  for (const char* name : {"unstructured", "2:4", "4:8", "1:16", "32x32", "16x1", "1x4"})
    EXPECT_EQ(PrunePattern::parse(name).name(), name);
  EXPECT_EQ(PrunePattern::parse("0:0").name(), "unstructured");
}

TEST(PrunePattern, RejectsWhatIsNoPattern) {
  for (const char* text : {"", "2:", ":4", "4:4", "8:4", "0:4", "-2:4", "2:4:8", "2 :4", "32x",
                           "x32", "0x32", "32x-1", "32X32", "99999999999999999999:4", "2:4 "})
    EXPECT_THROW(PrunePattern::parse(text), Error) << text;
}

TEST(PrunePattern, SaysWhyItDoesNotFit) {
  EXPECT_TRUE(PrunePattern::parse("unstructured").fits(3, 5));
  EXPECT_TRUE(PrunePattern::parse("2:4").fits(3, 8));
  const Support nm = PrunePattern::parse("2:4").fits(3, 10);
  EXPECT_FALSE(nm);
  EXPECT_EQ(nm.reason, "pattern 2:4 needs a number of columns divisible by 4, got 10");
  const Support block = PrunePattern::parse("16x32").fits(24, 64);
  EXPECT_FALSE(block);
  EXPECT_EQ(block.reason, "pattern 16x32 needs rows divisible by 16 and columns by 32, got 24x64");
}

TEST(PruneMethod, NamesRoundTrip) {
  for (const char* name : {"magnitude", "wanda", "sparsegpt"})
    EXPECT_STREQ(to_string(parse_prune_method(name).value()), name);
  EXPECT_FALSE(parse_prune_method("sparse-gpt").has_value());
  for (const char* name : {"default", "tensor", "row", "global"})
    EXPECT_STREQ(to_string(parse_prune_scope(name).value()), name);
  EXPECT_FALSE(parse_prune_scope("all").has_value());
}

}  // namespace
}  // namespace rarefy
