"""Frozen weights on a GPU, beside torch's own products there; and what is said where there is none."""

import copy
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="missing: torch (RAREFY_TEST_TORCH=1 make test installs it)")

import rarefy
from rarefy import SparseLinear, UnsupportedError, _core, ops
from torch import nn

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="missing: a GPU, or a torch that is built for it")
HALF = [torch.bfloat16, torch.float16]


def sparse(m=256, k=384, density=0.3, dtype=torch.bfloat16, device="cuda"):
    torch.manual_seed(0)
    return (torch.randn(m, k) * (torch.rand(m, k) < density)).to(device, dtype)


def close(got, want, dtype):
    """Sums of a few hundred products in float32, rounded once (twice where a bias follows)."""
    bound = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    torch.testing.assert_close(got.float(), want.float(), rtol=bound, atol=bound * want.float().abs().mean().nan_to_num().item())


@pytest.fixture(autouse=True)
def estimates(monkeypatch):
    monkeypatch.setenv("RAREFY_FREEZE", "1")  # chooses in a second


# ------------------------------------------------------------------------------------- without a GPU
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    weight = ops.pack(sparse(8, 8, device="cpu"), "bitmap")
    with pytest.raises(UnsupportedError):
        weight.to("cuda:0")
    assert weight.on("cuda:0") is None
    with pytest.raises(UnsupportedError, match="device: expected cpu or cuda, got meta"):
        weight.to("meta")
    assert weight.to("cpu") is weight


def test_arrays_that_are_elsewhere():
    weight = ops.pack(sparse(8, 16, device="cpu"), "bitmap")
    x, out = torch.zeros(2, 16, dtype=torch.bfloat16), torch.zeros(2, 8, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="x: expected an array on a CUDA device, got one on the CPU"):
        _core.device_linear(x, weight.handle, out)
    with pytest.raises(ValueError, match="out: expected an array on a CUDA device, got one on the CPU"):
        _core.device_expand(weight.handle, out)
    with pytest.raises(ValueError, match=r"weight: expected one that is packed for cuda:0, got one that is not"):
        _core.device_dense(weight.handle, 0)
    with pytest.raises(ValueError, match="device: expected a number from 0 on, got -1"):
        _core.place_on_device(weight.matrix, -1)


@pytest.mark.parametrize(
    "gpu, named",
    [
        ("old", "the driver is too old: expected CUDA 12.0 or newer, found 11.4"),
        ("broken", "cuInit: CUDA_ERROR_UNKNOWN"),
        ("none", "the driver shows 0 GPUs"),
        ("sm75", "expected compute capability 8.0 or newer, found 7.5"),
        ("full", "GPU"),  # No memory, or no compiler: whichever is missed first.
    ],
)
def test_gpus_that_cannot_be_used(gpu, named):
    fakes = Path(_core.__file__).parents[2] / "tests/cli/fake"
    if not (fakes / "driver/libcuda.so.1").exists():
        pytest.skip(f"missing: {fakes} (built with the tests of C++)")
    code = """
import numpy as np, rarefy
from rarefy import _core
matrix = rarefy.pack(np.eye(64, dtype=np.float16), "bitmap")
try:
    _core.place_on_device(matrix, 0)
except (rarefy.UnsupportedError, rarefy.errors.OutOfMemoryError) as error:
    print(error)
"""
    environment = {
        **os.environ,
        "RAREFY_CUDA_LIBS": f"{fakes}/driver:{fakes}/blas:{fakes}/nvrtc",
        "FAKE_GPU": gpu,
        "FAKE_NVRTC": "",
        "PYTHONPATH": os.pathsep.join([str(Path(rarefy.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert named in run.stdout and run.stdout.count("\n") == 1


# ------------------------------------------------------------------------------------------- a GPU
@on_gpu
@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
@pytest.mark.parametrize("density", [0.01, 0.08, 0.3, 0.6, 1.0])
def test_any_number_of_tokens(dtype, density):
    dense = sparse(density=density, dtype=dtype)
    weight = ops.pack(dense.cpu(), "bitmap").to("cuda")
    for shape in [(384,), (1, 384), (2, 5, 384), (64, 384), (1000, 384), (0, 384)]:
        x = torch.randn(shape, device="cuda").to(dtype)
        close(ops.linear(x, weight), nn.functional.linear(x, dense), dtype)
    x = torch.randn(384, 7, device="cuda").to(dtype).T  # Not contiguous.
    close(ops.linear(x, weight), nn.functional.linear(x, dense), dtype)
    x = torch.randn(3, 385, device="cuda").to(dtype)[:, 1:]  # Rows that begin between 16 bytes.
    close(ops.linear(x, weight), nn.functional.linear(x, dense), dtype)


@on_gpu
@pytest.mark.parametrize("activation", ops.ACTIVATIONS)
@pytest.mark.parametrize("tokens", [3, 700])
def test_bias_activation_and_gradients(activation, tokens):
    dense = sparse(dtype=torch.float32)
    weight = ops.pack(dense.cpu(), "bitmap").to("cuda")
    act = {"none": lambda z: z, "relu": torch.relu, "gelu": nn.functional.gelu, "silu": nn.functional.silu}[activation]
    x = torch.randn(tokens, 384, device="cuda", requires_grad=True)
    bias = torch.randn(256, device="cuda", requires_grad=True)
    y, want = ops.linear(x, weight, bias, activation), act(nn.functional.linear(x, dense, bias))
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-4)
    g = torch.randn_like(y)
    for a, b in zip(torch.autograd.grad(y, (x, bias), g), torch.autograd.grad(want, (x, bias), g), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


@on_gpu
def test_opcheck():
    weight = ops.pack(sparse(dtype=torch.float32).cpu(), "bitmap").to("cuda")
    x, bias = torch.randn(3, 384, device="cuda", requires_grad=True), torch.randn(256, device="cuda")
    torch.library.opcheck(torch.ops.rarefy.linear.default, (x, weight.handle, bias, "gelu", 256))
    torch.library.opcheck(torch.ops.rarefy.linear_transposed.default, (torch.randn(3, 256, device="cuda"), weight.handle, 384))


@on_gpu
@pytest.mark.parametrize("density, tokens", [(0.3, 1), (0.3, 2000), (0.02, 8), (1.0, 1)])
def test_recorded_in_a_graph(density, tokens):
    dense = sparse(density=density)
    layer = SparseLinear(dense, torch.randn(256).cuda().bfloat16())
    x = torch.randn(tokens, 384, device="cuda").bfloat16()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.no_grad():
        with torch.cuda.stream(side):
            layer(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = layer(x)
        x.copy_(torch.randn_like(x))
        y.zero_()
        graph.replay()
        close(y, nn.functional.linear(x, dense, layer.bias), torch.bfloat16)


@on_gpu
def test_on_the_current_stream():
    layer, stream = SparseLinear(sparse()), torch.cuda.Stream()
    x = torch.randn(4, 384, device="cuda").bfloat16()
    want = layer(x)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        later = torch.zeros_like(x)
        torch.cuda._sleep(20_000_000)
        later.copy_(x)
        got = layer(later)  # Of the sleeping stream: sees the copy.
    stream.synchronize()
    assert got.equal(want)


@on_gpu
def test_compiled_without_a_break():
    layer = SparseLinear(sparse(), torch.randn(256).cuda().bfloat16())
    x = torch.randn(4, 384, device="cuda").bfloat16()
    close(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), layer(x), torch.bfloat16)


@on_gpu
def test_under_autocast():
    layer = SparseLinear(sparse(), torch.randn(256).cuda())
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert layer(torch.randn(4, 384, device="cuda")).dtype == torch.bfloat16


@on_gpu
def test_layers_move_copy_and_save():
    dense = sparse(device="cpu")
    layer = SparseLinear(dense, torch.randn(256).bfloat16(), "bitmap").add_side_weights(2, dtype=torch.bfloat16)
    x = torch.randn(4, 384).bfloat16()
    want = layer(x)
    layer.cuda()
    assert layer.bias.is_cuda and layer.weight.is_cuda and layer.to_dense().cpu().equal(dense)
    close(layer(x.cuda()).cpu(), want, torch.bfloat16)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = SparseLinear(torch.zeros_like(dense), torch.zeros(256).bfloat16(), "bitmap").add_side_weights(2, dtype=torch.bfloat16).cuda()
    other.load_state_dict(torch.load(file))
    copied = copy.deepcopy(layer)
    back = copy.deepcopy(layer).cpu()
    for one in (other, copied):
        close(one(x.cuda()).cpu(), want, torch.bfloat16)
    close(back(x), want, torch.bfloat16)
    assert layer.half().dtype == torch.float16 and layer(x.cuda().half()).dtype == torch.float16


@on_gpu
def test_memory_goes_with_the_weight():
    def used():
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        return total - free

    weight = ops.pack(sparse(4096, 4096, device="cpu"), "bitmap")
    weight.to("cuda")
    del weight
    before = used()
    for _ in range(3):
        ops.pack(sparse(4096, 4096, device="cpu"), "bitmap").to("cuda")
    assert used() - before < 64 << 20


@on_gpu
def test_bad_input():
    weight = ops.pack(sparse(device="cpu"), "bitmap")
    x = torch.zeros(2, 384, device="cuda", dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="weight: expected one that is packed for cuda:0, got one that is not"):
        ops.linear(x, weight)
    weight.to("cuda")
    with pytest.raises(ValueError, match=r"x: expected bf16 \[…, 384\] as the weight, got f32 \[2, 384\]"):
        ops.linear(x.float(), weight)
    with pytest.raises(ValueError, match=r"x: expected bf16 \[…, 384\] as the weight, got bf16 \[2, 380\]"):
        ops.linear(x[:, 4:], weight)
    layer = SparseLinear(sparse())
    with pytest.raises(ValueError, match="x: expected a tensor on cuda:0, got bfloat16"):
        layer(x.cpu())
    with pytest.raises(ValueError, match="x: expected a tensor on cpu, got bfloat16"):
        SparseLinear(sparse(device="cpu"), format="bitmap")(x)


@on_gpu
def test_a_model_is_made_thin_where_it_is():
    transformers = pytest.importorskip("transformers", minversion="5")
    config = transformers.LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).to("cuda", torch.float16).eval()
    dense = copy.deepcopy(model)
    print(rarefy.thin(model, 0.7))
    for name, layer in model.named_modules():
        if isinstance(layer, SparseLinear):
            dense.get_submodule(name).weight.data = layer.weight
    ids = torch.arange(12, device="cuda")[None]
    with torch.no_grad():
        close(model(ids).logits, dense(ids).logits, torch.float16)
    tokens = model.generate(ids, max_new_tokens=8, do_sample=False)
    assert tokens.is_cuda and tokens.shape == (1, 20)


# -------------------------------------------------------------------------- values without structure
@on_gpu
@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
def test_values_without_structure_train(dtype):
    dense = sparse(96, 160, dtype=dtype)
    pattern = ops.pack(dense.cpu(), "csr")
    values = ops.csr_values(pattern, dtype).cuda().requires_grad_()
    x = torch.randn(2, 5, 160, device="cuda", dtype=dtype, requires_grad=True)
    g = torch.randn(2, 5, 96, device="cuda", dtype=dtype)
    exact, exact_x = dense.double().requires_grad_(), x.detach().double().requires_grad_()
    want = nn.functional.linear(exact_x, exact)
    y = ops.csr_linear(x, values, pattern)
    close(y, want, dtype)
    got = torch.autograd.grad(y, (x, values), g)
    expected = torch.autograd.grad(want, (exact_x, exact), g.double())
    close(got[0], expected[0], dtype)
    close(got[1], expected[1][dense != 0], dtype)
    close(ops.sddmm(g, x.detach(), pattern), expected[1][dense != 0], dtype)
    torch.library.opcheck(torch.ops.rarefy.sddmm.default, (g, x.detach(), pattern.handle, values.numel()))


@on_gpu
def test_graphs_record_places_that_are_known():
    dense = sparse(64, 128)
    x, g = torch.randn(3, 128, device="cuda").bfloat16(), torch.randn(3, 64, device="cuda").bfloat16()
    pattern, new = ops.pack(dense.cpu(), "csr"), ops.pack(dense.cpu(), "csr16")
    want = ops.sddmm(g, x, pattern)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = ops.sddmm(g, x, pattern)
    graph.replay()
    assert torch.equal(got, want)
    with (
        pytest.raises(UnsupportedError, match="pattern: expected one that was used before a graph is recorded"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        ops.sddmm(g, x, new)
