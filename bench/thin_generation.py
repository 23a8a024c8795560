"""Times a Hugging Face model dense and thin, side by side: one token after the other, and a prompt.

    python bench/thin_generation.py [--device cuda] [--sparsity 0.7] [--new-tokens 32] [--save FILE.csv]

The model has Llama's architecture and 1.04 billion random weights in bfloat16, as `rarefy bench --random 1b` has.
Dense and thin share everything but the Linear layers; "stacked" is thin with layers of one input in one product (`rarefy.stack`). They
take turns; what counts is the median over the turns. On a GPU tokens are generated in four ways (bench/decode_ways.py): eagerly, by a
CUDA graph of a step, as it is or compiled, and by `generate()` with a static cache, which compiles the model.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from pathlib import Path

import rarefy
import torch
from decode_ways import GPU_COLUMNS, compare, in_turns, milliseconds, rows_of
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


@torch.no_grad()
def prompt_ms(model: LlamaForCausalLM, tokens: int) -> float:
    ids = torch.arange(tokens, device=model.device)[None] % 31000
    return milliseconds(model.device, lambda: model(ids, logits_to_keep=1))


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
    parser.add_argument("--seconds", type=float, default=110, help="on a GPU: begins no way of generating later than that")
    parser.add_argument("--save", type=Path, help="a CSV file to add rows to")
    args = parser.parse_args()
    begin = time.monotonic()
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
    stacked = copy.deepcopy(thin)
    rarefy.stack(stacked)
    models = {"dense": dense, "thin": thin, "stacked": stacked}
    errors = logits_errors(models)
    print(f"made thin after {time.monotonic() - begin:.0f} s", flush=True)
    columns = GPU_COLUMNS if args.device.startswith("cuda") else ()

    def save(rows: list[dict]) -> None:
        """What is measured already stays, should the time run out."""
        for row in rows:
            name = row["model"]
            head = {"what": row.pop("what"), "model": row.pop("model"), "sparsity": 0 if name == "dense" else args.sparsity}
            tail = {"logits_error": round(errors[name], 6), "weights": weights, **stamp(args.threads)}
            append_rows([{**head, **{**row, **{key: row.get(key, "") for key in columns}}, **tail}], args.save)

    measures = {name: lambda model=model: prompt_ms(model, args.prompt) for name, model in models.items()}
    in_turns(measures, 1)
    save(rows_of("prompt", args.prompt, in_turns(measures, args.turns)))
    for rows in compare(models, args.new_tokens, args.turns, begin + args.seconds):
        save(rows)
    print("logits are off those of float32 by " + ", ".join(f"{error:.2e} ({name})" for name, error in errors.items()) + " of their norm")


if __name__ == "__main__":
    main()
