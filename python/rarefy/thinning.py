"""Makes a model thin in one call: prune, pack, plan, report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .checks import check_float_tensor, describe, fail
from .errors import Error
from .masks import Structure
from .recipe import Recipe
from .sparse_linear import SparseLinear


@dataclass(frozen=True)
class LayerReport:
    """What became of a layer."""

    name: str
    shape: tuple[int, int]
    density: float
    format: str
    nbytes: int
    dense_nbytes: int
    speedup: float | None  # Over the best dense kernel, of the tokens planned for; None on GPUs and where a format was demanded.
    measured: bool  # Or estimated.


@dataclass(frozen=True)
class ThinReport:
    """A table of layers; prints as one."""

    layers: list[LayerReport]

    @property
    def nbytes(self) -> int:
        """Of all packed weights."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def dense_nbytes(self) -> int:
        """Of the same weights before."""
        return sum(layer.dense_nbytes for layer in self.layers)

    @property
    def density(self) -> float:
        """Share of these weights that is not zero."""
        sizes = [layer.shape[0] * layer.shape[1] for layer in self.layers]
        return sum(layer.density * size for layer, size in zip(self.layers, sizes)) / max(1, sum(sizes))

    def __str__(self) -> str:
        head = ("layer", "shape", "density", "format", "bytes", "of dense", "speed")
        rows = [
            (
                layer.name, f"{layer.shape[0]}x{layer.shape[1]}", f"{layer.density:.1%}", layer.format, f"{layer.nbytes:,}",
                f"{layer.nbytes / layer.dense_nbytes:.0%}" if layer.dense_nbytes else "-",
                "-" if layer.speedup is None else f"{layer.speedup:.2f}x{'' if layer.measured else ' est.'}",
            )
            for layer in self.layers
        ]  # fmt: skip
        share = f"{self.nbytes / self.dense_nbytes:.0%}" if self.dense_nbytes else "-"
        rows.append((f"{len(self.layers)} layers", "", f"{self.density:.1%}", "", f"{self.nbytes:,}", share, ""))
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        lines = []
        for row in (head, *rows):
            cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)


@torch.no_grad()
def thin(model: nn.Module, recipe: Any, *, progress: Callable[[str, int, int, str], None] | None = None) -> ThinReport:
    """Prunes Linear layers of `model` in place as `recipe` says, and replaces them by packed `SparseLinear`s.

    Arguments:
        recipe: a sparsity such as 0.7; a dict of the fields of `rarefy.Recipe`; a Recipe; a YAML file of llm-compressor's
            conventions; or a list of these, of which the first that names a layer decides.
        progress: called as `rarefy.prune` calls it: with what is done, how much, of how much, and the layer. Measuring takes
            about half a second a layer whose like this machine has not seen.

    Works layer by layer: beside the model, one dense layer is in memory. With wanda, inputs are those of the model as it was
    before any recipe (`rarefy.prune` lets each layer see what pruned layers before it give). A layer under two names
    stays one. A transformers model saves as compressed-tensors' sparse-bitmask afterwards, which `rarefy.pretrained`, the
    command and older vLLM read.

    Returns a report; print it. Raises ValueError or TypeError, before anything is changed, for recipes that do not fit. What
    only a weight's values show, one that is not finite or a format that cannot hold them, stops at that layer.
    """
    if not isinstance(model, nn.Module):
        fail("model", "a torch.nn.Module", describe(model), TypeError)
    recipes = Recipe.read(recipe)
    plans = [(entry, entry.layers(model)) for entry in recipes]
    for entry, layers in plans:
        for name, layer in layers.items():
            _check(entry, name, layer)
    seen: set[str] = set()
    plans = [(entry, {n: layer for n, layer in layers.items() if not (n in seen or seen.add(n))}) for entry, layers in plans]
    if "" in seen:
        fail("model", "a module that contains the layers", "a Linear itself, which cannot be replaced in place")

    norms: dict[str, torch.Tensor] = {}
    for entry, layers in plans:
        if entry.method == "wanda":
            norms |= input_norms(model, layers, entry.calibration)
    reports = []
    total = sum(len(layers) for _, layers in plans)
    for entry, layers in plans:
        for name, layer in layers.items():
            if progress is not None:
                progress("thin", len(reports), total, name)
            sparse = _thin_layer(entry, name, layer, norms.pop(name, None))
            _replace(model, layer, sparse)
            reports.append(_report(name, sparse))
    _mark_config(model)
    return ThinReport(reports)


def _check(recipe: Recipe, name: str, layer: nn.Linear) -> None:
    weight = check_float_tensor(f"{name}.weight", layer.weight, 2)
    if weight.device.type not in ("cpu", "cuda"):
        fail(f"{name}.weight", "a weight on cpu or cuda", describe(weight))
    if recipe.masks is not None:
        mask = recipe.masks[name]
        if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool or mask.shape != weight.shape:
            fail(f"recipe.masks[{name!r}]", f"bool {list(weight.shape)}", describe(mask))
    elif recipe.method != "keep":
        Structure.parse(recipe.pattern).check(name, *weight.shape)


def _thin_layer(recipe: Recipe, name: str, layer: nn.Linear, norms: torch.Tensor | None) -> SparseLinear:
    weight = layer.weight.detach()
    if recipe.masks is not None:
        weight = torch.where(recipe.masks[name].to(weight.device), weight, 0)
    elif recipe.method != "keep":
        scores = weight.abs().float()
        if norms is not None:
            scores *= norms
        if not torch.isfinite(scores).all():
            row, col = (~torch.isfinite(scores)).nonzero()[0].tolist()
            fail(f"{name}.weight", "finite values", f"{weight[row, col].item()} at [{row}, {col}]")
        mask = Structure.parse(recipe.pattern).mask(scores, recipe.sparsity, recipe.scope)
        weight = torch.where(mask, weight, 0)
    bias = None if layer.bias is None else layer.bias.detach()
    try:
        sparse = SparseLinear(weight, bias, recipe.format, recipe.tokens)
    except Error as error:  # A format that does not take this weight, say.
        raise type(error)(f"{name}: {error}") from None
    if bias is not None:
        sparse.bias.requires_grad_(layer.bias.requires_grad)
    return sparse.train(layer.training)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Puts `new` under every name of `old`."""
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            model.set_submodule(name, new)


def _report(name: str, layer: SparseLinear) -> LayerReport:
    planned = layer.planned
    dense = layer.in_features * layer.out_features * torch.empty(0, dtype=layer.dtype).element_size()
    shape = (layer.out_features, layer.in_features)
    return LayerReport(name, shape, layer.density, layer.format, layer.nbytes, dense, planned.speedup, planned.measured)


def input_norms(model: nn.Module, layers: dict[str, nn.Linear], calibration: Any) -> dict[str, torch.Tensor]:
    """‖x_j‖₂ of each input j of each layer over all tokens of `calibration`: what wanda weighs weights by."""
    sums = {name: torch.zeros(layer.in_features, dtype=torch.float32, device=layer.weight.device) for name, layer in layers.items()}

    def watch(name: str) -> Any:
        def add(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            sums[name] += inputs[0].detach().float().flatten(0, -2).square().sum(dim=0)

        return add

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    training = model.training
    try:
        model.eval()
        for batch in _batches(calibration):
            model(**batch) if isinstance(batch, Mapping) else model(batch)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    for name, total in sums.items():
        if not total.any():
            fail("recipe.calibration", f"input that reaches {name}", "none, or only zeros")
    return {name: total.sqrt() for name, total in sums.items()}


def _batches(calibration: Any) -> Iterable[Any]:
    if isinstance(calibration, torch.Tensor):
        return calibration.split(1) if calibration.dim() == 2 and not calibration.is_floating_point() else [calibration]
    return [calibration] if isinstance(calibration, Mapping) else calibration


def _mark_config(model: nn.Module) -> None:
    if not hasattr(model, "config") or not hasattr(model, "save_pretrained"):
        return
    try:
        from .huggingface import mark_thin
    except ImportError:  # transformers before 5 has no place for a method of ours: it runs there, but does not save thin.
        return
    mark_thin(model)
