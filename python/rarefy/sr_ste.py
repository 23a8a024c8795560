"""Trains N:M sparse weights from scratch: SR-STE."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from .checks import check_float_tensor, describe, fail
from .layer_names import matching_linears
from .masks import n_of_m_mask


class _SrSte(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, n: int, m: int, decay: float) -> torch.Tensor:
        mask = n_of_m_mask(weight.abs(), n, m)
        ctx.save_for_backward(weight, mask)
        ctx.decay = decay
        return weight * mask

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, mask = ctx.saved_tensors
        return grad + ctx.decay * torch.where(mask, 0, weight), None, None, None


class SrSte(nn.Module):
    """A parametrization: the weight as it is used has n nonzeros in every m consecutive inputs.

    SR-STE (Zhou, Ma, Zhu, Liu, Zhang, Yuan, Sun, Li, "Learning N:M fine-grained structured sparse neural networks from
    scratch", ICLR 2021). Forward, W̃ = W ⊙ E with E the mask of the n largest |w| of each group; backward, the gradient
    passes straight through and pruned weights decay, so that the mask settles:

        ∂L/∂W := ∂L/∂W̃ + λ·(1 - E) ⊙ W

    The dense W is kept and trained: this saves nothing while training. `remove_sr_ste` bakes the zeros in, after which
    `rarefy.thin` packs them.
    """

    def __init__(self, n: int = 2, m: int = 4, decay: float = 2e-4):
        super().__init__()
        if not 0 < n < m:
            fail("n", f"at least 1 and below m={m}", describe(n))
        if decay < 0:
            fail("decay", "at least 0", describe(decay))
        self.n, self.m, self.decay = n, m, decay

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return _SrSte.apply(weight, self.n, self.m, self.decay)

    def extra_repr(self) -> str:
        return f"{self.n}:{self.m}, decay={self.decay:g}"


def apply_sr_ste(model: nn.Module, pattern: str, n: int = 2, m: int = 4, decay: float = 2e-4) -> dict[str, nn.Linear]:
    """Trains every Linear whose full name `pattern` matches (from its start) with n of m. Returns them by name.

    Raises ValueError, before anything is changed, for a pattern that matches none and for layers whose inputs are not a multiple of m.
    """
    SrSte(n, m, decay)  # Refuses bad ones before a layer is touched.
    chosen = matching_linears(model, pattern)
    for name, layer in chosen.items():
        check_float_tensor(f"{name}.weight", layer.weight, 2)
        if layer.in_features % m:
            fail(name, f"in_features that are a multiple of m={m}", layer.in_features)
    for layer in chosen.values():
        parametrize.register_parametrization(layer, "weight", SrSte(n, m, decay))
    return chosen


def remove_sr_ste(model: nn.Module) -> int:
    """Makes W̃ the weight of every layer that was trained so. Returns how many there were."""
    count = 0
    for layer in list(model.modules()):
        if parametrize.is_parametrized(layer, "weight") and isinstance(layer.parametrizations.weight[0], SrSte):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
            count += 1
    return count
