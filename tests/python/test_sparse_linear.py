"""SparseLinear: products and gradients around a frozen weight, saving, copies, moves, bad input."""

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch", reason="missing: torch (RAREFY_TEST_TORCH=1 make test installs it)")
from rarefy import SparseLinear, UnsupportedError, bitmask
from torch import nn

CLOSE = dict(rtol=1e-5, atol=1e-5)  # f32 sums of 96 products in another order


def sparse(m=64, k=96, density=0.3, dtype=torch.float32):
    torch.manual_seed(0)
    return (torch.randn(m, k) * (torch.rand(m, k) < density)).to(dtype)


def two_of_four(m=64, k=96):
    weight = sparse(m, k, 1.0).unflatten(1, (-1, 4))
    weight[..., 2:] = 0
    return weight.flatten(1)


@pytest.fixture(autouse=True)
def estimates(monkeypatch):
    monkeypatch.setenv("RAREFY_FREEZE", "1")  # plans in no time


@pytest.mark.parametrize("format", ["auto", "bitmap", "csr", "dense", "2:4", "bsr8x8", "sell16"])
def test_every_format_multiplies_and_passes_gradients(format):
    weight = two_of_four()
    layer = SparseLinear(weight, torch.randn(64), format)
    assert format == "auto" or layer.format == format
    x, x2 = (torch.randn(3, 5, 96, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    y, y2 = layer(x), nn.functional.linear(x2, weight, layer.bias)
    torch.testing.assert_close(y, y2, **CLOSE)
    g = torch.randn_like(y)
    y.backward(g)
    torch.testing.assert_close(x.grad, g @ weight, **CLOSE)
    torch.testing.assert_close(layer.bias.grad, g.sum((0, 1)), **CLOSE)
    assert list(dict(layer.named_parameters())) == ["bias"]
    assert layer.to_dense().equal(weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_take_any_activations(dtype):
    weight = sparse(dtype=dtype)
    layer = SparseLinear(weight, format="bitmap")
    for activations in (torch.float32, dtype):
        x = torch.randn(4, 96).to(activations)
        y = layer(x)
        assert y.dtype == activations
        torch.testing.assert_close(y.float(), x.float() @ weight.float().T, rtol=2e-2, atol=2e-2)


def test_under_torch_compile_without_a_break():
    layer = SparseLinear(sparse(), torch.randn(64), "bitmap")
    x = torch.randn(4, 96)
    assert torch.compile(layer, backend="eager", fullgraph=True)(x).equal(layer(x))


def test_side_weights_train_around_the_frozen_one():
    layer = SparseLinear(sparse(), None, "bitmap").add_side_weights(4, alpha=8)
    x = torch.randn(16, 96)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), x @ layer.to_dense().T, **CLOSE)  # B is zero at first
    target = torch.randn(16, 64)
    optimizer = torch.optim.Adam(layer.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    want = x @ (layer.to_dense() + 2 * layer.side_out @ layer.side_in).T
    torch.testing.assert_close(layer(x), want, **CLOSE)
    torch.testing.assert_close(layer.to_linear()(x), want, **CLOSE)


def test_state_dict_is_compressed_tensors_and_comes_back_into_any_format():
    one = SparseLinear(sparse(dtype=torch.bfloat16), torch.randn(64).bfloat16(), "bitmap")
    state = one.state_dict()
    assert sorted(state) == ["bias", "bitmask", "compressed", "row_offsets", "shape"]
    assert state["compressed"].numel() == one.packed.matrix.nnz and state["bitmask"].shape == (64, 12)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    two = SparseLinear(torch.zeros(64, 96).bfloat16(), torch.zeros(64).bfloat16(), "csr")
    two.load_state_dict(torch.load(file))
    assert two.format == "csr" and two.to_dense().equal(one.to_dense()) and two.bias.equal(one.bias)
    two.load_state_dict({"weight": torch.ones(64, 96), "bias": torch.ones(64)})  # dense, of another dtype
    assert two.to_dense().equal(torch.ones(64, 96).bfloat16())


def test_state_dicts_that_do_not_fit():
    layer = nn.Sequential(SparseLinear(sparse(), None, "bitmap"))
    other = nn.Sequential(SparseLinear(sparse(32, 96), None, "bitmap"))
    with pytest.raises(RuntimeError, match=r"0.weight: expected \[64, 96\], got \[32, 96\]"):
        layer.load_state_dict(other.state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key.*0.compressed"):
        layer.load_state_dict({})
    broken = layer.state_dict()
    broken["0.compressed"] = broken["0.compressed"][:-1]
    with pytest.raises(RuntimeError, match=r"0.compressed: expected \[\d+\] \(set bits\)"):
        layer.load_state_dict(broken)
    with pytest.raises(RuntimeError, match="Unexpected key.*0.more"):
        layer.load_state_dict({**layer.state_dict(), "0.more": torch.zeros(1)})


class TestBitmask:
    @pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 8), (4, 129), (2, 0), (0, 5)])
    def test_round_trip(self, shape):
        weight = sparse(*shape, 0.5)
        arrays = bitmask.compress(weight)
        assert bitmask.decompress(arrays).equal(weight)
        assert arrays["bitmask"].shape == (shape[0], (shape[1] + 7) // 8)

    def test_zeros_of_either_sign_go_and_what_is_not_finite_stays(self):
        weight = torch.tensor([[-0.0, float("nan"), float("-inf"), 0.0]])
        arrays = bitmask.compress(weight)
        assert arrays["bitmask"].item() == 0b0110 and arrays["compressed"].numel() == 2
        torch.testing.assert_close(bitmask.decompress(arrays), weight, equal_nan=True)

    @pytest.mark.parametrize(
        "change, message",
        [
            (lambda a: a.update(shape=torch.tensor([3, 9])), "w.bitmask: expected uint8"),
            (lambda a: a["bitmask"][1].fill_(255), "w.bitmask: expected no bit beyond column 7"),
            (lambda a: a.update(row_offsets=a["row_offsets"] + 1), "w.row_offsets"),
            (lambda a: a.pop("bitmask"), "w.bitmask: expected an array beside the others, got none"),
            (lambda a: a.update(compressed=a["compressed"].int()), "w.compressed: expected float32"),
            (lambda a: a.update(shape=torch.tensor([-3, 7])), "w.shape: expected two sizes"),
        ],
    )
    def test_arrays_that_contradict_each_other(self, change, message):
        arrays = bitmask.compress(sparse(3, 7, 0.5))
        change(arrays)
        with pytest.raises((ValueError, TypeError), match=message):
            bitmask.decompress(arrays, "w")


def test_copies():
    layer = SparseLinear(sparse(), torch.randn(64), "csr").add_side_weights(2)
    x = torch.randn(2, 96)
    copied = copy.deepcopy(layer)
    assert copied.packed is layer.packed and copied.bias is not layer.bias
    pickled = pickle.loads(pickle.dumps(layer))
    for other in (copied, pickled):
        assert other(x).equal(layer(x)) and other.format == "csr"
    assert layer.planned.weight.matrix.format == "csr"  # pickling changed nothing


def test_moves():
    layer = nn.Sequential(SparseLinear(sparse(), torch.randn(64), "bitmap"))
    packed = layer[0].packed
    layer.float().cpu().requires_grad_(False)
    assert layer[0].packed is packed and not layer[0].bias.requires_grad
    layer.to(torch.bfloat16)
    assert layer[0].dtype == torch.bfloat16 and layer[0].bias.dtype == torch.bfloat16
    assert layer[0].to_dense().equal(sparse().bfloat16())
    with pytest.raises(UnsupportedError, match="device: expected cpu"):
        layer.to("meta")
    with pytest.raises(TypeError, match="dtype: expected float32, bfloat16 or float16, got float64"):
        layer.double()
    assert layer[0].bias.dtype == torch.bfloat16  # nothing was changed


def test_from_dense_and_back():
    dense = nn.Linear(96, 64)
    layer = SparseLinear.from_dense(dense, "bitmap")
    x = torch.randn(2, 96)
    torch.testing.assert_close(layer(x), dense(x), **CLOSE)
    back = layer.to_linear()
    assert back.weight.equal(dense.weight) and back.bias.equal(dense.bias)


def test_repr():
    layer = SparseLinear(two_of_four(), None, "2:4")
    assert repr(layer) == "SparseLinear(in_features=96, out_features=64, bias=False, format=2:4, density=0.5)"


def test_bad_input():
    weight = sparse()
    with pytest.raises(ValueError, match=r"weight: expected a frozen tensor .* got one that requires a gradient"):
        SparseLinear(nn.Parameter(weight))
    with pytest.raises(TypeError, match="weight: expected float32, bfloat16 or float16, got float64"):
        SparseLinear(weight.double())
    with pytest.raises(ValueError, match=r"weight: expected a tensor of 2 dimensions, got float32 \[96\]"):
        SparseLinear(weight[0])
    with pytest.raises(TypeError, match="weight: expected a strided"):
        SparseLinear(weight.to_sparse())
    with pytest.raises(ValueError, match="weight: expected a tensor on cpu"):
        SparseLinear(weight.to("meta"))
    with pytest.raises(ValueError, match=r"bias: expected \[64\], got float32 \[96\]"):
        SparseLinear(weight, torch.zeros(96))
    with pytest.raises(ValueError, match="format"):
        SparseLinear(weight, format="zip")
    with pytest.raises(UnsupportedError):
        SparseLinear(weight, format="2:4")
    for tokens in (0, (), "1", [1, -2], 1.5):
        with pytest.raises(ValueError, match="tokens: expected a positive integer"):
            SparseLinear(weight, tokens=tokens)
    layer = SparseLinear(weight, format="bitmap")
    with pytest.raises(ValueError, match=r"x: expected f32, f16 or bf16 \[…, 96\], got f32 \[2, 64\]"):
        layer(torch.zeros(2, 64))
    for bias in (None, torch.zeros(64)):  # With a bias gradients are recorded.
        with pytest.raises(ValueError, match=r"x: expected f32, f16 or bf16 \[…, 96\], got f32 \[\]"):
            SparseLinear(weight, bias, "bitmap")(torch.tensor(1.0))
    for x in (torch.zeros(2, 64), torch.tensor(1.0)):
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match=r"x: expected \[…, 96\], got float32"):
            layer(x)
    with pytest.raises(ValueError, match="x: expected"):
        layer(torch.zeros(2, 96, dtype=torch.int32))
    with pytest.raises(TypeError, match="weight: expected no parameter: it is frozen"):
        layer.weight = nn.Parameter(weight)
    with pytest.raises(ValueError, match="rank: expected a layer without side weights"):
        layer.add_side_weights(2).add_side_weights(2)


def test_strided_and_empty_inputs():
    layer = SparseLinear(sparse(), format="bitmap")
    x = torch.randn(96, 7).T
    torch.testing.assert_close(layer(x), x @ layer.to_dense().T, **CLOSE)
    assert layer(torch.zeros(0, 96)).shape == (0, 64)
