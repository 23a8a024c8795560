"""Rarefy: sparse kernels for language models.

Works on numpy arrays and, where torch is installed, on its tensors: layers, training and models are at
this level, the differentiable operators in `rarefy.ops`. torch is imported only by what needs it.
"""

from importlib import import_module as _import_module
from typing import Any as _Any

from . import errors
from ._core import (
    Candidate,
    Checkpoint,
    CheckpointWriter,
    CpuInfo,
    Generation,
    Matrix,
    Model,
    Perplexity,
    Plan,
    PlanStep,
    PrunedTensor,
    PruneReport,
    Source,
    TensorInfo,
    __version__,
    cpu_info,
    instruction_set,
    set_threads,
    spmm_kernels,
    threads,
)
from .compress import prune
from .errors import Error, UnsupportedError
from .matrices import pack, plan, plan_all, sddmm, spmm, to_dense

# What needs torch, and where it is.
_LAZY = {
    "BlockSparseLinear": "rarefy.block_sparse_linear",
    "BlockSparseModelPatcher": "rarefy.patcher",
    "CosineSchedule": "rarefy.schedules",
    "CubicSchedule": "rarefy.schedules",
    "MovementPruner": "rarefy.movement",
    "Recipe": "rarefy.recipe",
    "SparseLinear": "rarefy.sparse_linear",
    "SparseOptimizer": "rarefy.sparse_optimizer",
    "apply_sr_ste": "rarefy.sr_ste",
    "huggingface": "rarefy.huggingface",
    "load_block_sparse": "rarefy.block_sparse_state",
    "move_blocks": "rarefy.block_moves",
    "ops": "rarefy.ops",
    "pretrained": "rarefy.huggingface",
    "remove_sr_ste": "rarefy.sr_ste",
    "stack": "rarefy.stacking",
    "thin": "rarefy.thinning",
}


def __getattr__(name: str) -> _Any:
    if name in _LAZY:
        module = _import_module(_LAZY[name])
        value = module if _LAZY[name].endswith("." + name) else getattr(module, name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'rarefy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
