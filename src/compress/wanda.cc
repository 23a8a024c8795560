#include "compress/wanda.h"

#include <cmath>

#include "base/check.h"

namespace rarefy::compress {

void InputNorms::add(ConstMatrixRef x, ThreadPool& pool) {
  pool.parallel_for(x.cols, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = 0; t < x.rows; ++t) {
      const float* const row = x.row<float>(t);
      for (std::int64_t j = begin; j < end; ++j)
        squares_[static_cast<std::size_t>(j)] += static_cast<double>(row[j]) * row[j];
    }
  });
}

std::vector<float> InputNorms::norms(const std::string& weight_name) const {
  std::vector<float> norms(squares_.size());
  for (std::size_t j = 0; j < norms.size(); ++j) {
    norms[j] = static_cast<float>(std::sqrt(squares_[j]));
    require(std::isfinite(norms[j]),
            "{}: expected finite calibration inputs, found norm {} of input {}", weight_name,
            norms[j], j);
  }
  return norms;
}

void prune_wanda(DenseWeight& weight, const std::vector<float>& input_norms, const MaskRule& rule,
                 ThreadPool& pool) {
  require(static_cast<std::int64_t>(input_norms.size()) == weight.cols(),
          "{}: expected {} input norms, got {}", weight.name(), weight.cols(), input_norms.size());
  weight.apply(Mask(weight_scores(weight, input_norms.data()), rule, pool), pool);
}

}  // namespace rarefy::compress
