"""Makes a Hugging Face model thin, saves it, loads it back packed, and says what that cost and gained."""

# %% What to thin. Without a model the small one of this repository is taken, which shows how, not how fast.
import argparse
import math
import tempfile
import time
from pathlib import Path

import rarefy
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

here = Path(__file__).resolve().parents[1]
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default=here / "models" / "tiny-lm", help="folder or name on the Hub (default: tiny-lm)")
parser.add_argument("--sparsity", type=float, default=0.5)
parser.add_argument("--method", choices=["magnitude", "wanda"], default="wanda")
parser.add_argument("--text", type=Path, default=here / "text" / "heldout.txt", help="for the perplexity")
parser.add_argument("--calibration", type=Path, default=here / "text" / "calibration.txt", help="for wanda")
parser.add_argument("--context", type=int, default=128, help="tokens of a window")
parser.add_argument("--windows", type=int, default=32, help="windows of text for the perplexity, and for wanda")
parser.add_argument("--new-tokens", type=int, default=40)
parser.add_argument("--out", type=Path, help="folder to keep the thin model in")
args = parser.parse_args()

tokenizer = AutoTokenizer.from_pretrained(args.model)


def windows(path: Path) -> torch.Tensor:
    """[windows, context] token ids, evenly from the whole file."""
    ids = torch.tensor(tokenizer(path.read_text(encoding="utf-8"))["input_ids"])
    ids = ids[: ids.numel() // args.context * args.context].view(-1, args.context)
    return ids[torch.linspace(0, len(ids) - 1, min(args.windows, len(ids))).long()]


@torch.no_grad()
def perplexity(model: torch.nn.Module) -> float:
    losses = [model(batch, labels=batch).loss.item() for batch in windows(args.text).split(4)]
    return math.exp(sum(losses) / len(losses))


@torch.no_grad()
def speak(model: torch.nn.Module) -> tuple[str, float]:
    prompt = tokenizer("It was a cold evening, and", return_tensors="pt")
    begin = time.perf_counter()
    ids = model.generate(**prompt, max_new_tokens=args.new_tokens, do_sample=False)[0]
    seconds = time.perf_counter() - begin
    return tokenizer.decode(ids, skip_special_tokens=True), (len(ids) - prompt["input_ids"].shape[1]) / seconds


# %% The three lines.
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16)
before = perplexity(model), speak(model)
report = rarefy.thin(model, {"method": args.method, "sparsity": args.sparsity, "calibration": windows(args.calibration)})
print(report)

# %% What it cost, and what it says now.
after = perplexity(model), speak(model)
for name, (ppl, (text, rate)) in (("dense", before), ("thin", after)):
    print(f"\n{name}: perplexity {ppl:.1f}, {rate:.0f} tokens/s\n  {text}")

# %% It saves thin and loads thin: compressed-tensors' sparse-bitmask, which the command `rarefy` runs too.
with tempfile.TemporaryDirectory() as scratch:
    folder = args.out or Path(scratch)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    again = rarefy.pretrained(folder)
    same = torch.equal(again(windows(args.text)[:1]).logits, model(windows(args.text)[:1]).logits)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    print(f"\nsaved in {size / 1e6:.1f} MB; loaded back, it gives {'the same' if same else 'OTHER'} logits")
