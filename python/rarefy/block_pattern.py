"""Which blocks of a weight are stored: index arrays from masks and back, and patterns to start from."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .checks import describe, fail

SMALLEST_BLOCK, LARGEST_BLOCK = 8, 128


def block_sides(block_shape: Any, argument: str = "block_shape") -> tuple[int, int]:
    """(block_rows, block_cols) from an int or a pair."""
    pair = (block_shape, block_shape) if isinstance(block_shape, int) else block_shape
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(isinstance(v, int) for v in pair):
        fail(argument, "an int or a pair (rows, columns)", describe(block_shape), TypeError)
    return pair[0], pair[1]


def check_block_shape(block_shape: Any, out_features: int, in_features: int, argument: str = "block_shape") -> tuple[int, int]:
    """The sides of blocks that layers take: multiples of 8 from 8 to 128 that divide the weight."""
    pair = block_sides(block_shape, argument)
    for value, features, name in ((pair[0], out_features, "out_features"), (pair[1], in_features, "in_features")):
        if not SMALLEST_BLOCK <= value <= LARGEST_BLOCK or value % SMALLEST_BLOCK:
            fail(argument, f"multiples of 8 from {SMALLEST_BLOCK} to {LARGEST_BLOCK}", pair)
        if features % value:
            fail(argument, f"a divisor of {name}={features}", value)
    return pair


class BlockIndex(NamedTuple):
    """The same stored blocks twice, by block rows (as in torch's BSR) and by block columns; int32.

    The i-th block by columns lies in block row `row_indices[i]` and is the `order[i]`-th by rows.
    """

    row_offsets: torch.Tensor  # block rows + 1
    col_indices: torch.Tensor  # stored blocks, ascending within a row
    col_offsets: torch.Tensor  # block columns + 1
    row_indices: torch.Tensor  # stored blocks, ascending within a column
    order: torch.Tensor  # stored blocks


def _offsets(counts: torch.Tensor) -> torch.Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32)


def index_from_mask(mask: torch.Tensor) -> BlockIndex:
    """Index arrays of the blocks that are True in `mask`, a bool tensor of block rows × block columns."""
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool or mask.dim() != 2:
        fail("mask", "a bool tensor of block rows × block columns", describe(mask))
    rows, cols = mask.nonzero(as_tuple=True)
    return _index(rows, cols, *mask.shape)


def index_from_rows(row_offsets: torch.Tensor, col_indices: torch.Tensor, block_cols: int) -> BlockIndex:
    """Adds the order by columns to a pattern given by rows; checks every index of it."""
    check_rows(row_offsets, col_indices, block_cols)
    return _index(block_rows_of(row_offsets), col_indices.long(), row_offsets.numel() - 1, block_cols)


def _index(rows: torch.Tensor, cols: torch.Tensor, block_rows: int, block_cols: int) -> BlockIndex:
    order = torch.argsort(cols * block_rows + rows)  # by column, then by row: all keys differ
    return BlockIndex(
        _offsets(torch.bincount(rows, minlength=block_rows)),
        cols.to(torch.int32),
        _offsets(torch.bincount(cols, minlength=block_cols)),
        rows[order].to(torch.int32),
        order.to(torch.int32),
    )


def check_rows(row_offsets: torch.Tensor, col_indices: torch.Tensor, block_cols: int) -> None:
    """Raises ValueError unless the two arrays describe distinct blocks in ascending order."""
    for name, array in (("row_offsets", row_offsets), ("col_indices", col_indices)):
        if array.dtype != torch.int32 or array.dim() != 1:
            fail(name, "int32 of one dimension", describe(array))
    if row_offsets.numel() < 2 or row_offsets[0] != 0 or (row_offsets.diff() < 0).any():
        fail("row_offsets", "ascending offsets from 0", row_offsets.tolist()[:8])
    if row_offsets[-1] != col_indices.numel():
        fail("row_offsets", f"a last offset of {col_indices.numel()} (stored blocks)", int(row_offsets[-1]))
    if col_indices.numel() and (col_indices.min() < 0 or col_indices.max() >= block_cols):
        bad = col_indices[(col_indices < 0) | (col_indices >= block_cols)][0]
        fail("col_indices", f"block columns from 0 to {block_cols - 1}", int(bad))
    place = block_rows_of(row_offsets) * block_cols + col_indices.long()
    if (place.diff() <= 0).any():
        fail("col_indices", "ascending block columns without repeats in each row", "another order")


def block_rows_of(row_offsets: torch.Tensor) -> torch.Tensor:
    """The block row of each stored block, int64."""
    rows = torch.arange(row_offsets.numel() - 1, device=row_offsets.device)
    return torch.repeat_interleave(rows, row_offsets.diff().long())


def mask_from_rows(row_offsets: torch.Tensor, col_indices: torch.Tensor, block_cols: int) -> torch.Tensor:
    """The inverse of `index_from_mask`."""
    mask = torch.zeros(row_offsets.numel() - 1, block_cols, dtype=torch.bool, device=row_offsets.device)
    mask[block_rows_of(row_offsets), col_indices.long()] = True
    return mask


def blocks_of(dense: torch.Tensor, block_rows: int, block_cols: int) -> torch.Tensor:
    """A view [block rows, block columns, block_rows, block_cols] of a dense matrix."""
    return dense.unflatten(1, (-1, block_cols)).unflatten(0, (-1, block_rows)).transpose(1, 2)


def block_count(density: float, block_rows: int, block_cols: int) -> int:
    """Stored blocks of a grid at `density`: rounded, at least one."""
    return max(1, round(density * block_rows * block_cols))


def largest_blocks(dense: torch.Tensor, count: int, block_shape: tuple[int, int]) -> torch.Tensor:
    """Mask of the `count` blocks of the largest Frobenius norm; the earlier block first among equals."""
    norms = blocks_of(dense.detach(), *block_shape).float().square().sum(dim=(2, 3))
    if not torch.isfinite(norms).all():
        row, col = (~torch.isfinite(norms)).nonzero()[0].tolist()
        fail("weight", "finite values", f"one that is not finite, or overflows, in block ({row}, {col})")
    chosen = norms.flatten().sort(descending=True, stable=True).indices[:count]
    mask = torch.zeros(norms.numel(), dtype=torch.bool, device=dense.device)
    mask[chosen] = True
    return mask.view_as(norms)


def balanced_mask(count: int, block_rows: int, block_cols: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """A random mask of `count` blocks whose rows differ by one block at most, and whose columns nearly so.

    Equal rows keep the variance of all outputs equal and the cores equally busy; covered columns keep every input in use.
    """
    longer = torch.randperm(block_rows, generator=generator, device="cpu")[: count % block_rows]
    per_row = torch.full((block_rows,), count // block_rows, device="cpu")
    per_row[longer] += 1
    used = torch.zeros(block_cols, device="cpu")
    mask = torch.zeros(block_rows, block_cols, dtype=torch.bool, device="cpu")
    for row in torch.randperm(block_rows, generator=generator, device="cpu").tolist():
        # The least used columns; ties in random order.
        tie = torch.rand(block_cols, generator=generator, device="cpu")
        chosen = (used + 0.5 * tie).argsort()[: int(per_row[row])]
        mask[row, chosen] = True
        used[chosen] += 1
    return mask
