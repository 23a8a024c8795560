// Block-sparse products: the entries, which check everything once and choose a way.
#include "rarefy/block_sparse.h"

#include <cstring>
#include <utility>

#include "base/check.h"
#include "ops/block_sparse/products.h"
#include "rarefy/cpu.h"

namespace rarefy {
namespace {

void check_matrix(const char* op, const char* name, const ConstMatrixRef& x) {
  require(x.rows >= 0 && x.row_stride >= x.cols,
          "{}: {}: expected a row stride of at least {}, got {}", op, name, x.cols, x.row_stride);
  require(x.data != nullptr || x.rows * x.cols == 0, "{}: {}: data is null", op, name);
  require(is_compute_dtype(x.dtype), "{}: {}: expected f32, f16 or bf16, got {}", op, name,
          to_string(x.dtype));
}

void check_values(const char* op, const char* name, const BlockPattern& pattern,
                  std::int64_t blocks, const ConstBlockValues& values) {
  const std::int64_t expected = blocks * pattern.block_rows * pattern.block_cols;
  require(values.count == expected, "{}: {}: expected {} blocks of {}x{} = {} values, got {}", op,
          name, blocks, pattern.block_rows, pattern.block_cols, expected, values.count);
  require(values.data != nullptr || expected == 0, "{}: {}: data is null", op, name);
  require(is_compute_dtype(values.dtype), "{}: {}: expected f32, f16 or bf16, got {}", op, name,
          to_string(values.dtype));
}

using Bytes = std::pair<const std::byte*, const std::byte*>;

Bytes bytes_of(const ConstMatrixRef& x) {
  const auto* begin = static_cast<const std::byte*>(x.data);
  if (x.rows == 0 || x.cols == 0) return {begin, begin};
  const std::int64_t elements = (x.rows - 1) * x.row_stride + x.cols;
  return {begin, begin + static_cast<std::size_t>(elements) * size_of(x.dtype)};
}
Bytes bytes_of(const ConstBlockValues& x) {
  const auto* begin = static_cast<const std::byte*>(x.data);
  return {begin, begin + static_cast<std::size_t>(x.count) * size_of(x.dtype)};
}
void require_apart(const char* op, const char* name, const Bytes& a, const char* other,
                   const Bytes& b) {
  require(a.first == a.second || b.first == b.second || a.second <= b.first || b.second <= a.first,
          "{}: {}: expected memory that does not overlap {}", op, name, other);
}

void multiply(const char* op, const BlockPattern& pattern, const BlockGroups& groups,
              const ConstBlockValues& values, const SpmmArgs& args, ThreadPool& pool) {
  check_values(op, "values", pattern, groups.offsets[groups.groups], values);
  require(args.layout == Layout::kTokenMajor, "{}: expected token-major activations", op);
  check_matrix(op, "b", args.b);
  check_matrix(op, "c", args.c);
  const std::int64_t tokens = args.b.rows;
  require(args.b.cols == groups.inputs_total, "{}: b: expected rows of {} values, got {}", op,
          groups.inputs_total, args.b.cols);
  require(args.c.rows == tokens && args.c.cols == groups.outputs,
          "{}: c: expected {}x{}, got {}x{}", op, tokens, groups.outputs, args.c.rows, args.c.cols);
  if (args.residual.data != nullptr) {
    check_matrix(op, "residual", args.residual);
    require(args.residual.rows == tokens && args.residual.cols == groups.outputs,
            "{}: residual: expected {}x{}, got {}x{}", op, tokens, groups.outputs,
            args.residual.rows, args.residual.cols);
    require(args.residual.dtype == args.c.dtype, "{}: residual: expected c's dtype {}, got {}", op,
            to_string(args.c.dtype), to_string(args.residual.dtype));
  }
  require_apart(op, "c", bytes_of(args.c), "b", bytes_of(args.b));
  require_apart(op, "c", bytes_of(args.c), "values", bytes_of(values));
  if (tokens == 0 || groups.outputs == 0) return;
  if (active_isa() >= Isa::kAmx && fits_amx(groups, values, args))
    return multiply_blocks_amx(groups, values, args, pool);
  multiply_blocks_fma(groups, values, args, pool);
}

}  // namespace

void block_linear(const BlockPattern& pattern, ConstBlockValues values, const SpmmArgs& args,
                  ThreadPool& pool) {
  constexpr const char* kOp = "block_linear";
  check_rows(kOp, pattern);
  multiply(kOp, pattern, groups_by_rows(pattern), values, args, pool);
}

void block_linear_transposed(const BlockPattern& pattern, ConstBlockValues values,
                             const SpmmArgs& args, ThreadPool& pool) {
  constexpr const char* kOp = "block_linear_transposed";
  check_columns(kOp, pattern);
  multiply(kOp, pattern, groups_by_columns(pattern), values, args, pool);
}

void block_sddmm(const BlockPattern& pattern, ConstMatrixRef p, ConstMatrixRef q, BlockValues out,
                 ThreadPool& pool) {
  constexpr const char* kOp = "block_sddmm";
  check_rows(kOp, pattern);
  check_values(kOp, "out", pattern, pattern.blocks(), out);
  check_matrix(kOp, "p", p);
  check_matrix(kOp, "q", q);
  require(p.cols == pattern.rows, "{}: p: expected rows of {} values, got {}", kOp, pattern.rows,
          p.cols);
  require(q.cols == pattern.cols && q.rows == p.rows, "{}: q: expected {}x{}, got {}x{}", kOp,
          p.rows, pattern.cols, q.rows, q.cols);
  require(q.dtype == p.dtype, "{}: q: expected p's dtype {}, got {}", kOp, to_string(p.dtype),
          to_string(q.dtype));
  require_apart(kOp, "out", bytes_of(out), "p", bytes_of(p));
  require_apart(kOp, "out", bytes_of(out), "q", bytes_of(q));
  if (out.count == 0) return;
  if (p.rows == 0) {
    std::memset(out.data, 0, static_cast<std::size_t>(out.count) * size_of(out.dtype));
    return;
  }
  if (active_isa() >= Isa::kAmx && fits_amx(pattern, p))
    return sample_blocks_amx(pattern, p, q, out, pool);
  sample_blocks_fma(pattern, p, q, out, pool);
}

}  // namespace rarefy
