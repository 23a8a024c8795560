"""Prunes while fine-tuning by where weights are going: movement pruning, by blocks or by elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from .block_pattern import block_count, check_block_shape
from .block_sparse_linear import BlockSparseLinear
from .checks import describe, fail
from .layer_names import matching_linears


class _TopScores(torch.autograd.Function):
    """The mask of the `keep` largest scores; its gradient passes straight through to all scores."""

    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor, keep: int) -> torch.Tensor:
        flat = scores.flatten()
        mask = torch.zeros_like(flat)
        mask[flat.sort(descending=True, stable=True).indices[:keep]] = 1
        return mask.view_as(scores)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad, None


class Movement(nn.Module):
    """A parametrization: W ⊙ mask, where the mask keeps the blocks of the largest learned scores.

    Movement pruning (Sanh, Wolf, Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning", NeurIPS 2020), with a score a
    block (Lagunas, Charlaix, Sanh, Rush, "Block Pruning For Faster Transformers", EMNLP 2021); a block of (1, 1) is the
    original. Scores S begin at 0 and are trained with the weights:

        W' = W ⊙ Top_v(S)          ∂L/∂S_rc := Σ_{(i,j) in block} ∂L/∂W'_ij · W_ij

    so S falls where weights move towards zero, and rises where they move away from it.
    """

    def __init__(self, weight: torch.Tensor, block_shape: tuple[int, int]):
        super().__init__()
        self.block_shape = block_shape
        self.keep_share = 1.0
        grid = (weight.shape[0] // block_shape[0], weight.shape[1] // block_shape[1])
        self.scores = nn.Parameter(torch.zeros(grid, device=weight.device, dtype=torch.float32))

    def mask(self) -> torch.Tensor:
        """1 for blocks that stay, 0 for the others; differentiable, as the class says."""
        return _TopScores.apply(self.scores, block_count(self.keep_share, *self.scores.shape))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        rows, cols = self.block_shape
        mask = self.mask().to(weight.dtype)
        grid = weight.unflatten(1, (-1, cols)).unflatten(0, (-1, rows))
        return (grid * mask[:, None, :, None]).flatten(2).flatten(0, 1)

    def extra_repr(self) -> str:
        return f"blocks={self.block_shape[0]}x{self.block_shape[1]}, keep={self.keep_share:.4g}"


class MovementPruner:
    """Prunes the chosen Linear layers of a model on a schedule while it is fine-tuned.

        pruner = rarefy.MovementPruner(model, r".*mlp.*", CubicSchedule(final=0.75, begin=100, end=1000), block_shape=32)
        optimizer = torch.optim.AdamW([{"params": pruner.weights()}, {"params": pruner.scores(), "lr": 1e-2, "weight_decay": 0}])
        for … : loss.backward(); optimizer.step(); optimizer.zero_grad(); pruner.step()
        pruner.finish()             # BlockSparseLinear layers in place of the Linear ones

    Arguments:
        pattern: matches the full names of the layers from their start.
        schedule: from step to sparsity; `CubicSchedule` is the papers'.
        block_shape: an int, a pair, or (1, 1) for single weights.

    Make the optimizer after this: scores are new parameters. The mask depends on scores alone, which DDP keeps equal.
    """

    def __init__(self, model: nn.Module, pattern: str, schedule: Callable[[int], float], block_shape: int | tuple[int, int] = (32, 32)):
        self.model, self.schedule, self.steps = model, schedule, 0
        self.layers = matching_linears(model, pattern)
        if not callable(schedule):
            fail("schedule", "a function from step to sparsity", describe(schedule), TypeError)
        self.block_shape = (1, 1) if block_shape in (1, (1, 1)) else block_shape
        shapes = {name: self._shape_for(name, layer) for name, layer in self.layers.items()}
        self._scheduled()
        for name, layer in self.layers.items():
            parametrize.register_parametrization(layer, "weight", Movement(layer.weight, shapes[name]))
        self._prune()

    def _shape_for(self, name: str, layer: nn.Linear) -> tuple[int, int]:
        if self.block_shape == (1, 1):
            return (1, 1)
        return check_block_shape(self.block_shape, layer.out_features, layer.in_features, f"{name}: block_shape")

    def _movements(self) -> list[Movement]:
        return [layer.parametrizations.weight[0] for layer in self.layers.values()]

    def scores(self) -> list[nn.Parameter]:
        """The scores, for a parameter group of their own: the papers train them at 1e-2, without decay."""
        return [movement.scores for movement in self._movements()]

    def weights(self) -> list[nn.Parameter]:
        """All other parameters of the model."""
        scores = {id(parameter) for parameter in self.scores()}
        return [parameter for parameter in self.model.parameters() if id(parameter) not in scores]

    def sparsity(self) -> float:
        """Share of zeros of the chosen weights now."""
        masks = [movement.mask().detach() for movement in self._movements()]
        sizes = [layer.in_features * layer.out_features for layer in self.layers.values()]
        return 1 - sum(float(mask.mean()) * size for mask, size in zip(masks, sizes)) / sum(sizes)

    def step(self) -> float:
        """Counts a training step; returns the sparsity that the next forward has."""
        self.steps += 1
        return self._prune()

    def _scheduled(self) -> float:
        sparsity = self.schedule(self.steps)
        if not 0 <= sparsity < 1:
            fail("schedule", "a sparsity of at least 0 and below 1", describe(sparsity))
        return sparsity

    def _prune(self) -> float:
        sparsity = self._scheduled()
        for movement in self._movements():
            movement.keep_share = 1 - sparsity
        return sparsity

    @torch.no_grad()
    def finish(self) -> nn.Module:
        """Ends pruning: each layer becomes a `BlockSparseLinear` of the blocks that stayed (for (1, 1), a Linear with zeros in
        it, for `rarefy.thin` to pack). Returns the model."""
        for name, layer in self.layers.items():
            movement = layer.parametrizations.weight[0]
            mask = movement.mask().bool()
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
            if movement.block_shape != (1, 1):
                sparse = BlockSparseLinear.from_dense(layer, None, movement.block_shape, mask=mask)
                self.model.set_submodule(name, sparse.train(layer.training))
        return self.model
