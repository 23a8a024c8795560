"""A linear layer with a packed weight of any format: `rarefy::linear`."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from .. import _core
from ..checks import describe, fail
from ..errors import UnsupportedError
from ..matrices import pack as _pack
from . import handles
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

ACTIVATIONS = ("none", "relu", "gelu", "silu")
TORCH_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class Weight:
    """A packed weight as operators take it. Immutable; copies share it."""

    __slots__ = ("gpu_handles", "handle", "in_features", "matrix", "out_features")

    def __init__(self, matrix: _core.Matrix):
        self.matrix = matrix
        self.out_features, self.in_features = matrix.shape
        self.handle = handles.on_cpu(matrix)
        self.gpu_handles: dict[int, Tensor] = {}

    def to(self, device: torch.device | str | int, tokens: int = 1) -> Weight:
        """Packs the weight for a GPU too, for `tokens` rows of activations at once; the CPU's form stays. Returns itself.

        The first weight of a kind (shape, dtype, density) is searched for the fastest kernel, which takes seconds and is
        remembered; those that are like it take the same. Raises UnsupportedError where Rarefy cannot run on that GPU.
        """
        device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        if device.type == "cuda":
            measure = os.environ.get("RAREFY_FREEZE") != "1"
            index = _index(device)
            _core.place_on_device(self.matrix, index, tokens, measure)
            if index not in self.gpu_handles:
                self.gpu_handles[index] = handles.on_gpu(self.matrix, index)
        elif device.type != "cpu":
            raise UnsupportedError(f"device: expected cpu or cuda, got {device}")
        return self

    def on(self, device: torch.device | str | int) -> tuple[str, int, float] | None:
        """(kernel, bytes, microseconds as measured when it was chosen) of the weight on a GPU; None where it is not."""
        return _core.describe_on_device(self.matrix, _index(torch.device(device)))

    def handle_for(self, x: Tensor) -> Tensor:
        """What operators take beside activations x; where the weight is not packed for the GPU of x, they say so."""
        return self.handle if x.is_cpu else self.gpu_handles.get(x.get_device(), self.handle)

    def __copy__(self) -> Weight:
        return self

    def __deepcopy__(self, memo: Any) -> Weight:
        return self

    def __reduce__(self) -> Any:
        raise TypeError("a packed weight cannot be pickled; save its dense or compressed form and pack that again")

    def __repr__(self) -> str:
        return f"Weight({self.matrix!r})"


def check_packed(argument: str, value: Any) -> None:
    """Demands a `Weight`."""
    if not isinstance(value, Weight):
        fail(argument, "a weight packed by rarefy.ops.pack", describe(value), TypeError)


def pack(weight: Tensor | _core.Matrix | _core.Source, format: str | _core.Plan | None = None, *, dtype: str | None = None) -> Weight:
    """`rarefy.pack` for `linear`."""
    return Weight(_pack(weight.detach() if isinstance(weight, Tensor) else weight, format, dtype=dtype))


def to_dense(weight: Weight | _core.Matrix, dtype: torch.dtype | None = None) -> Tensor:
    """The dense tensor, M×K, in the weight's dtype unless another is given."""
    matrix = weight.matrix if isinstance(weight, Weight) else weight
    out = torch.empty(matrix.shape, dtype=dtype or TORCH_DTYPES[matrix.dtype])
    matrix._read(out)
    return out


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


# ------------------------------------------------------------------------------------------- linear
define("linear(Tensor x, Tensor weight, Tensor? bias, str activation, SymInt out_features) -> Tensor")
# x·A instead of x·Aᵀ: the gradient of linear's inputs.
define("linear_transposed(Tensor x, Tensor weight, SymInt in_features) -> Tensor")


def _linear_cpu(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, out_features: int) -> Tensor:
    out = empty_rows(x, out_features)
    if not _core.linear(x, weight, bias, activation, False, out):
        _core.linear(x.contiguous(), weight, bias, activation, False, out)
    return out


def _linear_transposed_cpu(x: Tensor, weight: Tensor, in_features: int) -> Tensor:
    out = empty_rows(x, in_features)
    if not _core.linear(x, weight, None, "none", True, out):
        _core.linear(x.contiguous(), weight, None, "none", True, out)
    return out


library.impl("linear", _linear_cpu, "CPU")
library.impl("linear_transposed", _linear_transposed_cpu, "CPU")


# -------------------------------------------------------------------------------------------- a GPU
# Packed kernels are for few tokens. For many, and for gradients, the weight is written out with its zeros, which costs its dense
# bytes once, and torch multiplies: memory comes from torch's allocator, so that graphs can record it all.
def _dense_weight(x: Tensor, weight: Tensor, shape: tuple[int, int]) -> Tensor:
    lying = _core.device_dense(weight, x.device.index)
    if lying is not None:
        return torch.from_dlpack(lying)
    dense = x.new_empty(shape)
    _core.device_expand(weight, dense)
    return dense


_IN_PLACE = {"relu": torch.relu_, "gelu": torch.ops.aten.gelu_, "silu": torch.ops.aten.silu_}


def _linear_cuda(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, out_features: int) -> Tensor:
    if is_elsewhere(x):
        with torch.cuda.device(x.device):
            return _linear_cuda(x, weight, bias, activation, out_features)
    out = empty_rows(x, out_features)
    if _core.device_linear(x if x.is_contiguous() else x.contiguous(), weight, out):
        if bias is not None:
            out.add_(bias)
    else:
        dense = _dense_weight(x, weight, (out_features, x.shape[-1]))
        out = torch.nn.functional.linear(x, dense, None if bias is None else bias.to(x.dtype))
    return out if activation == "none" else _IN_PLACE[activation](out)


@on_its_device
def _linear_transposed_cuda(x: Tensor, weight: Tensor, in_features: int) -> Tensor:
    return x @ _dense_weight(x, weight, (x.shape[-1], in_features))


library.impl("linear", _linear_cuda, "CUDA")
library.impl("linear_transposed", _linear_transposed_cuda, "CUDA")


@torch.library.register_fake("rarefy::linear", lib=library)
def _(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, out_features: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], out_features))


@torch.library.register_fake("rarefy::linear_transposed", lib=library)
def _(x: Tensor, weight: Tensor, in_features: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], in_features))


def _activation_gradient(grad: Tensor, z: Tensor, activation: str) -> Tensor:
    if activation == "relu":
        return torch.ops.aten.threshold_backward(grad, z, 0)
    if activation == "gelu":
        return torch.ops.aten.gelu_backward(grad, z)
    return torch.ops.aten.silu_backward(grad, z)


def _linear_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, activation, out_features = inputs
    ctx.activation = activation
    ctx.features = (x.shape[-1], out_features)
    ctx.bias_dtype = None if bias is None else bias.dtype
    # A linear layer needs its inputs again only to know where its activation stood.
    ctx.save_for_backward(weight, *(() if activation == "none" else (x, bias)))


def _gradients(ctx: Any, grad: Tensor, need_x: bool, need_bias: bool) -> tuple[Tensor | None, Tensor | None]:
    in_features, out_features = ctx.features
    if ctx.activation == "none":
        (weight,) = ctx.saved_tensors
    else:
        weight, x, bias = ctx.saved_tensors
        z = torch.ops.rarefy.linear(x, weight, bias, "none", out_features)
        grad = _activation_gradient(grad, z, ctx.activation)
    grad_x = torch.ops.rarefy.linear_transposed(grad, weight, in_features) if need_x else None
    grad_bias = grad.reshape(-1, out_features).sum(0, dtype=torch.float32).to(ctx.bias_dtype) if need_bias else None
    return grad_x, grad_bias


def _linear_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_x, grad_bias = _gradients(ctx, grad, ctx.needs_input_grad[0], ctx.needs_input_grad[2])
    return grad_x, None, grad_bias, None, None


torch.library.register_autograd("rarefy::linear", _linear_backward, setup_context=_linear_setup, lib=library)


def _transposed_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _ = inputs
    ctx.out_features = x.shape[-1]
    ctx.save_for_backward(weight)


def _transposed_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (weight,) = ctx.saved_tensors
    return torch.ops.rarefy.linear(grad, weight, None, "none", ctx.out_features), None, None


torch.library.register_autograd("rarefy::linear_transposed", _transposed_backward, setup_context=_transposed_setup, lib=library)
register_autocast("linear", (0, 2))


class _Linear(torch.autograd.Function):
    """What the dispatcher does for a plain call with gradients, for a fifth of its time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, weight: Tensor, activation: str, out_features: int) -> Tensor:
        out = (_linear_cpu if x.is_cpu else _linear_cuda)(x, weight, bias, activation, out_features)
        # After the kernel, which has looked at the shapes.
        _linear_setup(ctx, (x, weight, bias, activation, out_features), out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *_gradients(ctx, grad, *ctx.needs_input_grad[:2]), None, None, None


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """act(x·Aᵀ + bias) with A a packed weight of any format.

    x: float32, float16 or bfloat16 […, K]; bias: [M]; activation: "none", "relu", "gelu" (erf) or "silu". On a GPU x has the weight's
    dtype, and the weight was packed for that GPU (`Weight.to`).
    Returns […, M] in x's dtype; sums in float32. Gradients for x and bias; the weight is frozen.
    """
    check_packed("weight", weight)
    handle = weight.handle_for(x)
    if is_plain(x, bias):
        if needs_grad(x, bias):
            return _Linear.apply(x, bias, handle, activation, weight.out_features)
        return (_linear_cpu if x.is_cpu else _linear_cuda)(x, handle, bias, activation, weight.out_features)
    check_features(x, weight.in_features)
    refuse_tangents(x, bias)
    return torch.ops.rarefy.linear.default(x, handle, bias, activation, weight.out_features)
