"""Layers that read the same input, multiplied as one: fewer launches, and kernels long enough for a GPU."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import nn

from . import ops
from .checks import describe, fail
from .planning import plan_weight
from .sparse_linear import SparseLinear

#: As Llama, Mistral, Qwen, Gemma and their like call them, in the order in which they are called.
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class _Held(NamedTuple):
    """The results of one product."""

    x: torch.Tensor
    state: tuple[int, bool, bool]  # Of x and torch, where they were computed.
    parts: tuple[torch.Tensor, ...]
    missing: frozenset[int]  # The layers that have not asked yet.


def _state(x: torch.Tensor) -> tuple[int, bool, bool]:
    version = 0 if torch.compiler.is_compiling() or x.is_inference() else x._version
    return version, torch.is_grad_enabled(), torch.is_autocast_enabled(x.device.type)


def _apart(whole: torch.Tensor, rows: list[int]) -> tuple[torch.Tensor, ...]:
    """The parts of a tensor that nobody else has: each may be written to, which gradients forbid for the views of `split`."""
    try:
        return whole.unsafe_split_with_sizes(rows, -1)
    except RuntimeError:  # vmap has no rule for it.
        return whole.split(rows, -1)


class Stack:
    """The weights of several layers, one below the other, and the results that some of them have not yet asked for.

    The first layer that is called computes for all, the others take their part if they are given the very same tensor, and
    compute for all anew otherwise: correct in any order, and slow where inputs differ.
    """

    def __init__(self, weight: ops.Weight, rows: list[int]):
        self.weight, self.rows = weight, rows
        self.members: frozenset[int] = frozenset()  # The layers that will ask: nothing is held for others.
        self.held: _Held | None = None  # Replaced as one: threads may share a model.

    def part(self, x: torch.Tensor, index: int) -> torch.Tensor:
        held, state = self.held, _state(x)
        if held is None or held.x is not x or held.state != state or index not in held.missing:
            held = _Held(x, state, _apart(ops.linear(x, self.weight), self.rows), self.members)
        missing = held.missing - {index}
        self.held = _Held(x, state, held.parts, missing) if missing else None
        return held.parts[index]

    def __deepcopy__(self, memo: dict[int, Any]) -> Stack:
        made = memo[id(self)] = Stack(self.weight, self.rows)
        return made  # Parts that are copied join it.


class Part:
    """A layer's share of a stack, a member as long as it lives."""

    __slots__ = ("density", "first", "index", "rows", "share", "stack")

    def __init__(self, stack: Stack, index: int, density: float):
        self.stack, self.index, self.density = stack, index, density
        stack.members |= {index}
        self.first, self.rows = sum(stack.rows[:index]), stack.rows[index]
        self.share = self.rows / sum(stack.rows)

    def __call__(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        y = self.stack.part(x, self.index)
        return y if bias is None else y + bias.to(y.dtype)

    def of(self, dense: torch.Tensor) -> torch.Tensor:
        """This layer's rows of the weight of all."""
        return dense[self.first : self.first + self.rows].clone()

    def __deepcopy__(self, memo: dict[int, Any]) -> Part:
        return Part(copy.deepcopy(self.stack, memo), self.index, self.density)

    def __del__(self) -> None:
        self.stack.members -= {self.index}
        self.stack.held = None


@torch.no_grad()
def stack(model: nn.Module, siblings: tuple[tuple[str, ...], ...] = SIBLINGS) -> list[tuple[str, ...]]:
    """Makes `SparseLinear`s that read the same input share one packed weight and one product, in place.

    Arguments:
        model: any module; its own layers and those of its submodules are looked at.
        siblings: names of layers within one module, in the order in which its forward calls them with one input: in Llama the
            projections of queries, keys and values, and gate and up of the FFN. Modules that have not all of these as SparseLinears
            of the same width, dtype, device and tokens, without side weights, stay as they are.

    Layers keep their names, biases, state dicts and gradients; what they save and show is theirs alone, but for `packed`, `format` and
    the plan. A layer leaves its stack when it gets another weight or dtype, or moves from a GPU, to the CPU or another; a move from the
    CPU to a GPU in the same dtype keeps it. On a GPU this saves launches.

    What a forward gives to one sibling must not be written to before the last has got it, and on a GPU one CUDA stream must call them
    all. Input and results are held until every sibling has asked, so a forward that leaves one out leaves them in memory until the
    stack's next product. On the CPU a result of 16 bits is rounded before the bias is added, once more than without a stack.

    Returns the full names of the layers of each new stack; raises ValueError where there is none.
    """
    if not isinstance(model, nn.Module):
        fail("model", "a torch.nn.Module", describe(model), TypeError)
    made = []
    for name, parent in list(model.named_modules()):
        for names in siblings:
            layers = [getattr(parent, child, None) for child in names]
            if len(layers) > 1 and _fit(layers):
                _stack(layers)
                made.append(tuple(f"{name}.{child}" if name else child for child in names))
    if not made:
        fail("siblings", "names of SparseLinears side by side in a module, of the same width and dtype", describe(siblings))
    return made


def _fit(layers: list[Any]) -> bool:
    if not all(isinstance(layer, SparseLinear) and layer.part is None and layer.side_in is None for layer in layers):
        return False
    if len({id(layer) for layer in layers}) < len(layers):
        return False
    first = layers[0]
    return all(
        (layer.in_features, layer.dtype, layer._device, layer._tokens) == (first.in_features, first.dtype, first._device, first._tokens)
        for layer in layers
    )


def _stack(layers: list[SparseLinear]) -> None:
    first = layers[0]
    weight = torch.cat([layer.to_dense() for layer in layers])
    formats = {layer._format for layer in layers}
    planned = plan_weight(weight, formats.pop() if len(formats) == 1 else "auto", first._tokens)
    whole = Stack(planned.weight, [layer.out_features for layer in layers])
    for index, layer in enumerate(layers):
        part = Part(whole, index, layer.density)
        layer.planned, layer.part = planned, part
