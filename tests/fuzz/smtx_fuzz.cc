#include "io/sparse_text.h"
#include "mutator.h"

namespace rarefy {
namespace {

void parse(std::string_view input) {
  const SparseText matrix = io::parse_smtx(input, "x.smtx");
  try {
    io::check_sparse_text(matrix);
  } catch (const Error& e) {
    throw std::logic_error(std::string("accepted what is no CSR: ") + e.what());
  }
}

}  // namespace

RAREFY_FUZZ_TARGET(Smtx, parse,
                   (fuzz::Corpus{.seeds = {"3, 5, 4\n0 2 2 4\n1 4 3 0\n", "0, 0, 0\n0\n",
                                           "2,3,0\r\n0 0 0\r\n\r\n"},
                                 .words = {"\n", " ", ",", "-", "\t", "0 ", "1.5", "\r\n"}}))

}  // namespace rarefy
