"""Thin checkpoints in transformers: `from_pretrained` that packs, `save_pretrained` that stays thin.

Importing this module (`import rarefy.huggingface`) is what hooks into transformers: its table of quantisation methods
gets the entry "rarefy", and "compressed-tensors" configurations that say `sparse-bitmask` and nothing of quantised weights lead to
it, since compressed-tensors dropped that format in 0.15. All others go where they went.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback
from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from . import bitmask
from .checks import describe, fail
from .errors import CorruptError
from .sparse_linear import SparseLinear
from .sparse_optimizer import SparseOptimizer


@register_quantization_config("rarefy")
class RarefyConfig(QuantizationConfigMixin):
    """What config.json says of a thin model: compressed-tensors' `sparsity_config`, kept as it is."""

    def __init__(self, sparsity_config: dict[str, Any] | None = None, **rest: Any):
        self.quant_method = "rarefy"
        self.sparsity_config = dict(sparsity_config or {})

    def to_dict(self) -> dict[str, Any]:
        return {"quant_method": "compressed-tensors", "sparsity_config": dict(self.sparsity_config)}


class _CompressedTensors:
    """Stands in the table for compressed-tensors' own configuration, and makes that or ours."""

    def __init__(self, original: type):
        self.original = original

    def from_dict(self, config: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return (RarefyConfig if _is_thin(config) else self.original).from_dict(config, *args, **kwargs)


def _is_thin(config: dict[str, Any]) -> bool:
    sparsity = config.get("sparsity_config") or {}
    return sparsity.get("format") == "sparse-bitmask" and not config.get("config_groups")


if not isinstance(AUTO_QUANTIZATION_CONFIG_MAPPING["compressed-tensors"], _CompressedTensors):
    AUTO_QUANTIZATION_CONFIG_MAPPING["compressed-tensors"] = _CompressedTensors(AUTO_QUANTIZATION_CONFIG_MAPPING["compressed-tensors"])

# How layers are packed while a model loads; `pretrained` sets it.
_packing: contextvars.ContextVar[dict[str, Any]] = contextvars.ContextVar("packing", default={})  # noqa: B039 (never changed)


@register_quantizer("rarefy")
class RarefyQuantizer(HfQuantizer):
    """Loads the four arrays of each thin weight straight into a `SparseLinear`: no dense model is ever in memory."""

    def __init__(self, quantization_config: RarefyConfig, **kwargs: Any):
        super().__init__(quantization_config, **kwargs)
        # transformers logs what goes wrong in a conversion and raises something general: what went wrong first is kept here.
        self.error: Exception | None = None

    def get_weight_conversions(self) -> list[WeightConverter]:
        # "weight.bitmask" and so on are what compressed-tensors up to 0.9 wrote.
        names = [*bitmask.KEYS, *(f"weight.{key}" for key in bitmask.KEYS)]
        return [WeightConverter(names, "weight", [_PackWeight(self)])] if self.pre_quantized else []

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        if self.error is not None:
            raise self.error
        # These conversions need not be undone to save: layers save the four arrays themselves.
        kept = [step for step in getattr(model, "_weight_conversions", None) or [] if not _is_ours(step)]
        model._weight_conversions = kept or None
        return model

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True  # What is not packed, and side weights.

    @property
    def is_compileable(self) -> bool:
        return True

    def _dequantize(self, model: nn.Module, dtype: torch.dtype | str | None = None) -> nn.Module:
        dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        for name, layer in list(model.named_modules()):
            if isinstance(layer, SparseLinear):
                model.set_submodule(name, layer.to_linear().to(dtype))
        return model


def _is_ours(step: Any) -> bool:
    return any(isinstance(operation, _PackWeight) for operation in getattr(step, "operations", ()))


class _PackWeight(ConversionOps):
    """The four arrays of a weight → a SparseLinear in place of the Linear."""

    def __init__(self, hf_quantizer: RarefyQuantizer):
        self.hf_quantizer = hf_quantizer  # transformers takes this to mean: leave the arrays' dtypes alone.

    def __deepcopy__(self, memo: Any) -> _PackWeight:
        return self  # transformers copies conversions for each weight; errors belong to the one quantizer.

    def convert(
        self, input_dict: dict[str, Any], full_layer_name: str, model: nn.Module, missing_keys: Any = None, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        try:
            return self._pack(input_dict, full_layer_name, model, missing_keys)
        except (ValueError, TypeError, NotImplementedError) as error:
            self.hf_quantizer.error = self.hf_quantizer.error or error
            return {}

    def _pack(self, input_dict: dict[str, Any], full_layer_name: str, model: nn.Module, missing_keys: Any) -> dict[str, torch.Tensor]:
        name = full_layer_name.removesuffix(".weight")
        arrays = {key.removeprefix("weight."): value[0] if isinstance(value, list) else value for key, value in input_dict.items()}
        layer = model.get_submodule(name)
        weight = bitmask.decompress(arrays, name)
        expected = tuple(model.get_parameter(full_layer_name).shape)
        if tuple(weight.shape) != expected:
            fail(full_layer_name, str(list(expected)), list(weight.shape))
        weight = weight.to(model.get_parameter(full_layer_name).dtype)
        if not isinstance(layer, nn.Linear):
            return {full_layer_name: weight}  # An embedding, say: nothing here multiplies by it.
        sparse = SparseLinear(weight.to(arrays["compressed"].device), None, **_packing.get())
        sparse.bias = layer.bias  # Loaded already, or on the meta device until it is.
        model.set_submodule(name, sparse.train(layer.training))
        if missing_keys is not None:
            missing_keys.discard(full_layer_name)
        return {}

    @property
    def reverse_op(self) -> ConversionOps:
        raise NotImplementedError("thin layers save themselves")


def mark_thin(model: Any) -> None:
    """Writes into `model.config` that its `SparseLinear`s save as `sparse-bitmask`; there is one hook more for saving."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, SparseLinear)}
    if not layers:
        return
    sizes = [layer.in_features * layer.out_features for layer in layers.values()]
    nonzero = sum(layer.density * size for layer, size in zip(layers.values(), sizes))
    config = RarefyConfig(
        {
            "format": "sparse-bitmask",
            "global_sparsity": round(1 - nonzero / sum(sizes), 6),
            "sparsity_structure": "unstructured",
            "targets": sorted(layers),
            "ignore": [],
        }
    )
    model.config.quantization_config = config
    model.hf_quantizer = RarefyQuantizer(config, pre_quantized=True)
    model.is_quantized, model.quantization_method = True, config.quant_method


@contextlib.contextmanager
def packing(format: str = "auto", tokens: int | tuple[int, ...] = 1) -> Iterator[None]:
    """Within it, `from_pretrained` packs thin weights so: `with rarefy.huggingface.packing(format="bitmap"): …`."""
    token = _packing.set({"format": format, "tokens": tokens})
    try:
        yield
    finally:
        _packing.reset(token)


def pretrained(
    path: str | os.PathLike[str], *, format: str = "auto", tokens: int | tuple[int, ...] = 1, auto_class: Any = None, **kwargs: Any
) -> Any:
    """The transformers model of a checkpoint that is thin: `sparse-bitmask` (of `rarefy prune` or `save_pretrained` after
    `rarefy.thin`), or with block-sparse layers (`save_pretrained` after `BlockSparseModelPatcher`).

    Arguments:
        path: a folder with config.json and safetensors, or a name on the Hub.
        format, tokens: how weights are packed and for how many rows at once they are planned: see `SparseLinear`.
        auto_class: AutoModelForCausalLM unless another is given.
        kwargs: for `from_pretrained`: dtype, attn_implementation, ….
    """
    from transformers import AutoModelForCausalLM

    auto_class = AutoModelForCausalLM if auto_class is None else auto_class
    folder = Path(path)
    # "org/model" is a name on the Hub; where no name can begin so, transformers speaks of names all the same.
    is_local = folder.exists() or isinstance(path, os.PathLike) or str(path).startswith((".", "/", "~"))
    if is_local and not (folder / "config.json").is_file():
        fail("path", "a folder with config.json, or a name on the Hub", describe(str(path)))
    if folder.is_dir() and _has_blocks(folder):
        return _block_sparse_pretrained(folder, auto_class, **kwargs)
    with packing(format, tokens):
        return auto_class.from_pretrained(path, **kwargs)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _has_blocks(folder: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    for file in _files(folder):
        try:
            with safe_open(file, "pt") as arrays:
                if any(key.endswith(".col_indices") for key in arrays.keys()):  # noqa: SIM118
                    return True
        except SafetensorError as error:  # Which does not say where.
            raise CorruptError(f"{file}: expected safetensors, got: {error}") from None
    return False


def _block_sparse_pretrained(folder: Path, auto_class: Any, dtype: Any = "auto", **kwargs: Any) -> Any:
    from safetensors.torch import load_file
    from transformers import AutoConfig, GenerationConfig

    from .block_sparse_state import load_block_sparse

    config = AutoConfig.from_pretrained(folder)
    dtype = config.dtype if dtype in (None, "auto") else getattr(torch, dtype) if isinstance(dtype, str) else dtype
    model = auto_class.from_config(config, dtype=dtype, **kwargs)
    state = {key: value for file in _files(folder) for key, value in load_file(file).items()}
    missing = load_block_sparse(model, state, strict=False).missing_keys
    model.tie_weights()
    absent = set(missing) - set(getattr(model, "all_tied_weights_keys", {}))
    if absent:
        fail("path", f"a checkpoint with {sorted(absent)[:3]}", "one without")
    if model.can_generate() and (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval()


class RegrowthCallback(TrainerCallback):
    """`SparseOptimizer` in the Trainer: `Trainer(model, …, callbacks=[RegrowthCallback(every=100)])`.

    Takes the arguments of `SparseOptimizer` but for model and optimizers; total_steps is the Trainer's unless given. The
    optimizer it makes is `sparse`.
    """

    def __init__(self, **arguments: Any):
        self.arguments = arguments
        self.sparse: SparseOptimizer | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any) -> None:
        arguments = dict(self.arguments)
        if arguments.get("schedule") is None:
            arguments.setdefault("total_steps", state.max_steps)
        self.sparse = SparseOptimizer(model, optimizer, **arguments)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.sparse.step()
