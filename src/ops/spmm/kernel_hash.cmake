# cmake -DOUTPUT=<file.cc> -DSOURCE_DIR=<src> -P kernel_hash.cmake
# Writes a file that knows the hashes of everything that decides how fast or what a kernel computes,
# on the CPU and on GPUs. Included, it only lists these sources: cpu_sources and device_sources.
file(GLOB_RECURSE cpu_sources ${GLOB_OPTIONS} ${SOURCE_DIR}/formats/*.cc ${SOURCE_DIR}/formats/*.h ${SOURCE_DIR}/formats/*.inc
     ${SOURCE_DIR}/ops/spmm/*.cc ${SOURCE_DIR}/ops/spmm/*.h ${SOURCE_DIR}/ops/spmm/*.inc)
list(FILTER cpu_sources EXCLUDE REGEX "/ops/spmm/cuda/")
set(device_sources "")
foreach(folder formats cuda ops/spmm/cuda ops/block_sparse/cuda)
  file(GLOB_RECURSE found ${GLOB_OPTIONS} ${SOURCE_DIR}/${folder}/*.cc ${SOURCE_DIR}/${folder}/*.h ${SOURCE_DIR}/${folder}/*.inc
       ${SOURCE_DIR}/${folder}/*.cu ${SOURCE_DIR}/${folder}/*.cuh)
  list(APPEND device_sources ${found})
endforeach()
if(NOT DEFINED OUTPUT)
  return()
endif()

function(hash_of sources result)
  list(SORT sources)
  set(hashes "")
  foreach(source ${sources})
    file(SHA256 ${source} hash)
    string(APPEND hashes ${hash})
  endforeach()
  string(SHA256 hash "${hashes}")
  string(SUBSTRING ${hash} 0 16 hash)
  set(${result} ${hash} PARENT_SCOPE)
endfunction()
hash_of("${cpu_sources}" cpu)
hash_of("${device_sources}" device)
file(WRITE ${OUTPUT} "#include \"ops/spmm/kernel_hash.h\"

namespace rarefy {

const char* kernel_source_hash() {
  return \"${cpu}\";
}

const char* device_kernel_source_hash() {
  return \"${device}\";
}

}  // namespace rarefy
")
