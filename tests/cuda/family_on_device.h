// What the tests of every kernel family on a GPU share: candidates of a problem, built, run and
// held against double.
#pragma once

#include <algorithm>
#include <cstring>
#include <span>

#include "gpu_or_skip.h"
#include "spmm_case.h"

namespace rarefy::gpu {

inline constexpr Pattern kEveryPattern[] = {
    Pattern::kUniform,    Pattern::kEmptyRows, Pattern::kOneFullRow, Pattern::kRowSkew,
    Pattern::kColumnRuns, Pattern::kZero,      Pattern::kFull,       Pattern::kNegativeZeros};

inline constexpr Epilogue kSomeEpilogues[] = {{Activation::kRelu, true, false},
                                              {Activation::kGelu, false, true},
                                              {Activation::kSilu, true, true}};

class FamilyOnDevice : public ::testing::Test {
 protected:
  struct Ways {
    int major = 8;            ///< Compute capability that the family needs.
    bool one_dtype = false;   ///< Activations are of the weight's dtype.
    bool may_refuse = false;  ///< Patterns far from uniform may need more memory than there is.
    Rounds rounds = Rounds::kOnce;
  };
  FamilyOnDevice(const Family& family, Ways ways) : family_(family), ways_(ways) {}

  void SetUp() override {
    RAREFY_SKIP_WITHOUT_GPU();
    if (cuda::Device::get().facts().major < ways_.major)
      GTEST_SKIP() << "needs compute capability " << ways_.major << ".0";
  }

  /// Runs every `step`th candidate of the problem, whose M, K and weight dtype are the weight's;
  /// `special` is one activation's value, if not 0.
  void check(const TestWeight& weight, Problem problem, std::size_t step = 1,
             float special = 0) const {
    check_if([](const Candidate&) { return true; }, weight, problem, step, special);
  }

  /// The same with those candidates that `wanted` is true for.
  template <class Wanted>
  void check_if(const Wanted& wanted, const TestWeight& weight, Problem problem,
                std::size_t step = 1, float special = 0) const {
    const cuda::Stream stream;
    complete(problem, weight);
    const Case run(weight, problem, special);
    std::vector<Candidate> candidates = candidates_of(weight, problem);
    std::erase_if(candidates, [&](const Candidate& c) { return !wanted(c); });
    ASSERT_FALSE(candidates.empty());
    compile_ahead(candidates, step);
    for (std::size_t i = 0; i < candidates.size(); i += step) {
      check_one(candidates[i], weight, run, stream);
      if (HasFatalFailure()) return;
      if (!candidates[i].refine || i % (3 * step) != 0) continue;
      for (const Candidate& variation : candidates[i].refine()) {
        check_one(variation, weight, run, stream);
        if (HasFatalFailure()) return;
      }
    }
  }

  /// Runs about `count` candidates of the problem, from first to last.
  void check_about(const TestWeight& weight, Problem problem, std::size_t count,
                   float special = 0) const {
    complete(problem, weight);
    const std::size_t all = candidates_of(weight, problem).size();
    check(weight, problem, std::max<std::size_t>(1, all / count), special);
  }

  /// The candidates of a problem that is complete.
  [[nodiscard]] std::vector<Candidate> candidates_of(const TestWeight& weight,
                                                     const Problem& problem) const {
    return family_.candidates(problem, weight.pattern, cuda::Device::get().facts());
  }

  /// A kernel's weights are fetched before the kernel ahead has ended, its activations only after:
  /// here the kernel ahead writes them. `problem` is square, in f16.
  static void expect_follows(std::span<const Candidate> candidates, const TestWeight& weight,
                             const Problem& problem) {
    const cuda::Stream stream;
    for (const Candidate& candidate : candidates) {
      const std::unique_ptr<Operator> op = candidate.build(weight.weight(), stream);
      const std::vector<std::uint16_t> x(static_cast<std::size_t>(problem.k * problem.n),
                                         0x2C00);  // 1/16
      const cuda::DeviceBuffer first = cuda::upload<std::uint16_t>(stream, x);
      const cuda::DeviceBuffer second(stream, first.size()), third(stream, first.size());
      const auto run = [&](const cuda::DeviceBuffer& from, const cuda::DeviceBuffer& to) {
        op->enqueue(stream, {.b = from.address(),
                             .b_stride = problem.k,
                             .c = to.address(),
                             .c_stride = problem.m,
                             .n = problem.n});
      };
      const auto chain = [&] {
        run(first, second);
        run(second, third);
        return cuda::download<std::uint16_t>(stream, third);
      };
      const std::vector<std::uint16_t> expected = chain();
      for (int i = 0; i < 20; ++i) {
        cuda::fill_bytes(stream, second.address(), 0xFF, second.size());
        ASSERT_EQ(chain(), expected) << candidate.name << " " << i;
      }
    }
  }

 private:
  void complete(Problem& problem, const TestWeight& weight) const {
    problem.m = weight.source->rows();
    problem.k = weight.source->cols();
    problem.weight = weight.source->dtype();
    if (ways_.one_dtype) problem.activations = problem.weight;
  }

  void check_one(const Candidate& candidate, const TestWeight& weight, const Case& run,
                 const cuda::Stream& stream) const {
    std::unique_ptr<Operator> op;
    try {
      op = candidate.build(weight.weight(), stream);
    } catch (const Error& error) {
      ASSERT_TRUE(ways_.may_refuse && error.kind() == ErrorKind::kUnsupported) << error.what();
      return;
    }
    const std::vector<float> result = run.device(*op, stream);
    run.expect_close(result, candidate.name, ways_.rounds);
    // The same operator again: scratch must be as it was found.
    const std::vector<float> again = run.device(*op, stream);
    run.expect_close(again, candidate.name + " again", ways_.rounds);
    if (candidate.name.find("anyorder") != std::string::npos) return;
    const std::vector<float> copied = run.device(*op->copy(stream), stream);
    for (const std::vector<float>& other : {again, copied}) {
      ASSERT_EQ(std::memcmp(other.data(), result.data(), result.size() * sizeof(float)), 0)
          << candidate.name << " gives other bits the second time";
    }
  }

  const Family& family_;
  Ways ways_;
};

}  // namespace rarefy::gpu
