// How far the counts of a kernel (`SpmmKernel::cost`) are off on this machine: learned from every
// search, so that an estimate is what such weights took, not what the ceilings would allow.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "rarefy/spmm.h"

namespace rarefy::planning {

class KernelScales {
 public:
  /// What the plain estimate of a run is to be multiplied with: the median of measured/estimated of
  /// such runs; where there was none, of the same kernel at the nearest n, on other formats, or of
  /// all that is known. 1 when nothing is.
  [[nodiscard]] double of(const SpmmKernel& kernel, const FormatSpec& format,
                          const SpmmProblem& problem, bool from_cache) const;

  /// One search measured `ratio` times the plain estimate.
  void learn(const SpmmKernel& kernel, const FormatSpec& format, const SpmmProblem& problem,
             bool from_cache, double ratio);

  [[nodiscard]] bool empty() const { return ratios_.empty(); }
  [[nodiscard]] Json to_json() const;
  /// Throws `Error` or a JSON exception for what is no such object.
  static KernelScales from_json(const Json& json);

 private:
  /// Runs that are alike. Small weights have a class of their own: starting a job and waking
  /// threads is most of what they take.
  struct Kind {
    std::string kernel, format;
    std::string weight, activations;
    int size = 0;    ///< 0: below 2 M positions, 1: below 16 M, 2: larger.
    int bucket = 0;  ///< n in powers of two.
    bool from_cache = false;
    // The check takes the 0 of the compiler's own comparison for a pointer.
    auto operator<=>(const Kind&) const = default;  // NOLINT(modernize-use-nullptr)
  };
  static Kind kind_of(const SpmmKernel& kernel, const FormatSpec& format,
                      const SpmmProblem& problem, bool from_cache);

  std::map<Kind, std::vector<double>> ratios_;  ///< The newest last.
};

}  // namespace rarefy::planning
