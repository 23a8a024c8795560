// Kernels and a clock that do what a test says, so that decisions are tested without timing
// anything.
#pragma once

#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "planner/sampling.h"
#include "planner/search.h"
#include "rarefy/planner.h"

namespace rarefy::planning::testing {

/// Runs `format` for n in [n_min, n_max]; costs `cycles(n)`.
class FakeKernel final : public SpmmKernel {
 public:
  FakeKernel(std::string name, FormatSpec format, std::function<double(std::int64_t)> cycles,
             std::int64_t n_min = 1, std::int64_t n_max = std::int64_t{1} << 40)
      : name_(std::move(name)),
        format_(format),
        cycles_(std::move(cycles)),
        n_min_(n_min),
        n_max_(n_max) {}
  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] Isa isa() const override { return Isa::kPortable; }
  [[nodiscard]] Support supports(const FormatSpec& spec, const SpmmProblem& p) const override {
    if (spec != format_) return Support::no("another format");
    if (p.n < n_min_ || p.n > n_max_) return Support::no("another n");
    return Support::yes();
  }
  [[nodiscard]] SpmmCost cost(const FormatSpec&, const PatternStats&,
                              const SpmmProblem& p) const override {
    return {.bytes = 0, .cycles = cycles_(p.n)};
  }
  void run(const Matrix&, const SpmmArgs&, ThreadPool&) const override {
    throw std::logic_error("a fake kernel cannot run");
  }

 private:
  std::string name_;
  FormatSpec format_;
  std::function<double(std::int64_t)> cycles_;
  std::int64_t n_min_, n_max_;
};

/// With 1 thread at 1 GHz, 1000 cycles are a microsecond (plus the start of a job).
inline constexpr MachineCeilings kCeilings{1.0, 1.0, 1.0};
inline std::function<double(std::int64_t)> microseconds(double us) {
  return [us](std::int64_t) { return us * 1000; };
}

/// Times by kernel and n; every run takes `seconds_per_run` of the scripted clock.
class ScriptedRunner final : public TrialRunner {
 public:
  std::map<std::pair<std::string, std::int64_t>, std::function<double(int sample)>> times;
  std::map<std::string, std::size_t> bytes;        ///< Of formats; 1000 where absent.
  std::map<std::string, std::string> cannot_pack;  ///< Formats that fail, with their message.
  double seconds_per_run = 0;
  std::map<std::pair<std::string, std::int64_t>, int> samples;
  std::vector<std::string> order;
  std::map<std::string, int> slots;  ///< In which each kernel ran last.
  int rounds = 0;
  int passes = 1;  ///< Of a round.
  double clock = 0;

  void set(const std::string& kernel, std::int64_t n, double us) {
    times[{kernel, n}] = [us](int) { return us; };
  }

  std::size_t prepare(const FormatSpec& format) override {
    const auto failing = cannot_pack.find(format.name());
    if (failing != cannot_pack.end()) throw Error(ErrorKind::kUnsupported, failing->second);
    const auto known = bytes.find(format.name());
    return known != bytes.end() ? known->second : 1000;
  }
  int begin_round() override {
    ++rounds;
    return passes;
  }
  double run(const Trial& trial, int slot, int) override {
    const std::pair<std::string, std::int64_t> key{std::string(trial.kernel->name()), trial.n};
    slots[key.first] = slot;
    clock += seconds_per_run;
    order.push_back(key.first);
    const auto script = times.find(key);
    if (script == times.end()) throw std::logic_error("no time for " + key.first);
    return script->second(samples[key]++);
  }
  double elapsed_s() override { return clock; }
};

/// A weight of ones at the even positions, for the shapes that candidates need.
class HalfOnes final : public RowSource {
 public:
  explicit HalfOnes(std::int64_t rows = 64, std::int64_t cols = 64) : rows_(rows), cols_(cols) {}
  [[nodiscard]] std::int64_t rows() const override { return rows_; }
  [[nodiscard]] std::int64_t cols() const override { return cols_; }
  [[nodiscard]] DType dtype() const override { return DType::kF32; }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override {
    auto* to = static_cast<float*>(out);
    for (std::int64_t i = begin * cols_; i < end * cols_; ++i) *to++ = i % 2 == 0 ? 1.0F : 0.0F;
  }

 private:
  std::int64_t rows_, cols_;
};

}  // namespace rarefy::planning::testing
