// Times trials on this machine, on the weight at hand.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "planner/sampling.h"
#include "rarefy/planner.h"

namespace rarefy::planning {

/// Some rows of another source, in groups of 64 that lie evenly spread over it: a large weight in
/// small, with its density, its blocks and its skew.
class SampledRows final : public RowSource {
 public:
  static constexpr std::int64_t kGroup = 64;
  /// `rows` is rounded up to whole groups; all rows when that is no less than there are.
  SampledRows(const RowSource& source, std::int64_t rows);
  [[nodiscard]] std::int64_t rows() const override { return rows_; }
  [[nodiscard]] std::int64_t cols() const override { return source_.cols(); }
  [[nodiscard]] DType dtype() const override { return source_.dtype(); }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override;
  [[nodiscard]] bool whole() const { return rows_ == source_.rows(); }

 private:
  /// Row of the source that row `r` shows.
  [[nodiscard]] std::int64_t origin(std::int64_t r) const;

  const RowSource& source_;
  std::int64_t rows_;
};

/// Memory to read through, so that weights come from memory again. Kept between plans.
class Evictor {
 public:
  /// Reads through the buffer with all of `pool`.
  void evict(ThreadPool& pool);

 private:
  Buffer buffer_;
};

/// Packs a sample of the weight (at most 32 MB dense, 64 MB where many columns come at once;
/// several copies where it is small) in each format, and runs kernels on it with activations of
/// zero mean. Where weights come from memory, a round has a pass for each copy; where they stay in
/// the caches, as many as fill a time that can be measured.
class CpuRunner final : public TrialRunner {
 public:
  CpuRunner(const RowSource& weight, const PlanRequest& request, Evictor& evictor,
            ThreadPool& pool);
  std::size_t prepare(const FormatSpec& format) override;
  int begin_round() override;
  double run(const Trial& trial, int slot, int pass) override;
  double elapsed_s() override;

 private:
  struct Activations {
    Buffer b, c;
  };
  Activations& activations(std::int64_t n);
  struct Packed {
    std::vector<MatrixPtr> copies;
    std::vector<MatrixPtr> few;  ///< As many, or none where the sample is the whole weight.
    std::map<std::pair<std::string, std::int64_t>, std::vector<double>>
        few_us;  ///< Of kernels at n, all that were measured.
  };
  /// What a slot runs on, packed now where it is missing.
  Packed& packed(const FormatSpec& format, int slot);
  /// One run, of a weight that lies where it would.
  double time_us(const Matrix& matrix, const Trial& trial);
  /// … and nothing else.
  double run_once(const Matrix& matrix, const Trial& trial);

  SampledRows sample_;
  SampledRows few_;  ///< Rows of which a call takes hardly longer than of none.
  const PlanRequest& request_;
  Evictor& evictor_;
  ThreadPool& pool_;
  double scale_;  ///< Rows of the weight over rows of the sample.
  int copies_;
  bool from_cache_;
  double shortest_us_;  ///< Of all runs so far.
  std::chrono::steady_clock::time_point begin_;
  std::map<std::pair<std::string, int>, Packed> packed_;  ///< By format and slot.
  std::map<std::int64_t, Activations> activations_;
};

}  // namespace rarefy::planning
