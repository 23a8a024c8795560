"""Block patterns on GPUs, found again by the memory that their index tensors own.

Kernels read lists that are made of a pattern once. Operators get the pattern as tensors on the GPU, anew at every call; reading them
there would wait for the GPU. So a pattern is known by the storages of its `row_offsets` and `col_indices` and by their versions,
which count writes: a storage whose weak reference is held is never another one's, even when its memory is.

Inductor's CUDA graphs know by address what they were recorded with. Where blocks move, new index tensors take the memory of old ones
sooner or later, and a graph of long ago would come again, with its old blocks: so the memory of a recorded pattern is kept for ever,
also after it was written to. Patterns that are merely alike, of which no graph knows, are not.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from .. import _core
from ..block_pattern import block_sides
from ..checks import describe, fail
from ..errors import UnsupportedError


class _Known:
    __slots__ = ("blocks", "device", "has_kernels", "indices", "kept", "shape", "storages", "versions")

    def __init__(self, blocks: _core.DeviceBlocks | None, device: int, shape: tuple[int, ...], indices: tuple[Tensor, Tensor]):
        self.blocks, self.device, self.shape, self.indices = blocks, device, shape, indices
        self.has_kernels = blocks is not None and blocks.unsupported is None
        self.storages: tuple[StorageWeakRef, ...] = ()
        self.versions: Any = None
        self.kept = False

    def keep(self, pattern: tuple[Any, ...]) -> None:
        """Keeps the memory of a pattern that a graph is recording. `blocks` cannot say so: alike patterns share them."""
        if not self.kept and torch.cuda.is_current_stream_capturing():
            storages = (pattern[0].untyped_storage(), pattern[1].untyped_storage())
            _kept[storages[0]._cdata, storages[1]._cdata] = storages
            self.kept = True


_kept: dict[tuple[int, int], tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}  # For ever.
_known: dict[tuple[int, ...], _Known] = {}
_lock = threading.Lock()


def _versions(rows: Tensor, cols: Tensor) -> Any:
    try:
        return rows._version, cols._version
    except RuntimeError:  # Tensors of inference mode count no writes; nothing else can write to them either.
        return None


def placed(device: torch.device, pattern: tuple[Any, ...], block_rows: int, block_cols: int) -> _Known:
    """What is known of a pattern on `device`. Takes 1 µs; for a new one, or one that was written to, it waits for the GPU and reads
    it, which no graph can record. Raises ArgumentError for a pattern that contradicts itself or lies elsewhere."""
    rows, cols = pattern[0], pattern[1]
    key = (
        rows.untyped_storage()._cdata, rows.storage_offset(), cols.untyped_storage()._cdata, cols.storage_offset(),
        device.index, cols.numel(), pattern[5], pattern[6], block_rows, block_cols,
    )  # fmt: skip
    known = _known.get(key)
    if known is not None and known.versions == _versions(rows, cols):
        return known
    return _place(key, device, rows, cols)


def _place(key: tuple[int, ...], device: torch.device, rows: Tensor, cols: Tensor) -> _Known:
    for name, array in (("row_offsets", rows), ("col_indices", cols)):
        if array.device != device or array.dim() != 1:
            fail(name, f"one dimension on {device}", describe(array))
    if torch.cuda.is_current_stream_capturing():
        fail("block pattern", "one that was used before a graph is recorded (run the work once first)", "a new one", UnsupportedError)
    # Read before its contents: a write in between shows at the next call.
    versions = _versions(rows, cols)
    storages = (StorageWeakRef(rows.untyped_storage()), StorageWeakRef(cols.untyped_storage()))
    indices = tuple(t.to("cpu", copy=True).contiguous() for t in (rows, cols))
    shape = key[6:]
    with _lock:
        for old in [k for k, known in _known.items() if any(s.expired() for s in known.storages)]:
            del _known[old]
        # The same blocks may come again in other memory: of a copy, or where DDP wrote what was there.
        alike = next((known for known in _known.values() if _is_alike(known, device.index, shape, indices)), None)
        blocks = _device_blocks(indices, shape, device.index) if alike is None else alike.blocks
        known = _Known(blocks, device.index, shape, indices)
        known.storages, known.versions = storages, versions
        _known[key] = known
    return known


def _device_blocks(indices: tuple[Tensor, Tensor], shape: tuple[int, ...], device: int) -> _core.DeviceBlocks | None:
    """None on a GPU that Rarefy has no kernels for; the pattern is checked there too."""
    try:
        return _core.DeviceBlocks(*indices, *shape, device)
    except UnsupportedError:
        by_columns = [torch.empty(n, dtype=torch.int32) for n in (shape[1] // max(shape[3], 1) + 1, *[indices[1].numel()] * 2)]
        _core.bsr_columns(*indices, *shape, *by_columns)
        return None


def _is_alike(known: _Known, device: int, shape: tuple[int, ...], indices: tuple[Tensor, Tensor]) -> bool:
    if known.device != device or known.shape != shape:
        return False
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(known.indices, indices, strict=True))


def bsr_kernels(pattern: tuple[Any, ...], block_shape: int | tuple[int, int]) -> list[tuple[str, str, int, str, float, bool]]:
    """What was chosen so far for a `BlockPattern` on a GPU: (product, dtype, tokens at most, kernel, µs, whether they were measured)."""
    rows, cols = block_sides(block_shape)
    device = pattern[0].device
    if device.type != "cuda":
        fail("pattern", "one on a GPU", f"one on {device}")
    with torch.cuda.device(device):
        blocks = placed(device, pattern, rows, cols).blocks
    return [] if blocks is None else blocks.kernels()
