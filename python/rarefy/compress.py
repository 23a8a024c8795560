"""Pruning of checkpoints: Hugging Face folder in, Hugging Face folder out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from . import _core
from ._core import PruneReport


def _text_of(given: str | os.PathLike[str]) -> str:
    return Path(given).read_text(encoding="utf-8") if isinstance(given, os.PathLike) else given


def prune(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    method: str = "sparsegpt",
    sparsity: float | None = None,
    pattern: str = "unstructured",
    recipe: str | os.PathLike[str] | None = None,
    calibration: str | os.PathLike[str] = "",
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
    recipe: YAML in llm-compressor's conventions, instead of method, sparsity and pattern: the text, or a `pathlib.Path` to it.
    calibration: the text, or a `pathlib.Path` to it; magnitude needs none. `samples` sequences of `context` tokens are drawn
        from it (0: the model's context, at most 2048), where `seed` says.
    overwrite: whether `out` may hold a checkpoint already, which stays until all of the new one is written.
    progress: called with what is done, how much, of how much, and the current item; an exception from it stops the work.

    Returns what became of each weight. Raises ArgumentError (also for a recipe that names no weight of the model, and a text
    that is too short), CorruptError for a checkpoint or recipe that contradicts itself, OSError for files that cannot be read.
    """
    recipe = None if recipe is None else _text_of(recipe)
    calibration = _text_of(calibration)
    return _core.prune(model, out, method, sparsity, pattern, recipe, calibration, samples, context, seed, overwrite, progress)
