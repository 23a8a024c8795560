"""One token after the other: eagerly, and on a GPU by a CUDA graph of a step, as it is or compiled, and as transformers compiles it.

Where the time of a step goes on a GPU is told apart, too: its linear layers alone, and all kernels that it runs.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import rarefy
import torch
from torch import nn
from transformers import LlamaForCausalLM, StaticCache

PROMPT = 8


def prompt(model: LlamaForCausalLM) -> torch.Tensor:
    return torch.arange(PROMPT, device=model.device)[None] + 5


def static_cache(model: LlamaForCausalLM, tokens: int) -> StaticCache:
    return StaticCache(config=model.config, max_cache_len=PROMPT + tokens + 8)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(device: torch.device, work: Callable[[], object]) -> float:
    wait(device)
    begin = time.perf_counter()
    work()
    wait(device)
    return 1e3 * (time.perf_counter() - begin)


def in_turns(measures: dict[str, Callable[[], float]], turns: int) -> dict[str, list[float]]:
    """What each measures, `turns` times, one after the other."""
    times: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(turns):
        for name, measure in measures.items():
            times[name].append(measure())
    return times


def rows_of(what: str, tokens: int, times: dict[str, list[float]]) -> list[dict[str, Any]]:
    """One for each model; ratios are the medians of those of the turns."""
    rows = []
    for name, all in times.items():
        ratio = statistics.median(d / t for d, t in zip(times["dense"], all, strict=True))
        rows.append(
            {
                "what": what,
                "model": name,
                "tokens": tokens,
                "median_ms": round(statistics.median(all), 4),
                "min_ms": round(min(all), 4),
                "max_ms": round(max(all), 4),
                "over_dense": round(ratio, 3),
            }
        )
    print(f"{what}: " + ", ".join(f"{r['model']} {r['median_ms']:.3f} ms ({r['over_dense']:.2f}x)" for r in rows), flush=True)
    return rows


def recorded(work: Callable[[], object], warm: int = 3) -> torch.cuda.CUDAGraph:
    """A graph of `work`, which runs `warm` times before, as torch asks."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(warm):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


class Generation:
    """`generate()`, greedy, with a cache that grows (eager) or a static one, with which transformers compiles the model."""

    def __init__(self, model: LlamaForCausalLM, tokens: int, compiled: bool = False):
        self.model, self.tokens = model, tokens
        self.cache = static_cache(model, tokens) if compiled else None

    @torch.no_grad()
    def run(self, tokens: int, **more: Any) -> Any:
        if self.cache is not None:
            self.cache.reset()
            more["past_key_values"] = self.cache
        return self.model.generate(
            prompt(self.model), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0, **more
        )  # fmt: skip

    def token_ms(self) -> float:
        device = self.model.device
        first = milliseconds(device, lambda: self.run(1))
        return (milliseconds(device, lambda: self.run(self.tokens + 1)) - first) / self.tokens

    def logits(self) -> torch.Tensor:
        """Of the step after the prompt and the token that follows it."""
        return self.run(2, output_logits=True, return_dict_in_generate=True).logits[1][0].float()


class Graph:
    """A step with its choice of the next token in a CUDA graph, as it is or compiled: replays alone generate."""

    @torch.no_grad()
    def __init__(self, model: LlamaForCausalLM, tokens: int, compiled: bool = False):
        self.model, self.tokens = model, tokens
        self.forward = torch.compile(model, fullgraph=True, dynamic=False) if compiled else model
        self.cache = static_cache(model, tokens)
        self.token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        self._prefill()
        self.graph = recorded(self._step)

    def _prefill(self) -> None:
        self.cache.reset()
        self._take(self.model(prompt(self.model), past_key_values=self.cache, logits_to_keep=1).logits)

    def _step(self) -> None:
        self._take(self.forward(self.token, past_key_values=self.cache).logits)

    def _take(self, logits: torch.Tensor) -> None:
        self.seen = logits
        self.token.copy_(logits[:, -1:].argmax(-1))

    @torch.no_grad()
    def token_ms(self) -> float:
        step = self.seen
        self._prefill()
        self.seen = step  # Where the graph writes.
        return milliseconds(self.model.device, lambda: [self.graph.replay() for _ in range(self.tokens)]) / self.tokens

    @torch.no_grad()
    def logits(self) -> torch.Tensor:
        step = self.seen
        self._prefill()
        self.seen = step
        self.graph.replay()
        return self.seen[0, -1].float()


class LinearLayers:
    """All that is linear in a step, one after the other in a CUDA graph, with inputs of their own."""

    @torch.no_grad()
    def __init__(self, model: LlamaForCausalLM):
        self.device = model.device
        self.layers = [layer for layer in model.modules() if isinstance(layer, (nn.Linear, rarefy.SparseLinear))]
        widths = {layer.in_features for layer in self.layers}
        inputs = {width: torch.randn(1, 1, width, device=model.device, dtype=model.dtype) for width in widths}
        self.graph = recorded(lambda: [layer(inputs[layer.in_features]) for layer in self.layers])

    def ms(self, replays: int = 20) -> float:
        replay = lambda: [self.graph.replay() for _ in range(replays)]  # noqa: E731
        return min(milliseconds(self.device, replay) / replays for _ in range(3))


def kernels(replay: Callable[[], object]) -> tuple[int, float, list[tuple[str, int, float]]]:
    """(count, their milliseconds, the ten that take longest: name, count, milliseconds) of what a replay runs."""
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        replay()
        torch.cuda.synchronize()
    count, total = Counter(), Counter()
    for event in profile.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            count[event.name] += 1
            total[event.name] += event.device_time / 1e3
    most = [(name, count[name], ms) for name, ms in total.most_common(10)]
    return count.total(), total.total(), most


def distance(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got - want).norm() / want.norm()).item()


#: Columns of a GPU's rows beside those of `rows_of`.
GPU_COLUMNS = ("linear_ms", "off_eager", "kernels", "kernels_ms")
WAYS: dict[str, Callable[[LlamaForCausalLM, int], Any]] = {
    "decode": Generation,
    "decode, graph": Graph,
    "decode, graph of what is compiled": lambda model, tokens: Graph(model, tokens, compiled=True),
    "decode, compiled": lambda model, tokens: Generation(model, tokens, compiled=True),
}


def compare(models: dict[str, LlamaForCausalLM], tokens: int, turns: int, deadline: float) -> Iterator[list[dict[str, Any]]]:
    """For each way a row for each model; on a GPU no way begins after `deadline`, and what does not run says why."""
    on_gpu = models["dense"].device.type == "cuda"
    linear, eager = {}, {}
    if on_gpu:
        linear = {name: LinearLayers(model).ms() for name, model in models.items()}
        print("linear layers alone, of a step: " + ", ".join(f"{name} {ms:.3f} ms" for name, ms in linear.items()), flush=True)
        eager = {name: Generation(model, tokens).logits() for name, model in models.items()}
    for way, make in WAYS.items():
        if way != "decode" and not on_gpu:
            continue
        if on_gpu and time.monotonic() > deadline:
            print(f"{way}: not run, the time is over")
            continue
        try:
            runs = {name: make(model, tokens) for name, model in models.items()}
            in_turns({name: run.token_ms for name, run in runs.items()}, 2 if on_gpu else 1)  # Compiles and records.
            rows = rows_of(way, tokens, in_turns({name: run.token_ms for name, run in runs.items()}, turns))
            if on_gpu:
                off = {name: distance(run.logits(), eager[name]) for name, run in runs.items()}
                print("  logits off those of eager by " + ", ".join(f"{error:.1e} ({name})" for name, error in off.items()))
                for row in rows:
                    row |= {"linear_ms": round(linear[row["model"]], 4), "off_eager": round(off[row["model"]], 6)}
                    if isinstance(runs[row["model"]], Graph):
                        row |= _kernels_of(row["model"], runs[row["model"]].graph)
        except Exception as error:  # No triton, say: the others are worth having.
            if not on_gpu:
                raise
            print(f"{way}: does not run here, {type(error).__name__}: {str(error).strip().splitlines()[0]}", flush=True)
            continue
        yield rows


def _kernels_of(name: str, graph: torch.cuda.CUDAGraph) -> dict[str, Any]:
    count, busy, most = kernels(graph.replay)
    print(f"  {name}: {count} kernels a token, {busy:.3f} ms")
    for kernel, times, ms in most:
        print(f"    {ms:8.3f} ms {times:5} x {kernel[:110]}")
    return {"kernels": count, "kernels_ms": round(busy, 4)}
