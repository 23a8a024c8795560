"""Block-sparse products by torch's dense ones, on any device: for what no kernel takes. The weight, or its gradient, is written out
with its zeros for the time of a call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..checks import describe, fail

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def _places(pattern: tuple[Any, ...]) -> tuple[Tensor, slice, Tensor]:
    """Where blocks lie in a weight seen as [rows of blocks, R, columns of blocks, C]. Never waits for the device."""
    row_offsets, col_indices = pattern[:2]
    blocks = torch.arange(col_indices.shape[0], dtype=row_offsets.dtype, device=row_offsets.device)
    return torch.searchsorted(row_offsets, blocks, right=True) - 1, slice(None), col_indices.long()


def write_out(values: Tensor, pattern: tuple[Any, ...], dtype: torch.dtype) -> Tensor:
    """The weight, M×K."""
    rows, cols = values.shape[1:]
    out_features, in_features = pattern[5:7]
    dense = values.new_zeros((out_features // rows, rows, in_features // cols, cols), dtype=dtype)
    dense[_places(pattern)] = values.to(dtype)
    return dense.view(out_features, in_features)


def _check_rows(name: str, rows: Tensor, features: int) -> None:
    if rows.dim() == 0 or rows.shape[-1] != features or rows.dtype not in _FLOATS:
        fail(name, f"float32, float16 or bfloat16 […, {features}]", describe(rows))


def multiply(x: Tensor, values: Tensor, pattern: tuple[Any, ...], bias: Tensor | None, transposed: bool) -> Tensor:
    """x·Aᵀ + bias, or x·A, in x's dtype; multiplied in the wider dtype of x and the values."""
    out_features, in_features = pattern[5:7]
    blocks = pattern[1].shape[0]
    if values.dim() != 3 or values.shape[0] != blocks or values.dtype not in _FLOATS:
        fail("values", f"float32, float16 or bfloat16 [{blocks}, block rows, block columns]", describe(values))
    _check_rows("x", x, out_features if transposed else in_features)
    dtype = torch.promote_types(x.dtype, values.dtype)
    dense = write_out(values, pattern, dtype)
    if transposed:
        return (x.to(dtype) @ dense).to(x.dtype)
    if bias is not None and bias.shape != (out_features,):
        fail("bias", f"[{out_features}]", describe(bias))
    return torch.nn.functional.linear(x.to(dtype), dense, None if bias is None else bias.to(dtype)).to(x.dtype)


def sample(p: Tensor, q: Tensor, pattern: tuple[Any, ...], block_shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """The stored blocks of pᵀ·q in `dtype`, [blocks, R, C]; multiplied in the widest dtype of the three."""
    out_features, in_features = pattern[5:7]
    _check_rows("p", p, out_features)
    _check_rows("q", q, in_features)
    if p.shape[:-1].numel() != q.shape[:-1].numel():
        fail("q", f"{p.shape[:-1].numel()} rows as p", describe(q))
    wide = torch.promote_types(torch.promote_types(p.dtype, q.dtype), dtype)
    full = p.reshape(-1, out_features).to(wide).T @ q.reshape(-1, in_features).to(wide)
    rows, cols = block_shape
    return full.view(out_features // rows, rows, in_features // cols, cols)[_places(pattern)].to(dtype)
