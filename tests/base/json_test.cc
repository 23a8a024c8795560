#include "base/json.h"

#include <gtest/gtest.h>

#include <string>

#include "rarefy/error.h"

namespace rarefy {
namespace {

std::string error_of(const std::string& text) {
  try {
    parse_json(text, "file.json");
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kCorrupt);
    return e.what();
  }
  return "";
}

TEST(Json, AcceptsOneDocument) {
  EXPECT_EQ(
      parse_json(R"({"a": {"x": 1}, "b": {"x": 2}, "c": [{"x": 3}, {"x": 4}]})", "f")["c"][1]["x"],
      4);
}

TEST(Json, NamesFileAndDuplicateKey) {
  const std::string error = error_of(R"({"a": 1, "b": {"a": 2, "a": 3}})");
  EXPECT_NE(error.find("file.json"), std::string::npos);
  EXPECT_NE(error.find("'a' twice"), std::string::npos);
}

TEST(Json, SaysWhatIsWrongWithoutTheParsersNumbers) {
  const std::string error = error_of("{\"a\": }");
  EXPECT_TRUE(error.starts_with("file.json: expected valid JSON, found: parse error at line 1"))
      << error;
}

TEST(Json, RefusesWhatIsNotJson) {
  for (const char* text : {"", "{", "{} {}", "[1,]", "{\"a\": \xff}", "nul"})
    EXPECT_NE(error_of(text), "") << text;
  EXPECT_NE(error_of(std::string(200, '[') + std::string(200, ']')), "");
}

}  // namespace
}  // namespace rarefy
