"""Layers of a model by regular expressions over their full names."""

from __future__ import annotations

import difflib
import re

from torch import nn

from .checks import fail


def check_expression(argument: str, pattern: str) -> None:
    """Demands a regular expression."""
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        fail(argument, "a regular expression", f"{pattern!r}: {error}")


def matching_linears(model: nn.Module, pattern: str) -> dict[str, nn.Linear]:
    """The `nn.Linear`s of `model` whose full names `pattern` matches from their start, by name; ValueError where there is none."""
    check_expression("pattern", pattern)
    linears = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    chosen = {name: layer for name, layer in linears.items() if re.match(pattern, name)}
    if not chosen:
        fail("pattern", "an expression that matches a Linear", f"{pattern!r}; {near_misses(pattern, list(linears))}")
    return chosen


def near_misses(pattern: str, names: list[str], count: int = 5) -> str:
    """The names most like an expression that matched none of them, for a message."""
    if not names:
        return "the model has no Linear"
    plain = re.sub(r"\\(.)|\[[^]]*\][+*?]?|[.^$*+?()|{}]", lambda found: found.group(1) or "", pattern)
    inside = [name for name in names if re.search(pattern, name)]
    near = inside or difflib.get_close_matches(plain, names, count, 0.3) or names
    hint = "it matches inside of, but not from the start of, " if inside else "the nearest names are "
    return hint + ", ".join(near[:count])
