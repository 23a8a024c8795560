"""A linear layer whose weight is frozen, packed, and fast because of its zeros."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from . import bitmask, ops
from .checks import check_float_tensor, check_positive, describe, fail
from .errors import UnsupportedError
from .ops.linear import TORCH_DTYPES
from .planning import PlannedWeight, check_tokens, plan_weight

_DEVICES = ("cpu", "cuda")


class SparseLinear(nn.Module):
    """y = x·Wᵀ + b with a frozen, packed W of any format: bitmap, N:M, blocks, dense, ….

    For inference, and for fine-tuning around the weight: gradients reach the inputs, the bias and side weights:

        ∂L/∂x = g·W        ∂L/∂b = Σ_tokens g        W itself has none.

    With `add_side_weights` (LoRA: Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen 2021) the layer computes
    y = x·Wᵀ + b + α/r·(x·Aᵀ)·Bᵀ, where A [r, in_features] and B [out_features, r] train.

    Arguments:
        weight: [out_features, in_features]; float32, bfloat16 or float16; must not require a gradient.
        bias: [out_features] or None; becomes a parameter.
        format: "auto" plans (measures what is fastest on this machine, and remembers it), or a format's name: "bitmap",
            "csr16", "2:4", "bsr16x32", "dense", …: see `rarefy.pack`.
        tokens: how many rows x has, for the plan; one number or several.

    x may be of any of the three dtypes; y has x's. The first backward packs Wᵀ, once.
    On a GPU (`.to("cuda")`, or made from a weight there) the weight is packed for that GPU, x must be of its dtype, and `format`
    is how the CPU keeps it beside, for saving. One CUDA stream at a time may run a layer.
    state_dict holds the weight as compressed-tensors' sparse-bitmask (`bitmask`, `compressed`, `row_offsets`, `shape`),
    whatever the format in memory, and loads that or a dense `weight`. Copies share the packed weight.

    Errors: ValueError or TypeError naming the argument, what was expected and what came; `UnsupportedError` for a format that
    cannot hold the values.
    """

    bias: nn.Parameter | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None, format: str = "auto", tokens: int | tuple[int, ...] = 1):
        super().__init__()
        check_float_tensor("weight", weight, 2)
        if weight.requires_grad:
            fail("weight", "a frozen tensor (requires_grad=False)",
                 "one that requires a gradient: detach it, or train with BlockSparseLinear")  # fmt: skip
        if weight.device.type not in _DEVICES:
            fail("weight", "a tensor on cpu or cuda", describe(weight))
        if bias is not None and (not isinstance(bias, torch.Tensor) or tuple(bias.shape) != (weight.shape[0],)):
            fail("bias", f"[{weight.shape[0]}]", describe(bias))
        self.out_features, self.in_features = weight.shape
        self._format, self._tokens = format, tokens
        self._set_weight(weight)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach().clone()))
        self.side_in: nn.Parameter | None = None
        self.side_out: nn.Parameter | None = None
        self.side_scale = 0.0

    @classmethod
    def from_dense(cls, linear: nn.Linear, format: str = "auto", tokens: int | tuple[int, ...] = 1) -> SparseLinear:
        """Packs a Linear with the zeros it has. The new bias requires a gradient if the old one does."""
        if not isinstance(linear, nn.Linear):
            fail("linear", "a torch.nn.Linear", type(linear).__name__, TypeError)
        bias = linear.bias
        layer = cls(linear.weight.detach(), None if bias is None else bias.detach(), format, tokens)
        if bias is not None:
            layer.bias.requires_grad_(bias.requires_grad)
        return layer.train(linear.training)

    def _set_weight(self, weight: torch.Tensor) -> None:
        # A plain attribute: a buffer would be broadcast, moved and saved as if it were the weight's values.
        self.planned: PlannedWeight = plan_weight(weight, self._format, self._tokens)
        self.part: Any = None  # A rarefy.stacking.Part, where the weight is one of several in `planned`.
        self._device, self._on_cpu = weight.device, weight.device.type == "cpu"

    @property
    def packed(self) -> ops.Weight:
        """The weight as `rarefy.ops` takes it; in a stack that of all its layers."""
        return self.planned.weight

    @property
    def format(self) -> str:
        """How the weight lies in memory; on a GPU the kernel that it is packed for."""
        return self.packed.matrix.format if self._on_cpu else self.packed.on(self._device)[0]

    @property
    def density(self) -> float:
        """Share of the weight that is not zero."""
        return self.packed.matrix.density if self.part is None else self.part.density

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weight."""
        whole = self.packed.matrix.nbytes if self._on_cpu else self.packed.on(self._device)[1]
        return whole if self.part is None else round(whole * self.part.share)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weight's values."""
        return TORCH_DTYPES[self.packed.matrix.dtype]

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight, decoded anew on each access (slow); it is a copy and does not train."""
        return self.to_dense()

    def to_dense(self) -> torch.Tensor:
        """[out_features, in_features] with its zeros."""
        dense = ops.to_dense(self.packed)
        return (dense if self.part is None else self.part.of(dense)).to(self._device)

    def to_linear(self) -> nn.Linear:
        """A Linear of the same weight, bias and side weights (which are added in)."""
        dense = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        weight = self.to_dense()
        if self.side_in is not None:
            weight = weight + self.side_scale * (self.side_out @ self.side_in).detach().to(weight.dtype)
        dense.weight = nn.Parameter(weight)
        if self.bias is not None:
            dense.bias = nn.Parameter(self.bias.detach().clone())
        return dense.train(self.training)

    def add_side_weights(self, rank: int, alpha: float | None = None, dtype: torch.dtype | None = None) -> SparseLinear:
        """Adds trainable A [rank, in_features] and B [out_features, rank], in float32 unless told otherwise, scaled by
        alpha/rank (alpha = rank unless given). B begins at zero, so that nothing changes at first. Returns the layer."""
        check_positive("rank", rank)
        if self.side_in is not None:
            fail("rank", "a layer without side weights", f"one of rank {self.side_in.shape[0]}")
        dtype = torch.float32 if dtype is None else dtype
        self.side_in = nn.Parameter(torch.empty(rank, self.in_features, dtype=dtype, device=self._device))
        self.side_out = nn.Parameter(torch.zeros(self.out_features, rank, dtype=dtype, device=self._device))
        nn.init.kaiming_uniform_(self.side_in, a=5**0.5)
        self.side_scale = (rank if alpha is None else alpha) / rank
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: […, in_features], float32, bfloat16 or float16. Returns […, out_features] in x's dtype."""
        if x.is_cpu is not self._on_cpu:
            fail("x", f"a tensor on {self._device}", describe(x))
        parameters = self._parameters  # As an attribute of the module a parameter takes 0.4 µs.
        bias = parameters["bias"] if "bias" in parameters else self.bias  # noqa: SIM401
        y = ops.linear(x, self.planned.weight, bias) if self.part is None else self.part(x, bias)
        if self.side_in is not None:
            side = nn.functional.linear(nn.functional.linear(x.to(self.side_in.dtype), self.side_in), self.side_out)
            y = y + (self.side_scale * side).to(y.dtype)
        return y

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        if name == "weight":
            fail("weight", "no parameter: it is frozen; add_side_weights trains beside it", describe(param), TypeError)
        super().register_parameter(name, param)

    def _apply(self, fn: Any, recurse: bool = True) -> SparseLinear:
        probe = fn(torch.empty(0, dtype=self.dtype, device=self._device))
        if probe.device.type not in _DEVICES:
            fail("device", "cpu or cuda", str(probe.device), UnsupportedError)
        check_float_tensor("dtype", probe)
        super()._apply(fn, recurse)
        if self._on_cpu and probe.is_cuda and probe.dtype == self.dtype:
            self.packed.to(probe.device, next(iter(check_tokens("tokens", self._tokens))))
            self._device, self._on_cpu = probe.device, False
        elif (probe.dtype, probe.device) != (self.dtype, self._device):
            # A weight of its own: copies of the layer may stay where they are.
            self._set_weight(self.to_dense().to(probe.device, probe.dtype))
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for key, array in bitmask.compress(self.to_dense()).items():
            destination[prefix + key] = array

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
        entry = {key: state_dict.pop(prefix + key) for key in (*bitmask.KEYS, "weight") if prefix + key in state_dict}
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)
        state_dict.update({prefix + key: value for key, value in entry.items()})
        if not entry:
            missing.append(prefix + "compressed")
            return
        try:
            weight = entry["weight"] if "weight" in entry else bitmask.decompress(entry, prefix.removesuffix("."))
            if tuple(weight.shape) != (self.out_features, self.in_features):
                fail(prefix + "weight", f"[{self.out_features}, {self.in_features}]", list(weight.shape))
            self._set_weight(weight.detach().to(self._device, self.dtype))
        except (ValueError, TypeError, NotImplementedError) as error:
            errors.append(str(error))

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["planned"], state["part"] = bitmask.compress(self.to_dense()), None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = state.pop("planned")
        super().__setstate__(state)
        self._set_weight(bitmask.decompress(arrays).to(self._device))

    def __deepcopy__(self, memo: dict[int, Any]) -> SparseLinear:
        made = self.__class__.__new__(self.__class__)
        memo[id(self)] = made
        memo[id(self.planned)] = self.planned  # Immutable: shared.
        made.__dict__.update({key: copy.deepcopy(value, memo) for key, value in self.__dict__.items()})
        return made

    def extra_repr(self) -> str:
        side = "" if self.side_in is None else f", side_rank={self.side_in.shape[0]}"
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"format={self.format}, density={self.density:.4g}{side}"
        )
