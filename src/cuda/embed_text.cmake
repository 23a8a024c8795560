# Run at build time: writes OUTPUT, a C++ file with the text of FILES (paths below SOURCE_DIR, separated by "|").
string(REPLACE "|" ";" files "${FILES}")
set(texts "")
set(table "")
set(number 0)
foreach(name IN LISTS files)
  file(READ "${SOURCE_DIR}/${name}" text)
  string(APPEND texts "constexpr std::string_view kText${number} = R\"~text~(${text})~text~\";\n")
  string(APPEND table "    {\"${name}\", kText${number}},\n")
  math(EXPR number "${number} + 1")
endforeach()
file(WRITE "${OUTPUT}" "// Made from the .cu and .cuh files of the tree.
#include \"cuda/device_text.h\"

namespace rarefy::cuda {
namespace {

${texts}
constexpr DeviceText kTexts[] = {
${table}};

}  // namespace

std::span<const DeviceText> device_texts() {
  return kTexts;
}

}  // namespace rarefy::cuda
")
