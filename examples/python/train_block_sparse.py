"""Trains two small transformers of equal parameters on characters: one with wide block-sparse FFNs, one with dense ones.

The sparse FFN is four times as wide and a quarter full. Its blocks may move while it trains (RigL), so that a quarter of the weights
chooses where to be.
"""

# %% Settings.
import argparse
import csv
import time
from pathlib import Path

import rarefy
import torch
from torch import nn
from torch.nn import functional as F

here = Path(__file__).resolve().parents[1]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--text", type=Path, default=here / "text" / "calibration.txt")
parser.add_argument("--steps", type=int, default=400)
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--context", type=int, default=128)
parser.add_argument("--width", type=int, default=128)
parser.add_argument("--layers", type=int, default=3)
parser.add_argument("--density", type=float, default=0.25)
parser.add_argument("--block", type=int, default=32)
parser.add_argument("--lr", type=float, default=2e-3)
parser.add_argument("--fixed", action="store_true", help="keep the first pattern: no regrowth")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path, default=Path("block-sparse-losses"), help="writes OUT.csv, and OUT.png where matplotlib is")
args = parser.parse_args()

text = args.text.read_text(encoding="utf-8")
letters = sorted(set(text))
numbers = {letter: i for i, letter in enumerate(letters)}
data = torch.tensor([numbers[letter] for letter in text])
split = int(0.9 * len(data))
train_data, valid_data = data[:split], data[split:]


# %% The model: pre-norm decoder; only the FFN's two matrices differ.
class Block(nn.Module):
    def __init__(self, width: int, up: nn.Module, down: nn.Module, heads: int = 4):
        super().__init__()
        self.heads, self.up, self.down = heads, up, down
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self, make_ffn):
        super().__init__()
        self.embed = nn.Embedding(len(letters), args.width)
        self.place = nn.Embedding(args.context, args.width)
        self.blocks = nn.Sequential(*(Block(args.width, *make_ffn()) for _ in range(args.layers)))
        self.norm, self.head = nn.LayerNorm(args.width), nn.Linear(args.width, len(letters))
        for table in (self.embed, self.place):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids) + self.place.weight[: ids.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def dense_ffn() -> tuple[nn.Module, nn.Module]:
    hidden = 4 * args.width
    return nn.Linear(args.width, hidden, bias=False), nn.Linear(hidden, args.width, bias=False)


def sparse_ffn() -> tuple[nn.Module, nn.Module]:
    hidden = round(4 * args.width / args.density)
    return tuple(rarefy.BlockSparseLinear(k, m, False, args.density, args.block) for k, m in ((args.width, hidden), (hidden, args.width)))


# %% Training: the same batches for both.
def batches(source: torch.Tensor, count: int, seed: int):
    random = torch.Generator().manual_seed(seed)
    for _ in range(count):
        places = torch.randint(len(source) - args.context - 1, (args.batch,), generator=random)
        window = torch.stack([source[p : p + args.context + 1] for p in places.tolist()])
        yield window[:, :-1], window[:, 1:]


def loss_of(model: nn.Module, ids: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(ids).flatten(0, 1), target.flatten())


@torch.no_grad()
def validate(model: nn.Module) -> float:
    return sum(loss_of(model, *batch).item() for batch in batches(valid_data, 8, 1)) / 8


def train(name: str, make_ffn) -> list[tuple[int, float, float]]:
    torch.manual_seed(args.seed)
    model = Transformer(make_ffn)
    count = sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps, pct_start=0.1)
    layers = rarefy.SparseOptimizer.sparse_objects(model)
    sparse = None
    if layers and not args.fixed:
        sparse = rarefy.SparseOptimizer(layers, optimizer, total_steps=args.steps, every=max(2, args.steps // 20))
    curve, begin, running = [], time.perf_counter(), None
    for step, batch in enumerate(batches(train_data, args.steps, args.seed), 1):
        loss = loss_of(model, *batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if sparse is not None:
            sparse.step()
        optimizer.zero_grad()
        running = loss.item() if running is None else 0.95 * running + 0.05 * loss.item()
        if step % max(1, args.steps // 10) == 0:
            curve.append((step, running, validate(model)))
            print(f"{name:>12} step {step:5d}  train {curve[-1][1]:.3f}  valid {curve[-1][2]:.3f}", flush=True)
    seconds = (time.perf_counter() - begin) / args.steps
    moved = f", {sparse.moved} blocks moved" if sparse is not None else ""
    print(f"{name:>12} {count:,} parameters, {1000 * seconds:.0f} ms a step{moved}")
    return curve


curves = {"dense": train("dense", dense_ffn), "block-sparse": train("block-sparse", sparse_ffn)}

# %% The curves.
args.out.parent.mkdir(parents=True, exist_ok=True)
with open(f"{args.out}.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["model", "step", "train_loss", "valid_loss"])
    rows.writerows((name, *point) for name, curve in curves.items() for point in curve)
try:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    for name, curve in curves.items():
        steps, _, valid = zip(*curve)
        pyplot.plot(steps, valid, marker="o", label=name)
    pyplot.xlabel("step")
    pyplot.ylabel("validation loss, nats a character")
    pyplot.title(f"equal parameters; FFN {args.density:.0%} full in {args.block}x{args.block} blocks, {1 / args.density:g} times as wide")
    pyplot.legend()
    pyplot.savefig(f"{args.out}.png", dpi=120)
except ImportError:
    print("matplotlib is not there: no picture")
final = {name: curve[-1][2] for name, curve in curves.items()}
print("validation loss: " + ", ".join(f"{name} {loss:.3f}" for name, loss in final.items()))
