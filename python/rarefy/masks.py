"""Masks from scores: which weights stay, for every structure that Rarefy packs."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from .block_pattern import blocks_of
from .checks import check_fraction, fail


def _top(scores: torch.Tensor, keep: int) -> torch.Tensor:
    """Mask of the `keep` largest of each row; the earlier position stays first among equals."""
    keep_places = scores.sort(dim=-1, descending=True, stable=True).indices[..., :keep]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, keep_places, True)


def n_of_m_mask(scores: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """The n largest scores of every m consecutive columns stay."""
    return _top(scores.unflatten(-1, (-1, m)), n).flatten(-2)


def unstructured_mask(scores: torch.Tensor, sparsity: float, scope: str) -> torch.Tensor:
    """Exactly round(sparsity·count) of the smallest scores go, in the whole matrix or in each row."""
    rows = scores.flatten()[None] if scope == "tensor" else scores
    count = rows.shape[1]
    keep = count - round(sparsity * count)
    if scope == "tensor":
        # A threshold instead of a full sort; ties at it go to the earlier positions.
        if keep == 0:
            return torch.zeros_like(scores, dtype=torch.bool)
        threshold = rows[0].kthvalue(count - keep + 1).values
        mask = rows[0] > threshold
        ties = (rows[0] == threshold).nonzero().flatten()
        mask[ties[: keep - int(mask.sum())]] = True
        return mask.view_as(scores)
    return _top(rows, keep)


def block_mask(scores: torch.Tensor, sparsity: float, shape: tuple[int, int]) -> torch.Tensor:
    """Whole blocks go, those of the smallest sum of squared scores: exactly round(sparsity·blocks)."""
    energy = blocks_of(scores, *shape).square().sum(dim=(2, 3))
    keep = unstructured_mask(energy, sparsity, "tensor")
    return keep.repeat_interleave(shape[0], 0).repeat_interleave(shape[1], 1)


@dataclass(frozen=True)
class Structure:
    """Where zeros may lie: "unstructured", "n:m" (n kept of every m consecutive inputs) or "RxC" (whole blocks)."""

    kind: str
    first: int = 0
    second: int = 0

    @classmethod
    def parse(cls, text: str) -> Structure:
        if text in ("unstructured", "0:0"):
            return cls("unstructured")
        found = re.fullmatch(r"(\d+)([:x])(\d+)", text) if isinstance(text, str) else None
        if not found or int(found[1]) < 1 or int(found[3]) < 1 or (found[2] == ":" and int(found[1]) >= int(found[3])):
            fail("pattern", '"unstructured", "n:m" with n < m, or "RxC"', repr(text))
        return cls("n:m" if found[2] == ":" else "blocks", int(found[1]), int(found[3]))

    def __str__(self) -> str:
        between = {"n:m": ":", "blocks": "x"}.get(self.kind)
        return self.kind if between is None else f"{self.first}{between}{self.second}"

    def check(self, name: str, out_features: int, in_features: int) -> None:
        """Raises ValueError where a weight of this shape cannot have the structure."""
        if self.kind == "n:m" and in_features % self.second:
            fail(name, f"in_features that are a multiple of {self.second}", in_features)
        if self.kind == "blocks" and (out_features % self.first or in_features % self.second):
            fail(name, f"a shape that blocks of {self} divide", [out_features, in_features])

    def mask(self, scores: torch.Tensor, sparsity: float | None, scope: str = "tensor") -> torch.Tensor:
        """Bool, True where a weight stays; `scores` [out, in] of at least 0, the larger the more a weight is worth.

        Arguments:
            sparsity: share of zeros, at least 0 and below 1; None for n:m, which says its own.
            scope: "tensor" or "row": where the smallest are looked for (unstructured only).
        """
        if self.kind == "n:m":
            return n_of_m_mask(scores, self.first, self.second)
        if scope not in ("tensor", "row"):
            fail("scope", '"tensor" or "row"', repr(scope))
        check_fraction("sparsity", sparsity)
        if self.kind == "blocks":
            return block_mask(scores, sparsity, (self.first, self.second))
        return unstructured_mask(scores, sparsity, scope)
