#include <gtest/gtest.h>

#include "rarefy/planner.h"

namespace rarefy {
namespace {

TEST(Describe, SaysWhatWasChosenAndWhyNotTheOthers) {
  Plan plan;
  plan.format = format::kBitmap;
  plan.bytes = 40'000'000;
  plan.dense_bytes = 100'000'000;
  plan.steps = {{.n_min = 1, .n_max = 1, .kernel = "k1", .time_us = 100, .dense_us = 250},
                {.n_min = 2, .n_max = 16, .kernel = "k2"},
                {.n_min = 17, .kernel = ""}};
  plan.candidates = {{.format = format::kCsr16, .n = 1, .reason = "csr16 needs K <= 65536"},
                     {.format = format::kDense,
                      .kernel = "d",
                      .n = 1,
                      .estimate_us = 240,
                      .measured_us = 250,
                      .reason = "slower: 250 us against 100 us"},
                     {.format = format::kBitmap,
                      .kernel = "k1",
                      .n = 1,
                      .estimate_us = 90,
                      .measured_us = 100,
                      .chosen = true}};
  const std::string text = describe(plan);
  EXPECT_NE(text.find("plan: bitmap, 40.00 MB (40 % of dense)"), std::string::npos) << text;
  EXPECT_NE(text.find("dense 250.0 us (2.50x)"), std::string::npos) << text;
  EXPECT_NE(text.find("n = 2 to 16"), std::string::npos);
  EXPECT_NE(text.find("n >= 17"), std::string::npos);
  EXPECT_NE(text.find("(default kernel)"), std::string::npos);
  EXPECT_NE(text.find("csr16 needs K <= 65536"), std::string::npos);
  // The chosen one first, what could not run last.
  EXPECT_LT(text.find("chosen"), text.find("slower: 250"));
  EXPECT_LT(text.find("slower: 250"), text.find("csr16 needs"));
  EXPECT_EQ(text.back(), '\n');
}

}  // namespace
}  // namespace rarefy
