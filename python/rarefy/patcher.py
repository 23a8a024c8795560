"""Replaces layers of a model by block-sparse ones, chosen by regular expressions over their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from .block_pattern import check_block_shape
from .block_sparse_linear import BlockSparseLinear
from .checks import check_density, describe, fail
from .layer_names import check_expression, near_misses


class BlockSparseModelPatcher:
    """Makes chosen `nn.Linear` layers of a model block-sparse, as huggingface/pytorch_block_sparse did.

        patcher = BlockSparseModelPatcher()
        patcher.add_pattern(r"model\\.layers\\.[0-9]+\\.mlp\\..*_proj", {"density": 0.25, "block_shape": (32, 32)})
        patcher.patch_model(model)

    An expression has to match from the start of a layer's full name (`re.match`); the first that matches decides.
    Different from pytorch_block_sparse: the blocks kept are those of the largest norm, so a trained model stays as good as
    blocks allow (`init="random"` starts anew); an expression that matches nothing is an error instead of silence, so is one
    that would cut the weight in uneven blocks; nothing is printed; a patched model loads back with `load_block_sparse`.
    """

    OPTIONS = ("density", "block_shape", "init")

    def __init__(self) -> None:
        self.patterns: list[tuple[str, dict[str, Any]]] = []

    def is_patchable(self, name: str, module: nn.Module, raise_error: bool = False) -> bool:
        """Whether `module` is a Linear; with `raise_error`, an exception says what it is in place of False."""
        if isinstance(module, nn.Linear):
            return True
        if raise_error:
            fail(name, "a torch.nn.Linear", type(module).__name__, TypeError)
        return False

    def get_patchable_layers(self, model: nn.Module) -> list[dict[str, Any]]:
        """[{"regexp": an expression for just this layer, "layer": the module}] of all layers that can be patched."""
        return [{"regexp": re.escape(name), "layer": module} for name, module in model.named_modules() if self.is_patchable(name, module)]

    def add_pattern(self, pattern: str, patch_info: dict[str, Any]) -> None:
        """Layers whose name matches `pattern` become block-sparse.

        Arguments:
            patch_info: "density" (above 0, at most 1); "block_shape", default (32, 32); "init": "dense" keeps the largest
                blocks of what is there (default), "random" draws a pattern and weights anew.
        """
        check_expression("pattern", pattern)
        if not isinstance(patch_info, Mapping):
            fail("patch_info", f"a dict of {list(self.OPTIONS)}", describe(patch_info), TypeError)
        unknown = set(patch_info) - set(self.OPTIONS)
        if unknown:
            fail("patch_info", f"keys among {list(self.OPTIONS)}", sorted(unknown))
        check_density("patch_info['density']", patch_info.get("density"))
        if patch_info.get("init", "dense") not in ("dense", "random"):
            fail("patch_info['init']", '"dense" or "random"', describe(patch_info["init"]))
        self.patterns.append((pattern, dict(patch_info)))

    def pattern_match(self, name: str) -> tuple[bool, dict[str, Any] | None]:
        """(True, its patch_info) of the first pattern that matches, else (False, None)."""
        for pattern, info in self.patterns:
            if re.match(pattern, name):
                return True, info
        return False, None

    def new_child_module(self, name: str, child: nn.Linear, info: dict[str, Any]) -> nn.Module:
        """What replaces `child`; for subclasses to change."""
        shape = info.get("block_shape", (32, 32))
        check_block_shape(shape, child.out_features, child.in_features, f"{name}: block_shape")
        if info.get("init", "dense") == "dense" and not child.weight.is_meta:
            layer = BlockSparseLinear.from_dense(child, info["density"], shape)
        else:
            layer = BlockSparseLinear(
                child.in_features, child.out_features, child.bias is not None, info["density"], shape,
                device=child.weight.device, dtype=child.weight.dtype,
            )  # fmt: skip
        for parameter, old in ((layer.weight, child.weight), (layer.bias, child.bias)):
            if parameter is not None:
                parameter.requires_grad_(old.requires_grad)
        return layer.train(child.training)

    def patch_model(self, model: nn.Module) -> dict[str, nn.Module]:
        """Replaces every layer that a pattern matches, in place, and returns the new layers by name.

        Raises ValueError, before anything is changed, for a pattern that matches no Linear (with the names that come nearest),
        TypeError for one that matches only modules of other kinds. Shared layers (one module under two names) stay shared.
        """
        if not self.patterns:
            fail("patterns", "at least one (add_pattern)", "none")
        layers = {name: module for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, nn.Linear)}
        for pattern, _ in self.patterns:
            if not any(re.match(pattern, name) for name in layers):
                self._explain_no_match(pattern, model, list(layers))
        made: dict[int, nn.Module] = {}
        patched = {}
        for name, module in layers.items():
            match, info = self.pattern_match(name)
            if match:
                if not name:
                    fail("model", "a module that contains the layers", "a Linear itself, which cannot be replaced in place")
                if id(module) not in made:
                    made[id(module)] = self.new_child_module(name, module, info)
                patched[name] = made[id(module)]
        for name, layer in patched.items():
            model.set_submodule(name, layer)
        return patched

    def _explain_no_match(self, pattern: str, model: nn.Module, names: list[str]) -> None:
        for name, module in model.named_modules():
            if name and re.match(pattern, name) and not list(module.children()):
                self.is_patchable(name, module, raise_error=True)
        fail("pattern", "an expression that matches a Linear", f"{pattern!r}; {near_misses(pattern, names)}")
