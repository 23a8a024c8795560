"""What to do with which layers: recipes as a dict, a number, or a file of llm-compressor's conventions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .checks import check_fraction, describe, fail
from .errors import CorruptError
from .layer_names import check_expression, near_misses
from .masks import Structure
from .planning import check_tokens

METHODS = ("magnitude", "wanda", "keep")


@dataclass
class Recipe:
    """How `rarefy.thin` makes a model thin.

    method: "magnitude" (|w|; Han, Pool, Tran, Dally 2015), "wanda" (|w_ij|·‖x_j‖₂; Sun, Liu, Bair, Kolter 2023; needs
        `calibration`), or "keep": no weight goes, the zeros that are there are used. SparseGPT is `rarefy.prune`'s.
    sparsity: share of zeros, at least 0 and below 1.
    pattern: "unstructured", "n:m" (n kept of every m inputs; says its own sparsity) or "RxC" blocks.
    scope: "tensor" or "row": where the smallest weights are looked for; by default the row for wanda, as its authors do.
    targets, ignore: "Linear" (every linear weight), a module's name or its last parts ("q_proj"), a module around it
        ("model.layers.3"), or "re:" and an expression that matches from the start of one of these names. Ignored by default:
        the output embedding.
    masks: {layer name: bool tensor [out, in], True where a weight stays}, made elsewhere; targets are these layers then.
    calibration: what the model is run on for wanda: token ids [samples, context], a dict of arguments, or an iterable of such.
    format: "auto" searches the fastest on this machine; or one of `rarefy.pack`.
    tokens: how many rows the layers' inputs have, for the search: (1,) for generation, (1, 128) for prompts too.
    """

    method: str = "magnitude"
    sparsity: float | None = None
    pattern: str = "unstructured"
    scope: str | None = None
    targets: list[str] = field(default_factory=lambda: ["Linear"])
    ignore: list[str] | None = None
    masks: Mapping[str, torch.Tensor] | None = None
    calibration: Any = None
    format: str = "auto"
    tokens: int | tuple[int, ...] = 1

    def __post_init__(self) -> None:
        if self.masks is not None:
            self.method = "masks"
        elif self.method not in METHODS:
            fail("recipe.method", f"one of {list(METHODS)} (SparseGPT: rarefy.prune)", describe(self.method))
        structure = Structure.parse(self.pattern)
        if self.method in ("magnitude", "wanda"):
            if structure.kind == "n:m":
                implied = 1 - structure.first / structure.second
                if self.sparsity is not None and abs(self.sparsity - implied) > 1e-9:
                    fail("recipe.sparsity", f"{implied:g}, which {self.pattern} ({structure.first} kept) says", self.sparsity)
                self.sparsity = implied
            check_fraction("recipe.sparsity", self.sparsity)
        if self.method == "wanda" and self.calibration is None:
            fail("recipe.calibration", "token ids to run the model on (wanda weighs inputs)", "none")
        if isinstance(self.calibration, (str, Path)):
            fail("recipe.calibration", "token ids (text: rarefy.prune)", type(self.calibration).__name__, TypeError)
        if self.scope not in (None, "tensor", "row"):
            fail("recipe.scope", '"tensor" or "row"', describe(self.scope))
        self.scope = self.scope or ("row" if self.method == "wanda" else "tensor")
        for name in ("targets", "ignore"):
            value = getattr(self, name)
            if isinstance(value, str):
                setattr(self, name, [value])
            elif value is not None and not all(isinstance(entry, str) for entry in value):
                fail(f"recipe.{name}", "names or re: expressions", describe(value), TypeError)
            for entry in getattr(self, name) or []:
                if entry.startswith("re:"):
                    check_expression(f"recipe.{name}", entry.removeprefix("re:"))
        check_tokens("recipe.tokens", self.tokens)

    @classmethod
    def read(cls, recipe: Any) -> list[Recipe]:
        """From what `thin` takes: a Recipe, a number (a sparsity), a dict of its fields, a YAML file, or a list of these."""
        if isinstance(recipe, cls):
            return [recipe]
        if isinstance(recipe, bool):
            fail("recipe", "a sparsity, a dict, a Recipe, a list of them, or a path", describe(recipe), TypeError)
        if isinstance(recipe, (int, float)):
            return [cls(sparsity=float(recipe))]
        if isinstance(recipe, Mapping):
            known = {entry.name for entry in fields(cls)}
            unknown = sorted(set(recipe) - known)
            if unknown:
                fail("recipe", f"keys among {sorted(known)}", unknown)
            return [cls(**recipe)]
        if isinstance(recipe, (str, Path)):
            return _from_yaml(Path(recipe))
        if isinstance(recipe, (list, tuple)) and recipe:
            return [entry for part in recipe for entry in cls.read(part)]
        fail("recipe", "a sparsity, a dict, a Recipe, a list of them, or a path", describe(recipe), TypeError)

    def layers(self, model: nn.Module) -> dict[str, nn.Linear]:
        """The Linear layers that targets name and ignore does not, by name, in the model's order."""
        linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        if self.masks is not None:
            for name in self.masks:
                if name not in linears:
                    near = near_misses(re.escape(name), list(linears))
                    fail(f"recipe.masks[{name!r}]", "the name of a Linear", f"none of the model's; {near}")
            return {name: layer for name, layer in linears.items() if name in self.masks}
        chosen = {}
        for target in self.targets:
            matched = {name: layer for name, layer in linears.items() if _matches(target, name, layer)}
            if not matched:
                near = near_misses(target.removeprefix("re:") if target.startswith("re:") else re.escape(target), list(linears))
                fail("recipe.targets", "names or expressions that match a Linear", f"{target!r}; {near}")
            chosen.update(matched)
        ignored = _output_embedding(model) if self.ignore is None else set()
        for entry in self.ignore or []:
            ignored |= {name for name, layer in linears.items() if _matches(entry, name, layer)}
        left = {name: layer for name, layer in linears.items() if name in chosen and name not in ignored}
        if not left:
            fail("recipe.targets", "a layer that is not ignored", f"{sorted(chosen)[:5]}, all ignored")
        return left


def _matches(target: str, name: str, layer: nn.Module) -> bool:
    around = [name[:i] for i in range(len(name) + 1) if i == len(name) or name[i] == "."]
    if target.startswith("re:"):
        return any(re.match(target[3:], part) for part in around)
    return target in (type(layer).__name__, "Linear") or target in around or name.endswith("." + target)


def _output_embedding(model: nn.Module) -> set[str]:
    get = getattr(model, "get_output_embeddings", None)
    head = get() if callable(get) else None
    return {name for name, module in model.named_modules() if module is head or name.split(".")[-1] == "lm_head"}


_MODIFIERS = {
    "WandaPruningModifier": "wanda",
    "MagnitudeModifier": "magnitude",
    "MagnitudePruningModifier": "magnitude",
    "ConstantPruningModifier": "keep",
}
_SETTINGS = {"sparsity": "sparsity", "final_sparsity": "sparsity", "mask_structure": "pattern", "targets": "targets",
             "ignore": "ignore", "scope": "scope"}  # fmt: skip


def _from_yaml(path: Path) -> list[Recipe]:
    try:
        import yaml
    except ImportError as error:
        raise ImportError("reading a recipe file needs PyYAML: pip install pyyaml") from error
    found: list[Recipe] = []

    def walk(node: Any) -> None:
        if not isinstance(node, Mapping):
            fail(str(path), "stages with modifiers", describe(node))
        for key, value in node.items():
            if key in _MODIFIERS:
                value = {} if value is None else value
                if not isinstance(value, Mapping):
                    fail(f"{path}: {key}", f"settings among {sorted(_SETTINGS)}", describe(value))
                unknown = sorted(set(value) - set(_SETTINGS))
                if unknown:
                    fail(f"{path}: {key}", f"settings among {sorted(_SETTINGS)}", unknown)
                found.append(Recipe(method=_MODIFIERS[key], **{_SETTINGS[name]: setting for name, setting in value.items()}))
            elif str(key).endswith("Modifier"):
                fail(str(path), f"modifiers among {sorted(_MODIFIERS)} (others: rarefy.prune)", key)
            elif isinstance(value, Mapping):
                walk(value)

    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CorruptError(f"{path}: expected YAML, got {' '.join(str(error).split())}") from None
    walk(tree)
    if not found:
        fail(str(path), f"at least one of {sorted(_MODIFIERS)}", "none")
    return found
