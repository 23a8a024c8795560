"""The operators under torch.compile, torch.export, autocast, checkpointing and copies of modules."""

import copy
import gc
import pickle
import shutil

import pytest

torch = pytest.importorskip("torch", reason="missing: torch (RAREFY_TEST_TORCH=1 make test installs it)")

import rarefy
import torch._dynamo.testing  # noqa: F811
import torch.utils.checkpoint
from rarefy import ops


class Frozen(torch.nn.Module):
    """A frozen weight of any format with a bias that trains."""

    def __init__(self):
        super().__init__()
        self.weight = ops.pack(torch.randn(32, 48) * (torch.rand(32, 48) < 0.3), "bitmap")
        self.bias = torch.nn.Parameter(torch.randn(32))

    def forward(self, x):
        return ops.linear(x, self.weight, self.bias, "gelu")


class Blocks(torch.nn.Module):
    """Block-sparse values that train."""

    def __init__(self):
        super().__init__()
        self.pattern = ops.block_pattern_of_mask((torch.eye(4, 6) + torch.eye(4, 6).roll(1, 1)).bool(), (8, 8))
        self.values = torch.nn.Parameter(torch.randn(self.pattern.col_indices.numel(), 8, 8))

    def forward(self, x):
        return ops.bsr_linear(x, self.values, self.pattern)


class Places(torch.nn.Module):
    """Values without structure that train."""

    def __init__(self):
        super().__init__()
        dense = torch.randn(32, 48) * (torch.arange(48) % 3 == 0)
        self.pattern = ops.pack(dense, "csr")
        self.values = torch.nn.Parameter(ops.csr_values(self.pattern))

    def forward(self, x):
        return ops.csr_linear(x, self.values, self.pattern)


MODULES = [Frozen, Blocks, Places]


@pytest.fixture(autouse=True)
def fresh():
    torch.manual_seed(0)
    torch._dynamo.reset()


@pytest.mark.parametrize("make", MODULES)
def test_compiled_layers_share_a_graph_and_have_gradients(make):
    layers = [make() for _ in range(12)]
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda layer, x: layer(x), backend=counter, fullgraph=True)
    for layer in layers:
        x = torch.randn(3, 48, requires_grad=True)
        y, expected = compiled(layer, x), layer(x)
        torch.testing.assert_close(y, expected)
        grad = torch.randn_like(y)
        inputs = (x, *layer.parameters())
        for got, want in zip(torch.autograd.grad(y, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True):
            torch.testing.assert_close(got, want)
    assert counter.frame_count == 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="missing: g++, which inductor calls")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Inductor's own.
def test_inductor_on_the_cpu():
    one, other = Frozen(), Blocks()
    x = torch.randn(3, 48, requires_grad=True)

    def both(x):
        return torch.relu(one(x)) * other(x)

    y, expected = torch.compile(both, mode="reduce-overhead", fullgraph=True)(x), both(x)
    torch.testing.assert_close(y, expected)
    inputs = (x, *one.parameters(), *other.parameters())
    grad = torch.randn_like(y)
    for got, want in zip(torch.autograd.grad(y, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("make", MODULES)
@pytest.mark.parametrize("strict", [False, True])
def test_export_with_a_dynamic_batch(make, strict):
    layer = make()
    program = torch.export.export(layer, (torch.randn(3, 48),), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=strict)
    x = torch.randn(7, 48)
    torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize("make", MODULES)
def test_autocast(make):
    layer, x = make(), torch.randn(3, 48)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), atol=0.15, rtol=0.02)
    y.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


@pytest.mark.parametrize("make", MODULES)
def test_checkpointed_activations(make):
    layer, x = make(), torch.randn(3, 48, requires_grad=True)
    got = torch.autograd.grad(torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False).sum(), x)
    torch.testing.assert_close(got, torch.autograd.grad(layer(x).sum(), x))


@pytest.mark.parametrize("make", MODULES)
def test_a_deep_copy_outlives_the_original(make):
    layer, x = make(), torch.randn(3, 48)
    y, twin = layer(x), copy.deepcopy(layer)
    del layer
    gc.collect()
    torch.testing.assert_close(twin(x), y)


def test_a_graph_keeps_its_weight():
    layer, x = Frozen(), torch.randn(3, 48)
    y, program = layer(x), torch.export.export(layer, (x,)).module()
    del layer
    gc.collect()
    torch.testing.assert_close(program(x), y)


def test_a_packed_weight_is_not_pickled():
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(Frozen())


def test_float64_is_refused_by_name():
    with pytest.raises(ValueError, match="x: expected f32, f16 or bf16 .*, got f64"):
        Frozen()(torch.randn(3, 48, dtype=torch.float64))


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(48, 3).T,
        torch.randn(3, 96)[:, ::2],
        torch.randn(48).expand(3, 48),
        torch.randn(3, 2, 48).transpose(0, 1),
        torch.randn(48),
        torch.randn(0, 48),
        torch.randn(2, 0, 48),
        torch.randn(3, 64)[:, 8:56],
    ],
    ids=lambda x: f"{tuple(x.shape)}-{x.stride()}",
)
@pytest.mark.parametrize("make", MODULES)
def test_any_strides(make, x):
    layer = make()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer(x.clone(memory_format=torch.contiguous_format)))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, on its first forward-mode call
@pytest.mark.parametrize("make", MODULES)
def test_forward_mode_is_refused_where_torch_would_take_zero(make):
    layer, x = make(), torch.randn(3, 48)
    with pytest.raises(rarefy.UnsupportedError, match="forward-mode differentiation: expected tensors without tangents"):
        torch.func.jvp(layer, (x,), (torch.ones_like(x),))
    with torch.autograd.forward_ad.dual_level():
        torch.testing.assert_close(layer(x), layer(x))  # without a tangent nothing is lost
        with pytest.raises(rarefy.UnsupportedError):
            layer(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))


def test_weights_that_are_not_packed_and_masks_of_other_kinds():
    x = torch.randn(3, 48)
    for call in (lambda w: ops.linear(x, w), lambda w: ops.csr_linear(x, x, w), lambda w: ops.sddmm(x, x, w), ops.csr_values):
        with pytest.raises(TypeError, match=r"expected a weight packed by rarefy.ops.pack, got float32 \[32, 48\]"):
            call(torch.randn(32, 48))
    for mask in (torch.ones(4, 6), torch.ones(4, dtype=torch.bool), [[True]]):
        with pytest.raises(ValueError, match="mask: expected a bool tensor of block rows × block columns"):
            ops.block_pattern_of_mask(mask, (8, 8))


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")  # Before torch 2.13.
def test_tracers_and_profilers_see_the_operator():
    layer, x = Blocks(), torch.randn(3, 48)
    graph = torch.fx.experimental.proxy_tensor.make_fx(layer)(x)
    assert any(node.target is torch.ops.rarefy.bsr_linear.default for node in graph.graph.nodes)
    with torch.profiler.profile() as profile:
        layer(x)
    assert any(event.key == "rarefy::bsr_linear" for event in profile.key_averages())
