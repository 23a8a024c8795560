"""The namespace `rarefy` of torch.library, and when an operator may go without the dispatcher."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..checks import describe, fail
from ..errors import UnsupportedError

library = torch.library.Library("rarefy", "DEF")

# A kernel in Python costs 3 µs for each dispatch key it is registered for, and what torch.library does for gradients 40.
_PLAIN_TYPES = (Tensor, torch.nn.Parameter)
try:
    _modes = torch._C._len_torch_dispatch_stack
    _transforms = torch._C._functorch.peek_interpreter_stack
    _tracing = torch._C._get_tracing_state
except AttributeError:  # Another torch: the dispatcher is always right.

    def _modes() -> int:
        return 1


def define(schema: str) -> None:
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))


def is_plain(x: Tensor, *others: Tensor | None) -> bool:
    """Whether calling the CPU's kernel, and recording its gradient, is all that the dispatcher would do: ordinary tensors of the CPU
    and no tracing, transform, mode, autocast or profiler that wants to see the operator. Takes 1 µs; the dispatcher takes 6
    without gradients and 45 with them."""
    if torch.compiler.is_compiling() or _modes() or _transforms() is not None or _tracing() is not None:
        return False
    if type(x) not in _PLAIN_TYPES or not x.is_cpu:
        return False
    for other in others:
        if other is not None and (type(other) not in _PLAIN_TYPES or not other.is_cpu):
            return False
    return not torch.is_autocast_enabled("cpu") and not torch.autograd._profiler_enabled()


def refuse_tangents(*tensors: Tensor | None) -> None:
    """Forward-mode differentiation finds no formula where operators are registered as these are, and takes zero in silence."""
    if getattr(forward_ad, "_current_level", -1) < 0 or torch.compiler.is_compiling():
        return
    for tensor in tensors:
        if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
            fail("forward-mode differentiation", "tensors without tangents (use backward)", describe(tensor), UnsupportedError)


def needs_grad(x: Tensor, *others: Tensor | None) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or any(o is not None and o.requires_grad for o in others))


def register_autocast(name: str, floating: tuple[int, ...]) -> None:
    """Under autocast the arguments at `floating` are cast to its dtype, as torch's own matrix products do."""
    overload = getattr(torch.ops.rarefy, name).default
    for device in ("cpu", "cuda"):
        key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU if device == "cpu" else torch._C.DispatchKey.AutocastCUDA)

        def kernel(*args: Any, _device: str = device, _key: Any = key) -> Tensor:
            dtype = torch.get_autocast_dtype(_device)
            cast = [_cast(a, dtype, _device) if i in floating else a for i, a in enumerate(args)]
            with torch._C._ExcludeDispatchKeyGuard(_key):
                return overload(*cast)

        library.impl(name, kernel, "AutocastCPU" if device == "cpu" else "AutocastCUDA")


def _cast(argument: Tensor | None, dtype: torch.dtype, device: str) -> Tensor | None:
    if argument is None or argument.dtype == dtype or not argument.is_floating_point() or argument.device.type != device:
        return argument
    return argument.to(dtype)
