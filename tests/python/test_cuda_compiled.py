"""Frozen weights on a GPU under torch.compile with CUDA graphs, torch.export, opcheck; static caches of transformers."""

import copy
import gc
import io
import pickle
import shutil

import pytest

torch = pytest.importorskip("torch", reason="missing: torch (RAREFY_TEST_TORCH=1 make test installs it)")

import rarefy
from rarefy import SparseLinear, UnsupportedError, _core, ops
from torch import nn
from torch.utils._triton import has_triton

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="missing: a GPU, or a torch that is built for it"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),  # torch's own, transformers'
]
compiles = pytest.mark.skipif(not has_triton() or shutil.which("cc") is None, reason="missing: triton, or the compiler that it calls")


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setenv("RAREFY_FREEZE", "1")  # chooses in a second
    torch.manual_seed(0)
    torch._dynamo.reset()


@pytest.fixture
def launches(monkeypatch):
    """The calls of `device_linear`: a graph that is replayed makes none."""
    calls, run = [], _core.device_linear

    def counted(*args):
        calls.append(args[0].shape)
        return run(*args)

    monkeypatch.setattr(_core, "device_linear", counted)
    return calls


def sparse(m=256, k=384, density=0.3):
    return (torch.randn(m, k) * (torch.rand(m, k) < density)).to("cuda", torch.bfloat16)


def close(got, want, scale=1.0):
    torch.testing.assert_close(got.float(), want.float(), rtol=3e-2, atol=3e-2 * scale * want.float().abs().mean().item())


@compiles
@pytest.mark.parametrize("density", [0.3, 1.0])
def test_graphs_are_recorded_and_replayed(launches, density):
    dense = sparse(density=density)
    layer = SparseLinear(dense, torch.randn(256).cuda().bfloat16())
    compiled = torch.compile(lambda x: torch.relu(layer(x)), mode="reduce-overhead", fullgraph=True)
    with torch.no_grad():
        for turn in range(6):
            x = torch.randn(4, 384, device="cuda").bfloat16()
            del launches[:]
            y = compiled(x).clone()
            assert turn < 3 or not launches
            close(y, torch.relu(nn.functional.linear(x, dense, layer.bias)))
    assert torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0


@compiles
def test_graphs_are_recorded_without_a_module(launches):
    dense = sparse()
    weight = ops.pack(dense.cpu(), "bitmap").to("cuda")
    compiled = torch.compile(lambda x: ops.linear(x, weight, None, "silu"), mode="reduce-overhead", fullgraph=True)
    for turn in range(6):
        x = torch.randn(2, 384, device="cuda").bfloat16()
        del launches[:]
        y = compiled(x).clone()
        assert turn < 3 or not launches
        close(y, nn.functional.silu(nn.functional.linear(x, dense)))


@compiles
def test_another_weight_in_a_layer_is_seen(launches):
    """By CUDA graphs too: they know weights by address."""
    layer = SparseLinear(sparse(), None)
    compiled = torch.compile(layer, mode="reduce-overhead", fullgraph=True)
    with torch.no_grad():
        for _ in range(3):
            dense = sparse()
            layer.load_state_dict({"weight": dense})
            gc.collect()
            for _turn in range(5):
                x = torch.randn(3, 384, device="cuda").bfloat16()
                del launches[:]
                close(compiled(x).clone(), nn.functional.linear(x, dense))
            assert not launches


@compiles
def test_layers_share_a_compiled_function():
    weights = [sparse() for _ in range(4)]
    layers = [SparseLinear(dense, None) for dense in weights]
    compiled = torch.compile(lambda layer, x: layer(x) * 2, mode="reduce-overhead", fullgraph=True)
    with torch.no_grad():
        for _ in range(4):
            for layer, dense in zip(layers, weights, strict=True):
                x = torch.randn(3, 384, device="cuda").bfloat16()
                close(compiled(layer, x).clone(), 2 * nn.functional.linear(x, dense))


@compiles
@pytest.mark.parametrize("tokens", [3, 600])
def test_side_weights_train_in_graphs(tokens):
    dense = sparse()
    layer = SparseLinear(dense, torch.zeros(256).cuda().bfloat16()).add_side_weights(4, dtype=torch.bfloat16)
    nn.init.normal_(layer.side_out, std=0.1)
    twin = layer.to_linear()
    compiled = torch.compile(layer, mode="reduce-overhead", fullgraph=True)
    for _ in range(4):
        x = torch.randn(tokens, 384, device="cuda").bfloat16()
        x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
        torch.compiler.cudagraph_mark_step_begin()
        y, want = compiled(x1), twin(x2)
        grad = torch.randn_like(want)
        close(y, want)
        y.backward(grad)
        want.backward(grad)
        close(x1.grad, x2.grad)
        close(layer.bias.grad, twin.bias.grad, 4)
        layer.zero_grad(), twin.zero_grad()


def test_a_copy_of_a_handle_serves_outside_of_graphs():
    dense = sparse()
    weight = ops.pack(dense.cpu(), "bitmap").to("cuda")
    x = torch.randn(2, 384, device="cuda").bfloat16()
    copied = weight.handle_for(x).clone()
    want = ops.linear(x, weight)
    assert copied.is_cuda and torch.ops.rarefy.linear(x, copied, None, "none", 256).equal(want)
    assert torch.ops.rarefy.linear(x, weight.handle, None, "none", 256).equal(want)  # The CPU's, too.
    with (
        pytest.raises(UnsupportedError, match="weight: expected the handle of a packed weight itself while a graph records, got a copy"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        torch.ops.rarefy.linear(x, copied, None, "none", 256)
    del weight
    gc.collect()
    with pytest.raises(ValueError, match="weight: expected the handle of a packed weight, got one whose weight is gone"):
        torch.ops.rarefy.linear(x, copied, None, "none", 256)


def test_opcheck_of_a_gpus_handle():
    weight = ops.pack(sparse().float().cpu(), "bitmap").to("cuda")
    x, bias = torch.randn(3, 384, device="cuda", requires_grad=True), torch.randn(256, device="cuda")
    torch.library.opcheck(torch.ops.rarefy.linear.default, (x, weight.handle_for(x), bias, "gelu", 256))
    torch.library.opcheck(torch.ops.rarefy.linear_transposed.default, (torch.randn(3, 256, device="cuda"), weight.handle_for(x), 384))


@pytest.mark.parametrize("strict", [False, True])
def test_exported_with_a_dynamic_batch(strict):
    dense = sparse()
    layer = SparseLinear(dense, None)
    batch = ({0: torch.export.Dim("batch")},)
    example = torch.randn(3, 384, device="cuda").bfloat16()
    program = torch.export.export(layer, (example,), dynamic_shapes=batch, strict=strict)
    saved = io.BytesIO()
    torch.export.save(program, saved)
    saved.seek(0)
    run = program.module()
    del layer, program
    gc.collect()
    x = torch.randn(7, 384, device="cuda").bfloat16()
    close(run(x), nn.functional.linear(x, dense))  # The program keeps the weight.
    again = torch.export.load(saved).module()
    close(again(x), nn.functional.linear(x, dense))  # In this process also that of a file, which reads its copy back.


def test_pickled_and_moved():
    dense = sparse()
    layer = SparseLinear(dense, None)
    x = torch.randn(2, 384, device="cuda").bfloat16()
    want = layer(x)
    assert pickle.loads(pickle.dumps(layer))(x).equal(want)
    packed = layer.packed
    assert layer.cuda().packed is packed and list(packed.gpu_handles) == [0]
    back = layer.cpu()
    close(back(x.cpu()).cuda(), want)
    assert back.cuda()(x).equal(want)


@pytest.fixture(scope="module")
def llamas():
    transformers = pytest.importorskip("transformers", minversion="5")
    config = transformers.LlamaConfig(
        vocab_size=96, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    thin, dense = (transformers.LlamaForCausalLM(config).to("cuda", torch.bfloat16).eval() for _ in range(2))
    dense.load_state_dict(thin.state_dict())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAREFY_FREEZE", "1")
        rarefy.thin(thin, 0.7)
    for name, layer in thin.named_modules():
        if isinstance(layer, SparseLinear):
            dense.get_submodule(name).weight.data = layer.weight
    return thin, dense


def test_stacked_layers_launch_together(llamas, launches):
    thin, dense = copy.deepcopy(llamas[0]), llamas[1]
    stacks = rarefy.stack(thin)
    assert len(stacks) == 2 * thin.config.num_hidden_layers
    ids = torch.arange(12, device="cuda")[None]
    with torch.no_grad():
        close(thin(ids).logits, dense(ids).logits)
    assert len(launches) == 4 * thin.config.num_hidden_layers


@compiles
@pytest.mark.parametrize("stacked", [False, True])
def test_generate_with_a_static_cache_replays_graphs(llamas, launches, stacked):
    thin, dense = copy.deepcopy(llamas[0]), llamas[1]
    if stacked:
        rarefy.stack(thin)
    how = dict(max_new_tokens=24, min_new_tokens=24, do_sample=False, pad_token_id=0)
    prompt = torch.arange(8, device="cuda")[None]
    want = thin.generate(prompt, **how)
    for _ in range(2):  # It compiles, and records.
        got = thin.generate(prompt, **how, cache_implementation="static")
    assert got.shape == want.shape
    steps = len([shape for shape in launches if shape[-2] == 1])
    products = len({id(layer.packed) for layer in thin.modules() if isinstance(layer, SparseLinear)})
    # 23 steps each; the dynamic cache's are eager, and of the static ones' only the first few are.
    assert 23 * products <= steps < (23 + 12) * products
    with torch.no_grad():
        close(thin(got).logits, dense(got).logits)
