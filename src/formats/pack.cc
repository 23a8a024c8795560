// pack and can_pack: checks that hold for every format, then the format's own packer.
#include "base/check.h"
#include "formats/packers.h"

namespace rarefy {
namespace {

struct Packer {
  Format format;
  bool tiled;  ///< Of kDense: whether the spec has a tile.
  CanPack* can_pack;
  Pack* pack;
};

constexpr Packer kPackers[] = {
    {Format::kDense, false, can_pack_dense_rows, pack_dense_rows},
    {Format::kDense, true, can_pack_dense_tiles, pack_dense_tiles},
    {Format::kCsr, false, can_pack_csr, pack_csr},
    {Format::kBitmap, false, can_pack_bitmap, pack_bitmap},
    {Format::kDelta, false, can_pack_delta, pack_delta},
    {Format::kWindow, false, can_pack_window, pack_window},
    {Format::kCsb, false, can_pack_csb, pack_csb},
    {Format::kSell, false, can_pack_sell, pack_sell},
    {Format::kNm, false, can_pack_nm, pack_nm},
    {Format::kBsr, false, can_pack_bsr, pack_bsr},
    {Format::kHybrid, false, can_pack_hybrid, pack_hybrid},
};

const Packer* find_packer(const FormatSpec& spec) {
  const bool tiled =
      spec.format == Format::kDense && (spec.block_rows != 0 || spec.block_cols != 0);
  for (const Packer& packer : kPackers) {
    if (packer.format == spec.format && packer.tiled == tiled) return &packer;
  }
  return nullptr;
}

}  // namespace

Support can_pack(const FormatSpec& spec, std::int64_t rows, std::int64_t cols, DType dtype) {
  if (rows < 0 || cols < 0)
    return Support::no(fmt::format("a matrix of {}x{} has no shape", rows, cols));
  if (!is_compute_dtype(dtype))
    return Support::no(fmt::format("weights are f32, f16 or bf16, got {}", to_string(dtype)));
  // Whatever else a spec says must be what its name says, so that equal names mean equal layouts.
  if (FormatSpec::parse(spec.name()) != spec)
    return Support::no(fmt::format("{} is not a format", spec.name()));
  const Packer* packer = find_packer(spec);
  if (packer == nullptr) return Support::no(fmt::format("{} is not a format", spec.name()));
  return packer->can_pack(spec, rows, cols, dtype);
}

MatrixPtr pack(const RowSource& source, const FormatSpec& spec, ThreadPool& pool) {
  return pack(source, spec, source.dtype(), pool);
}

MatrixPtr pack(const RowSource& source, const FormatSpec& spec, DType dtype, ThreadPool& pool) {
  const Support support = can_pack(spec, source.rows(), source.cols(), dtype);
  if (!support) {
    fail(ErrorKind::kUnsupported, "pack {}x{} {} as {}: {}", source.rows(), source.cols(),
         to_string(dtype), spec.name(), support.reason);
  }
  return find_packer(spec)->pack(source, spec, dtype, pool);
}

}  // namespace rarefy
