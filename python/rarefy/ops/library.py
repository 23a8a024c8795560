"""The namespace `rarefy` of torch.library, and when an operator may go without the dispatcher."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..checks import describe, fail
from ..errors import UnsupportedError

library = torch.library.Library("rarefy", "DEF")

# A kernel in Python costs 3 µs for each dispatch key it is registered for, and what torch.library does for gradients 40.
_PLAIN_TYPES = (Tensor, torch.nn.Parameter)
_compiling, _grad_enabled = torch.compiler.is_compiling, torch.is_grad_enabled
try:
    _modes = torch._C._len_torch_dispatch_stack
    _transforms = torch._C._functorch.peek_interpreter_stack
    _tracing = torch._C._get_tracing_state
    _autocast = torch._C._is_any_autocast_enabled
    _profiler = torch._C._autograd._profiler_enabled
    _ = forward_ad._current_level
except AttributeError:  # Another torch: the dispatcher is always right.

    def _modes() -> int:
        return 1


# torch.cuda.current_device() asks each time whether CUDA is there.
_current_device = getattr(torch._C, "_cuda_getDevice", torch.cuda.current_device)


def define(schema: str) -> None:
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))


def is_plain(x: Tensor, second: Tensor | None = None, third: Tensor | None = None) -> bool:
    """Whether calling a kernel, and recording its gradient, is all that the dispatcher would do: ordinary tensors, all on the CPU or
    all on GPUs, and no tracing, transform, mode, autocast or profiler that wants to see the operator. Takes half a µs; the dispatcher
    takes 6 without gradients and 45 with them."""
    # Dynamo must meet is_compiling first: it knows no other of these.
    if _compiling() or _modes() or _transforms() is not None or _tracing() is not None or _autocast() or _profiler():
        return False
    if forward_ad._current_level >= 0 or type(x) not in _PLAIN_TYPES:
        return False
    on_cpu = x.is_cpu
    if not (on_cpu or x.is_cuda):
        return False
    # A loop over the others takes 0.1 µs more.
    return (second is None or _is_plain_beside(on_cpu, second)) and (third is None or _is_plain_beside(on_cpu, third))


def _is_plain_beside(on_cpu: bool, other: Tensor) -> bool:
    return type(other) in _PLAIN_TYPES and (other.is_cpu if on_cpu else other.is_cuda)


def check_features(x: Tensor, features: int) -> None:
    """Demands […, features], for the dispatcher's way: kernels look for themselves, those of shapes alone do not."""
    if x.dim() == 0 or x.size(-1) != features:
        fail("x", f"[…, {features}]", describe(x))


def refuse_tangents(*tensors: Tensor | None) -> None:
    """Forward-mode differentiation finds no formula where operators are registered as these are, and takes zero in silence."""
    if getattr(forward_ad, "_current_level", -1) < 0 or torch.compiler.is_compiling():
        return
    for tensor in tensors:
        if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
            fail("forward-mode differentiation", "tensors without tangents (use backward)", describe(tensor), UnsupportedError)


def needs_grad(x: Tensor, second: Tensor | None = None, third: Tensor | None = None) -> bool:
    if not _grad_enabled():
        return False
    return x.requires_grad or (second is not None and second.requires_grad) or (third is not None and third.requires_grad)


def empty_rows(x: Tensor, features: int) -> Tensor:
    """A new […, features] for x […, any]."""
    shape = x.shape
    # Sizes one by one are read in 0.7 µs, a tuple of them in 1.1.
    if len(shape) == 2:
        return x.new_empty(shape[0], features)
    return x.new_empty(shape[0], shape[1], features) if len(shape) == 3 else x.new_empty((*shape[:-1], features))


def is_elsewhere(x: Tensor) -> bool:
    """Whether x is not on torch's current GPU, whose streams and launches are meant."""
    return x.get_device() != _current_device()


def on_its_device(kernel: Any) -> Any:
    """Makes the GPU of the first argument torch's current one. Takes 0.3 µs, which hot kernels save by looking themselves."""

    @functools.wraps(kernel)
    def run(x: Tensor, *rest: Any, **named: Any) -> Tensor:
        if is_elsewhere(x):
            with torch.cuda.device(x.device):
                return kernel(x, *rest, **named)
        return kernel(x, *rest, **named)

    return run


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
