"""BlockSparseLinear against the dense layer of the same weights: values, gradients, moves, bad input."""

import copy
import io
import math
import pickle

import pytest

torch = pytest.importorskip("torch", reason="missing: torch (RAREFY_TEST_TORCH=1 make test installs it)")
import rarefy
from rarefy import BlockSparseLinear
from torch import nn

# f32 sums of at most 256 products of values around 1 in another order than torch's.
CLOSE = dict(rtol=1e-5, atol=1e-5)


def element_mask(layer):
    return layer.to_dense(torch.ones_like(layer.weight))


@pytest.mark.parametrize("block", [8, 16, (8, 32), (64, 16), 128])
@pytest.mark.parametrize("bias", [True, False])
def test_forward_and_gradients_equal_dense(block, bias):
    torch.manual_seed(0)
    layer = BlockSparseLinear(256, 128, bias, 0.3, block)
    dense = layer.to_linear()
    mask = element_mask(layer)
    x = torch.randn(3, 5, 256, requires_grad=True)
    x2 = x.detach().clone().requires_grad_()
    y, y2 = layer(x), dense(x2)
    torch.testing.assert_close(y, y2, **CLOSE)
    g = torch.randn_like(y)
    y.backward(g)
    y2.backward(g)
    torch.testing.assert_close(x.grad, x2.grad, **CLOSE)
    torch.testing.assert_close(layer.to_dense(layer.weight.grad), dense.weight.grad * mask, **CLOSE)
    if bias:
        torch.testing.assert_close(layer.bias.grad, dense.bias.grad, **CLOSE)


def test_forty_steps_of_adam_stay_with_the_masked_dense_layer():
    torch.manual_seed(1)
    layer = BlockSparseLinear(64, 128, True, 0.5, 32)
    mask = element_mask(layer)
    dense = layer.to_linear()
    one, two = torch.optim.Adam(layer.parameters(), 1e-3), torch.optim.Adam(dense.parameters(), 1e-3)
    x = torch.randn(32, 64)
    for _ in range(40):
        for module, optimizer in ((layer, one), (dense, two)):
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()
        with torch.no_grad():
            dense.weight *= mask
    # Adam divides by the root of tiny gradients: rounding grows to 1e-4 of the steps of 1e-3.
    torch.testing.assert_close(layer.to_dense(), dense.weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    torch.manual_seed(0)
    layer = BlockSparseLinear(128, 64, density=0.5, dtype=dtype)
    x = torch.randn(4, 128, dtype=dtype)
    y = layer(x)
    assert y.dtype == dtype
    want = nn.functional.linear(x.double(), layer.to_dense().double(), layer.bias.double())
    torch.testing.assert_close(y.double(), want, rtol=2e-2, atol=2e-2)  # a rounding to 8 bits of mantissa


@pytest.mark.parametrize("density", [0.1, 0.25, 0.6, 1.0])
def test_density_and_balance(density):
    layer = BlockSparseLinear(512, 256, density=density, block_shape=16)
    assert layer.nnz_blocks == round(density * 16 * 32)
    assert layer.weight.shape == (layer.nnz_blocks, 16, 16)
    rows, cols = layer.block_mask.sum(1), layer.block_mask.sum(0)
    assert rows.max() - rows.min() <= 1
    assert cols.max() - cols.min() <= 2


def test_parameters_and_gradients_hold_only_stored_blocks():
    layer = BlockSparseLinear(512, 512, False, 0.25)
    assert sum(p.numel() for p in layer.parameters()) == 512 * 512 // 4


def test_initial_outputs_have_the_variance_of_a_dense_layer():
    torch.manual_seed(0)
    x = torch.randn(512, 1024)
    dense = nn.Linear(1024, 1024)(x).std()
    for density in (0.05, 0.25):
        torch.testing.assert_close(BlockSparseLinear(1024, 1024, density=density)(x).std(), dense, rtol=0.1, atol=0)


def test_initial_bound_is_the_stored_fan_in():
    layer = BlockSparseLinear(1024, 1024, density=0.25)
    assert 0.98 < layer.weight.abs().max() * math.sqrt(256) <= 1
    assert layer.bias.abs().max() <= 1 / math.sqrt(256)


def test_from_dense_keeps_the_largest_blocks():
    dense = nn.Linear(64, 64)
    with torch.no_grad():
        dense.weight.fill_(0.1)
        dense.weight[:32, 32:] = 3  # block (0, 1)
        dense.weight[32:, :32] = -5  # block (1, 0)
    layer = BlockSparseLinear.from_dense(dense, 0.5)
    assert layer.block_mask.tolist() == [[False, True], [True, False]]
    torch.testing.assert_close(layer.to_dense(), dense.weight * element_mask(layer), rtol=0, atol=0)
    torch.testing.assert_close(layer.bias, dense.bias, rtol=0, atol=0)
    assert layer.bias is not dense.bias


def test_from_dense_of_density_one_is_the_layer_itself():
    dense = nn.Linear(96, 64)
    layer = BlockSparseLinear.from_dense(dense, 1.0, (16, 48))
    x = torch.randn(7, 96)
    torch.testing.assert_close(layer(x), dense(x), **CLOSE)
    torch.testing.assert_close(layer.to_linear().weight, dense.weight, rtol=0, atol=0)


def test_masks_by_blocks_and_by_elements():
    dense = torch.randn(64, 96)
    blocks = torch.rand(2, 3) < 0.5
    blocks[0, 0] = True
    one = BlockSparseLinear.from_dense(dense, mask=blocks)
    elements = torch.zeros(64, 96, dtype=torch.bool)
    elements[3, 70] = elements[5, 1] = True
    two = BlockSparseLinear.from_dense(dense, mask=elements)
    assert one.block_mask.equal(blocks)
    assert two.block_mask.tolist() == [[True, False, True], [False, False, False]]
    assert two.to_dense().equal(torch.where(elements, dense, 0))


def test_to_dense_is_differentiable():
    layer = BlockSparseLinear(64, 64, density=0.5)
    c = torch.randn(64, 64)
    (layer.to_dense() * c).sum().backward()
    assert layer.to_dense(layer.weight.grad).equal(c * element_mask(layer))


def test_state_dict_round_trip_takes_the_pattern_along():
    torch.manual_seed(0)
    one, two = (BlockSparseLinear(128, 128, density=0.5) for _ in range(2))
    assert not one.block_mask.equal(two.block_mask)
    parameter = two.weight
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    two.load_state_dict(torch.load(file))
    assert two.weight is parameter
    x = torch.randn(2, 128, requires_grad=True)
    y1, y2 = one(x), two(x)
    assert y1.equal(y2)
    g1, g2 = (torch.autograd.grad(y.sum(), x)[0] for y in (y1, y2))
    assert g1.equal(g2)  # the order by columns was made anew


def test_copies():
    layer = BlockSparseLinear(64, 64, density=0.5)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False)):
        assert copied.to_dense().equal(layer.to_dense())
        assert copied.weight is not layer.weight
        assert copied(torch.ones(1, 64)).equal(layer(torch.ones(1, 64)))


def test_moves():
    layer = BlockSparseLinear(64, 64, density=0.5)
    half = copy.deepcopy(layer).to(torch.bfloat16)
    assert half.weight.dtype == torch.bfloat16 and half.col_indices.dtype == torch.int32
    assert half(torch.ones(1, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16
    meta = copy.deepcopy(layer).to("meta")
    assert meta.weight.is_meta and meta.col_indices.is_meta
    with torch.device("meta"):
        born = BlockSparseLinear(64, 64, density=0.5)
    assert born.weight.is_meta
    born.load_state_dict(layer.state_dict(), assign=True)
    assert born(torch.ones(1, 64)).equal(layer(torch.ones(1, 64)))


def test_repr():
    assert "in_features=64, out_features=32, bias=False, blocks=8x16, density=0.5" in repr(BlockSparseLinear(64, 32, False, 0.5, (8, 16)))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(density=0), r"density: expected a number above 0 and at most 1, got 0"),
        (dict(density=1.5), r"density: expected .*, got 1.5"),
        (dict(density="half"), r"density: expected .*, got 'half'"),
        (dict(density=float("nan")), r"density: expected .*, got nan"),
        (dict(), r"density: expected either density or mask"),
        (dict(density=0.5, block_shape=7), r"block_shape: expected multiples of 8 from 8 to 128, got \(7, 7\)"),
        (dict(density=0.5, block_shape=256), r"block_shape: expected multiples of 8 from 8 to 128"),
        (dict(density=0.5, block_shape=(48, 32)), r"block_shape: expected a divisor of out_features=64, got 48"),
        (dict(density=0.5, block_shape="32"), r"block_shape: expected an int or a pair"),
        (dict(density=0.5, out_features=-1), r"out_features: expected a positive integer, got -1"),
        (dict(density=0.5, dtype=torch.int8), r"dtype: expected float32, bfloat16 or float16"),
        (dict(mask=torch.ones(3, 2, dtype=torch.bool)), r"mask: expected bool \[2, 2\]"),
        (dict(mask=torch.zeros(2, 2, dtype=torch.bool)), r"mask: expected at least one stored block"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        BlockSparseLinear(**{"in_features": 64, "out_features": 64, **arguments})


def test_bad_inputs():
    layer = BlockSparseLinear(64, 64, density=0.5)
    with pytest.raises(ValueError, match=r"x: expected f32, f16 or bf16 \[…, 64\], got f32 \[2, 32\]"):
        layer(torch.zeros(2, 32))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match=r"x: expected \[…, 64\], got float32 \[2, 32\] on cpu"):
        layer(torch.randn(2, 32))
    with pytest.raises(TypeError, match=r"x: expected torch.float32 as the weight \(or autocast\), got bfloat16"):
        layer(torch.randn(2, 64, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match=r"^density: expected a number above 0 and at most 1, got \[0, 1, 2, .{60,80}… \(list\)$"):
        BlockSparseLinear(64, 64, density=list(range(1000)))
    with pytest.raises(ValueError, match=r"x: expected a tensor on cpu, got float32 \[2, 64\] on meta"):
        layer(torch.randn(2, 64, device="meta"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(density=0.5, bias=[0.0] * 64), r"bias: expected \[64\], got \[0.0"),
        (dict(density=0.5, bias=torch.zeros(63)), r"bias: expected \[64\], got float32 \[63\] on cpu"),
        (dict(mask=torch.ones(64, 64)), r"mask: expected bool \[2, 2\] .*, got float32 \[64, 64\]"),
        (dict(mask=[[True]]), r"mask: expected bool \[2, 2\] .*, got \[\[True\]\] \(list\)"),
    ],
)
def test_from_dense_refuses_other_kinds(arguments, message):
    with pytest.raises(ValueError, match=message):
        BlockSparseLinear.from_dense(torch.ones(64, 64), **arguments)


def test_from_dense_refuses_what_is_not_finite():
    weight = torch.ones(64, 64)
    weight[40, 3] = float("nan")
    with pytest.raises(ValueError, match=r"weight: expected finite values, got .* block \(1, 0\)"):
        BlockSparseLinear.from_dense(weight, 0.5)


class TestOtherDensity:
    """State dicts of another density: a clear error, or an explicit conversion."""

    def setup_method(self):
        torch.manual_seed(0)
        self.saved = nn.Sequential(BlockSparseLinear(128, 128, density=0.5), nn.ReLU())
        self.x = torch.randn(3, 128)

    def test_error_names_both(self):
        other = nn.Sequential(BlockSparseLinear(128, 128, density=0.25), nn.ReLU())
        with pytest.raises(RuntimeError, match=r"0.weight: expected 4 stored blocks \(density 0.25\), got 8 \(density 0.5\)"):
            other.load_state_dict(self.saved.state_dict())

    def test_error_for_dense_blocks_and_shapes(self):
        dense = nn.Sequential(nn.Linear(128, 128))
        with pytest.raises(RuntimeError, match=r"0.weight: expected \[8, 32, 32\] \(stored blocks\), got a dense \[128, 128\]"):
            self.saved.load_state_dict(dense.state_dict())
        other = nn.Sequential(BlockSparseLinear(128, 128, density=0.5, block_shape=16))
        with pytest.raises(RuntimeError, match=r"expected blocks of \(16, 16\), got \(32, 32\)"):
            other.load_state_dict(self.saved.state_dict())
        tall = nn.Sequential(BlockSparseLinear(64, 256, density=0.5))
        with pytest.raises(RuntimeError, match=r"row_offsets: expected 9 offsets, got 5"):
            tall.load_state_dict(self.saved.state_dict())

    def test_error_for_a_broken_pattern(self):
        state = self.saved.state_dict()
        before = self.saved[0].to_dense().clone()
        state["0.col_indices"] = state["0.col_indices"] + 100
        with pytest.raises(RuntimeError, match=r"0.col_indices: expected block columns from 0 to 3"):
            self.saved.load_state_dict(state)
        assert self.saved[0].to_dense().equal(before)

    def test_take_the_checkpoints_blocks(self):
        other = nn.Sequential(BlockSparseLinear(128, 128, density=0.25, block_shape=16), nn.ReLU())
        rarefy.load_block_sparse(other, self.saved.state_dict())
        assert other[0].block_shape == (32, 32) and other[0].density == 0.5
        assert other(self.x).equal(self.saved(self.x))

    @pytest.mark.parametrize("density", [0.25, 0.5, 0.75])
    def test_keep_the_models_density(self, density):
        other = nn.Sequential(BlockSparseLinear(128, 128, density=density))
        count = other[0].nnz_blocks
        rarefy.load_block_sparse(other, self.saved.state_dict(), density="model")
        assert other[0].nnz_blocks == count
        want = BlockSparseLinear.from_dense(self.saved[0].to_dense(), density).to_dense()
        assert other[0].to_dense().equal(want)

    def test_dense_entry(self):
        dense = nn.Sequential(nn.Linear(128, 128))
        rarefy.load_block_sparse(self.saved, dense.state_dict(), density="model")
        assert self.saved[0].to_dense().equal(BlockSparseLinear.from_dense(dense[0], 0.5).to_dense())
        with pytest.raises(ValueError, match=r"0.weight: expected a block-sparse entry"):
            rarefy.load_block_sparse(self.saved, dense.state_dict())

    def test_dense_model_becomes_sparse(self):
        model = nn.Sequential(nn.Linear(128, 128), nn.ReLU())
        rarefy.load_block_sparse(model, self.saved.state_dict())
        assert isinstance(model[0], BlockSparseLinear)
        assert model(self.x).equal(self.saved(self.x))


class TestWithTorch:
    """What torch does to modules: compile, export, autocast, functional calls."""

    def setup_method(self):
        torch.manual_seed(0)
        self.layer = BlockSparseLinear(64, 64, density=0.5, block_shape=16)
        self.x = torch.randn(5, 64, requires_grad=True)

    def test_compile_has_no_break_and_the_same_gradients(self):
        compiled = torch.compile(self.layer, backend="aot_eager", fullgraph=True)
        y, y2 = compiled(self.x), self.layer(self.x)
        assert y.equal(y2)
        for got, want in zip(*(torch.autograd.grad(z.square().sum(), (self.x, self.layer.weight, self.layer.bias)) for z in (y, y2))):
            assert got.equal(want)

    def test_export(self):
        program = torch.export.export(self.layer.eval(), (self.x.detach(),))
        assert program.module()(self.x.detach()).equal(self.layer(self.x.detach()))

    def test_autocast(self):
        with torch.autocast("cpu", torch.bfloat16):
            y = self.layer(self.x)
            y2 = nn.functional.linear(self.x, self.layer.to_dense(), self.layer.bias)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y, y2, rtol=2e-2, atol=2e-2)
        y.float().sum().backward()
        assert self.x.grad.dtype == torch.float32 and self.layer.weight.grad.dtype == torch.float32

    def test_functional_call(self):
        parameters = {name: torch.zeros_like(value) for name, value in self.layer.named_parameters()}
        assert not torch.func.functional_call(self.layer, parameters, (self.x,)).any()

    def test_finite_differences(self):
        """Gradients along a direction against central differences in f32: (L(+h) - L(-h))/2h, h = 1e-2 of a quadratic loss."""
        direction = torch.randn_like(self.layer.weight)

        def loss():
            return self.layer(self.x).square().sum()

        loss().backward()
        slope = (self.layer.weight.grad * direction).sum()
        with torch.no_grad():
            ends = []
            for h in (1e-2, -2e-2):
                self.layer.weight += h * direction
                ends.append(loss().double())
        torch.testing.assert_close((ends[0] - ends[1]) / 2e-2, slope.double(), rtol=1e-3, atol=1e-3)
