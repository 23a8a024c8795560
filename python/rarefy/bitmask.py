"""compressed-tensors' `sparse-bitmask`: a weight as a bitmap and its nonzeros, the form in which thin models are saved.

A weight `P.weight` of M rows and K columns becomes four arrays (docs/checkpoints.md):

    P.bitmask      uint8 [M, ceil(K/8)]   bit c mod 8 of byte c/8 of a row is column c
    P.compressed   [nonzeros]             the values, row by row
    P.row_offsets  int64 [M]              where a row's values begin
    P.shape        int64 [2]              M, K
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from .checks import check_float_tensor, describe, fail

KEYS = ("bitmask", "compressed", "row_offsets", "shape")


def compress(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """The four arrays of a dense weight. Zeros of either sign are not stored; NaN and infinities are values."""
    check_float_tensor("weight", weight, 2)
    weight = weight.detach().cpu()
    mask = weight != 0
    counts = torch.from_numpy(mask.numpy().sum(axis=1, dtype=np.int64))
    return {
        "bitmask": torch.from_numpy(np.packbits(mask.numpy(), axis=1, bitorder="little")),
        "compressed": weight[mask],
        "row_offsets": counts.cumsum(0) - counts,
        "shape": torch.tensor(weight.shape),
    }


def decompress(arrays: Mapping[str, torch.Tensor], name: str = "weight") -> torch.Tensor:
    """The dense weight of `KEYS`, on the CPU. Raises ValueError that names `name` where the arrays contradict each other."""
    bitmask, values, offsets, shape = (arrays.get(key) for key in KEYS)
    for key, array in zip(KEYS, (bitmask, values, offsets, shape)):
        if array is None and key != "row_offsets":
            fail(f"{name}.{key}", "an array beside the others", "none")
    if shape.numel() != 2 or shape.min() < 0:
        fail(f"{name}.shape", "two sizes", shape.tolist())
    rows, cols = (int(size) for size in shape)
    if bitmask.dtype != torch.uint8 or tuple(bitmask.shape) != (rows, (cols + 7) // 8):
        fail(f"{name}.bitmask", f"uint8 [{rows}, {(cols + 7) // 8}]", describe(bitmask))
    bits = torch.from_numpy(np.unpackbits(bitmask.cpu().numpy(), axis=1, bitorder="little")).bool()
    if bits[:, cols:].any():
        fail(f"{name}.bitmask", f"no bit beyond column {cols}", "some")
    mask = bits[:, :cols]
    counts = mask.sum(dim=1)
    if values.dim() != 1 or values.numel() != int(counts.sum()):
        fail(f"{name}.compressed", f"[{int(counts.sum())}] (set bits)", describe(values))
    if offsets is not None and not offsets.flatten().cpu().equal(counts.cumsum(0) - counts):
        fail(f"{name}.row_offsets", "sums of the bits of the rows before", "others")
    check_float_tensor(f"{name}.compressed", values)
    weight = torch.zeros(rows, cols, dtype=values.dtype)
    weight[mask] = values.cpu()
    return weight
