#include "mutator.h"
#include "rarefy/matrix.h"

namespace rarefy {
namespace {

void parse(std::string_view input) {
  const auto spec = FormatSpec::parse(input);
  if (spec && FormatSpec::parse(spec->name()) != spec) {
    throw std::logic_error("a name that does not come back: " + spec->name());
  }
}

}  // namespace

RAREFY_FUZZ_TARGET(FormatSpec, parse,
                   (fuzz::Corpus{
                       .seeds = {"dense", "dense16x32", "csr", "csr16", "bitmap", "delta4",
                                 "delta8", "sell8", "sell16", "2:4", "bsr16x32"},
                       .words = {"x", ":", "16", "bsr", "dense", "-", " ", "\x00"}}))

}  // namespace rarefy
