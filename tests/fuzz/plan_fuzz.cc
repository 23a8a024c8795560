// Entries of the plan cache: whatever lies on disk is a plan or a miss, never an error.
#include <fstream>
#include <iterator>

#include "base/json.h"
#include "io/temporary_directory.h"
#include "mutator.h"
#include "planner/plan_cache.h"

namespace rarefy {
namespace {

const Json& key() {
  static const Json key = {{"m", 4096}, {"k", 14336}};
  return key;
}

Plan some_plan() {
  Plan plan;
  plan.format = *FormatSpec::parse("bitmap");
  plan.steps = {{.n_max = 8, .kernel = "bitmap_n8", .time_us = 2, .dense_us = 4},
                {.n_min = 9, .kernel = "bitmap_gemm", .time_us = 3, .dense_us = 3}};
  plan.candidates = {{.format = plan.format, .kernel = "bitmap_n8", .n = 1, .bytes = 100}};
  return plan;
}

std::string entry() {
  const testing::TemporaryDirectory dir;
  const planning::PlanCache cache(dir.path());
  cache.store_plan(key(), {some_plan(), {}});
  std::ifstream file(cache.path_of("plan", key()), std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void parse(std::string_view input) {
  static const testing::TemporaryDirectory dir;
  static const planning::PlanCache cache(dir.path());
  std::ofstream(cache.path_of("plan", key()), std::ios::binary)
      .write(input.data(), static_cast<std::streamsize>(input.size()));
  try {
    (void)cache.find_plan(key());
  } catch (const std::exception& e) {
    throw std::logic_error(std::string("a cache entry is never an error: ") + e.what());
  }
}

}  // namespace

RAREFY_FUZZ_TARGET(Plan, parse,
                   (fuzz::Corpus{.seeds = {entry()},
                                 .words = {"null", "{}", "[]", "\"bitmap\"", "\"format\":", "-1",
                                           "1e999", ",", "\"", "true", "[[[["}}))

}  // namespace rarefy
