#include "mutator.h"
#include "rarefy/compress.h"

namespace rarefy {
namespace {

void parse(std::string_view input) {
  const PrunePattern pattern = PrunePattern::parse(input);
  if (PrunePattern::parse(pattern.name()) != pattern) {
    throw std::logic_error("a name that does not come back: " + pattern.name());
  }
  (void)pattern.fits(4096, 14336);
  (void)pattern.fits(0, 1);
}

}  // namespace

RAREFY_FUZZ_TARGET(PrunePattern, parse,
                   (fuzz::Corpus{.seeds = {"unstructured", "0:0", "2:4", "4:8", "32x32", "1x1"},
                                 .words = {"x", ":", "0", "-", " ", "4", "unstructured"}}))

}  // namespace rarefy
