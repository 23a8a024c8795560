"""Times a Hugging Face model dense and thin, side by side: one token after the other, and a prompt.

    python bench/thin_generation.py [--device cuda] [--sparsity 0.7] [--new-tokens 32] [--save FILE.csv]

The model has Llama's architecture and 1.04 billion random weights in bfloat16, as `rarefy bench --random 1b` has.
Dense and thin share everything but the Linear layers. They take turns; what counts is the median over the turns. On a GPU there is a
step more: one token through the model, without a cache, recorded in a CUDA graph, where Python takes no time.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path

import rarefy
import torch
from rows import append_rows, stamp
from transformers import LlamaConfig, LlamaForCausalLM


def random_model(args: argparse.Namespace) -> LlamaForCausalLM:
    config = LlamaConfig(
        hidden_size=args.hidden, intermediate_size=4 * args.hidden, num_hidden_layers=args.layers, num_attention_heads=args.hidden // 64,
        num_key_value_heads=args.hidden // 256, vocab_size=32000, tie_word_embeddings=True, max_position_embeddings=2048, dtype="bfloat16",
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.to_empty(device=args.device)
    model.init_weights()
    return model.eval()


def wait(model: LlamaForCausalLM) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def decode_ms(model: LlamaForCausalLM, tokens: int) -> float:
    """Milliseconds a token, of a greedy `generate` after a prompt of eight."""
    prompt = torch.arange(8, device=model.device)[None] + 5
    generate = lambda n: model.generate(prompt, max_new_tokens=n, min_new_tokens=n, do_sample=False, pad_token_id=0)  # noqa: E731
    wait(model)
    begin = time.perf_counter()
    generate(1)
    wait(model)
    middle = time.perf_counter()
    generate(tokens + 1)
    wait(model)
    end = time.perf_counter()
    return 1e3 * ((end - middle) - (middle - begin)) / tokens


@torch.no_grad()
def prompt_ms(model: LlamaForCausalLM, tokens: int) -> float:
    ids = torch.arange(tokens, device=model.device)[None] % 31000
    wait(model)
    begin = time.perf_counter()
    model(ids, logits_to_keep=1)
    wait(model)
    return 1e3 * (time.perf_counter() - begin)


_graphs: dict[int, torch.cuda.CUDAGraph] = {}


@torch.no_grad()
def graph_ms(model: LlamaForCausalLM, tokens: int) -> float:
    """Milliseconds of a step that a CUDA graph replays: `tokens` tokens, no cache."""
    graph = _graphs.get(id(model))
    if graph is None:
        ids = torch.arange(tokens, device=model.device)[None] + 5
        model(ids, use_cache=False)
        wait(model)
        graph = _graphs[id(model)] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            model(ids, use_cache=False)
    replays = 20
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(replays):
        graph.replay()
    end.record()
    wait(model)
    return begin.elapsed_time(end) / replays


@torch.no_grad()
def logits_errors(models: dict[str, LlamaForCausalLM]) -> dict[str, float]:
    """Distance of each model's logits from those that the dense one gives in float32, over their norm."""
    ids = torch.arange(64, device=models["dense"].device)[None]
    logits = {name: model(ids).logits.float() for name, model in models.items()}
    exact = copy.deepcopy(models["dense"]).float()(ids).logits
    return {name: ((given - exact).norm() / exact.norm()).item() for name, given in logits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sparsity", type=float, default=0.7)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--save", type=Path, help="a CSV file to add rows to")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rarefy.set_threads(args.threads)

    thin = random_model(args)
    print(rarefy.thin(thin, {"method": "magnitude", "sparsity": args.sparsity, "tokens": (1, args.prompt)}), file=sys.stderr)
    # The dense twin computes with the same zeros.
    dense = random_model(args)
    layers = dict(dense.named_modules())
    weights = 0
    with torch.no_grad():
        for name, layer in thin.named_modules():
            if isinstance(layer, rarefy.SparseLinear):
                layers[name].weight.copy_(layer.weight)
                weights += layer.weight.numel()
    errors = logits_errors({"dense": dense, "thin": thin})

    rows = []
    kinds = [("decode", decode_ms, args.new_tokens), ("prompt", prompt_ms, args.prompt)]
    if args.device.startswith("cuda"):
        kinds.append(("graph", graph_ms, 1))
    for what, measure, count in kinds:
        times: dict[str, list[float]] = {"dense": [], "thin": []}
        for model in (dense, thin):
            measure(model, count)
        for _ in range(args.turns):
            for name, model in (("dense", dense), ("thin", thin)):
                times[name].append(measure(model, count))
        medians = {name: statistics.median(t) for name, t in times.items()}
        ratio = statistics.median(d / t for d, t in zip(times["dense"], times["thin"], strict=True))
        print(f"{what}: dense {medians['dense']:.2f} ms, thin {medians['thin']:.2f} ms: {ratio:.2f}x", flush=True)
        for name, t in times.items():
            rows.append(
                {
                    "what": what,
                    "model": name,
                    "sparsity": args.sparsity if name == "thin" else 0,
                    "tokens": count,
                    "median_ms": round(medians[name], 3),
                    "min_ms": round(min(t), 3),
                    "max_ms": round(max(t), 3),
                    "over_dense": round(ratio, 3) if name == "thin" else 1,
                    "logits_error": round(errors[name], 6),
                    "weights": weights,
                    **stamp(args.threads),
                }  # fmt: skip
            )
    print("logits are off those of float32 by " + ", ".join(f"{error:.2e} ({name})" for name, error in errors.items()) + " of their norm")
    append_rows(rows, args.save)


if __name__ == "__main__":
    main()
