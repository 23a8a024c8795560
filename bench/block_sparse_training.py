"""Forward and backward of block-sparse layers beside torch's dense ones of the same shape.

    python bench/block_sparse_training.py --threads 2 --save bench/results/<machine>/block_sparse.csv
    python bench/block_sparse_training.py --device cuda --save bench/results/<gpu>/block_sparse_training.csv

They take turns in the same run, after the answers have been compared. `linear` is one layer, whose backward gives the
gradients of inputs and weight; `ffn` is Llama's down(silu(gate(x))·up(x)), `stacked` that with gate and up in one layer. On a
GPU (by default the FFN of Llama-7B, 4096 tokens) torch.compile of either joins, the rival is the faster of the dense two, and
memory is that of weights, gradients and Adam's moments. Needs torch and the package of this tree.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import statistics
import time

import gpu_training as on_gpu
import rarefy
import torch
from rows import append_rows, stamp
from torch import Tensor, nn

DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}
#: Largest error allowed, relative to the norm of what is compared: sums in another order, rounded once to the dtype.
TOLERANCE = {"bf16": 1e-2, "f32": 1e-5}


class Ffn(nn.Module):
    def __init__(self, gate: nn.Module, up: nn.Module, down: nn.Module):
        super().__init__()
        self.gate, self.up, self.down = gate, up, down

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class StackedFfn(nn.Module):
    """The same with gate and up in one weight: x is read, and its gradient written, once."""

    def __init__(self, gate_up: nn.Module, down: nn.Module):
        super().__init__()
        self.gate_up, self.down = gate_up, down

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(nn.functional.silu(gate) * up)


def layers(inputs: int, outputs: int, dtype: torch.dtype, density: float, block: tuple[int, int]) -> tuple[nn.Module, nn.Module]:
    """A dense layer, zero outside of random blocks, and the same block-sparse."""
    sparse = rarefy.BlockSparseLinear(inputs, outputs, False, density, block, dtype=dtype)
    dense = nn.Linear(inputs, outputs, False, dtype=dtype)
    with torch.no_grad():
        dense.weight.copy_(sparse.to_dense())
    return dense, sparse


def make(case: str, features: tuple[int, int], *rest: object) -> tuple[nn.Module, nn.Module]:
    inputs, outputs = features
    if case == "linear":
        return layers(inputs, outputs, *rest)
    kind, sides = (Ffn, [outputs, outputs]) if case == "ffn" else (StackedFfn, [2 * outputs])
    pairs = [*(layers(inputs, side, *rest) for side in sides), layers(outputs, inputs, *rest)]
    dense, sparse = zip(*pairs, strict=True)
    return kind(*dense), kind(*sparse)


def step(model: nn.Module, x: Tensor, grad: Tensor) -> tuple[float, float, Tensor]:
    """Seconds of the forward, of forward and backward, and the outputs."""
    x.grad = None
    model.zero_grad(set_to_none=True)
    start = time.perf_counter()
    y = model(x)
    middle = time.perf_counter()
    y.backward(grad)
    return middle - start, time.perf_counter() - start, y.detach()


def error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


def compare_on_gpu(case: str, tokens: int, dtype: str, density: float, block: tuple[int, int], options: argparse.Namespace) -> list[dict]:
    torch.manual_seed(1)
    torch._dynamo.reset()  # Shapes are what a graph is made for.
    with torch.device(options.device):
        dense, sparse = make(case, options.features, DTYPES[dtype], density, block)
        x = torch.randn(tokens, options.features[0], dtype=DTYPES[dtype], requires_grad=True)
        grad = torch.randn(tokens, options.features[1] if case == "linear" else options.features[0], dtype=DTYPES[dtype])
    seen = [(on_gpu.step(model, x, grad), x.grad) for model in (dense, sparse)]
    errors = [error(got, want) for want, got in zip(*seen, strict=True)] + on_gpu.gradient_errors(dense, sparse)
    if not max(errors) <= TOLERANCE[dtype]:
        raise SystemExit(f"{case} {dtype} {block}: wrong answers, relative errors {errors}")
    del seen
    for line in on_gpu.kernels(sparse):
        print("   ", line)
    models = {"torch dense": dense, "torch dense compiled": None, "rarefy": sparse, "rarefy compiled": None}
    if options.compile:
        for name in ("torch dense", "rarefy"):
            models[f"{name} compiled"] = on_gpu.compiled(models[name], x, grad)
    models = {name: model for name, model in models.items() if model is not None}
    steps = {name: functools.partial(on_gpu.step, model, x, grad) for name, model in models.items()}
    forward = on_gpu.milliseconds({name: functools.partial(model, x) for name, model in models.items()}, options.repetitions)
    both = on_gpu.milliseconds(steps, options.repetitions)
    kept = {"torch dense": on_gpu.kept_bytes(dense, x, grad), "rarefy": on_gpu.kept_bytes(sparse, x, grad)}
    best = {"forward": min(t for n, t in forward.items() if "dense" in n), "both": min(t for n, t in both.items() if "dense" in n)}
    return [
        {
            "case": case, "device": torch.cuda.get_device_name(), "shape": f"{options.features[1]}x{options.features[0]}",
            "tokens": tokens, "dtype": dtype, "block": f"{block[0]}x{block[1]}", "density": density, "method": name,
            "forward_ms": round(forward[name], 3), "forward_backward_ms": round(both[name], 3),
            "forward_speedup": round(best["forward"] / forward[name], 2),
            "forward_backward_speedup": round(best["both"] / both[name], 2),
            "kept_mib": round(kept[name.removesuffix(" compiled")] / 2**20, 1),
            "kept_share": round(kept[name.removesuffix(" compiled")] / kept["torch dense"], 4),
            "max_rel_err": f"{max(errors):.1e}" if name == "rarefy" else "",
        }
        for name in models
    ]  # fmt: skip


def compare(case: str, tokens: int, dtype: str, density: float, block: tuple[int, int], options: argparse.Namespace) -> list[dict]:
    torch.manual_seed(1)
    models = dict(zip(("torch dense", "rarefy"), make(case, options.features, DTYPES[dtype], density, block), strict=True))
    x = torch.randn(tokens, options.features[0], dtype=DTYPES[dtype], requires_grad=True)
    width = options.features[1] if case == "linear" else options.features[0]
    grad = torch.randn(tokens, width, dtype=DTYPES[dtype])
    seen = {}
    for name, model in models.items():
        seen[name] = (step(model, x, grad)[2], x.grad)
    errors = [error(got, want) for got, want in zip(seen["rarefy"], seen["torch dense"], strict=True)]
    if max(errors) > TOLERANCE[dtype]:
        raise SystemExit(f"{case} {dtype} {block}: wrong answers, relative errors {errors}")
    del seen
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for _ in range(options.repetitions):
        for name, model in models.items():
            times[name].append(step(model, x, grad)[:2])
    median = {name: [1e3 * statistics.median(t) for t in zip(*all_times, strict=True)] for name, all_times in times.items()}
    return [
        {
            "case": case, "shape": f"{options.features[1]}x{options.features[0]}", "tokens": tokens, "dtype": dtype,
            "block": f"{block[0]}x{block[1]}", "density": density, "method": name,
            "forward_ms": round(forward, 2), "forward_backward_ms": round(both, 2),
            "forward_speedup": round(median["torch dense"][0] / forward, 2),
            "forward_backward_speedup": round(median["torch dense"][1] / both, 2),
            "max_rel_err": f"{max(errors):.1e}" if name == "rarefy" else "",
        }
        for name, (forward, both) in median.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cases", nargs="+", choices=["linear", "ffn", "stacked"])
    parser.add_argument("--tokens", nargs="+", type=int)
    parser.add_argument("--features", nargs=2, type=int, default=[4096, 11008], metavar=("INPUTS", "OUTPUTS"))
    parser.add_argument("--blocks", nargs="+", help="such as 32x32 16x32")
    parser.add_argument("--density", nargs="+", type=float, default=[0.25])
    parser.add_argument("--dtypes", nargs="+", default=["bf16"], choices=sorted(DTYPES))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--save", type=pathlib.Path, help="CSV file to append rows to")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="on a GPU: leave torch.compile out")
    options = parser.parse_args()
    gpu = torch.device(options.device).type == "cuda"
    options.cases = options.cases or (["ffn"] if gpu else ["linear", "ffn"])
    options.tokens = options.tokens or ([4096] if gpu else [512, 2048])
    options.blocks = options.blocks or (["64x64", "32x32", "128x128"] if gpu else ["32x32"])
    torch.set_num_threads(options.threads)
    rarefy.set_threads(options.threads)
    measured = stamp(options.threads)
    for case in options.cases:
        for tokens in options.tokens:
            for dtype in options.dtypes:
                for density in options.density:
                    for block in options.blocks:
                        shape = tuple(int(side) for side in block.split("x"))
                        rows = (compare_on_gpu if gpu else compare)(case, tokens, dtype, density, shape, options)
                        for row in rows:
                            row |= measured
                        report(rows)
                        append_rows(rows, options.save)


def report(rows: list[dict]) -> None:
    for row in rows:
        print(
            f"{row['case']:7} {row['tokens']:5} tokens {row['dtype']:5} {row['block']:7} {row['density']:.2f} {row['method']:20} "
            f"forward {row['forward_ms']:8.2f} ms ({row['forward_speedup']:.2f}x)  with backward "
            f"{row['forward_backward_ms']:8.2f} ms ({row['forward_backward_speedup']:.2f}x)  "
            + (f"keeps {row['kept_mib']:6.1f} MiB ({row['kept_share']:.3f})  " if "kept_mib" in row else "")
            + row["max_rel_err"],
            flush=True,
        )


if __name__ == "__main__":
    main()
