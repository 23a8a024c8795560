"""PyTorch's block-sparse product (BSR, Triton) on a GPU, as a rival of rarefy-gpu-block-bench.

One CSV row a block size: C = X·Aᵀ with the same shapes; medians of replays of a CUDA graph.

    python bench/gpu_block_rival.py --shape 4096x14336 --n 4096 --density 0.25 --blocks 128,64,32,16
"""

import argparse
import statistics
import time

import torch


def bsr_weight(rows: int, cols: int, block: int, density: float, dtype: torch.dtype):
    generator = torch.Generator(device="cuda").manual_seed(3)
    shape = (rows // block, cols // block)
    keep = torch.rand(shape, generator=generator, device="cuda") < density
    keep[:, 0] |= ~keep.any(dim=1)  # The Triton kernel wants no empty row.
    crow = torch.zeros(shape[0] + 1, dtype=torch.int32, device="cuda")
    crow[1:] = keep.sum(dim=1).cumsum(0)
    columns = keep.nonzero()[:, 1].to(torch.int32)
    values = torch.randn(columns.numel(), block, block, device="cuda", dtype=dtype)
    return torch.sparse_bsr_tensor(crow, columns, values, (rows, cols))


def median_us(call, calls: int = 10, replays: int = 10) -> float:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    times = []
    for _ in range(replays):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / calls)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="4096x14336")
    parser.add_argument("--n", type=int, default=4096)
    parser.add_argument("--density", type=float, default=0.25)
    parser.add_argument("--blocks", default="128,64,32,16")
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    begin = time.monotonic()
    rows, cols = (int(side) for side in options.shape.split("x"))
    x = torch.randn(options.n, cols, device="cuda", dtype=torch.bfloat16)
    dense = torch.randn(rows, cols, device="cuda", dtype=torch.bfloat16)
    dense_us = median_us(lambda: torch.nn.functional.linear(x, dense))
    print("product,rows,cols,block,density,n,kernel,us,useful_tflops,dense_us,over_dense")
    for block in (int(size) for size in options.blocks.split(",")):
        if time.monotonic() - begin > options.seconds:
            break
        weight = bsr_weight(rows, cols, block, options.density, torch.bfloat16)
        try:
            us = median_us(lambda weight=weight: torch.nn.functional.linear(x, weight))
        except Exception as error:  # What it cannot do, it says in many ways.
            print(f"# torch, blocks of {block}: {str(error).splitlines()[0]}")
            continue
        useful = 2.0 * options.n * weight.values().numel() / us / 1e6
        print(
            f"forward,{rows},{cols},{block}x{block},{options.density},{options.n},torch {torch.__version__},"
            f"{us:.1f},{useful:.0f},{dense_us:.1f},{dense_us / us:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
