// What the search asks families for; choosing is tested where there is a GPU.
#include "ops/spmm/cuda/search.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "blocky_weight.h"

namespace rarefy::gpu {
namespace {

TEST(Enumerate, OnlyIsWhatANameStartsWith) {
  const TestWeight weight =
      blocky_weight({.rows = 4096, .cols = 2048, .scattered = 0.002}, DType::kBF16);
  const Problem problem{.m = 4096,
                        .k = 2048,
                        .n = 1024,
                        .weight = DType::kBF16,
                        .activations = DType::kBF16,
                        .output = DType::kBF16};
  const auto names = [&](const std::string& only) {
    std::vector<std::string> found;
    for (const Candidate& c : enumerate(problem, weight.pattern, cuda::h100_facts(), only))
      found.push_back(c.name);
    return found;
  };
  const std::vector<std::string> all = names("");
  for (const char* only :
       {"sliced", "sliced.", "sliced.n8", "hybrid.from", "comp", "s", "nothing"}) {
    std::vector<std::string> expected;
    for (const std::string& name : all)
      if (name.starts_with(only)) expected.push_back(name);
    EXPECT_EQ(names(only), expected) << only;
    EXPECT_EQ(expected.empty(), std::string(only) == "nothing") << only;
  }
}

TEST(FindCandidate, FindsEveryNameAndNoOther) {
  const TestWeight weight({512, 1024, Pattern::kUniform, 0.05}, DType::kF16);
  const Problem problem{.m = 512, .k = 1024, .n = 16};
  const cuda::DeviceFacts device = cuda::h100_facts();
  const auto find = [&](const std::string& name) {
    return find_candidate(problem, weight.pattern, device, name);
  };
  for (const Candidate& c : enumerate(problem, weight.pattern, device)) {
    const auto found = find(c.name);
    ASSERT_TRUE(found) << c.name;
    EXPECT_EQ(found->name, c.name);
    if (!c.refine) continue;
    for (const Candidate& variation : c.refine())
      EXPECT_TRUE(find(variation.name)) << variation.name;
  }
  for (const char* name : {"", "sliced", "sliced.none", "none"}) EXPECT_FALSE(find(name)) << name;
}

}  // namespace
}  // namespace rarefy::gpu
