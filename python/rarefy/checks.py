"""How bad input is answered: one exception that names the argument, what was expected and what came."""

from __future__ import annotations

from typing import Any, NoReturn

import torch

from .errors import ArgumentError


def fail(argument: str, expected: str, got: Any, kind: type[Exception] = ArgumentError) -> NoReturn:
    """Raises `kind`: "<argument>: expected <expected>, got <got>"."""
    raise kind(f"{argument}: expected {expected}, got {got}")


def describe(value: Any) -> str:
    """A value in a few words, for the "got" of a message."""
    if isinstance(value, torch.Tensor):
        shape = list(value.shape)
        return f"{str(value.dtype).removeprefix('torch.')} {shape} on {value.device}"
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 80 else text[:79] + '…'} ({type(value).__name__})"


def check_float_tensor(argument: str, value: Any, dim: int | None = None) -> torch.Tensor:
    """Demands a strided f32, bf16 or f16 tensor, of `dim` dimensions where given."""
    dimensions = "" if dim is None else f"of {dim} dimensions "
    if not isinstance(value, torch.Tensor):
        fail(argument, f"a tensor {dimensions}".rstrip(), describe(value), TypeError)
    if value.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        fail(argument, "float32, bfloat16 or float16", describe(value), TypeError)
    if value.layout != torch.strided:
        fail(argument, "a strided (dense) tensor", f"layout {value.layout}", TypeError)
    if dim is not None and value.dim() != dim:
        fail(argument, f"a tensor {dimensions}".rstrip(), describe(value))
    return value


def check_positive(argument: str, value: Any) -> int:
    """Demands a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        fail(argument, "a positive integer", describe(value))
    return value


def check_density(argument: str, value: Any) -> float:
    """Demands 0 < value <= 1, as a density is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        fail(argument, "a number above 0 and at most 1", describe(value))
    return float(value)


def check_fraction(argument: str, value: Any) -> float:
    """Demands 0 <= value < 1, as a sparsity is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        fail(argument, "a number of at least 0 and below 1", describe(value))
    return float(value)
