// Which code a plan was measured with.
#pragma once

namespace rarefy::planning {

/// Hash of the sources of all formats and SpMM kernels of this build, in hexadecimal; made by
/// kernel_hash.cmake whenever one of them changes.
const char* kernel_source_hash();

}  // namespace rarefy::planning
