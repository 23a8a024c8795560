// Magnitude pruning: the weights of smallest |w| go.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "compress/weight.h"

namespace rarefy::compress {

/// Zeroes the weights of smallest |w| within each group of `rule` (blocks: of smallest energy
/// Σw²). The classic baseline (Han et al. 2015); needs no data.
void prune_magnitude(DenseWeight& weight, const MaskRule& rule, ThreadPool& pool);

/// One cut through all of `sources` together, found in two passes over their rows and without
/// holding any; N:M has no global form. The i-th source's scores start at position bases[i].
struct GlobalCut {
  Cut cut;
  std::vector<std::int64_t> bases;
};
GlobalCut find_global_cut(std::span<const std::shared_ptr<const RowSource>> sources,
                          const PrunePattern& pattern, double sparsity, ThreadPool& pool);

/// Zeroes what a global cut selects of the `index`-th source, here loaded as `weight`.
void prune_magnitude(DenseWeight& weight, const PrunePattern& pattern, const GlobalCut& cut,
                     std::size_t index, ThreadPool& pool);

}  // namespace rarefy::compress
