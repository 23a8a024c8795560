"""BlockSparseModelPatcher: which layers, which blocks, what is said where nothing matches."""

import copy

import pytest

torch = pytest.importorskip("torch", reason="missing: torch (RAREFY_TEST_TORCH=1 make test installs it)")
from rarefy import BlockSparseLinear, BlockSparseModelPatcher, load_block_sparse
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up_proj, self.down_proj, self.norm = nn.Linear(64, 128), nn.Linear(128, 64), nn.LayerNorm(64)

    def forward(self, x):
        return x + self.down_proj(self.up_proj(self.norm(x)).relu())


def model():
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block(), nn.Linear(64, 10))


def test_patchable_layers_are_the_linears_with_expressions_of_their_own():
    layers = BlockSparseModelPatcher().get_patchable_layers(model())
    assert [layer["regexp"] for layer in layers] == [r"0\.up_proj", r"0\.down_proj", r"1\.up_proj", r"1\.down_proj", "2"]
    assert all(isinstance(layer["layer"], nn.Linear) for layer in layers)


def test_patches_what_matches_and_the_first_pattern_decides():
    thin = model()
    patcher = BlockSparseModelPatcher()
    patcher.add_pattern(r"[0-9]+\.up_proj", {"density": 0.5})
    patcher.add_pattern(r"[0-9]+\.(up|down)_proj", {"density": 0.25, "block_shape": (16, 32)})
    patched = patcher.patch_model(thin)
    assert sorted(patched) == ["0.down_proj", "0.up_proj", "1.down_proj", "1.up_proj"]
    assert thin[0].up_proj.density == 0.5 and thin[0].up_proj.block_shape == (32, 32)
    assert thin[1].down_proj.density == 0.25 and thin[1].down_proj.block_shape == (16, 32)
    assert type(thin[2]) is nn.Linear
    thin(torch.randn(5, 64)).sum().backward()


def test_density_one_changes_nothing():
    dense = model()
    thin = copy.deepcopy(dense)
    patcher = BlockSparseModelPatcher()
    patcher.add_pattern(r".*_proj", {"density": 1.0})
    patcher.patch_model(thin)
    x = torch.randn(5, 64)
    torch.testing.assert_close(thin(x), dense(x), rtol=1e-5, atol=1e-5)


def test_keeps_the_largest_blocks_and_flags():
    dense = model()
    dense[0].up_proj.weight.requires_grad_(False)
    dense.eval()
    thin = copy.deepcopy(dense)
    patcher = BlockSparseModelPatcher()
    patcher.add_pattern(r"0\.up_proj", {"density": 0.25})
    layer = patcher.patch_model(thin)["0.up_proj"]
    assert layer.to_dense().equal(BlockSparseLinear.from_dense(dense[0].up_proj, 0.25).to_dense())
    assert not layer.weight.requires_grad and layer.bias.requires_grad and not layer.training


def test_random_initialisation_draws_anew():
    thin = model()
    before = thin[0].up_proj.weight.detach().clone()
    patcher = BlockSparseModelPatcher()
    patcher.add_pattern(r"0\.up_proj", {"density": 0.5, "init": "random"})
    layer = patcher.patch_model(thin)["0.up_proj"]
    stored = layer.to_dense() != 0
    assert (layer.to_dense()[stored] != before[stored]).all()


def test_shared_layers_stay_shared():
    shared = nn.Linear(64, 64)
    two = nn.ModuleDict({"a": shared, "b": shared})
    patcher = BlockSparseModelPatcher()
    patcher.add_pattern("a|b", {"density": 0.5})
    patcher.patch_model(two)
    assert two["a"] is two["b"] and isinstance(two["a"], BlockSparseLinear)


def test_a_patched_model_loads_back():
    thin = model()
    patcher = BlockSparseModelPatcher()
    patcher.add_pattern(r".*_proj", {"density": 0.5, "init": "random"})
    patcher.patch_model(thin)
    again = model()
    load_block_sparse(again, thin.state_dict())
    x = torch.randn(3, 64)
    assert again(x).equal(thin(x))


@pytest.mark.parametrize(
    "pattern, message",
    [
        (r"0\.upproj", r"expected an expression that matches a Linear, got .*; the nearest names are 0.up_proj"),
        (r"up_proj", r"it matches inside of, but not from the start of, 0.up_proj, 1.up_proj"),
    ],
)
def test_no_match_lists_near_misses_and_changes_nothing(pattern, message):
    patcher = BlockSparseModelPatcher()
    patcher.add_pattern(r"0\.down_proj", {"density": 0.5})
    patcher.add_pattern(pattern, {"density": 0.5})
    dense = model()
    with pytest.raises(ValueError, match=message):
        patcher.patch_model(dense)
    assert type(dense[0].down_proj) is nn.Linear


def test_other_modules_are_named():
    patcher = BlockSparseModelPatcher()
    patcher.add_pattern(r"0\.norm", {"density": 0.5})
    with pytest.raises(TypeError, match=r"0.norm: expected a torch.nn.Linear, got LayerNorm"):
        patcher.patch_model(model())


def test_uneven_blocks_name_the_layer_and_change_nothing():
    patcher = BlockSparseModelPatcher()
    patcher.add_pattern(r".*", {"density": 0.5})
    dense = model()
    with pytest.raises(ValueError, match=r"2: block_shape: expected a divisor of out_features=10, got 32"):
        patcher.patch_model(dense)
    assert type(dense[0].down_proj) is nn.Linear


@pytest.mark.parametrize(
    "info, message",
    [
        ({}, r"patch_info\['density'\]: expected a number above 0 and at most 1, got None"),
        ({"density": 0}, r"patch_info\['density'\]: expected .* got 0"),
        ({"density": 0.5, "blocks": 3}, r"patch_info: expected keys among .* got \['blocks'\]"),
        ({"density": 0.5, "init": "zero"}, r"patch_info\['init'\]"),
    ],
)
def test_bad_patch_info(info, message):
    with pytest.raises(ValueError, match=message):
        BlockSparseModelPatcher().add_pattern("x", info)


def test_patch_info_is_a_dict():
    with pytest.raises(TypeError, match=r"patch_info: expected a dict of .*, got 0.5 \(float\)"):
        BlockSparseModelPatcher().add_pattern("x", 0.5)


def test_bad_expression():
    with pytest.raises(ValueError, match=r"pattern: expected a regular expression, got '\('"):
        BlockSparseModelPatcher().add_pattern("(", {"density": 0.5})
    with pytest.raises(ValueError, match="patterns: expected at least one"):
        BlockSparseModelPatcher().patch_model(model())
