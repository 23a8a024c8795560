"""Block-sparse weights that train: `rarefy::bsr_linear` and what its gradients are made of.

A weight M×K is its stored blocks, `values` [blocks, R, C], in the order of torch's BSR layout, and a `BlockPattern`: which blocks
those are, by rows and by columns. Values may be any tensor, a Parameter of float32, float16 or bfloat16; nothing is packed and no
zero outside of the blocks is ever stored. The three operators are each other's gradients, so derivatives of any order exist.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _core
from ..block_pattern import block_sides, index_from_mask
from ..checks import describe, fail
from . import block_dense
from .block_places import placed
from .library import (
    check_features,
    define,
    empty_rows,
    is_elsewhere,
    is_plain,
    library,
    needs_grad,
    on_its_device,
    refuse_tangents,
    register_autocast,
)


class BlockPattern(NamedTuple):
    """Which blocks are stored: int32 tensors and the shape of the weight, in the order of the operators' arguments."""

    row_offsets: Tensor  #: [M/R + 1]: block b is in row r of blocks when row_offsets[r] <= b < row_offsets[r + 1].
    col_indices: Tensor  #: [blocks]: its column of blocks, ascending within a row.
    col_offsets: Tensor  #: [K/C + 1]: the same by columns.
    row_indices: Tensor  #: [blocks], ascending within a column.
    order: Tensor  #: [blocks]: the place among `values` of the i-th block by columns.
    out_features: int  #: M
    in_features: int  #: K


def block_pattern(
    row_offsets: Tensor, col_indices: Tensor, out_features: int, in_features: int, block_shape: int | tuple[int, int]
) -> BlockPattern:
    """Completes the two arrays of BSR by those by columns; raises ArgumentError where they contradict themselves or the shape.

    block_shape: rows and columns of a block, or one number for both; any that divide the weight.
    """
    sides = block_sides(block_shape)
    rows, cols = (t.to("cpu", torch.int32).contiguous() for t in (row_offsets, col_indices))
    by_columns = [torch.empty(n, dtype=torch.int32) for n in (in_features // max(sides[1], 1) + 1, cols.numel(), cols.numel())]
    _core.bsr_columns(rows, cols, out_features, in_features, *sides, *by_columns)
    device = row_offsets.device
    return BlockPattern(*(t.to(device) for t in (rows, cols, *by_columns)), out_features, in_features)


def block_pattern_of_mask(mask: Tensor, block_shape: int | tuple[int, int]) -> BlockPattern:
    """The pattern of a boolean mask of blocks, [M/R, K/C]; R and C are `block_shape`, or one number for both."""
    index = index_from_mask(mask)
    rows, cols = block_sides(block_shape)
    return BlockPattern(*index, mask.shape[0] * rows, mask.shape[1] * cols)


_PATTERN = (
    "Tensor row_offsets, Tensor col_indices, Tensor col_offsets, Tensor row_indices, Tensor order, SymInt out_features, SymInt in_features"
)
define(f"bsr_linear(Tensor x, Tensor values, {_PATTERN}, Tensor? bias) -> Tensor")
define(f"bsr_linear_transposed(Tensor x, Tensor values, {_PATTERN}) -> Tensor")
define(f"bsr_sddmm(Tensor p, Tensor q, {_PATTERN}, SymInt block_rows, SymInt block_cols, ScalarType? dtype=None) -> Tensor")


# ------------------------------------------------------------------------------------------- the CPU
def _multiply_cpu(x: Tensor, values: Tensor, pattern: tuple[Any, ...], bias: Tensor | None, transposed: bool) -> Tensor:
    out = empty_rows(x, pattern[6] if transposed else pattern[5])
    if not _core.bsr_linear(x, values, *pattern, bias, transposed, out):
        _core.bsr_linear(x.contiguous(), values.contiguous(), *pattern, bias, transposed, out)
    return out


def _linear_cpu(x: Tensor, values: Tensor, *rest: Any) -> Tensor:
    return _multiply_cpu(x, values, rest[:7], rest[7], False)


def _transposed_cpu(x: Tensor, values: Tensor, *pattern: Any) -> Tensor:
    return _multiply_cpu(x, values, pattern, None, True)


def _sddmm_cpu(p: Tensor, q: Tensor, *rest: Any, dtype: torch.dtype | None = None) -> Tensor:
    pattern, block_shape = rest[:7], rest[7:9]
    dtype = rest[9] if len(rest) > 9 else dtype
    out = p.new_empty((pattern[1].shape[0], *block_shape), dtype=dtype)
    if not _core.bsr_sddmm(p, q, *pattern, out):
        _core.bsr_sddmm(p.contiguous(), q.contiguous(), *pattern, out)
    return out


library.impl("bsr_linear", _linear_cpu, "CPU")
library.impl("bsr_linear_transposed", _transposed_cpu, "CPU")
library.impl("bsr_sddmm", _sddmm_cpu, "CPU")


# ---------------------------------------------------------------------------------------------- a GPU
_HALVES = (torch.bfloat16, torch.float16)


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor, or a copy, contiguous from a multiple of 16 bytes on."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def _multiply_cuda(x: Tensor, values: Tensor, pattern: tuple[Any, ...], bias: Tensor | None, transposed: bool) -> Tensor:
    if is_elsewhere(x):
        with torch.cuda.device(x.device):
            return _multiply_cuda(x, values, pattern, bias, transposed)
    shape, dtype = values.shape, x.dtype
    if len(shape) != 3:
        fail("values", "[blocks, block rows, block columns]", describe(values))
    known = placed(x.device, pattern, shape[1], shape[2])
    if not known.has_kernels or dtype not in _HALVES or values.dtype is not dtype:
        return block_dense.multiply(x, values, pattern, bias, transposed)
    out = empty_rows(x, pattern[6] if transposed else pattern[5])
    if bias is not None:
        bias = bias.float().contiguous()
    if not known.blocks.linear(x, values, bias, transposed, out):
        known.blocks.linear(_aligned(x), _aligned(values), bias, transposed, out)
    if known.blocks.recorded:
        known.keep(pattern)
    return out


def _linear_cuda(x: Tensor, values: Tensor, *rest: Any) -> Tensor:
    return _multiply_cuda(x, values, rest[:7], rest[7], False)


def _transposed_cuda(x: Tensor, values: Tensor, *pattern: Any) -> Tensor:
    return _multiply_cuda(x, values, pattern, None, True)


@on_its_device
def _sddmm_cuda(p: Tensor, q: Tensor, *rest: Any, dtype: torch.dtype | None = None) -> Tensor:
    pattern, block_shape = rest[:7], rest[7:9]
    dtype = (rest[9] if len(rest) > 9 else dtype) or p.dtype
    known = placed(p.device, pattern, *block_shape)
    if not known.has_kernels or dtype not in _HALVES or not (p.dtype is q.dtype is dtype):
        return block_dense.sample(p, q, pattern, block_shape, dtype)
    out = p.new_empty((pattern[1].shape[0], *block_shape))
    if not known.blocks.samples(p, q, out):
        known.blocks.samples(_aligned(p), _aligned(q), out)
    if known.blocks.recorded:
        known.keep(pattern)
    return out


library.impl("bsr_linear", _linear_cuda, "CUDA")
library.impl("bsr_linear_transposed", _transposed_cuda, "CUDA")
library.impl("bsr_sddmm", _sddmm_cuda, "CUDA")


def _multiply(x: Tensor, *rest: Any) -> Tensor:
    return _multiply_cpu(x, *rest) if x.is_cpu else _multiply_cuda(x, *rest)


def _sddmm(p: Tensor, *rest: Any) -> Tensor:
    return _sddmm_cpu(p, *rest) if p.is_cpu else _sddmm_cuda(p, *rest)


# --------------------------------------------------------------------------------------------- shapes
@torch.library.register_fake("rarefy::bsr_linear", lib=library)
def _(x: Tensor, values: Tensor, *rest: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], rest[5]))


@torch.library.register_fake("rarefy::bsr_linear_transposed", lib=library)
def _(x: Tensor, values: Tensor, *pattern: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], pattern[6]))


@torch.library.register_fake("rarefy::bsr_sddmm", lib=library)
def _(p: Tensor, q: Tensor, *rest: Any, dtype: torch.dtype | None = None) -> Tensor:
    dtype = rest[9] if len(rest) > 9 else dtype
    return p.new_empty((rest[1].shape[0], rest[7], rest[8]), dtype=dtype)


# ------------------------------------------------------------------------------------------ gradients
_NO_PATTERN = (None,) * 7


def _save(ctx: Any, pattern: tuple[Any, ...], *tensors: Tensor | None) -> None:
    ctx.save_for_backward(*tensors, *pattern[:5])
    ctx.features = pattern[5:7]


def _saved(ctx: Any, count: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    tensors = ctx.saved_tensors
    return tensors[:count], (*tensors[count:], *ctx.features)


def _linear_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, values, *pattern, bias = inputs
    # The gradient of either needs the other.
    _save(ctx, tuple(pattern), x if values.requires_grad else None, values)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _bias_gradient(grad: Tensor, dtype: torch.dtype) -> Tensor:
    return grad.reshape(-1, grad.shape[-1]).sum(0, dtype=torch.float32).to(dtype)


def _linear_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (x, values), pattern = _saved(ctx, 2)
    grad_x = grad_values = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_x = torch.ops.rarefy.bsr_linear_transposed(grad, values, *pattern)
    if ctx.needs_input_grad[1]:
        grad_values = torch.ops.rarefy.bsr_sddmm(grad, x, *pattern, *values.shape[1:], values.dtype)
    if ctx.needs_input_grad[9]:
        grad_bias = _bias_gradient(grad, ctx.bias_dtype)
    return grad_x, grad_values, *_NO_PATTERN, grad_bias


def _transposed_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, values, *pattern = inputs
    _save(ctx, tuple(pattern), x if values.requires_grad else None, values)


def _transposed_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (x, values), pattern = _saved(ctx, 2)
    grad_x = grad_values = None
    if ctx.needs_input_grad[0]:
        grad_x = torch.ops.rarefy.bsr_linear(grad, values, *pattern, None)
    if ctx.needs_input_grad[1]:
        grad_values = torch.ops.rarefy.bsr_sddmm(x, grad, *pattern, *values.shape[1:], values.dtype)
    return grad_x, grad_values, *_NO_PATTERN


def _sddmm_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    p, q, *rest = inputs
    _save(ctx, tuple(rest[:7]), p, q)


def _sddmm_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (p, q), pattern = _saved(ctx, 2)
    grad_p = grad_q = None
    if ctx.needs_input_grad[0]:
        grad_p = torch.ops.rarefy.bsr_linear(q, grad, *pattern, None)
    if ctx.needs_input_grad[1]:
        grad_q = torch.ops.rarefy.bsr_linear_transposed(p, grad, *pattern)
    return grad_p, grad_q, *_NO_PATTERN, None, None, None


for _name, _backward, _setup in (
    ("bsr_linear", _linear_backward, _linear_setup),
    ("bsr_linear_transposed", _transposed_backward, _transposed_setup),
    ("bsr_sddmm", _sddmm_backward, _sddmm_setup),
):
    torch.library.register_autograd(f"rarefy::{_name}", _backward, setup_context=_setup, lib=library)
register_autocast("bsr_linear", (0, 1, 9))


class _Linear(torch.autograd.Function):
    """What the dispatcher does for a plain call with gradients, for a fifth of its time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, pattern: BlockPattern, bias: Tensor | None) -> Tensor:
        # The gradient of either needs the other.
        ctx.save_for_backward(x if values.requires_grad else None, values)
        ctx.pattern, ctx.bias_dtype = pattern, None if bias is None else bias.dtype
        return _multiply(x, values, pattern, bias, False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (x, values), pattern = ctx.saved_tensors, ctx.pattern
        need_x, need_values, _, need_bias = ctx.needs_input_grad
        grad_x = bsr_linear_transposed(grad, values, pattern) if need_x else None
        grad_values = bsr_sddmm(grad, x, pattern, values.shape[1:], values.dtype) if need_values else None
        return grad_x, grad_values, None, _bias_gradient(grad, ctx.bias_dtype) if need_bias else None


def bsr_linear(x: Tensor, values: Tensor, pattern: BlockPattern | tuple[Any, ...], bias: Tensor | None = None) -> Tensor:
    """x·Aᵀ + bias with A block-sparse: `values` [blocks, R, C] at the places of `pattern`.

    x: float32, float16 or bfloat16 […, K]; bias: [M]. Returns […, M] in x's dtype; sums in float32, bitwise the same for any
    number of threads. Gradients for x, values and bias; that of the values is computed for the stored blocks only. All on the CPU or all
    on one GPU, where x and values of one 16-bit dtype run kernels, and others torch's dense product (docs/python.md).
    """
    if is_plain(x, values, bias):
        if needs_grad(x, values, bias):
            return _Linear.apply(x, values, pattern, bias)
        return _multiply(x, values, pattern, bias, False)
    check_features(x, pattern[6])
    refuse_tangents(x, values, bias)
    return torch.ops.rarefy.bsr_linear.default(x, values, *pattern, bias)


def bsr_linear_transposed(x: Tensor, values: Tensor, pattern: BlockPattern) -> Tensor:
    """x·A: […, M] to […, K], in x's dtype: the gradient of `bsr_linear`'s inputs. Gradients for x and values."""
    if is_plain(x, values) and not needs_grad(x, values):
        return _multiply(x, values, pattern, None, True)
    refuse_tangents(x, values)
    return torch.ops.rarefy.bsr_linear_transposed.default(x, values, *pattern)


def bsr_sddmm(p: Tensor, q: Tensor, pattern: BlockPattern, block_shape: int | tuple[int, int], dtype: torch.dtype | None = None) -> Tensor:
    """The stored blocks of pᵀ·q, summed over all leading dimensions of p […, M] and q […, K]: [blocks, R, C], in `dtype` or p's.

    Sums in float32, bitwise the same for any number of threads. Gradients for p and q.
    """
    if isinstance(block_shape, int):
        block_shape = (block_shape, block_shape)
    if is_plain(p, q) and not needs_grad(p, q):
        return _sddmm(p, q, *pattern, *block_shape, dtype)
    refuse_tangents(p, q)
    return torch.ops.rarefy.bsr_sddmm.default(p, q, *pattern, *block_shape, dtype)
