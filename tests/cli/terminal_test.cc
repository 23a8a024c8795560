#include "cli/terminal.h"

#include <gtest/gtest.h>

#include "cli/verb.h"
#include "rarefy/error.h"

namespace rarefy::cli {
namespace {

TEST(Terminal, SizesRead) {
  EXPECT_EQ(human_bytes(512), "512 B");
  EXPECT_EQ(human_bytes(5.3 * 1024 * 1024), "5.30 MiB");
  EXPECT_EQ(human_count(1.24e9), "1.24 B");
  EXPECT_EQ(human_time_us(812), "812 us");
  EXPECT_EQ(human_time_us(3100), "3.10 ms");
  EXPECT_EQ(percent(0.305), "30.5 %");
}

TEST(Terminal, TablesAlignNumbersRight) {
  Table table({"name", "n"});
  table.add({"a", "5"});
  table.add({"bcd", "12"});
  EXPECT_EQ(table.text(), "name   n\n────  ──\na      5\nbcd   12\n");
  EXPECT_EQ(table.markdown(), "| name |  n |\n| ---- | --:|\n| a    |  5 |\n| bcd  | 12 |\n");
}

TEST(Terminal, CsvQuotesWhatNeedsIt) {
  Table table({"a", "b"});
  table.add({"x,y", "say \"hi\""});
  EXPECT_EQ(table.csv(), "a,b\n\"x,y\",\"say \"\"hi\"\"\"\n");
}

TEST(Terminal, SizesParse) {
  EXPECT_EQ(parse_bytes("4GiB", "--memory"), std::size_t{4} << 30);
  EXPECT_EQ(parse_bytes("1.5 k", "--memory"), 1536U);
  EXPECT_EQ(parse_bytes("1000000", "--memory"), 1000000U);
  for (const char* bad : {"", "GiB", "4 parsecs", "-1G", "0"})
    EXPECT_THROW(parse_bytes(bad, "--memory"), Error) << bad;
}

}  // namespace
}  // namespace rarefy::cli
