"""Products at places without structure: `rarefy::sddmm`, and `rarefy::csr_linear`, a linear layer whose values train there.

The places are those of a weight packed in CSR ("csr" or "csr16"), row after row; values are a tensor [places]. The two operators are
each other's gradients. On a GPU they are torch's dense products, correct but no faster than dense: the values are put into a zeroed
M×K matrix, or taken from one.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from .. import _core
from ..checks import describe, fail
from ..errors import UnsupportedError
from .library import define, library, on_its_device, refuse_tangents, register_autocast
from .linear import Weight, check_packed

define("csr_linear(Tensor x, Tensor values, Tensor pattern, bool transposed, SymInt features) -> Tensor")
define("sddmm(Tensor p, Tensor q, Tensor pattern, SymInt places, ScalarType? dtype=None) -> Tensor")


def _csr_linear_cpu(x: Tensor, values: Tensor, pattern: Tensor, transposed: bool, features: int) -> Tensor:
    out = x.new_empty((*x.shape[:-1], features))
    if not _core.csr_linear(x, values, pattern, transposed, out):
        _core.csr_linear(x.contiguous(), values.contiguous(), pattern, transposed, out)
    return out


def _sddmm_cpu(p: Tensor, q: Tensor, pattern: Tensor, places: int, dtype: torch.dtype | None = None) -> Tensor:
    out = p.new_empty((places,), dtype=dtype)
    if not _core.csr_sddmm(p, q, pattern, out):
        _core.csr_sddmm(p.contiguous(), q.contiguous(), pattern, out)
    return out


_places: dict[tuple[int, torch.device], tuple[StorageWeakRef, Tensor]] = {}
_lock = threading.Lock()


def _places_on(device: torch.device, pattern: Tensor) -> Tensor:
    """row · K + column of each place, kept on the device while the pattern lives; a graph can record it from the second time on."""
    key = (pattern.untyped_storage()._cdata, device)
    known = _places.get(key)
    if known is not None:
        return known[1]
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        fail("pattern", "one that was used before a graph is recorded (run the work once first)", "a new one", UnsupportedError)
    places = torch.empty(_core.csr_shape(pattern)[2], dtype=torch.int64)
    _core.csr_places(pattern, places)
    with _lock:
        for old in [k for k, (storage, _) in _places.items() if storage.expired()]:
            del _places[old]
        _places[key] = StorageWeakRef(pattern.untyped_storage()), places.to(device)
        return _places[key][1]


def _check_columns(argument: str, x: Tensor, name: str, features: int) -> None:
    if not x.is_floating_point() or x.dim() == 0 or x.shape[-1] != features:
        fail(argument, f"f32, f16 or bf16 […, {name} = {features}]", describe(x))


def _csr_linear_dense(x: Tensor, values: Tensor, pattern: Tensor, transposed: bool, features: int) -> Tensor:
    rows, cols, count = _core.csr_shape(pattern)
    _check_columns("x", x, "M" if transposed else "K", rows if transposed else cols)
    if values.shape != (count,) or values.device != x.device:
        fail("values", f"[{count}], one for each place of the pattern, on {x.device}", describe(values))
    dense = x.new_zeros(rows * cols).index_copy_(0, _places_on(x.device, pattern), values.to(x.dtype)).view(rows, cols)
    return torch.matmul(x, dense if transposed else dense.T)


def _sddmm_dense(p: Tensor, q: Tensor, pattern: Tensor, places: int, dtype: torch.dtype | None = None) -> Tensor:
    rows, cols, _ = _core.csr_shape(pattern)
    _check_columns("sddmm: p", p, "M", rows)
    _check_columns("sddmm: q", q, "K", cols)
    if p.shape[:-1] != q.shape[:-1] or p.device != q.device:
        fail("sddmm: q", f"as many rows as p, {tuple(p.shape[:-1])}, on {p.device}", describe(q))
    both = torch.promote_types(p.dtype, q.dtype)
    dense = p.to(both).reshape(-1, rows).T @ q.to(both).reshape(-1, cols)
    return dense.flatten()[_places_on(p.device, pattern)].to(dtype or p.dtype)


library.impl("csr_linear", _csr_linear_cpu, "CPU")
library.impl("sddmm", _sddmm_cpu, "CPU")
library.impl("csr_linear", on_its_device(_csr_linear_dense), "CUDA")
library.impl("sddmm", on_its_device(_sddmm_dense), "CUDA")


@torch.library.register_fake("rarefy::csr_linear", lib=library)
def _(x: Tensor, values: Tensor, pattern: Tensor, transposed: bool, features: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], features))


@torch.library.register_fake("rarefy::sddmm", lib=library)
def _(p: Tensor, q: Tensor, pattern: Tensor, places: int, dtype: torch.dtype | None = None) -> Tensor:
    return p.new_empty((places,), dtype=dtype)


def _linear_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, values, pattern, ctx.transposed, _ = inputs
    ctx.in_features = x.shape[-1]
    ctx.save_for_backward(x, values, pattern)


def _linear_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, values, pattern = ctx.saved_tensors
    grad_x = grad_values = None
    if ctx.needs_input_grad[0]:
        grad_x = torch.ops.rarefy.csr_linear(grad, values, pattern, not ctx.transposed, ctx.in_features)
    if ctx.needs_input_grad[1]:
        p, q = (x, grad) if ctx.transposed else (grad, x)
        grad_values = torch.ops.rarefy.sddmm(p, q, pattern, values.shape[0], values.dtype)
    return grad_x, grad_values, None, None, None


def _sddmm_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    p, q, pattern = inputs[:3]
    ctx.save_for_backward(p, q, pattern)


def _sddmm_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    p, q, pattern = ctx.saved_tensors
    grad_p = grad_q = None
    if ctx.needs_input_grad[0]:
        grad_p = torch.ops.rarefy.csr_linear(q, grad, pattern, False, p.shape[-1])
    if ctx.needs_input_grad[1]:
        grad_q = torch.ops.rarefy.csr_linear(p, grad, pattern, True, q.shape[-1])
    return grad_p, grad_q, None, None, None


torch.library.register_autograd("rarefy::csr_linear", _linear_backward, setup_context=_linear_setup, lib=library)
torch.library.register_autograd("rarefy::sddmm", _sddmm_backward, setup_context=_sddmm_setup, lib=library)
register_autocast("csr_linear", (0, 1))


def csr_linear(x: Tensor, values: Tensor, pattern: Weight) -> Tensor:
    """x·Aᵀ with A the `values` at the places of `pattern`; gradients for both. Packs the values at each call, which costs about
    what reading them twice does: `linear` is for weights that are frozen."""
    check_packed("pattern", pattern)
    refuse_tangents(x, values)
    return torch.ops.rarefy.csr_linear.default(x, values, pattern.handle, False, pattern.out_features)


def sddmm(p: Tensor, q: Tensor, pattern: Weight, dtype: torch.dtype | None = None) -> Tensor:
    """pᵀ·q at the places of `pattern`, summed over all leading dimensions of p […, M] and q […, K]: [places], in `dtype` or p's, after
    a rounding to the pattern's (on a GPU to p's or q's, the wider). For a linear layer with p the gradient of its outputs and q its
    inputs: the gradient of its weight there."""
    check_packed("pattern", pattern)
    refuse_tangents(p, q)
    return torch.ops.rarefy.sddmm.default(p, q, pattern.handle, pattern.matrix.nnz, dtype)


def csr_values(pattern: Weight, dtype: torch.dtype | None = None) -> Tensor:
    """The values that a CSR weight was packed with, row after row."""
    check_packed("pattern", pattern)
    out = torch.empty(pattern.matrix.nnz, dtype=dtype or torch.float32)
    _core.csr_values(pattern.matrix, out)
    return out
