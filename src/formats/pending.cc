// Formats whose packers have not landed yet: whoever adds one deletes its two lines here.
#include "formats/packers.h"

namespace rarefy {
namespace {
Support not_yet(const FormatSpec& spec) {
  return Support::no("format " + spec.name() + " cannot be packed by this build");
}
}  // namespace

#define RAREFY_PENDING_FORMAT(name)                                                    \
  Support can_pack_##name(const FormatSpec& spec, std::int64_t, std::int64_t, DType) { \
    return not_yet(spec);                                                              \
  }                                                                                    \
  MatrixPtr pack_##name(const RowSource&, const FormatSpec&, DType, ThreadPool&) {     \
    return nullptr;                                                                    \
  }

RAREFY_PENDING_FORMAT(sell)

}  // namespace rarefy
