"""Runs a model with masks that somebody else made: torch.nn.utils.prune's, or bool tensors from a file."""

# %% A model, and masks by any method. Here torch's own magnitude pruning, and further down random blocks.
import argparse
from pathlib import Path

import rarefy
import torch
from torch import nn
from torch.nn.utils import prune

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--masks", type=Path, help="a torch.save'd {layer name: bool tensor [out, in]}; names like 0 and 2 here")
parser.add_argument("--width", type=int, default=512)
args = parser.parse_args()

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(args.width, 4 * args.width), nn.GELU(), nn.Linear(4 * args.width, args.width))
x = torch.randn(16, args.width)

if args.masks:
    masks = torch.load(args.masks)
else:
    masks = {}
    for name, layer in model.named_children():
        if isinstance(layer, nn.Linear):
            prune.l1_unstructured(layer, "weight", amount=0.8)  # anything that leaves a weight_mask
            masks[name] = layer.weight_mask.bool()
            prune.remove(layer, "weight")
dense = {name: layer.weight.detach().clone() for name, layer in model.named_children() if name in masks}

# %% Inference: `thin` packs what the masks leave.
with torch.no_grad():
    for name, mask in masks.items():
        model.get_submodule(name).weight *= mask
    want = model(x)
print(rarefy.thin(model, {"masks": masks, "tokens": 16}))
with torch.no_grad():
    print(f"largest difference from the masked dense model: {(model(x) - want).abs().max():.2g}")

# %% Training: a mask of blocks makes a layer that trains only them.
weight = next(iter(dense.values()))
blocks = torch.rand(weight.shape[0] // 32, weight.shape[1] // 32) < 0.25
layer = rarefy.BlockSparseLinear.from_dense(weight, mask=blocks)
optimizer = torch.optim.AdamW(layer.parameters(), 1e-3)
target = x @ weight.T
for step in range(101):
    loss = (layer(x) - target).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 50 == 0:
        print(f"step {step:3d}: a quarter of the blocks, loss {loss.item():.4f}")
