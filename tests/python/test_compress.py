"""Pruning of checkpoints."""

import re
from pathlib import Path

import numpy as np
import pytest
import rarefy

TINY_LM = Path(__file__).parents[2] / "examples" / "models" / "tiny-lm"


def test_prune_writes_a_thin_checkpoint(tmp_path):
    seen = []
    report = rarefy.prune(TINY_LM, tmp_path / "thin", method="magnitude", sparsity=0.7, progress=lambda *step: seen.append(step))
    assert seen
    assert re.fullmatch(r"PruneReport\(42 weights, 70\.0 % zeros, \d+\.\d s\)", repr(report))
    assert all(t.nnz == pytest.approx(0.3 * t.rows * t.cols, abs=2) for t in report.tensors)
    thin = rarefy.Checkpoint(tmp_path / "thin")
    name = report.tensors[0].name
    weight = rarefy.to_dense(thin[name])
    assert np.count_nonzero(weight) == report.tensors[0].nnz
    # Magnitude keeps the largest, as they were.
    dense = rarefy.to_dense(rarefy.Checkpoint(TINY_LM)[name])
    assert np.array_equal(weight[weight != 0], dense[weight != 0])
    assert np.abs(dense[weight == 0]).max() <= np.abs(weight[weight != 0]).min()


def test_recipes_and_texts_from_files(tmp_path):
    recipe = "MagnitudeModifier: {sparsity: 0.5, targets: [up_proj]}\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    reports = [rarefy.prune(TINY_LM, tmp_path / str(i), recipe=r) for i, r in enumerate([recipe, tmp_path / "recipe.yaml"])]
    assert [t.nnz for t in reports[0].tensors] == [t.nnz for t in reports[1].tensors]
    assert len(reports[0].tensors) == 6
    with pytest.raises(ValueError, match="calibration text: expected at least 64 tokens, found"):
        (tmp_path / "short.txt").write_text("Too short.")
        rarefy.prune(TINY_LM, tmp_path / "thin", method="wanda", sparsity=0.5, calibration=tmp_path / "short.txt", context=64)


def test_progress_may_stop_it(tmp_path):
    def stop(*step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rarefy.prune(TINY_LM, tmp_path / "thin", method="magnitude", sparsity=0.5, progress=stop)
    assert not (tmp_path / "thin" / "config.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "guess", "sparsity": 0.5}, "method: expected magnitude, wanda or sparsegpt, got 'guess'"),
        ({"method": "magnitude"}, "sparsity: expected a share of zeros"),
        ({"method": "magnitude", "sparsity": 1.5}, "sparsity: expected a share of zeros from 0 to 1, got 1.5"),
        ({"method": "magnitude", "sparsity": 0.5, "pattern": "cheese"}, "cheese"),
        ({"recipe": "stages: 7"}, "recipe"),
    ],
)
def test_errors(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        rarefy.prune(TINY_LM, tmp_path / "thin", **arguments)
