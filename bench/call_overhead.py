"""Times what a call of an operator or a layer costs when there is next to nothing to compute.

    python bench/call_overhead.py [--device cuda] [--save FILE.csv]

The weight is 32x32 with one value in 32 of each row (in blocks of 8x8: one block a row of blocks), x is one row, float32: 32 or 256
products. Calls take turns in batches of a millisecond; what counts is the median over the batches. On a GPU blocks are 16x16 of
bfloat16, and the time is that of the calling thread, with the queue kept short: what the kernel takes is not in it. What any such call
is made of is timed there, too: a bare launch (of a kernel that sleeps for no time), a result that is allocated, and `ops.linear` without
its Python: what checks its arguments and launches.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import rarefy
import torch
from rarefy import _core, ops
from rows import append_rows, stamp
from torch import nn

SIDE = 32


def calls(device: str) -> dict[str, Callable[[], object]]:
    """By name; those with a gradient record it, and throw the graph away."""
    torch.manual_seed(0)
    x = torch.randn(1, SIDE, device=device)
    x_grad = x.clone().requires_grad_()
    dense = nn.Linear(SIDE, SIDE, bias=False, device=device)
    frozen_dense = copy.deepcopy(dense).requires_grad_(False)
    frozen = dense.weight.detach()
    sparse = rarefy.SparseLinear(torch.eye(SIDE, device=device), format="csr")
    weight = sparse.packed
    found = {
        "torch linear": lambda: nn.functional.linear(x, frozen),
        "torch Linear": lambda: frozen_dense(x),
        "torch Linear with gradient": lambda: dense(x),
        "ops.linear": lambda: ops.linear(x, weight),
        "SparseLinear": lambda: sparse(x),
        "torch.ops.rarefy.linear": lambda: torch.ops.rarefy.linear(x, weight.handle_for(x), None, "none", SIDE),
        "ops.linear with gradient": lambda: ops.linear(x_grad, weight),
    }
    if device != "cpu":
        out, handle = torch.empty_like(x), weight.handle_for(x)
        found |= {
            "a launch": lambda: torch.cuda._sleep(0),
            "an empty tensor": lambda: x.new_empty(1, SIDE),
            "_core.device_linear": lambda: _core.device_linear(x, handle, out),
        }
    # The smallest blocks, and a dtype, that there are kernels for.
    side, dtype = (8, torch.float32) if device == "cpu" else (16, torch.bfloat16)
    mask = torch.eye(SIDE // side, device=device).bool()
    layer = rarefy.BlockSparseLinear(SIDE, SIDE, bias=False, mask=mask, block_shape=side, device=device, dtype=dtype)
    frozen_layer = copy.deepcopy(layer).requires_grad_(False)
    values = layer.weight.detach()
    pattern = ops.block_pattern_of_mask(mask, (side, side))
    trained, row = layer.weight, x.to(dtype)
    return found | {
        "ops.bsr_linear": lambda: ops.bsr_linear(row, values, pattern),
        "BlockSparseLinear": lambda: frozen_layer(row),
        "BlockSparseLinear with gradient": lambda: layer(row),
        "torch.ops.rarefy.bsr_linear": lambda: torch.ops.rarefy.bsr_linear(row, values, *pattern, None),
        "ops.bsr_linear with gradient": lambda: ops.bsr_linear(row, trained, pattern),
    }


def microseconds(call: Callable[[], object], count: int, synchronize: Callable[[], object]) -> float:
    begin = time.perf_counter_ns()
    for _ in range(count):
        call()
    end = time.perf_counter_ns()
    synchronize()
    return (end - begin) / count / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--calls", type=int, default=100, help="in a batch")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--save", type=Path, help="a CSV file to add rows to")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rarefy.set_threads(args.threads)
    synchronize = torch.cuda.synchronize if args.device.startswith("cuda") else lambda: None

    found = calls(args.device)
    times: dict[str, list[float]] = {name: [] for name in found}
    for call in found.values():
        microseconds(call, args.calls, synchronize)
    for _ in range(args.batches):
        for name, call in found.items():
            times[name].append(microseconds(call, args.calls, synchronize))
    rows = []
    for name, batches in times.items():
        least, median = min(batches), statistics.median(batches)
        print(f"{name:34} {median:6.2f} us, at least {least:6.2f}")
        rows.append(
            {
                "call": name,
                "device": args.device,
                "shape": f"{SIDE}x{SIDE}",
                "median_us": round(median, 3),
                "min_us": round(least, 3),
                **stamp(args.threads),
            }
        )
    append_rows(rows, args.save)


if __name__ == "__main__":
    main()
