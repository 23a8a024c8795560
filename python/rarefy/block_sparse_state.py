"""State dicts of block-sparse layers: what fits, what does not and why, and explicit conversions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from . import block_pattern as pattern
from .checks import describe, fail

if TYPE_CHECKING:
    from .block_sparse_linear import BlockSparseLinear

PATTERN_KEYS = ("row_offsets", "col_indices")


def check_entry(layer: BlockSparseLinear, state: Mapping[str, Any], prefix: str) -> str | bool | None:
    """A complaint where the entry does not fit `layer`; True where it brings a pattern, None where it brings none."""
    weight, row_offsets, col_indices = (state.get(prefix + key) for key in ("weight", *PATTERN_KEYS))
    name = prefix + "weight"
    convert = "rarefy.load_block_sparse(model, state_dict, density=…) converts"
    if weight is None:
        return None
    if weight.dim() == 2:
        return f"{name}: expected {list(layer.weight.shape)} (stored blocks), got a dense {list(weight.shape)}; {convert}"
    if tuple(weight.shape[1:]) != layer.block_shape:
        return f"{name}: expected blocks of {layer.block_shape}, got {tuple(weight.shape[1:])}; {convert}"
    if row_offsets is None or col_indices is None:
        return None
    if row_offsets.numel() != layer.grid[0] + 1:
        return f"{prefix}row_offsets: expected {layer.grid[0] + 1} offsets, got {row_offsets.numel()}: another shape"
    if weight.shape[0] != layer.nnz_blocks:
        theirs = weight.shape[0] / (layer.grid[0] * layer.grid[1])
        return (
            f"{name}: expected {layer.nnz_blocks} stored blocks (density {layer.density:.4g}), "
            f"got {weight.shape[0]} (density {theirs:.4g}); {convert}"
        )
    if not row_offsets.is_meta:
        try:
            pattern.check_rows(row_offsets, col_indices, layer.grid[1])
        except ValueError as error:
            return f"{prefix}{error}"
    return True


def load_block_sparse(model: nn.Module, state_dict: Mapping[str, torch.Tensor], density: str = "checkpoint", strict: bool = True) -> Any:
    """`model.load_state_dict` that also converts block-sparse weights to what they are loaded into.

    A dense `nn.Linear` whose entry is block-sparse is replaced by a `BlockSparseLinear` of the entry's pattern, so a model
    built from its configuration loads a sparse checkpoint back. A `BlockSparseLinear` of another density or block shape

    - takes the checkpoint's blocks with `density="checkpoint"` (its parameter is replaced: make optimizers anew);
    - keeps its own number of blocks with `density="model"`: the largest of the checkpoint's by norm; where the checkpoint
      has fewer, zero blocks fill up. A dense entry is converted the same way.

    Returns what `load_state_dict` returns. Raises RuntimeError as it does, ValueError for entries that are not block-sparse
    weights of the layer's shape.
    """
    if density not in ("checkpoint", "model"):
        fail("density", '"checkpoint" or "model"', describe(density))
    from .block_sparse_linear import BlockSparseLinear

    state = dict(state_dict)
    modules = dict(model.named_modules())
    for name in list(modules):
        layer, prefix = modules[name], f"{name}." if name else ""
        weight = state.get(prefix + "weight")
        sparse_entry = prefix + "col_indices" in state
        if isinstance(layer, nn.Linear) and sparse_entry:
            layer = _from_entry(layer, state, prefix)
            if not name:
                fail("model", "a module that contains the layer", "the Linear itself, which cannot be replaced in place")
            model.set_submodule(name, layer)
        elif isinstance(layer, BlockSparseLinear) and weight is not None and check_entry(layer, state, prefix) is not True:
            if density == "checkpoint":
                if not sparse_entry:
                    fail(prefix + "weight", 'a block-sparse entry (or density="model")', describe(weight))
                loaded = _from_entry(layer, state, prefix)
                layer.block_shape = loaded.block_shape
                layer.assign_blocks(loaded.block_mask, _blocks(loaded.to_dense(), loaded))
            else:
                dense = _from_entry(layer, state, prefix).to_dense() if sparse_entry else _dense_entry(layer, weight, prefix)
                mask = pattern.largest_blocks(dense, layer.nnz_blocks, layer.block_shape)
                layer.assign_blocks(mask, _blocks(dense.to(layer.weight), layer))
            for key in ("weight", *PATTERN_KEYS):
                state[prefix + key] = getattr(layer, key).detach()
    return model.load_state_dict(state, strict=strict)


def _blocks(dense: torch.Tensor, layer: BlockSparseLinear) -> torch.Tensor:
    return pattern.blocks_of(dense.detach(), *layer.block_shape)


def _dense_entry(layer: BlockSparseLinear, weight: torch.Tensor, prefix: str) -> torch.Tensor:
    if tuple(weight.shape) != (layer.out_features, layer.in_features):
        fail(prefix + "weight", f"[{layer.out_features}, {layer.in_features}]", describe(weight))
    return weight


def _from_entry(like: nn.Linear | BlockSparseLinear, state: Mapping[str, Any], prefix: str) -> BlockSparseLinear:
    """A layer of `like`'s features, device and dtype that holds the entry's blocks."""
    from .block_sparse_linear import BlockSparseLinear

    values, row_offsets, col_indices = (state.get(prefix + key) for key in ("weight", *PATTERN_KEYS))
    if values is None or row_offsets is None or values.dim() != 3 or values.shape[0] != col_indices.numel():
        fail(prefix + "weight", "blocks [stored, R, C] with row_offsets and col_indices", describe(values))
    rows, cols = pattern.check_block_shape(tuple(values.shape[1:]), like.out_features, like.in_features)
    if row_offsets.numel() != like.out_features // rows + 1:
        fail(prefix + "row_offsets", f"{like.out_features // rows + 1} offsets", row_offsets.numel())
    try:
        pattern.check_rows(row_offsets, col_indices, like.in_features // cols)
    except ValueError as error:
        raise type(error)(f"{prefix}{error}") from None
    mask = pattern.mask_from_rows(row_offsets, col_indices, like.in_features // cols)
    target = like.weight
    layer = BlockSparseLinear(
        like.in_features, like.out_features, like.bias is not None, None, (rows, cols),
        mask=mask, device=target.device, dtype=target.dtype,
    )  # fmt: skip
    layer.train(like.training)
    if not target.is_meta:
        with torch.no_grad():
            layer.weight.copy_(values)
            if like.bias is not None:
                layer.bias.copy_(like.bias)
    return layer
