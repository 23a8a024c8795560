"""Lets block-sparse layers choose their blocks while they train."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from .block_moves import bare_optimizer, move_blocks
from .block_sparse_linear import BlockSparseLinear
from .checks import check_fraction, describe, fail
from .regrowth import GradientProbe, drop_scores, next_mask
from .schedules import CosineSchedule


class SparseOptimizer:
    """Every `every` steps, replaces the least useful stored blocks of each layer by more promising ones.

        optimizer = torch.optim.AdamW(model.parameters())
        sparse = rarefy.SparseOptimizer(model, optimizer, total_steps=10_000)
        …                              # for each step: loss.backward()
        optimizer.step()
        sparse.step()                  # before zero_grad
        optimizer.zero_grad()

    With the defaults this is RigL (Evci, Gale, Menick, Castro, Elsen, "Rigging the Lottery: Making All Tickets Winners", 2020)
    on blocks. At step t, for a layer of n stored blocks, k = f(t)·n of them move:

        f(t) = fraction/2·(1 + cos(π·t/T_end)),  T_end = 0.75·total_steps
        drop  the k stored blocks of the least ‖W_rc‖_F
        grow  the k empty places of the largest ‖∂L/∂W_rc‖_F, at zero

    The gradient at empty places is measured in the update's own step only, summed over its backward passes and over the
    processes of torch.distributed. `grow="random"` is SET (Mocanu, Mohr, Stone, Gibescu, Liotta 2018) and what
    pytorch_block_sparse did with `method="magnitude"`. The number of blocks never changes, nor does the parameter object:
    every optimizer, scheduler and DDP wrapper stays valid. States of the optimizers follow their blocks and are zero
    for new ones (`move_blocks`). All processes move the same blocks: process 0 decides.

    Arguments:
        model: a module whose `BlockSparseLinear`s are taken, or a list of them.
        optimizers: those that hold the weights' states, any number; `attach_optimizer` adds more.
        total_steps: length of the training, for the schedule; or give `schedule`, a function from step to the share to move.
        every: steps between updates; blocks move at step `every`, 2·`every`, ….
        drop: "magnitude" or "gradient" (|Σ W ⊙ ∂L/∂W|). grow: "gradient" or "random".
        new_scale: standard deviation of new blocks as a share of the layer's; 0 (as in RigL) changes no output.
        candidates: share of the empty places whose gradient is looked at, to save memory in an update.
        seed: of random places and values.
    """

    def __init__(
        self,
        model: nn.Module | Iterable[BlockSparseLinear],
        optimizers: Any = (),
        *,
        total_steps: int | None = None,
        schedule: Any = None,
        every: int = 100,
        fraction: float = 0.3,
        drop: str = "magnitude",
        grow: str = "gradient",
        new_scale: float = 0.0,
        candidates: float = 1.0,
        seed: int = 0,
    ):
        self.layers = self.sparse_objects(model) if isinstance(model, nn.Module) else list(model)
        if not self.layers:
            fail("model", "at least one BlockSparseLinear", "none")
        for layer in self.layers:
            if not isinstance(layer, BlockSparseLinear):
                fail("model", "BlockSparseLinear layers", type(layer).__name__, TypeError)
        if (total_steps is None) == (schedule is None):
            fail("total_steps", "either total_steps or schedule", f"total_steps={total_steps}, schedule={schedule}")
        if every < 1:
            fail("every", "at least 1", describe(every))
        if drop not in ("magnitude", "gradient"):
            fail("drop", '"magnitude" or "gradient"', describe(drop))
        if grow not in ("random", "gradient"):
            fail("grow", '"gradient" or "random"', describe(grow))
        if not 0 < candidates <= 1:
            fail("candidates", "a share above 0 and at most 1", describe(candidates))
        check_fraction("fraction", fraction)
        self.schedule = schedule or CosineSchedule(fraction, max(1, round(0.75 * total_steps)))
        self.every, self.drop, self.grow = every, drop, grow
        self.new_scale, self.candidates = new_scale, candidates
        self.generator = torch.Generator().manual_seed(seed)
        self.steps = 0
        self.moved = 0
        self._probes: dict[int, GradientProbe] = {}
        self.optimizers: list[torch.optim.Optimizer] = []
        for optimizer in optimizers if isinstance(optimizers, (list, tuple)) else [optimizers]:
            self.attach_optimizer(optimizer)
        self._arm()

    @staticmethod
    def sparse_objects(model: nn.Module) -> list[BlockSparseLinear]:
        """The layers of `model` whose blocks can move."""
        return [module for module in model.modules() if isinstance(module, BlockSparseLinear)]

    def attach_optimizer(self, optimizer: Any) -> None:
        """States of `optimizer` follow the blocks from now on. It may be wrapped, as Accelerate does."""
        bare = bare_optimizer(optimizer)
        if bare not in self.optimizers:
            self.optimizers.append(bare)

    def _check_attached(self) -> None:
        """An optimizer that is not attached would go on with states of other blocks."""
        held = {id(p) for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]}
        for layer in self.layers:
            if layer.weight.requires_grad and id(layer.weight) not in held:
                fail("optimizers", f"one that holds the weight of {layer}", "none (attach_optimizer)")

    def step(self) -> int:
        """Counts a training step, and moves blocks when it is time: call it after the optimizer's step and before the
        gradients are cleared. Returns how many blocks moved."""
        self.steps += 1
        moved = self._update(self.schedule(self.steps)) if self.steps % self.every == 0 else 0
        self._arm()
        self.moved += moved
        return moved

    def _arm(self) -> None:
        if self.grow == "gradient" and (self.steps + 1) % self.every == 0 and self.schedule(self.steps + 1) > 0:
            self._probes = {i: GradientProbe(layer, self.candidates, self.generator) for i, layer in enumerate(self.layers)}

    def _update(self, share: float) -> int:
        moved = 0
        self._check_attached()
        for i, layer in enumerate(self.layers):
            probe = self._probes.pop(i, None)
            count = int(share * layer.nnz_blocks)
            promise = probe.close() if probe is not None else torch.rand(layer.grid, generator=self.generator, device="cpu")
            if count == 0:
                continue
            device = layer.row_offsets.device
            mask = next_mask(layer, drop_scores(layer, self.drop), promise.to(device), count)
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                decided = mask.to(torch.uint8)
                torch.distributed.broadcast(decided, 0)
                mask = decided.bool()
            moved += move_blocks(layer, mask, self.optimizers, self._fresh(layer, mask))
        return moved

    def _fresh(self, layer: BlockSparseLinear, mask: torch.Tensor) -> torch.Tensor | None:
        if self.new_scale == 0:
            return None
        count = int((mask & ~layer.block_mask).sum())
        values = torch.randn(count, *layer.block_shape, generator=self.generator, device="cpu")
        return values.to(layer.weight) * (self.new_scale * layer.weight.detach().float().std())

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on: the step and the state of the random numbers. (Patterns are in the model's.)"""
        return {"steps": self.steps, "moved": self.moved, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.moved = state["steps"], state["moved"]
        self.generator.set_state(state["generator"])
        for probe in self._probes.values():
            probe.close()
        self._probes = {}
        self._arm()
