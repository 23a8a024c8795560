"""Which blocks to drop and which to grow: scores by magnitude and by gradient."""

from __future__ import annotations

import torch

from . import block_pattern as pattern
from . import ops
from .block_sparse_linear import BlockSparseLinear


class GradientProbe:
    """The loss's gradient at places that a layer does not store, summed over the backward passes while it is armed.

    For candidate blocks (r, c) it keeps Σ g_rᵀ·x_c, which is what the weight's gradient would be there: in float32, from the
    same operator that makes the gradient of the stored blocks. Memory: candidates × R × C floats, for one step in
    many; `share` below 1 looks at a random part of the empty places only.
    """

    def __init__(self, layer: BlockSparseLinear, share: float, generator: torch.Generator):
        empty = ~layer.block_mask
        if share < 1:
            places = empty.flatten().nonzero().flatten()
            keep = max(1, round(share * places.numel()))
            chosen = torch.randperm(places.numel(), generator=generator, device="cpu")[:keep].to(places.device)
            empty = torch.zeros_like(empty).flatten().index_fill_(0, places[chosen], True).view_as(empty)
        self.layer = layer
        self.candidates = empty
        self.index = pattern.index_from_mask(empty)
        self.sum: torch.Tensor | None = None
        self._hook = layer.register_forward_hook(self._watch) if bool(empty.any()) else None

    def _watch(self, layer: BlockSparseLinear, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if output.requires_grad:
            x = inputs[0].detach()
            output.register_hook(lambda grad: self._add(x, grad.detach()))

    @torch.no_grad()
    def _add(self, x: torch.Tensor, grad: torch.Tensor) -> None:
        layer = self.layer
        places = ops.BlockPattern(*self.index, layer.out_features, layer.in_features)
        products = ops.bsr_sddmm(grad, x.to(grad.dtype), places, layer.block_shape, torch.float32)
        self.sum = products if self.sum is None else self.sum.add_(products)

    def close(self) -> torch.Tensor:
        """Stops watching. Frobenius norms of the gradient by blocks of the grid: -1 where there was no candidate."""
        if self._hook is not None:
            self._hook.remove()
        device = self.candidates.device
        norms = torch.full(self.candidates.shape, -1.0, device=device)
        total = self.sum
        if total is None:  # No backward pass came through, in this process at least.
            total = torch.zeros(self.index.col_indices.numel(), *self.layer.block_shape, device=device)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(total)  # The batch is that of all processes, as in DDP.
        norms[self.candidates] = total.flatten(1).norm(dim=1)
        return norms


def drop_scores(layer: BlockSparseLinear, by: str) -> torch.Tensor:
    """What each stored block is worth, float32 [stored blocks].

    "magnitude": its Frobenius norm ‖W_rc‖. "gradient": |Σ W_rc ⊙ ∂L/∂W_rc|, the loss's change to first order if the block
    went (Molchanov, Mallya, Tyree, Frosio, Kautz, "Importance estimation for neural network pruning", 2019).
    """
    weight = _whole(layer.weight.detach())
    if by == "magnitude":
        return weight.float().flatten(1).norm(dim=1)
    if layer.weight.grad is None:
        return torch.zeros(layer.nnz_blocks, device=weight.device)
    return (weight.float() * _whole(layer.weight.grad).float()).flatten(1).sum(dim=1).abs()


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def next_mask(layer: BlockSparseLinear, worth: torch.Tensor, grow: torch.Tensor, count: int) -> torch.Tensor:
    """The layer's mask with its `count` blocks of the least `worth` replaced by the empty places of the largest `grow`.

    `worth` is by stored blocks, `grow` by the grid, negative where nothing may grow. At most as many blocks move as there
    are places; the earlier block first among equals.
    """
    mask = layer.block_mask
    places = mask.nonzero()
    grow = torch.where(mask, -1.0, grow)
    count = min(count, int((grow >= 0).sum()))
    dropped = places[worth.sort(stable=True).indices[:count]]
    grown = grow.flatten().sort(descending=True, stable=True).indices[:count]
    mask[dropped[:, 0], dropped[:, 1]] = False
    mask.view(-1)[grown] = True
    return mask
