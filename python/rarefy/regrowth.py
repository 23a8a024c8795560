"""Which blocks to drop and which to grow: scores by magnitude and by gradient."""

from __future__ import annotations

import torch

from . import block_pattern as pattern
from . import ops
from .block_moves import whole_tensor
from .block_sparse_linear import BlockSparseLinear


class GradientProbe:
    """Measures the loss's gradient at places that a layer does not store.

    While it is there, the layer adds the product with a second weight, Z, whose blocks are the candidates (r, c) and all zero.
    That changes no output, and autograd leaves in Z's gradient what the weight's would be at these places, Σ g_rᵀ·x_c over
    all backward passes: under torch.compile, checkpointing, autocast and FSDP as everywhere. Memory: Z and its gradient,
    for one step in many; `share` below 1 looks at a random part of the empty places only.
    """

    def __init__(self, layer: BlockSparseLinear, share: float, generator: torch.Generator):
        empty = ~layer.block_mask
        if share < 1:
            places = empty.flatten().nonzero().flatten()
            keep = max(1, round(share * places.numel()))
            chosen = torch.randperm(places.numel(), generator=generator, device="cpu")[:keep].to(places.device)
            empty = torch.zeros_like(empty).flatten().index_fill_(0, places[chosen], True).view_as(empty)
        self.layer, self.candidates = layer, empty
        index = pattern.index_from_mask(empty)
        self.index = ops.BlockPattern(*index, layer.out_features, layer.in_features)
        self.zeros = torch.zeros(
            index.col_indices.numel(), *layer.block_shape,
            dtype=layer.weight.dtype, device=empty.device, requires_grad=True,
        )  # fmt: skip
        if self.zeros.shape[0]:
            layer.probe = self

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x·Zᵀ, which is zero."""
        return ops.bsr_linear(x, self.zeros, self.index)

    def close(self) -> torch.Tensor:
        """Leaves the layer. Frobenius norms of the gradient by blocks of the grid: -1 where there was no candidate."""
        if self.layer.probe is self:
            self.layer.probe = None
        device = self.candidates.device
        norms = torch.full(self.candidates.shape, -1.0, device=device)
        # There is none when no backward pass came through, in this process at least.
        total = torch.zeros(self.zeros.shape, device=device) if self.zeros.grad is None else self.zeros.grad.float()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(total)  # The batch is that of all processes, as in DDP.
        norms[self.candidates] = total.flatten(1).norm(dim=1)
        return norms


def drop_scores(layer: BlockSparseLinear, by: str) -> torch.Tensor:
    """What each stored block is worth, float32 [stored blocks].

    "magnitude": its Frobenius norm ‖W_rc‖. "gradient": |Σ W_rc ⊙ ∂L/∂W_rc|, the loss's change to first order if the block
    went (Molchanov, Mallya, Tyree, Frosio, Kautz, "Importance estimation for neural network pruning", 2019).
    """
    weight = whole_tensor(layer.weight.detach())
    if by == "magnitude":
        return weight.float().flatten(1).norm(dim=1)
    if layer.weight.grad is None:
        return torch.zeros(layer.nnz_blocks, device=weight.device)
    return (weight.float() * whole_tensor(layer.weight.grad).float()).flatten(1).sum(dim=1).abs()


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
