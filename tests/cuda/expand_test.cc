// Packed weights written out as dense rows, and products of many tokens that go that way.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <string_view>

#include "cuda/compiler.h"
#include "gpu_or_skip.h"
#include "ops/spmm/cuda/expanded.h"
#include "ops/spmm/cuda/families.h"
#include "ops/spmm/cuda/search.h"
#include "rarefy/threads.h"
#include "spmm_case.h"

namespace rarefy::gpu {
namespace {

/// An operator of which only what the estimate asks for is true.
class Pretended final : public Operator {
 public:
  Pretended(std::size_t bytes, std::int64_t a_pass, bool expands)
      : bytes_(bytes), a_pass_(a_pass), expands_(expands) {}
  void enqueue(const cuda::Stream& /*stream*/, const Operands& /*o*/) const override {}
  [[nodiscard]] std::size_t bytes() const override { return bytes_; }
  [[nodiscard]] std::int64_t tokens_a_pass() const override { return a_pass_; }
  [[nodiscard]] bool expands() const override { return expands_; }
  [[nodiscard]] std::unique_ptr<Operator> copy(const cuda::Stream& /*stream*/) const override {
    return nullptr;
  }

 private:
  std::size_t bytes_;
  std::int64_t a_pass_;
  bool expands_;
};

TEST(TokensToExpandFor, GrowWithWhatAPassServes) {
  const Problem problem{.m = 14336, .k = 4096, .n = 1};
  constexpr std::size_t kBytes = 45'000'000;
  constexpr double kPassUs = 20;
  const auto from = [&](std::int64_t a_pass, bool expands = true) {
    const Pretended op(kBytes, a_pass, expands);
    return tokens_to_expand_for(op, op, problem, kPassUs, cuda::h100_facts());
  };
  // Writing 117 MB and reading them again takes five to seven passes.
  ASSERT_TRUE(from(1).has_value());
  EXPECT_GE(*from(1), 5);
  EXPECT_LE(*from(1), 9);
  EXPECT_GE(*from(8), 4 * 8 + 1);
  EXPECT_LE(*from(8), 8 * 8 + 1);
  EXPECT_FALSE(from(8, false).has_value());
  Problem features = problem;
  features.layout = Layout::kFeatureMajor;
  const Pretended op(kBytes, 8, true);
  EXPECT_FALSE(tokens_to_expand_for(op, op, features, kPassUs, cuda::h100_facts()).has_value());
  // Where another format has to be expanded, its bytes count.
  const Pretended thin(kBytes / 10, 8, true), thick(kBytes * 3, 8, true), closed(kBytes, 8, false);
  const auto with = [&](const Operator& source) {
    return *tokens_to_expand_for(closed, source, problem, kPassUs, cuda::h100_facts());
  };
  EXPECT_LT(with(thin), with(thick));
}

class ExpandOnDevice : public ::testing::Test {
 protected:
  void SetUp() override { RAREFY_SKIP_WITHOUT_GPU(); }

  static std::vector<std::byte> expanded(const Operator& op, const cuda::Stream& stream,
                                         std::size_t bytes) {
    const cuda::DeviceBuffer dense(stream, bytes);
    cuda::fill_bytes(stream, dense.address(), 0xFF, bytes);  // What is not written shows.
    op.expand(stream, dense.address());
    return cuda::download<std::byte>(stream, dense);
  }
};

/// What decides how a candidate stores a weight: "composed.csr16.v4", "decode.lane.b2".
std::string format_of(const std::string& candidate) {
  constexpr std::string_view kOfFormat[] = {"csr", "delta", "even", "lane", "wide", "v", "b"};
  std::string format;
  for (std::size_t begin = 0; begin < candidate.size();) {
    const std::size_t end = std::min(candidate.find('.', begin), candidate.size());
    const std::string part = candidate.substr(begin, end - begin);
    const bool counts = begin == 0 || std::ranges::any_of(kOfFormat, [&](std::string_view prefix) {
                          return part.starts_with(prefix);
                        });
    if (counts) format += part + ".";
    begin = end + 1;
  }
  return format;
}

/// One candidate of each format, compiled on all cores: a kernel takes up to a second.
std::vector<Candidate> one_of_each(const Problem& problem, const PatternStats& pattern,
                                   const cuda::DeviceFacts& device) {
  std::vector<Candidate> all = enumerate(problem, pattern, device);
  std::set<std::string> seen;
  std::erase_if(all, [&](const Candidate& c) { return !seen.insert(format_of(c.name)).second; });
  default_pool().parallel_dynamic(
      static_cast<std::int64_t>(all.size()), 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          const cuda::Source& source = all[static_cast<std::size_t>(i)].source;
          if (!source.text.empty()) static_cast<void>(cuda::compile(source, device.arch()));
        }
      });
  return all;
}

TEST_F(ExpandOnDevice, ReturnsEveryBitOfEveryFormat) {
  const cuda::Stream stream;
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const Pattern pattern :
         {Pattern::kUniform, Pattern::kEmptyRows, Pattern::kOneFullRow, Pattern::kRowSkew,
          Pattern::kColumnRuns, Pattern::kZero, Pattern::kFull, Pattern::kNegativeZeros}) {
      for (const std::int64_t cols : {520, 803}) {
        const TestWeight weight({131, cols, pattern, 0.4}, dtype);
        std::vector<std::byte> expected(weight.bytes.size());
        weight.csr->read_rows(0, 131, expected.data());
        for (const std::int64_t n : {1, 8, 64}) {
          const Problem problem{
              .m = 131, .k = cols, .n = n, .weight = dtype, .activations = dtype, .output = dtype};
          std::size_t checked = 0;
          for (const Candidate& candidate :
               one_of_each(problem, weight.pattern, stream.device().facts())) {
            std::unique_ptr<Operator> op;
            try {
              op = candidate.build(weight.weight(), stream);
            } catch (const Error& error) {
              ASSERT_EQ(error.kind(), ErrorKind::kUnsupported) << error.what();
              continue;
            }
            if (!op->expands()) continue;
            ++checked;
            ASSERT_EQ(expanded(*op, stream, expected.size()), expected)
                << candidate.name << " " << testing::to_string(pattern) << " " << cols;
          }
          EXPECT_GT(checked, 0U);
        }
      }
    }
  }
}

TEST_F(ExpandOnDevice, RowsLongerThanAWindow) {
  const cuda::Stream stream;
  const TestWeight weight({17, 20'011, Pattern::kUniform, 0.01}, DType::kF16);
  std::vector<std::byte> expected(weight.bytes.size());
  weight.csr->read_rows(0, 17, expected.data());
  const Problem problem{.m = 17, .k = 20'011, .n = 1};
  for (const Candidate& candidate : one_of_each(problem, weight.pattern, stream.device().facts())) {
    if (!candidate.name.starts_with("composed")) continue;
    const auto op = candidate.build(weight.weight(), stream);
    ASSERT_EQ(expanded(*op, stream, expected.size()), expected) << candidate.name;
  }
}

TEST_F(ExpandOnDevice, ManyTokensGiveTheSameAsFew) {
  const cuda::Stream stream;
  Expander expander(stream);
  const TestWeight weight({96, 256, Pattern::kUniform, 0.3}, DType::kBF16);
  Problem problem{.m = 96,
                  .k = 256,
                  .n = 1,
                  .weight = DType::kBF16,
                  .activations = DType::kBF16,
                  .output = DType::kF32};
  int checked = 0;
  for (Candidate& candidate : one_of_each(problem, weight.pattern, stream.device().facts())) {
    if (!candidate.name.starts_with("composed.csr16") && !candidate.name.starts_with("decode"))
      continue;
    // As if it were so slow that expanding pays from the second pass on; once by itself, once with
    // another operator for that.
    const bool alone = candidate.name.starts_with("decode");
    const auto op = expander.wrap(candidate.build(weight.weight(), stream), problem, 1e4,
                                  alone ? nullptr : candidate.build(weight.weight(), stream));
    for (const std::int64_t n : {1, 2, 33, 200}) {
      Problem many = problem;
      many.n = n;
      const Case run(weight, many);
      run.expect_close(run.device(*op, stream), candidate.name);
    }
    if (++checked == 4) break;
  }
}

}  // namespace
}  // namespace rarefy::gpu
