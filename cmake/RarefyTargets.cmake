# Two functions that every area uses, so that flags live in one place.

set(RAREFY_WARNINGS -Wall -Wextra -Wshadow -Wpedantic -Wno-missing-field-initializers)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC 12 sees overlaps and endless copies in `"literal" + std::string` and `string = "literal"` (bug 105651).
  list(APPEND RAREFY_WARNINGS -Wno-restrict -Wno-stringop-overflow)
endif()
if(RAREFY_WERROR)
  list(APPEND RAREFY_WARNINGS -Werror)
endif()

add_library(rarefy_flags INTERFACE)
target_include_directories(rarefy_flags INTERFACE
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src>)
target_link_libraries(rarefy_flags INTERFACE Threads::Threads)
if(RAREFY_SANITIZE)
  # The property RAREFY_QUICK marks what is quick to run and slow to compile, flags, reports and tests: it is compiled with less
  # effort, and its own arithmetic is not watched (plan_cache_test.cc takes 8 s rather than 27).
  define_property(TARGET PROPERTY RAREFY_QUICK BRIEF_DOCS "Sanitized, compiled with less effort")
  set(quick $<BOOL:$<TARGET_PROPERTY:RAREFY_QUICK>>)
  string(REPLACE ",undefined" "" sanitize_quick "${RAREFY_SANITIZE}")
  string(REPLACE "," "$<COMMA>" sanitize_list "${RAREFY_SANITIZE}")
  target_compile_options(rarefy_flags INTERFACE -fno-omit-frame-pointer
    "$<${quick}:-O0;-fsanitize=${sanitize_quick}>" "$<$<NOT:${quick}>:-fsanitize=${sanitize_list}>")
  target_link_options(rarefy_flags INTERFACE -fsanitize=${RAREFY_SANITIZE})
  if(RAREFY_SANITIZE MATCHES "undefined")
    target_compile_options(rarefy_flags INTERFACE -fno-sanitize-recover=undefined)
  endif()
endif()

# Precompiled headers save a third of the processor's time (bench.cc 10.1 -> 5.5 s, config.cc 2.1 -> 1.6 s), but compiler caches cannot
# see through them, and a forgotten #include goes unnoticed.
set(RAREFY_PRECOMPILED <algorithm> <array> <atomic> <chrono> <cmath> <cstdint> <cstdio> <cstring> <filesystem> <functional> <map>
    <memory> <optional> <random> <set> <span> <string> <string_view> <utility> <vector> <fmt/format.h> <nlohmann/json.hpp>)

# rarefy_precompiled(<name> [QUICK] <option>... [HEADERS <header>...] [LINK <target>...]): headers that are compiled once.
function(rarefy_precompiled name)
  cmake_parse_arguments(ARG "QUICK" "" "HEADERS;LINK" ${ARGN})
  if(NOT RAREFY_PRECOMPILE OR CMAKE_CXX_COMPILER_LAUNCHER)
    return()
  endif()
  file(GENERATE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/${name}.cc CONTENT "")
  add_library(${name} OBJECT EXCLUDE_FROM_ALL ${CMAKE_CURRENT_BINARY_DIR}/${name}.cc)
  target_link_libraries(${name} PRIVATE rarefy_flags fmt::fmt nlohmann_json::nlohmann_json ${ARG_LINK})
  target_compile_options(${name} PRIVATE ${RAREFY_WARNINGS} ${ARG_UNPARSED_ARGUMENTS})
  target_precompile_headers(${name} PRIVATE ${RAREFY_PRECOMPILED} ${ARG_HEADERS})
  set_property(TARGET ${name} PROPERTY RAREFY_QUICK ${ARG_QUICK})
endfunction()

# rarefy_precompile(<target> <name>): <target> starts every C++ file from the headers of <name>.
function(rarefy_precompile target name)
  if(NOT RAREFY_PRECOMPILE OR CMAKE_CXX_COMPILER_LAUNCHER)
    return()
  endif()
  target_precompile_headers(${target} REUSE_FROM ${name})
  target_compile_definitions(${target} PRIVATE $<TARGET_PROPERTY:fmt::fmt,INTERFACE_COMPILE_DEFINITIONS>)
endfunction()

# rarefy_area(<area> SOURCES <file>... [LINK <target>...] [PRIVATE_LINK <target>...])
# A static library rarefy_<area>. LINK names the areas below it, PRIVATE_LINK the third-party libraries that stay inside.
function(rarefy_area area)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK;PRIVATE_LINK" ${ARGN})
  add_library(rarefy_${area} STATIC ${ARG_SOURCES})
  target_link_libraries(rarefy_${area} PUBLIC rarefy_flags ${ARG_LINK} PRIVATE ${ARG_PRIVATE_LINK})
  target_compile_options(rarefy_${area} PRIVATE ${RAREFY_WARNINGS})
  rarefy_precompile(rarefy_${area} rarefy_pch)
  set_property(GLOBAL APPEND PROPERTY RAREFY_AREAS rarefy_${area})
  set_property(GLOBAL APPEND PROPERTY RAREFY_THIRD_PARTY ${ARG_PRIVATE_LINK})
endfunction()

# rarefy_isa_sources(<isa> <file>...): compiles each file for one instruction set. Such a file may not instantiate anything with
# external linkage that portable code could share (no std containers, no inline functions of public headers that do work): the linker
# would keep either copy.
set(RAREFY_ISA_FLAGS_avx2 -mavx2 -mfma -mf16c -mbmi -mbmi2 -mpopcnt -mlzcnt)
set(RAREFY_ISA_FLAGS_avx512 ${RAREFY_ISA_FLAGS_avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512cd -mavx512vbmi
    -mavx512vbmi2 -mavx512bf16 -mavx512bitalg -mavx512vpopcntdq -mprefer-vector-width=512)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND RAREFY_ISA_FLAGS_avx512 -Wno-uninitialized -Wno-maybe-uninitialized)  # Its own _mm512_undefined trips both (bug 105593)
endif()
set(RAREFY_ISA_FLAGS_amx ${RAREFY_ISA_FLAGS_avx512} -mamx-tile -mamx-bf16)
function(rarefy_isa_sources isa)
  set_property(SOURCE ${ARGN} APPEND PROPERTY COMPILE_OPTIONS ${RAREFY_ISA_FLAGS_${isa}})
  set_property(SOURCE ${ARGN} PROPERTY SKIP_PRECOMPILE_HEADERS ON)
endfunction()

# rarefy_test(<name> SOURCES <file>... LINK <target>...): one GoogleTest program, build/<preset>/test-bin/<name>.
function(rarefy_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  add_executable(test_${name} ${ARG_SOURCES})
  set(c_sources ${ARG_SOURCES})
  list(FILTER c_sources INCLUDE REGEX "\\.c$")
  set_property(SOURCE ${c_sources} PROPERTY SKIP_PRECOMPILE_HEADERS ON)
  target_link_libraries(test_${name} PRIVATE ${ARG_LINK} GTest::gtest GTest::gtest_main)
  target_include_directories(test_${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_compile_options(test_${name} PRIVATE ${RAREFY_WARNINGS})
  rarefy_precompile(test_${name} rarefy_test_pch)
  target_compile_definitions(test_${name} PRIVATE RAREFY_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  set_target_properties(test_${name} PROPERTIES RAREFY_QUICK ON OUTPUT_NAME ${name} RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/test-bin)
endfunction()
