"""rarefy.thin: what goes, what stays, and what the report says."""

import pytest

torch = pytest.importorskip("torch", reason="missing: torch (RAREFY_TEST_TORCH=1 make test installs it)")
import rarefy
from rarefy import Recipe, SparseLinear
from torch import nn


@pytest.fixture(autouse=True)
def estimates(monkeypatch):
    monkeypatch.setenv("RAREFY_FREEZE", "1")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.ModuleDict({"q_proj": nn.Linear(64, 32), "o_proj": nn.Linear(32, 64, bias=False)}) for _ in range(2))
        self.lm_head = nn.Linear(64, 50)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer["o_proj"](layer["q_proj"](x).relu())
        return self.lm_head(x)


def test_a_number_is_a_sparsity():
    model = Model()
    before = {name: layer.weight.detach().clone() for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    report = rarefy.thin(model, 0.75)
    assert [layer.name for layer in report.layers] == [f"layers.{i}.{n}_proj" for i in range(2) for n in "qo"]
    assert type(model.lm_head) is nn.Linear
    for entry in report.layers:
        layer = model.get_submodule(entry.name)
        dense, old = layer.to_dense(), before[entry.name]
        assert isinstance(layer, SparseLinear) and entry.density == 0.25
        kept = dense != 0
        assert int(kept.sum()) == 512 and dense[kept].equal(old[kept])
        assert old[kept].abs().min() >= old[~kept].abs().max()
    assert model(torch.randn(3, 64)).shape == (3, 50)


def test_progress_names_every_layer_before_its_turn():
    seen = []
    rarefy.thin(Model(), {"sparsity": 0.5, "format": "csr"}, progress=lambda *step: seen.append(step))
    names = [f"layers.{i}.{n}_proj" for i in range(2) for n in "qo"]
    assert seen == [("thin", i, 4, name) for i, name in enumerate(names)]


def test_report():
    report = rarefy.thin(Model(), {"sparsity": 0.5, "format": "bitmap"})
    entry = report.layers[0]
    assert (entry.shape, entry.format, entry.dense_nbytes, entry.speedup) == ((32, 64), "bitmap", 8192, None)
    assert report.density == 0.5 and report.dense_nbytes == 4 * 8192 and 0 < report.nbytes < report.dense_nbytes
    lines = str(report).splitlines()
    assert len(lines) == 6 and lines[0].split()[:3] == ["layer", "shape", "density"]
    assert "layers.0.q_proj" in lines[1] and "32x64" in lines[1] and "50.0%" in lines[1]
    planned = rarefy.thin(Model(), {"sparsity": 0.5})
    assert all(layer.speedup is not None for layer in planned.layers)


@pytest.mark.parametrize("pattern, sparsity", [("2:4", None), ("1:4", 0.75), ("8x8", 0.5)])
def test_structures(pattern, sparsity):
    model = Model()
    rarefy.thin(model, {"pattern": pattern, "sparsity": sparsity, "targets": "q_proj", "format": "bitmap"})
    dense = model.layers[0]["q_proj"].to_dense()
    if ":" in pattern:
        assert ((dense.unflatten(1, (-1, 4)) != 0).sum(-1) == int(pattern[0])).all()
    else:
        full = (dense.unflatten(1, (-1, 8)).unflatten(0, (-1, 8)) != 0).sum((1, 3))
        assert sorted(full.flatten().tolist()) == [0] * 16 + [64] * 16
    assert type(model.layers[0]["o_proj"]) is nn.Linear


@pytest.mark.parametrize(
    "targets, ignore, count",
    [
        (["Linear"], None, 4),
        (["Linear"], [], 5),
        (["layers.1"], None, 2),
        (["o_proj", "layers.0.q_proj"], None, 3),
        (["re:layers\\.[0-9]+\\.q"], None, 2),
        (["Linear"], ["re:.*o_proj", "lm_head"], 2),
    ],
)
def test_targets(targets, ignore, count):
    report = rarefy.thin(Model(), {"sparsity": 0.5, "targets": targets, "ignore": ignore, "format": "csr"})
    assert len(report.layers) == count


def test_wanda_weighs_by_the_inputs():
    model = Model()
    data = torch.randn(4, 6, 64)
    data[..., 0] = 100.0
    data[..., 1] = 0.0
    norms = data.flatten(0, 1).norm(dim=0)
    old = model.layers[0]["q_proj"].weight.detach().clone()
    rarefy.thin(model, {"method": "wanda", "sparsity": 0.5, "targets": "layers.0", "calibration": [data[:2], data[2:]], "format": "csr"})
    kept = model.layers[0]["q_proj"].to_dense() != 0
    assert (kept.sum(1) == 32).all()  # by rows
    assert kept[:, 0].all() and not kept[:, 1].any()
    scores = old.abs() * norms
    assert all(scores[i][kept[i]].min() >= scores[i][~kept[i]].max() for i in range(32))
    assert not any(layer._forward_pre_hooks for layer in model.modules())


def test_wanda_sees_the_model_as_it_was_before_any_recipe():
    data, both = torch.randn(1, 64), [["layers.0"], ["layers.1"]]
    one, two = Model(), Model()
    rarefy.thin(one, {"method": "wanda", "sparsity": 0.9, "targets": sum(both, []), "calibration": [data], "format": "csr"})
    recipes = [{"method": "wanda", "sparsity": 0.9, "targets": t, "calibration": [data], "format": "csr"} for t in both]
    rarefy.thin(two, recipes)
    for name in ("layers.0.o_proj", "layers.1.q_proj", "layers.1.o_proj"):
        assert one.get_submodule(name).to_dense().equal(two.get_submodule(name).to_dense())


def test_calibration_is_tensors_or_arguments():
    data = torch.randn(4, 64)
    weights = []
    for calibration in (data, [data[:2], data[2:]], {"x": data}, [{"x": data}]):
        model = Model()
        rarefy.thin(model, {"method": "wanda", "sparsity": 0.5, "calibration": calibration, "format": "csr"})
        weights.append(model.layers[1]["o_proj"].to_dense())
    assert all(weight.equal(weights[0]) for weight in weights)
    with pytest.raises(TypeError, match=r"recipe.calibration: expected token ids \(text: rarefy.prune\), got str"):
        rarefy.thin(Model(), {"method": "wanda", "sparsity": 0.5, "calibration": "Once upon a time"})


def test_masks_made_elsewhere():
    model = Model()
    mask = torch.rand(32, 64) < 0.4
    old = model.layers[1]["q_proj"].weight.detach().clone()
    report = rarefy.thin(model, {"masks": {"layers.1.q_proj": mask}, "format": "bitmap"})
    assert len(report.layers) == 1
    assert model.layers[1]["q_proj"].to_dense().equal(old * mask)


def test_zeros_that_are_there_are_used():
    model = Model()
    with torch.no_grad():
        model.layers[0]["q_proj"].weight[:, 8:] = 0
    report = rarefy.thin(model, {"method": "keep", "targets": "layers.0.q_proj"})
    assert report.layers[0].density == 0.125


def test_lists_of_recipes_and_shared_layers():
    model = Model()
    model.layers[1]["q_proj"] = model.layers[0]["q_proj"]
    report = rarefy.thin(model, [Recipe(sparsity=0.9, targets=["q_proj"], format="csr"), {"sparsity": 0.5, "format": "csr"}])
    assert {layer.name: round(layer.density, 2) for layer in report.layers} == {
        "layers.0.q_proj": 0.1, "layers.0.o_proj": 0.5, "layers.1.o_proj": 0.5,
    }  # fmt: skip
    assert model.layers[1]["q_proj"] is model.layers[0]["q_proj"]


def test_recipe_files(tmp_path):
    pytest.importorskip("yaml", reason="missing: PyYAML")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "sparsity_stage:\n  sparsity_modifiers:\n    MagnitudePruningModifier:\n      final_sparsity: 0.8\n"
        "      mask_structure: '0:0'\n      targets: ['re:layers.*']\n      ignore: ['re:.*o_proj']\n"
    )
    (recipe,) = Recipe.read(path)
    assert (recipe.method, recipe.sparsity, recipe.targets, recipe.ignore) == ("magnitude", 0.8, ["re:layers.*"], ["re:.*o_proj"])
    assert len(rarefy.thin(Model(), path).layers) == 2
    path.write_text("stage:\n  SparseGPTModifier: {sparsity: 0.5}\n")
    with pytest.raises(ValueError, match="modifiers among .* got SparseGPTModifier"):
        Recipe.read(path)
    path.write_text("stage:\n  MagnitudeModifier: {sparsity: 0.5, profile: owl}\n")
    with pytest.raises(ValueError, match=r"MagnitudeModifier: expected settings among .* got \['profile'\]"):
        Recipe.read(path)
    for text, message in (
        ("- MagnitudeModifier\n", "expected stages with modifiers"),
        ("stage: {MagnitudeModifier: 0.5}\n", "MagnitudeModifier: expected settings"),
        ("stage: [\n", "expected YAML"),
        ("", "expected stages with modifiers, got None"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            Recipe.read(path)


@pytest.mark.parametrize(
    "recipe, message",
    [
        (1.0, r"recipe.sparsity: expected a number of at least 0 and below 1, got 1.0"),
        (-0.1, r"recipe.sparsity: expected .* got -0.1"),
        ({}, r"recipe.sparsity: expected .* got None"),
        ({"sparsity": 0.5, "blocks": 3}, r"recipe: expected keys among .* got \['blocks'\]"),
        ({"method": "sparsegpt", "sparsity": 0.5}, r"recipe.method: expected one of .*rarefy.prune"),
        ({"method": "wanda", "sparsity": 0.5}, r"recipe.calibration: expected token ids"),
        ({"pattern": "2:4", "sparsity": 0.7}, r"recipe.sparsity: expected 0.5, which 2:4"),
        ({"pattern": "7x7", "sparsity": 0.5}, r"layers.0.q_proj: expected a shape that blocks of 7x7 divide, got \[32, 64\]"),
        ({"sparsity": 0.5, "targets": "k_proj"}, r"recipe.targets: .*'k_proj'; the nearest names are layers.*"),
        ({"sparsity": 0.5, "targets": "*_proj"}, r"recipe.targets: .*'\*_proj'; the nearest names are layers"),
        ({"sparsity": 0.5, "ignore": "re:("}, r"recipe.ignore: expected a regular expression, got '\('"),
        ({"sparsity": 0.5, "tokens": 0}, r"recipe.tokens: expected a positive integer, several, or a mapping"),
        ({"sparsity": 0.5, "targets": "lm_head"}, r"recipe.targets: expected a layer that is not ignored"),
        ({"masks": {"layers.0.qproj": torch.ones(2, 2).bool()}}, r"recipe.masks\['layers.0.qproj'\]: .* nearest names are layers.0.q_proj"),
        ({"masks": {"lm_head": torch.ones(2, 2).bool()}}, r"recipe.masks\['lm_head'\]: expected bool \[50, 64\], got bool \[2, 2\]"),
        (True, r"recipe: expected a sparsity, a dict"),
        ([], r"recipe: expected a sparsity, a dict"),
    ],
)
def test_bad_recipes_change_nothing(recipe, message):
    model = Model()
    with pytest.raises((ValueError, TypeError), match=message):
        rarefy.thin(model, recipe)
    assert not any(isinstance(module, SparseLinear) for module in model.modules())


@pytest.mark.parametrize("format, message", [("2:4", "expected at most 2 nonzeros"), ("cheese", "format: expected a format")])
def test_formats_that_do_not_fit_name_the_layer(format, message):
    with pytest.raises(rarefy.Error, match=f"layers.0.q_proj: .*{message}"):
        rarefy.thin(Model(), {"sparsity": 0.3, "format": format})


def test_bad_models():
    with pytest.raises(TypeError, match="model: expected a torch.nn.Module"):
        rarefy.thin("model", 0.5)
    with pytest.raises(ValueError, match="model: expected a module that contains the layers"):
        rarefy.thin(nn.Linear(8, 8), 0.5)
    with pytest.raises(TypeError, match="0.weight: expected float32, bfloat16 or float16"):
        rarefy.thin(nn.Sequential(nn.Linear(8, 8, dtype=torch.float64)), 0.5)
    bad = Model()
    with torch.no_grad():
        bad.layers[0]["q_proj"].weight[3, 4] = float("nan")
    with pytest.raises(ValueError, match=r"layers.0.q_proj.weight: expected finite values, got nan at \[3, 4\]"):
        rarefy.thin(bad, 0.5)
