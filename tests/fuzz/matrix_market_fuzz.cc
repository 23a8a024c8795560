#include "io/sparse_text.h"
#include "mutator.h"

namespace rarefy {
namespace {

void parse(std::string_view input) {
  const SparseText matrix = io::parse_matrix_market(input, "x.mtx");
  try {
    io::check_sparse_text(matrix);
  } catch (const Error& e) {
    throw std::logic_error(std::string("accepted what is no CSR: ") + e.what());
  }
}

}  // namespace

RAREFY_FUZZ_TARGET(
    MatrixMarket, parse,
    (fuzz::Corpus{
        .seeds = {"%%MatrixMarket matrix coordinate real general\n% c\n3 4 3\n3 1 -2.5e-1\n1 4 +3\n"
                  "2 2 inf\n",
                  "%%MatrixMarket matrix coordinate pattern symmetric\n2 2 2\n1 1\n2 1\n",
                  "%%MatrixMarket matrix coordinate integer skew-symmetric\n2 2 1\n2 1 7\n",
                  "%%MatrixMarket matrix array real general\n2 2\n1\n0\n-0.0\n4\n",
                  "%%MatrixMarket matrix array integer symmetric\n2 2\n1\n2\n3\n"},
        .words = {"\n", "%", " ", "array", "coordinate", "pattern", "real", "integer", "general",
                  "symmetric", "skew-symmetric", "1 1\n", "nan", "1e-400", "1e400", "-"}}))

}  // namespace rarefy
