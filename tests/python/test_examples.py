"""The recipes of examples/python, in a short form."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="missing: torch (RAREFY_TEST_TORCH=1 make test installs it)")
EXAMPLES = Path(__file__).parents[2] / "examples" / "python"


def run(script, *options, cwd):
    environment = {**os.environ, "RAREFY_FREEZE": "1", "OMP_NUM_THREADS": "1", "RAREFY_THREADS": "1"}
    done = subprocess.run([sys.executable, EXAMPLES / script, *map(str, options)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_thin_a_model(tmp_path):
    pytest.importorskip("transformers", minversion="5.0", reason="missing: transformers 5")
    said = run("thin_a_model.py", "--windows", 4, "--context", 64, "--new-tokens", 4, "--out", tmp_path / "thin", cwd=tmp_path)
    assert "loaded back, it gives the same logits" in said
    assert re.search(r"42 layers +50\.0%", said)
    dense, thin = (float(ppl) for ppl in re.findall(r"perplexity (\d+\.\d)", said))
    assert dense < thin < 20 * dense
    assert (tmp_path / "thin" / "model.safetensors").stat().st_size < 4_500_000  # of 5.5 MB


def test_train_block_sparse(tmp_path):
    small = ("--layers", 1, "--width", 64, "--block", 16, "--context", 32)
    said = run("train_block_sparse.py", "--steps", 40, *small, "--out", "losses", cwd=tmp_path)
    counts = re.findall(r"([\d,]+) parameters", said)
    assert len(counts) == 2 and counts[0] == counts[1]
    assert int(re.search(r"(\d+) blocks moved", said)[1]) > 0
    with open(tmp_path / "losses.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for model in ("dense", "block-sparse"):
        losses = [float(row["valid_loss"]) for row in rows if row["model"] == model]
        assert len(losses) == 10 and losses[-1] < 0.9 * losses[0]


def test_use_a_mask(tmp_path):
    said = run("use_a_mask.py", "--width", 128, cwd=tmp_path)
    assert re.search(r"2 layers +20\.0%", said)
    assert float(re.search(r"masked dense model: (\S+)", said)[1]) < 1e-4
    first, last = (float(loss) for loss in re.findall(r"loss (\d\.\d+)", said)[::2])
    assert last < first
    torch.save({"0": torch.rand(512, 128) < 0.1}, tmp_path / "masks.pt")
    assert re.search(r"1 layers? +10\.\d%|1 layers +9\.\d%", run("use_a_mask.py", "--width", 128, "--masks", "masks.pt", cwd=tmp_path))
