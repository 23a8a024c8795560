"""Moves blocks of a layer to other places, and with them whatever follows the weight: gradients, Adam's states."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from . import block_pattern as pattern
from .block_sparse_linear import BlockSparseLinear
from .checks import describe, fail


@torch.no_grad()
def move_blocks(
    layer: BlockSparseLinear, mask: torch.Tensor, optimizers: Iterable[torch.optim.Optimizer] = (), fresh: torch.Tensor | None = None
) -> int:
    """Stores the blocks of `mask` in place of as many others; blocks stored before and after keep their values.

    New blocks begin at zero, or at `fresh` [new blocks, R, C], in row order. In the gradient and in every state of an
    optimizer that has the weight's shape (Adam's moments, momentum, AMSGrad's maxima, Adagrad's sums), blocks that stay
    keep theirs and new ones begin at zero; a step count has no place and stays. The parameter stays the same object.

    Returns how many blocks are new. Raises ValueError unless `mask` has as many blocks as the layer stores.
    """
    layer.check_mask(mask)
    before = layer.block_mask
    mask = mask.to(before.device)
    if int(mask.sum()) != layer.nnz_blocks:
        fail("mask", f"{layer.nnz_blocks} blocks, as many as are stored", int(mask.sum()))
    slots = torch.full(mask.shape, -1, device=mask.device)
    slots[before] = torch.arange(layer.nnz_blocks, device=mask.device)
    source = slots[mask]  # For each block from now on, where its values lie now; -1: nowhere.
    new = source < 0
    count = int(new.sum())
    if fresh is not None and fresh.shape != (count, *layer.block_shape):
        fail("fresh", f"[{count}, {layer.block_shape[0]}, {layer.block_shape[1]}]", describe(fresh))

    weight = layer.weight
    _permute(weight, source, new, fresh)
    if weight.grad is not None:
        _permute(weight.grad, source, new)
    for state in _states_of(weight, optimizers):
        for value in state.values():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                _permute(value, source, new)
    for name, array in pattern.index_from_mask(mask)._asdict().items():
        if array.is_cuda:  # New memory: a graph that recorded kernels of the old pattern must not pass for one of the new.
            setattr(layer, name, array)
        else:
            getattr(layer, name).copy_(array)
    return count


def _states_of(weight: torch.Tensor, optimizers: Iterable[Any]) -> Iterable[dict[str, Any]]:
    for optimizer in optimizers:
        optimizer = bare_optimizer(optimizer)
        if weight in optimizer.state:
            yield optimizer.state[weight]


def bare_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside a wrapper, such as Accelerate's."""
    while not isinstance(optimizer, torch.optim.Optimizer) or hasattr(optimizer, "optimizer"):
        inner = getattr(optimizer, "optimizer", None)
        if inner is None:
            fail("optimizer", "a torch.optim.Optimizer", describe(optimizer), TypeError)
        optimizer = inner
    return optimizer


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """All of a DTensor's parts, where it is one (as `fully_shard` makes them)."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _permute(tensor: torch.Tensor, source: torch.Tensor, new: torch.Tensor, fresh: torch.Tensor | None = None) -> None:
    """tensor[i] = tensor[source[i]], or fresh where new; in place, for a DTensor on the whole of it."""
    whole = whole_tensor(tensor)
    moved = whole[source.clamp(min=0)]
    moved[new] = 0 if fresh is None else fresh.to(moved)
    if whole is not tensor:
        from torch.distributed.tensor import distribute_tensor

        moved = distribute_tensor(moved, tensor.device_mesh, tensor.placements)
    tensor.copy_(moved)
