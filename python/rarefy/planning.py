"""Packs a weight as a plan says, and remembers what that gains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch

from . import matrices, ops
from .checks import describe, fail
from .ops.linear import TORCH_DTYPES

_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


class PlannedWeight(NamedTuple):
    """A packed weight and what its plan said of it; immutable, copies share it."""

    weight: ops.Weight
    speedup: float | None  #: Over the best dense kernel for the tokens planned for; None on GPUs and where a format was demanded.
    measured: bool  #: Whether on this machine, or estimated.


def check_tokens(argument: str, tokens: Any) -> dict[int, float]:
    """{tokens: share of the objective} of a number, several of equal share, or such a mapping."""
    if isinstance(tokens, int) and not isinstance(tokens, bool):
        tokens = (tokens,)
    if isinstance(tokens, Mapping):
        shares = {int(count): float(share) for count, share in tokens.items()}
    elif isinstance(tokens, Iterable) and not isinstance(tokens, str):
        counts = list(tokens)
        shares = {count: 1 / len(counts) for count in counts}
    else:
        shares = {}
    if not shares or any(not isinstance(count, int) or count < 1 for count in shares):
        fail(argument, "a positive integer, several, or a mapping from them to shares", describe(tokens))
    return shares


def plan_weight(weight: torch.Tensor, format: str, tokens: Any) -> PlannedWeight:
    """Packs a dense weight in `format`; "auto" is the fastest for `tokens` rows of activations of the weight's dtype.

    Finding that takes up to two seconds for a pattern that this machine has not seen; RAREFY_FREEZE=1 estimates instead.
    A weight on a GPU is packed for that GPU, for the first of `tokens`; `format` is how the CPU keeps it beside, for saving.
    """
    shares = check_tokens("tokens", tokens)
    if not isinstance(format, str):
        fail("format", '"auto" or the name of a format', describe(format), TypeError)
    if weight.device.type == "cuda":
        host = weight.cpu()
        packed = ops.pack(host, _smallest_format(host) if format == "auto" else format)
        return PlannedWeight(packed.to(weight.device, next(iter(shares))), None, False)
    if format != "auto":
        return PlannedWeight(ops.pack(weight, format), None, False)
    dtype = _NAMES[weight.dtype]
    plan = matrices.plan(weight, tokens=shares, activations=dtype, precision="bf16" if dtype == "bf16" else "exact")
    total, time = sum(shares.values()), 0.0
    for count, share in shares.items():
        step = next(step for step in plan.steps if step.tokens_min <= count <= step.tokens_max)
        time += share / total * (step.time_us / step.dense_us if step.dense_us > 0 else 1.0)
    measured = any(candidate.chosen and candidate.measured_us > 0 for candidate in plan.candidates)
    return PlannedWeight(ops.pack(weight, plan), 1 / time if time > 0 else None, measured)


def _smallest_format(weight: torch.Tensor) -> str:
    """A bit a place, or 16 bits a nonzero."""
    return "csr16" if weight.count_nonzero() * 16 < weight.numel() and weight.shape[1] <= 1 << 16 else "bitmap"
