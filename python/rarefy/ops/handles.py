"""How a packed weight travels through an operator.

Operators take tensors and numbers. A packed weight is neither, so it travels as a *handle*: an int64 tensor of two numbers, that of the
process and that of the weight, whose storage owns the packed weight.
  - torch.compile and torch.export see an ordinary tensor: one graph serves every layer of a shape. A Python integer would be burnt into
    the graph, and each of 32 layers would compile anew.
  - The weight lives as long as a tensor over that storage, graphs included.
  - A copy of the numbers (`.clone()`, a broadcast, a saved graph) owns nothing: its use raises an error while the weight is gone or of
    another process, and can never read another one's memory.
  - torch's opaque objects would do the same with less, but are private and differ from 2.11 to 2.13.
A flat uint8 tensor of the packed arrays themselves would be saved and broadcast as if it were a model's canonical form, which it is
not: formats differ from machine to machine. Layers keep the dense or compressed form in their state_dict, and the handle as a plain
attribute.

On a GPU the handle lies there too, so that inductor sees nothing of the CPU's and records CUDA graphs. Nobody reads it there, which
would wait for the GPU: its address names the weight. A copy has another address, and is read back; no graph can record that.
  - CUDA graphs of inductor's copy what they are given to a place of their own, unless it is a parameter, a buffer, an attribute of a
    module, or marked as static. Handles are marked. When a layer has got another weight, and so another address, inductor records anew.
    Such graphs come again when an address does, so that none is used twice: 16 bytes of a GPU stay behind for each weight that was.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from .. import _core
from ..checks import describe, fail
from ..errors import UnsupportedError


def on_cpu(matrix: _core.Matrix) -> Tensor:
    """The handle of a weight."""
    with torch.inference_mode(False):  # Tensors of inference mode cannot be saved for a backward.
        return torch.from_dlpack(matrix._handle())


_SLOTS = 4096
_chunks: list[Tensor] = []  # For ever.
_free: dict[torch.device, list[Tensor]] = {}
_lock = threading.Lock()


def _slot(device: torch.device) -> Tensor:
    """Memory for a handle, at a multiple of 16 bytes, which inductor asks for. None is given twice."""
    with _lock:
        free = _free.setdefault(device, [])
        if not free:
            chunk = torch.empty(_SLOTS, 2, dtype=torch.int64, device=device)  # May raise; the next call tries anew.
            _chunks.append(chunk)
            free.extend(chunk.unbind())
        return free.pop()


def on_gpu(matrix: _core.Matrix, device: int) -> Tensor:
    """A handle that lies on a GPU."""
    with torch.inference_mode(False):
        memory = _slot(torch.device("cuda", device))
        memory.copy_(on_cpu(matrix))
        handle = torch.from_dlpack(matrix._device_handle(memory.data_ptr(), device, memory))
    torch._dynamo.mark_static_address(handle, guard=False)
    return handle


def read_back(handle: Tensor, argument: str) -> Tensor:
    """The numbers of a copy, on the CPU. Raises UnsupportedError while a graph records."""
    if not isinstance(handle, Tensor):
        fail(argument, "the handle of a packed weight", describe(handle), TypeError)
    if handle.is_cuda and torch.cuda.is_current_stream_capturing():
        fail(argument, "the handle of a packed weight itself while a graph records", "a copy of one", UnsupportedError)
    return handle.cpu()
