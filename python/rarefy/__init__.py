"""Rarefy: sparse kernels for language models.

Works on numpy arrays and, where torch is installed, on its tensors: `rarefy.ops` has the differentiable
operators. torch is imported only by what needs it.
"""

from importlib import import_module as _import_module
from typing import Any as _Any

from . import errors
from ._core import (
    Candidate,
    Checkpoint,
    CheckpointWriter,
    CpuInfo,
    Matrix,
    Plan,
    PlanStep,
    Source,
    TensorInfo,
    __version__,
    cpu_info,
    instruction_set,
    set_threads,
    spmm_kernels,
    threads,
)
from .errors import Error, UnsupportedError
from .matrices import pack, plan, plan_all, sddmm, spmm, to_dense

# What needs torch, and where it is.
_LAZY = {"ops": "rarefy.ops"}


def __getattr__(name: str) -> _Any:
    if name in _LAZY:
        module = _import_module(_LAZY[name])
        value = module if _LAZY[name].endswith("." + name) else getattr(module, name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'rarefy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
