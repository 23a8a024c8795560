# cmake -DOUTPUT=<file.cc> -DSOURCE_DIR=<src> -P kernel_hash.cmake
# Writes a file that knows the hash of everything that decides how fast or what a kernel computes.
file(GLOB_RECURSE sources ${SOURCE_DIR}/formats/*.cc ${SOURCE_DIR}/formats/*.h ${SOURCE_DIR}/formats/*.inc
     ${SOURCE_DIR}/ops/spmm/*.cc ${SOURCE_DIR}/ops/spmm/*.h ${SOURCE_DIR}/ops/spmm/*.inc)
list(SORT sources)
set(hashes "")
foreach(source ${sources})
  file(SHA256 ${source} hash)
  string(APPEND hashes ${hash})
endforeach()
string(SHA256 hash "${hashes}")
string(SUBSTRING ${hash} 0 16 hash)
file(WRITE ${OUTPUT} "#include \"planner/kernel_hash.h\"

namespace rarefy::planning {

const char* kernel_source_hash() {
  return \"${hash}\";
}

}  // namespace rarefy::planning
")
