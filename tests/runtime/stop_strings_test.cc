#include "runtime/stop_strings.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace rarefy::runtime {
namespace {

/// Feeds pieces until a stop is found; '|' separates what came out of each.
std::string run(const std::vector<std::string>& stop, const std::vector<std::string>& pieces) {
  StopStrings strings(stop);
  std::string out;
  for (const std::string& piece : pieces) {
    out += strings.push(piece) + "|";
    if (strings.found()) return out + "STOP";
  }
  return out + strings.flush();
}

TEST(StopStrings, WithoutAnyTextPassesAtOnce) {
  EXPECT_EQ(run({}, {"a", "b"}), "a|b|");
  EXPECT_EQ(run({""}, {"a", "b"}), "a|b|");
}

TEST(StopStrings, InOnePiece) {
  EXPECT_EQ(run({"END"}, {"one END two"}), "one |STOP");
}

TEST(StopStrings, StraddlingPieces) {
  EXPECT_EQ(run({"\n\nUser:"}, {"Hi", "\n", "\nUs", "er", ": x"}), "Hi|||||STOP");
}

TEST(StopStrings, HeldTextIsReleasedWhenItGoesAnotherWay) {
  EXPECT_EQ(run({"END"}, {"EN", "EN", "X", "E"}), "|EN|ENX||E");
}

TEST(StopStrings, TheFirstOfSeveralCounts) {
  EXPECT_EQ(run({"xyz", "b"}, {"abxyz"}), "a|STOP");
  // "aab" began earlier than "b" though both end together.
  EXPECT_EQ(run({"b", "aab"}, {"c", "aa", "b"}), "c|||STOP");
}

TEST(StopStrings, OverlapWithItself) {
  EXPECT_EQ(run({"aab"}, {"a", "a", "a", "b"}), "||a||STOP");
}

TEST(StopStrings, NothingAfterAStop) {
  StopStrings strings({"x"});
  EXPECT_EQ(strings.push("ax"), "a");
  EXPECT_EQ(strings.push("b"), "");
  EXPECT_EQ(strings.flush(), "");
}

}  // namespace
}  // namespace rarefy::runtime
