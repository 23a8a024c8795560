"""Pruning of checkpoints: Hugging Face folder in, Hugging Face folder out."""

from __future__ import annotations

import os
from collections.abc import Callable

from . import _core
from ._core import PruneReport

Path = str | os.PathLike[str]


def prune(
    model: Path,
    out: Path,
    *,
    method: str = "sparsegpt",
    sparsity: float | None = None,
    pattern: str = "unstructured",
    recipe: str | None = None,
    calibration: str = "",
    samples: int = 128,
    context: int = 0,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[str, int, int, str], None] | None = None,
) -> PruneReport:
    """Prunes the model in a folder and writes it to another, layer by layer: what `rarefy prune` does.

    method: "magnitude", "wanda" or "sparsegpt".
    sparsity: share of zeros; "n:m" patterns imply it.
    pattern: "unstructured", "2:4", "4:8" or blocks such as "32x32".
    recipe: YAML in llm-compressor's conventions, instead of method, sparsity and pattern.
    calibration: text; magnitude needs none. `samples` sequences of `context` tokens are drawn from it (0: the model's, at most 2048).
    progress: called with what is done, how much, of how much, and the current item; an exception from it stops the work.

    An older checkpoint in `out` stays until all is written.
    """
    return _core.prune(model, out, method, sparsity, pattern, recipe, calibration, samples, context, seed, overwrite, progress)
