"""Operators for torch: the functions that layers call, over `torch.ops.rarefy.*`."""

from .block_places import bsr_kernels
from .block_sparse import BlockPattern, block_pattern, block_pattern_of_mask, bsr_linear, bsr_linear_transposed, bsr_sddmm
from .linear import ACTIVATIONS, Weight, linear, pack, to_dense
from .sampled import csr_linear, csr_values, sddmm
from .threads import share_threads

__all__ = [
    "ACTIVATIONS",
    "BlockPattern",
    "Weight",
    "block_pattern",
    "block_pattern_of_mask",
    "bsr_kernels",
    "bsr_linear",
    "bsr_linear_transposed",
    "bsr_sddmm",
    "csr_linear",
    "csr_values",
    "linear",
    "pack",
    "sddmm",
    "share_threads",
    "to_dense",
]

share_threads()
