#include "ops/block_sparse/cuda/warpgroup_text.h"

#include <fmt/format.h>

namespace rarefy::gpu {

std::string warpgroup_text(const WarpgroupProduct& product) {
  const int sums = product.columns / 2;
  std::string registers, operands;
  for (int i = 0; i < sums; ++i) {
    registers += fmt::format("{}%{}", i == 0 ? "" : ",", i);
    operands += fmt::format("{}\"+f\"(d[{}])", i == 0 ? "" : ", ", i);
  }
  const char* type = product.dtype == DType::kBF16 ? "bf16" : "f16";
  const bool registers_a = product.a_in_registers;
  const int b = sums + (registers_a ? 4 : 1);
  return fmt::format(
      "__device__ __forceinline__ void multiply(float (&d)[{0}], {1}, unsigned long long b) {{\n"
      "  asm volatile(\"wgmma.mma_async.sync.aligned.m64n{2}k16.f32.{3}.{3} {{{4}}}, {5}, %{6}, 1, "
      "1, "
      "1, {7}{8};\"\n"
      "               : {9}\n"
      "               : {10}, \"l\"(b));\n}}\n",
      sums, registers_a ? "const unsigned (&a)[4]" : "unsigned long long a", product.columns, type,
      registers,
      registers_a ? fmt::format("{{%{},%{},%{},%{}}}", sums, sums + 1, sums + 2, sums + 3)
                  : fmt::format("%{}", sums),
      b,
      registers_a            ? ""
      : product.transposed_a ? "1, "
                             : "0, ",
      product.transposed_b ? 1 : 0, operands,
      registers_a ? R"("r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]))" : R"("l"(a))");
}

}  // namespace rarefy::gpu
