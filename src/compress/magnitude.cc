#include "compress/magnitude.h"

namespace rarefy::compress {

void prune_magnitude(DenseWeight& weight, const MaskRule& rule, ThreadPool& pool) {
  weight.apply(Mask(weight_scores(weight, nullptr), rule, pool), pool);
}

GlobalCut find_global_cut(std::span<const std::shared_ptr<const RowSource>> sources,
                          const PrunePattern& pattern, double sparsity, ThreadPool& pool) {
  std::vector<ScoreGrid> grids;
  GlobalCut result;
  std::int64_t size = 0;
  for (const std::shared_ptr<const RowSource>& source : sources) {
    ScoreGrid scores = weight_scores(*source, nullptr);
    if (pattern.kind == PrunePattern::Kind::kBlock) scores = block_scores(scores, pattern);
    result.bases.push_back(size);
    size += scores.rows * scores.cols;
    grids.push_back(std::move(scores));
  }
  result.cut = find_cut(grids, zeros_of(sparsity, size), pool);
  return result;
}

void prune_magnitude(DenseWeight& weight, const PrunePattern& pattern, const GlobalCut& cut,
                     std::size_t index, ThreadPool& pool) {
  weight.apply(Mask(weight_scores(weight, nullptr), pattern, cut.cut, cut.bases[index]), pool);
}

}  // namespace rarefy::compress
