"""The part of block_sparse_training.py that runs on a GPU: time of steps in graphs, memory of what training keeps."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import rarefy
import torch
from rarefy.ops.block_places import placed
from torch import Tensor, nn

STEPS = 2  #: In a graph.


def recorded(call: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """A graph of some calls, after two outside of it: what the GPU takes, without what the calling thread does."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(STEPS):
            call()
    return graph


def milliseconds(calls: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Of each call on the GPU, medians over replays, which take turns."""
    graphs = {name: recorded(call) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repetitions):
        for name, graph in graphs.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times[name].append(begin.elapsed_time(end) / STEPS)
    return {name: statistics.median(all_times) for name, all_times in times.items()}


def compiled(model: nn.Module, x: Tensor, grad: Tensor) -> nn.Module | None:
    """torch.compile of the model, run once; None, and why, where that does not work here."""
    try:
        made = torch.compile(model, fullgraph=True)
        made(x).backward(grad)
    except Exception as error:  # Of many kinds: no C compiler, no headers of Python, …
        print(f"torch.compile: {type(error).__name__}: {str(error).splitlines()[0][:200]}", flush=True)
        return None
    return made


def step(model: nn.Module, x: Tensor, grad: Tensor) -> Tensor:
    x.grad = None
    model.zero_grad(set_to_none=True)
    y = model(x)
    y.backward(grad)
    return y.detach()


def block_layers(model: nn.Module) -> list[rarefy.BlockSparseLinear]:
    return [layer for layer in model.modules() if isinstance(layer, rarefy.BlockSparseLinear)]


def device_blocks(layer: rarefy.BlockSparseLinear) -> Any:
    pattern = (layer.row_offsets, layer.col_indices, None, None, None, layer.out_features, layer.in_features)
    return placed(layer.weight.device, pattern, *layer.block_shape).blocks


def kept_bytes(model: nn.Module, x: Tensor, grad: Tensor) -> int:
    """Of weights, gradients, Adam's moments, index tensors and the kernels' lists, after a step of training."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    step(model, x, grad)
    optimizer.step()
    tensors = [*model.parameters(), *(p.grad for p in model.parameters()), *model.buffers()]
    tensors += [t for state in optimizer.state.values() for t in state.values() if t.dim()]
    return sum(t.nbytes for t in tensors) + sum(device_blocks(layer).nbytes for layer in block_layers(model))


def gradient_errors(dense: nn.Module, sparse: nn.Module) -> list[float]:
    """Of the stored blocks' gradients, relative to their norms."""
    pairs = zip((m for m in dense.modules() if isinstance(m, nn.Linear)), block_layers(sparse), strict=True)
    found = []
    for full, layer in pairs:
        rows, cols = layer.block_shape
        want = full.weight.grad.unflatten(1, (-1, cols)).unflatten(0, (-1, rows)).transpose(1, 2)[layer.block_mask]
        found.append(float((layer.weight.grad.float() - want.float()).norm() / want.float().norm()))
    return found


def kernels(model: nn.Module) -> list[str]:
    """What runs: a line for each kernel of each layer, and what they sum up to as they were measured when chosen."""
    found = [kernel for layer in block_layers(model) for kernel in device_blocks(layer).kernels()]
    lines = sorted({f"{name} {us:.0f} us{'' if measured else ' (estimate)'}" for *_, name, us, measured in found})
    forward, all_three = (
        sum(us for product, *_, us, _ in found if product in some) for some in (("linear",), ("linear", "transposed", "samples"))
    )
    return [*lines, f"products alone: {forward / 1e3:.2f} ms forward, {all_three / 1e3:.2f} ms with backward"]
