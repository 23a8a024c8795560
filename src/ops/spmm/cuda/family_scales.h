// How far the estimates of a family of kernels are off on a device: learned from every search.
#pragma once

#include <compare>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "ops/spmm/cuda/device_spmm.h"

namespace rarefy::gpu {

class FamilyScales {
 public:
  /// What a candidate's estimate is to be multiplied with: the median of measured over estimated of
  /// its family on weights of the same dtype, with a quarter to four times as many tokens. 1 where
  /// there was none.
  [[nodiscard]] double of(const std::string& candidate, const Problem& problem) const;

  /// A search measured `ratio` times the estimate for the fastest kernel of the candidate's family.
  void learn(const std::string& candidate, const Problem& problem, double ratio);

  [[nodiscard]] Json to_json() const;
  /// Throws `Error` or a JSON exception for what is no such object.
  static FamilyScales from_json(const Json& json);

 private:
  /// Problems that are alike.
  struct Kind {
    std::string family;
    std::string weight;
    int bucket = 0;  ///< n in powers of two.
    // The check takes the 0 of the compiler's own comparison for a pointer.
    auto operator<=>(const Kind&) const = default;  // NOLINT(modernize-use-nullptr)
  };
  static Kind kind_of(const std::string& candidate, const Problem& problem);

  std::map<Kind, std::vector<double>> ratios_;  ///< The newest last.
};

/// What a candidate's estimate is modelled by: "composed", "decode.lane", "hybrid.gather".
std::string family_of(const std::string& candidate);

/// The scales of a device, its calibration, a compiler and this build in the cache folder. Whatever
/// is wrong with the file, there are none; one that cannot be written costs the next search its
/// hints.
FamilyScales read_scales(const cuda::DeviceFacts& device);
void write_scales(const cuda::DeviceFacts& device, const FamilyScales& scales);

}  // namespace rarefy::gpu
