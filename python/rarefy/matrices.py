"""Packed weights over plain arrays: numpy's, torch's, or those of anything else that speaks DLPack.

numpy is imported where an array of it is made: who only uses torch needs none, nor does the build.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from . import _core
from ._core import Matrix, Plan, Source
from .errors import ArgumentError
from .typing import Array

Weight: TypeAlias = "Array | Matrix | Source"

# Decoding counts most, a prompt a little.
_TOKENS: Mapping[int, float] = {1: 1.0, 128: 0.05}


def _is_torch(array: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def _refuse_gradients(**arrays: Any) -> None:
    """Functions of this module are no part of torch's graph: a gradient would be lost in silence."""
    for name, array in arrays.items():
        if _is_torch(array) and array.requires_grad:
            import torch

            if torch.is_grad_enabled():
                raise ArgumentError(
                    f"{name}: expected a tensor that needs no gradient, got one with requires_grad; "
                    f"rarefy.ops has operators with gradients, .detach() goes without"
                )


def _empty(like: Any, shape: tuple[int, int]) -> Any:
    """A new array of the library of `like`."""
    if _is_torch(like):
        return like.new_empty(shape)
    import numpy as np

    like = np.asarray(like)
    return np.empty(shape, dtype=like.dtype)


def plan(
    weight: Weight,
    *,
    tokens: Mapping[int, float] = _TOKENS,
    activations: str = "f32",
    output: str | None = None,
    precision: str = "exact",
    formats: str | Iterable[str] = (),
    kernels: str | Iterable[str] = (),
    memory_budget: int | None = None,
    measure: bool = True,
    time_budget_s: float = 2.0,
    cache_dir: str | os.PathLike[str] | None = None,
    cache: bool = True,
) -> Plan:
    """Finds the format and the kernels that run a weight fastest on this machine; `pack(weight, plan)` packs it so.

    tokens: how many rows of activations come at once, each with its share of the objective.
    activations, output: their dtypes, as `pack` takes them; the output's is that of activations otherwise.
    precision: as in `spmm`.
    formats, kernels: only these compete, if any are given; dense always does.
    memory_budget: bytes that the packed weight may take.
    measure: False trusts the cache and the estimate. Measuring takes up to `time_budget_s`, once for a pattern on a machine.
    cache_dir: $RAREFY_CACHE, else ~/.cache/rarefy; cache=False neither reads nor writes it.

    Never takes a sparse format that is not faster than dense by more than the noise. str(plan) tells why.
    Raises ArgumentError, and OutOfMemoryError when no format fits the budget.
    """
    wishes = _wishes(tokens, activations, output, precision, formats, kernels, memory_budget, measure, time_budget_s)
    return _core.plan(weight, wishes, cache_dir, cache)


def plan_all(
    weights: Mapping[str, Weight],
    *,
    tokens: Mapping[int, float] = _TOKENS,
    activations: str = "f32",
    output: str | None = None,
    precision: str = "exact",
    formats: str | Iterable[str] = (),
    kernels: str | Iterable[str] = (),
    memory_budget: int | None = None,
    measure: bool = True,
    time_budget_s: float = 2.0,
    cache_dir: str | os.PathLike[str] | None = None,
    cache: bool = True,
) -> dict[str, Plan]:
    """Plans many weights as `plan` does, and returns the plans by name; `memory_budget` counts all of them together."""
    wishes = _wishes(tokens, activations, output, precision, formats, kernels, memory_budget, measure, time_budget_s)
    return dict(zip(weights, _core.plan_all(list(weights.items()), wishes, cache_dir, cache), strict=True))


def _dtype_name(dtype: Any) -> Any:
    """The name of torch's and numpy's dtypes."""
    if dtype is None or isinstance(dtype, str):
        return dtype
    return (dtype.__name__ if isinstance(dtype, type) else str(dtype)).removeprefix("torch.")


def _names(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _wishes(tokens: Any, activations: Any, output: Any, precision: str, formats: Any, kernels: Any, *rest: Any) -> Any:
    if not isinstance(tokens, Mapping):
        raise ArgumentError(f"tokens: expected a mapping from numbers of rows to their shares, got {tokens!r}")
    activations = _dtype_name(activations)
    output = activations if output is None else _dtype_name(output)
    return _core._Wishes(dict(tokens), activations, output, precision, _names(formats), _names(kernels), *rest)


def pack(weight: Weight, format: str | Plan | None = None, *, dtype: Any = None) -> Matrix:
    """Packs an M×K weight: a dense array, a tensor of a checkpoint, or a packed one for another format.

    weight: float32, float16 or bfloat16, rows of K values.
    format: "dense", "dense16x32", "csr", "csr16", "bitmap", "window", "csb", "delta4", "delta8",
        "sell8", "sell16", "N:M" such as "2:4", "bsrRxC" such as "bsr16x32", or "hybridRxC-B" such as "hybrid32x32-0"
        (docs/hybrid.md); or a plan, whose kernels will run it. None is `plan(weight)`.
    dtype: "f32", "f16" or "bf16" (or torch's or numpy's) to round the values to; the weight's own otherwise.

    Zeros of either sign are not stored. Raises ArgumentError for an unknown format or dtype,
    UnsupportedError when the format cannot hold this shape or these values.
    """
    if format is None:
        format = plan(weight)
    if not isinstance(format, (str, Plan)):
        raise ArgumentError(f"format: expected the name of a format, a plan or None, got {format!r}")
    return _core.pack(weight, format, _dtype_name(dtype))


def to_dense(matrix: Matrix | Source, out: Array | None = None) -> Any:
    """All M×K values of a packed weight or a tensor of a checkpoint, in `out` (float32, float16 or bfloat16, its rows contiguous).

    Without `out` a numpy array: float16 for f16, float32 otherwise (numpy has no bfloat16).
    """
    if out is None:
        import numpy as np

        out = np.empty(matrix.shape, dtype=np.float16 if matrix.dtype == "f16" else np.float32)
    matrix._read(out)
    return out


def spmm(
    a: Matrix,
    b: Array,
    *,
    out: Array | None = None,
    bias: Array | None = None,
    activation: str = "none",
    residual: Array | None = None,
    layout: str = "token",
    precision: str = "exact",
    kernel: str | None = None,
) -> Any:
    """C = act(A·B + bias) + residual with A the packed M×K weight; sums in float32.

    b: B, the activations, float32, float16 or bfloat16; layout "token": N rows of K values, "feature": K rows of N values.
    out: C, N×M or M×N as the layout says, in any of these dtypes; a new array of b's library and dtype otherwise. It may
        not overlap b.
    bias: float32 [M].
    activation: "none", "relu", "gelu" (the erf form) or "silu".
    residual: shaped as the result, in its dtype; may be `out`.
    precision: "exact" keeps at least 16 bits of mantissa of float32 activations; "bf16" may round them.
    kernel: a name of `spmm_kernels()`; otherwise that of the weight's plan, or the cheapest by estimate.

    Bitwise the same for any number of threads. Not differentiable: see `rarefy.ops`. Raises ArgumentError for shapes, dtypes
    and strides that do not fit, UnsupportedError for a kernel that does not take them.
    """
    _refuse_gradients(b=b, bias=bias, residual=residual, out=out)
    if out is None:
        shape = getattr(b, "shape", None)
        if shape is None or len(shape) != 2:
            raise ArgumentError(f"b: expected a matrix, got {type(b).__name__} of shape {shape}")
        m = a.shape[0]
        out = _empty(b, (m, shape[1]) if layout == "feature" else (shape[0], m))
    _core.spmm(a, b, out, bias, activation, residual, layout, precision, kernel)
    return out


def sddmm(pattern: Matrix, p: Array, q: Array) -> Matrix:
    """Values of Pᵀ·Q at the places that `pattern` stores: S[i,j] = Σ_t p[t,i]·q[t,j].

    p: T×M, for a linear layer the gradient of its outputs; q: T×K, its inputs; same dtype.
    Returns a matrix in the format and dtype of `pattern` with the same places; sums in float32, bitwise the same for any
    number of threads. Raises ArgumentError for shapes, strides and dtypes that do not fit.
    """
    _refuse_gradients(p=p, q=q)
    return _core.sddmm(pattern, p, q)
