"""A linear layer that stores, multiplies and trains only some blocks of its weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from . import block_pattern as pattern
from . import ops
from .block_sparse_state import check_entry
from .checks import check_density, check_float_tensor, check_positive, describe, fail


class BlockSparseLinear(nn.Module):
    """y = x·Wᵀ + b, where W (out_features × in_features) is zero outside of its stored blocks.

    Only stored blocks exist: in the parameter, its gradient, the optimizer's states and the arithmetic of forward and
    backward. With S the set of stored (r, c), R×C blocks and W_rc the block of outputs r and inputs c:

        y_r = Σ_{c: (r,c) in S} x_c·W_rcᵀ + b_r        ∂L/∂x_c = Σ_{r: (r,c) in S} g_r·W_rc
        ∂L/∂W_rc = g_rᵀ·x_c for (r, c) in S            ∂L/∂b = Σ_tokens g

    Parameters:
        weight: [stored blocks, R, C], in row order (the values of torch's BSR layout); float32, bfloat16 or float16.
        bias: [out_features], or None.
    Buffers: `row_offsets` and `col_indices` (int32, saved with the weight); `col_offsets`, `row_indices` and `order`,
    the same blocks by columns, are made from them.

    Arguments:
        density: share of the blocks that is stored, above 0 and at most 1; at least one block is.
        block_shape: R and C, or one number for both: multiples of 8 from 8 to 128 that divide the features.
        mask: which blocks to store, bool [out_features/R, in_features/C], in place of a random pattern of `density`
            whose rows and columns are equally full.

    Weights begin as in `nn.Linear`, with the fan-in of what is *stored*: U(-1/√f, 1/√f), f = C·(blocks of the row).
    Sums are in float32. Works under autocast, `torch.compile`, DistributedDataParallel and `fully_shard`. On a GPU float16 and
    bfloat16 with blocks of 16 to 128 (powers of two, one side at most twice the other) are fast; the rest, float32 without
    autocast too, is multiplied by torch with the zeros written out for the time of a call.

    Errors: ValueError or TypeError that names the argument, what was expected and what came.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    probe: Any = None  # A GradientProbe in the steps in which SparseOptimizer needs one.

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        density: float | None = None,
        block_shape: int | tuple[int, int] = (32, 32),
        *,
        mask: torch.Tensor | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.in_features = check_positive("in_features", in_features)
        self.out_features = check_positive("out_features", out_features)
        self.block_shape = pattern.check_block_shape(block_shape, out_features, in_features)
        if (density is None) == (mask is None):
            fail("density", "either density or mask", f"density={density}, mask={'given' if mask is not None else None}")
        if mask is None:
            grid = self.grid
            mask = pattern.balanced_mask(pattern.block_count(check_density("density", density), *grid), *grid)
        index = pattern.index_from_mask(self.check_mask(mask).cpu())

        dtype = torch.get_default_dtype() if dtype is None else dtype
        device = torch.get_default_device() if device is None else device
        values = torch.empty(index.col_indices.numel(), *self.block_shape, device=device, dtype=dtype)
        self.weight = nn.Parameter(check_float_tensor("dtype", values))
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None)
        for name, array in index._asdict().items():
            self.register_buffer(name, array.to(device), persistent=name in ("row_offsets", "col_indices"))
        self.reset_parameters()

    @property
    def grid(self) -> tuple[int, int]:
        """Blocks of the whole weight, by rows and columns."""
        return self.out_features // self.block_shape[0], self.in_features // self.block_shape[1]

    @property
    def nnz_blocks(self) -> int:
        """Stored blocks."""
        return self.col_indices.numel()

    @property
    def density(self) -> float:
        """Share of the blocks that is stored."""
        return self.nnz_blocks / (self.grid[0] * self.grid[1])

    @property
    def block_mask(self) -> torch.Tensor:
        """Bool [out_features/R, in_features/C]: which blocks are stored."""
        return pattern.mask_from_rows(self.row_offsets, self.col_indices, self.grid[1])

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws weight and bias anew, as the class says."""
        if self.weight.is_meta:
            return
        counts = self.row_offsets.diff()
        bound = (counts.clamp(min=1) * self.block_shape[1]).rsqrt().to(self.weight.dtype)
        self.weight.uniform_(-1, 1).mul_(bound[pattern.block_rows_of(self.row_offsets)][:, None, None])
        if self.bias is not None:
            self.bias.uniform_(-1, 1).mul_(bound.repeat_interleave(self.block_shape[0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: […, in_features] in the weight's dtype (any float under autocast), on its device. Returns […, out_features]."""
        # As attributes of the module parameters and buffers take 0.4 µs each.
        arrays, parameters = self._buffers, self._parameters
        weight = parameters["weight"] if "weight" in parameters else self.weight  # noqa: SIM401
        bias = parameters["bias"] if "bias" in parameters else self.bias  # noqa: SIM401
        if not (x.is_cpu and weight.is_cpu) and x.device != weight.device:
            fail("x", f"a tensor on {weight.device}", describe(x))
        if x.dtype is not weight.dtype and not torch.is_autocast_enabled(x.device.type):
            fail("x", f"{weight.dtype} as the weight (or autocast)", describe(x), TypeError)
        # A BlockPattern, but for its name, which takes 0.4 µs.
        index = (
            arrays["row_offsets"], arrays["col_indices"], arrays["col_offsets"], arrays["row_indices"], arrays["order"],
            self.out_features, self.in_features,
        )  # fmt: skip
        y = ops.bsr_linear(x, weight, index, bias)
        return y if self.probe is None else y + self.probe(x)

    @classmethod
    def from_dense(
        cls,
        dense: nn.Linear | torch.Tensor,
        density: float | None = None,
        block_shape: int | tuple[int, int] = (32, 32),
        *,
        bias: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> BlockSparseLinear:
        """A layer with the blocks of `dense` of the *largest* Frobenius norm, or those of `mask`; values are copied.

        Arguments:
            dense: a Linear, whose bias comes along, or a weight [out_features, in_features] with `bias` beside it.
            mask: bool by blocks, [out_features/R, in_features/C], or by elements, [out_features, in_features]; a block
                is stored when one of its elements is. Elements that the mask leaves out become zero, but train.
        """
        if isinstance(dense, nn.Linear):
            if bias is not None:
                fail("bias", "None beside a Linear, which brings its own", describe(bias))
            dense, bias = dense.weight, dense.bias
        check_float_tensor("dense", dense, 2)
        dense = dense.detach()
        shape = pattern.check_block_shape(block_shape, *dense.shape)
        if bias is not None and (not isinstance(bias, torch.Tensor) or bias.shape != dense.shape[:1]):
            fail("bias", f"[{dense.shape[0]}]", describe(bias))
        if (density is None) == (mask is None):
            fail("density", "either density or mask", f"density={density}, mask={'given' if mask is not None else None}")
        if mask is None:
            grid = (dense.shape[0] // shape[0], dense.shape[1] // shape[1])
            mask = pattern.largest_blocks(dense, pattern.block_count(check_density("density", density), *grid), shape)
        elif isinstance(mask, torch.Tensor) and mask.dtype == torch.bool and mask.shape == dense.shape:
            mask = mask.to(dense.device)
            dense = torch.where(mask, dense, 0)
            mask = pattern.blocks_of(mask, *shape).any(dim=3).any(dim=2)
        layer = cls(
            dense.shape[1], dense.shape[0], bias is not None, None, shape,
            mask=mask, device="meta", dtype=dense.dtype,
        )  # fmt: skip
        layer.assign_blocks(mask.to(dense.device), pattern.blocks_of(dense, *shape))
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().to(dense).clone())
        return layer

    @torch.no_grad()
    def assign_blocks(self, mask: torch.Tensor, blocks: torch.Tensor) -> None:
        """Stores the blocks of `mask` from here on, with values from `blocks` [grid rows, grid columns, R, C].

        The parameter stays the same object while the number of blocks does (optimizers and DDP don't notice), and is
        replaced otherwise: make optimizers anew then.
        """
        mask = self.check_mask(mask).to(blocks.device)
        index = pattern.index_from_mask(mask)
        values = blocks[mask]
        if values.shape == self.weight.shape and not self.weight.is_meta:
            self.weight.copy_(values)
        else:
            self.weight = nn.Parameter(values.clone(), requires_grad=self.weight.requires_grad)
        for name, array in index._asdict().items():
            setattr(self, name, array)

    def to_dense(self, values: torch.Tensor | None = None) -> torch.Tensor:
        """[out_features, in_features], zeros included; differentiable. `values` in place of the weight: its gradient, say."""
        values = self.weight if values is None else values
        if values.shape != self.weight.shape:
            fail("values", f"{list(self.weight.shape)} as the weight", describe(values))
        places = (pattern.block_rows_of(self.row_offsets), self.col_indices.long())
        blocks = values.new_zeros(*self.grid, *self.block_shape).index_put(places, values)
        return blocks.transpose(1, 2).reshape(self.out_features, self.in_features)

    def to_linear(self) -> nn.Linear:
        """The same layer with a dense weight."""
        dense = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        dense.weight = nn.Parameter(self.to_dense().detach())
        if self.bias is not None:
            dense.bias = nn.Parameter(self.bias.detach().clone())
        return dense

    def check_mask(self, mask: torch.Tensor) -> torch.Tensor:
        """Demands a mask of this layer's blocks that stores at least one of them."""
        if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != self.grid:
            fail("mask", f"bool {list(self.grid)} (blocks of {self.block_shape})", describe(mask))
        if not mask.any():
            fail("mask", "at least one stored block", "none")
        return mask

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
        found = check_entry(self, state_dict, prefix)
        if isinstance(found, str):
            errors.append(found)
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)
        if found is not None and not self.weight.is_meta:
            index = pattern.index_from_rows(self.row_offsets, self.col_indices, self.grid[1])
            for name, array in index._asdict().items():
                setattr(self, name, array)

    def extra_repr(self) -> str:
        rows, cols = self.block_shape
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"blocks={rows}x{cols}, density={self.density:.4g}"
        )
