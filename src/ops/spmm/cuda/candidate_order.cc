#include "ops/spmm/cuda/candidate_order.h"

#include <algorithm>
#include <map>

namespace rarefy::gpu {

std::set<std::string> leaders(const std::vector<Candidate>& candidates, int of_each) {
  std::set<std::string> best;
  std::map<std::string, int> seen;
  for (const Candidate& c : candidates) {
    if (c.estimate_us > kHopeless * candidates.front().estimate_us) break;
    if (seen[family_of(c.name)]++ < of_each) best.insert(c.name);
  }
  return best;
}

void correct(std::vector<Candidate>& candidates, const Problem& problem,
             const FamilyScales& scales) {
  for (Candidate& c : candidates) c.estimate_us *= scales.of(c.name, problem);
  std::ranges::stable_sort(candidates, {}, &Candidate::estimate_us);
}

void learn(FamilyScales& scales, const Problem& problem, const std::vector<Tried>& tried) {
  std::map<std::string, const Tried*> fastest;
  for (const Tried& t : tried) {
    if (t.measured_us <= 0 || t.estimate_us <= 0) continue;
    const Tried*& best = fastest[family_of(t.name)];
    if (best == nullptr || t.measured_us < best->measured_us) best = &t;
  }
  for (const auto& [family, best] : fastest)
    scales.learn(best->name, problem,
                 best->measured_us / best->estimate_us * scales.of(best->name, problem));
}

}  // namespace rarefy::gpu
