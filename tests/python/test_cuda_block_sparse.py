"""Block-sparse layers on a GPU against dense torch; what is device-independent of them runs without one."""

import copy
import gc
import shutil
import threading

import pytest

torch = pytest.importorskip("torch", reason="missing: torch (RAREFY_TEST_TORCH=1 make test installs it)")

import rarefy
from rarefy import BlockSparseLinear, UnsupportedError, _core, ops
from rarefy.ops import block_dense, block_places, block_sparse
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._triton import has_triton

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="missing: a GPU, or a torch that is built for it")
M, K = 512, 768
#: One rounding of the result, of sums in float32 of products of numbers about 1, beside exact ones.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}


@pytest.fixture(autouse=True)
def estimates(monkeypatch):
    monkeypatch.setenv("RAREFY_FREEZE", "1")  # Compiles one kernel a product instead of six.


def case(block=(64, 64), dtype=torch.bfloat16, device="cuda", shape=(M, K), density=0.3):
    """(pattern, values, mask by elements) of random blocks, with an empty row and an empty column of them."""
    torch.manual_seed(0)
    mask = torch.rand(shape[0] // block[0], shape[1] // block[1]) < density
    mask[0, :], mask[:, 1], mask[-1, -1] = False, False, True
    pattern = ops.block_pattern_of_mask(mask.to(device), block)
    values = torch.randn(int(mask.sum()), *block).to(device, dtype)
    return pattern, values, mask.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1).to(device)


def dense(mask, pattern, values):
    """The weight, differentiable in the values."""
    r, c = values.shape[1:]
    places = mask.view(mask.shape[0] // r, r, -1, c)[:, 0, :, 0].nonzero(as_tuple=True)
    blocks = values.new_zeros(mask.shape[0] // r, mask.shape[1] // c, r, c).index_put(places, values)
    return blocks.transpose(1, 2).reshape(mask.shape)


def close(got, want, dtype):
    bound = TOLERANCE[dtype]
    scale = want.double().square().mean().sqrt().nan_to_num().item()
    torch.testing.assert_close(got.double(), want.double(), rtol=bound, atol=bound * scale)


def check(block, dtype, device, tokens=(3, 67), kernel=True):
    pattern, values, mask = case(block, dtype, device)
    values.requires_grad_()
    x = torch.randn(*tokens, K, device=device).to(dtype).requires_grad_()
    bias = torch.randn(M, device=device).to(dtype).requires_grad_()
    inputs = (x, values, bias)
    run = ops.bsr_linear if kernel else lambda *a: _Dense.apply(*a)
    y = run(x, values, pattern, bias)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    want = nn.functional.linear(exact[0], dense(mask, pattern, exact[1]), exact[2])
    assert y.dtype == dtype and y.shape == want.shape
    close(y, want, dtype)
    grad = torch.randn_like(y)
    for got, expected in zip(torch.autograd.grad(y, inputs, grad), torch.autograd.grad(want, exact, grad.double()), strict=True):
        assert got.dtype == dtype
        close(got, expected, dtype)
    return pattern


class _Dense(torch.autograd.Function):
    """The products of `block_dense` put together as the operators are."""

    @staticmethod
    def forward(ctx, x, values, pattern, bias):
        ctx.save_for_backward(x, values)
        ctx.pattern = pattern
        return block_dense.multiply(x, values, pattern, bias, False)

    @staticmethod
    def backward(ctx, grad):
        x, values = ctx.saved_tensors
        grad_values = block_dense.sample(grad, x, ctx.pattern, tuple(values.shape[1:]), values.dtype)
        bias = grad.flatten(0, -2).float().sum(0).to(values.dtype)
        return block_dense.multiply(grad, values, ctx.pattern, None, True), grad_values, None, bias


# ------------------------------------------------------------------------------------- without a GPU
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("block", [(8, 8), (64, 32), (24, 128)])
def test_what_no_kernel_takes_is_multiplied_densely(block, dtype):
    if M % block[0]:
        block = (8, block[1])
    check(block, dtype, "cpu", kernel=False)


def test_dense_products_of_mixed_dtypes_and_no_tokens():
    pattern, values, mask = case((32, 32), torch.bfloat16, "cpu")
    x = torch.randn(5, K)
    close(block_dense.multiply(x, values, pattern, None, False), x @ dense(mask, pattern, values.float()).T, torch.float32)
    g = torch.randn(5, M).bfloat16()
    got = block_dense.sample(g, x, pattern, (32, 32), torch.bfloat16)
    want = ops.bsr_sddmm(g.float(), x, pattern, (32, 32))
    assert got.dtype == torch.bfloat16
    close(got, want, torch.bfloat16)
    assert block_dense.multiply(x[:0], values, pattern, None, False).shape == (0, M)
    assert not block_dense.sample(g[:0], x[:0], pattern, (32, 32), torch.float32).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, K - 1)}, r"x: expected float32, float16 or bfloat16 \[…, 768\], got float32 \[2, 767\] on cpu"),
        ({"x": torch.zeros(2, K).double()}, r"x: expected .*, got float64 \[2, 768\] on cpu"),
        ({"values": torch.zeros(1, 32, 32)}, r"values: expected .* \[\d+, block rows, block columns\], got float32 \[1, 32, 32\]"),
        ({"bias": torch.zeros(3)}, r"bias: expected \[512\], got float32 \[3\] on cpu"),
    ],
)
def test_dense_products_name_what_does_not_fit(change, message):
    pattern, values, _ = case((32, 32), torch.float32, "cpu")
    arguments = {"x": torch.zeros(2, K), "values": values, "pattern": pattern, "bias": None, "transposed": False} | change
    with pytest.raises(ValueError, match=message):
        block_dense.multiply(**arguments)
    with pytest.raises(ValueError, match="q: expected 2 rows as p, got float32"):
        block_dense.sample(torch.zeros(2, M), torch.zeros(3, K), pattern, (32, 32), torch.float32)


class _Recorder:
    """In place of `_core.DeviceBlocks`."""

    unsupported = None
    recorded = False
    made = 0

    def __init__(self, *arguments):
        _Recorder.made += 1
        self.arguments = arguments


def test_a_pattern_is_known_by_its_memory(monkeypatch):
    monkeypatch.setattr(_core, "DeviceBlocks", _Recorder)
    monkeypatch.setattr(block_places, "_known", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(_Recorder, "made", 0)
    cpu = torch.device("cpu")

    def blocks(pattern, sides=(64, 64)):
        return block_places.placed(cpu, pattern, *sides).blocks

    pattern = case(device="cpu")[0]
    first = blocks(pattern)
    assert blocks(pattern) is first and blocks(pattern._replace(order=None)) is first
    assert blocks(pattern._replace(in_features=2 * K)) is not first
    twin = copied(pattern)
    assert blocks(twin) is first, "the same contents elsewhere"
    made = _Recorder.made
    pattern.col_indices[0] += 0  # As DDP writes buffers.
    assert blocks(pattern) is first and _Recorder.made == made
    pattern.col_indices[0] += 1
    changed = blocks(pattern)
    assert changed is not first and changed.arguments[1].equal(pattern.col_indices)
    assert blocks(twin) is first
    count = len(block_places._known)
    del twin, first, changed
    gc.collect()
    other = case(device="cpu", density=0.6)[0]
    blocks(other)
    assert len(block_places._known) <= count, "what has lost its memory is forgotten"
    with torch.inference_mode():
        inside = case(device="cpu", density=0.1)[0]
        assert blocks(inside) is blocks(inside)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert blocks(other) is not None
    with pytest.raises(UnsupportedError, match="block pattern: expected one that was used before a graph is recorded"):
        blocks(case(device="cpu", density=0.2)[0])


def test_a_gpu_without_kernels_multiplies_densely(monkeypatch):
    def refuse(*arguments):
        raise UnsupportedError("GPU 0: expected compute capability 8.0 or newer, found 7.5")

    monkeypatch.setattr(_core, "DeviceBlocks", refuse)
    monkeypatch.setattr(block_places, "_known", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(block_sparse, "is_elsewhere", lambda x: False)
    pattern, values, _ = case(device="cpu")
    x, multiply = torch.randn(5, K).bfloat16(), block_sparse._multiply_cuda
    close(multiply(x, values, pattern, None, False), ops.bsr_linear(x, values, pattern), torch.bfloat16)
    with pytest.raises(ValueError, match="col_indices: expected 0 to 11, got 1"):
        multiply(x, values, pattern._replace(col_indices=pattern.col_indices + 100), None, False)


class _Kernels:
    """In place of `_core.DeviceBlocks` on the CPU: takes what kernels take, and computes it densely."""

    unsupported = None
    recorded = False

    def __init__(self, rows, cols, *shape):
        self.pattern = (rows, cols, None, None, None, *shape[:2])
        self.runs = []

    @staticmethod
    def takes(*rows):
        return all(t.stride(-1) == 1 and t.data_ptr() % 16 == 0 and all(s * 2 % 16 == 0 and s for s in t.stride()[:-1]) for t in rows)

    def linear(self, x, values, bias, transposed, out):
        assert bias is None or (bias.dtype == torch.float32 and bias.is_contiguous())
        self.runs.append(self.takes(x) and values.is_contiguous() and self.takes(values))
        if self.runs[-1]:
            out.copy_(block_dense.multiply(x, values, self.pattern, bias, transposed))
        return self.runs[-1]

    def samples(self, p, q, out):
        self.runs.append(self.takes(p, q))
        if self.runs[-1]:
            out.copy_(block_dense.sample(p, q, self.pattern, out.shape[1:], out.dtype))
        return self.runs[-1]


@pytest.fixture
def recording(monkeypatch):
    """Runs a product (of x, transposed or a sample) of a pattern on the CPU as if it were a GPU and a graph recorded it, or not."""
    capturing = []
    monkeypatch.setattr(_core, "DeviceBlocks", _Kernels)
    monkeypatch.setattr(block_places, "_known", {})
    monkeypatch.setattr(block_places, "_kept", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: bool(capturing))
    monkeypatch.setattr(block_sparse, "is_elsewhere", lambda x: False)
    x, y = torch.randn(5, K).bfloat16(), torch.randn(5, M).bfloat16()

    def run(pattern, recorded, product="linear"):
        values = torch.zeros(len(pattern.col_indices), 64, 64).bfloat16()
        known = block_places.placed(torch.device("cpu"), pattern, 64, 64)
        capturing.extend([1] * recorded)
        known.blocks.recorded |= recorded
        if product == "sample":
            block_sparse._sddmm_cuda.__wrapped__(y, x, *pattern, 64, 64)
        else:
            block_sparse._multiply_cuda(y if product == "transposed" else x, values, pattern, None, product == "transposed")
        capturing.clear()

    return run


def storages_of(pattern):
    return [StorageWeakRef(pattern[i].untyped_storage()) for i in (0, 1)]


def copied(pattern):
    return ops.BlockPattern(*(t.clone() if isinstance(t, torch.Tensor) else t for t in pattern))


@pytest.mark.parametrize("product", ["linear", "transposed", "sample"])
@pytest.mark.parametrize("recorded", [False, True])
def test_memory_of_recorded_patterns_is_kept(recording, recorded, product):
    """Inductor finds its graphs by the addresses that they were recorded with: none may come again with other blocks."""
    pattern = case(device="cpu")[0]
    storages = storages_of(pattern)
    recording(pattern, recorded, product)
    del pattern
    gc.collect()
    assert [s.expired() for s in storages] == [not recorded] * 2


def test_memory_of_recorded_patterns_outlives_writes(recording):
    pattern = case(device="cpu")[0]
    storages = storages_of(pattern)
    recording(pattern, True)
    for step in (0, 1):  # As DDP writes buffers; as blocks move.
        pattern.col_indices[0] += step
        recording(pattern, False)
    del pattern
    gc.collect()
    assert not any(s.expired() for s in storages)


def test_memory_of_alike_patterns_is_not_kept(recording):
    """Index tensors that are copied at every step would pile up."""
    pattern = case(device="cpu")[0]
    recording(pattern, True)
    count = len(block_places._known)
    for _ in range(5):
        recording(copied(pattern), False)
        gc.collect()
    assert len(block_places._known) <= count + 1 and len(block_places._kept) == 1
    recording(copied(pattern), True)
    assert len(block_places._kept) == 2


def test_kernels_get_what_they_take(monkeypatch):
    monkeypatch.setattr(_core, "DeviceBlocks", _Kernels)
    monkeypatch.setattr(block_places, "_known", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(block_sparse, "is_elsewhere", lambda x: False)
    multiply, sample = block_sparse._multiply_cuda, block_sparse._sddmm_cuda.__wrapped__
    pattern, values, _ = case(device="cpu")
    kernels = block_places.placed(torch.device("cpu"), pattern, 64, 64).blocks
    wide, g, bias = torch.randn(70, K + 8).bfloat16(), torch.randn(70, M).bfloat16(), torch.randn(2 * M).bfloat16()[::2]
    padded = torch.empty(values.numel() + 1).bfloat16()[1:].view_as(values).copy_(values)
    for x, v, runs in [
        (wide[:, :K], values, [True]),
        (wide[:, :K].view(7, 10, K), values, [True]),
        (wide[:, 1 : K + 1], values, [False, True]),
        (wide[:1, :K].expand(9, K), values, [False, True]),
        (wide[:, :K], padded, [False, True]),
    ]:
        kernels.runs.clear()
        close(multiply(x, v, pattern, bias, False), ops.bsr_linear(x, values, pattern, bias.contiguous()), torch.bfloat16)
        assert kernels.runs == runs
    kernels.runs.clear()
    close(multiply(g, values, pattern, None, True), ops.bsr_linear_transposed(g, values, pattern), torch.bfloat16)
    for x in (wide[:, :K], wide[:, 1 : K + 1]):
        close(sample(g, x, *pattern, 64, 64), ops.bsr_sddmm(g, x, pattern, 64), torch.bfloat16)
    assert kernels.runs == [True, True, False, True]
    kernels.runs.clear()  # What follows is not theirs.
    assert multiply(g.float(), values, pattern, None, True).dtype == torch.float32
    assert sample(g, wide[:, :K], *pattern, 64, 64, dtype=torch.float32).dtype == torch.float32
    assert kernels.runs == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    pattern = case(device="cpu")[0]
    with pytest.raises(UnsupportedError):
        _core.DeviceBlocks(pattern.row_offsets, pattern.col_indices, M, K, 64, 64, 0)
    with pytest.raises(ValueError, match="pattern: expected one on a GPU, got one on cpu"):
        ops.bsr_kernels(pattern, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((M, K, 0, 64, 0), "block shape: expected 1 to 32768 rows and columns, got 0"),
        ((M, K, 64, 64, -1), "device: expected a number from 0 on, got -1"),
    ],
)
def test_places_that_cannot_be(arguments, message):
    pattern = case(device="cpu")[0]
    with pytest.raises(ValueError, match=message):
        _core.DeviceBlocks(pattern.row_offsets, pattern.col_indices, *arguments)


# ------------------------------------------------------------------------------------------- a GPU
@on_gpu
@pytest.mark.parametrize(
    ("block", "dtype"),
    [
        ((64, 64), torch.bfloat16), ((64, 64), torch.float16), ((16, 16), torch.float16), ((32, 32), torch.bfloat16),
        ((128, 128), torch.bfloat16), ((128, 64), torch.bfloat16),
    ],
)  # fmt: skip
def test_kernels_match_dense_torch(block, dtype):
    pattern = check(block, dtype, "cuda")
    products = {(product, dtype) for product, dtype, *_ in ops.bsr_kernels(pattern, block)}
    assert products == {(p, str(dtype)[6] + ("f16" if dtype == torch.bfloat16 else "16")) for p in ("linear", "transposed", "samples")}


@on_gpu
@pytest.mark.parametrize(("block", "dtype"), [((32, 32), torch.float32), ((8, 8), torch.bfloat16), ((128, 32), torch.float16)])
def test_dense_torch_on_the_gpu_does_the_rest(block, dtype):
    pattern = check(block, dtype, "cuda")
    assert ops.bsr_kernels(pattern, block) == []


@on_gpu
def test_tokens_strides_and_addresses():
    pattern, values, mask = case()
    weight = dense(mask, pattern, values)
    wide = torch.randn(70, K + 8, device="cuda").bfloat16()
    padded = torch.randn(len(values) * 64 * 64 + 1, device="cuda").bfloat16()[1:].view_as(values)  # Between 16 bytes.
    for x in (wide[:0, :K], wide[0, :K], wide[:, :K], wide[:, 1 : K + 1], wide[:, :K].T.contiguous().T, wide[:1, :K].expand(9, K)):
        close(ops.bsr_linear(x, values, pattern), nn.functional.linear(x.double(), weight.double()), torch.bfloat16)
    x = wide[:, :K]
    close(ops.bsr_linear(x, padded, pattern), x.double() @ dense(mask, pattern, padded).double().T, torch.bfloat16)
    g = torch.randn(1, M, device="cuda").bfloat16().expand(70, M)
    close(ops.bsr_sddmm(g, x, pattern, 64), dense_samples(g, x, mask), torch.bfloat16)
    assert not ops.bsr_sddmm(g[:0], x[:0], pattern, 64).any()


def dense_samples(g, x, mask, block=64):
    full = (g.double().T @ x.double()).unflatten(1, (-1, block)).unflatten(0, (-1, block)).transpose(1, 2)
    return full[mask[::block, ::block]]


@on_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_opcheck(dtype):
    pattern, values, _ = case(dtype=dtype)
    x, p = (torch.randn(5, n, device="cuda", dtype=dtype, requires_grad=True) for n in (K, M))
    values.requires_grad_()
    torch.library.opcheck(torch.ops.rarefy.bsr_linear.default, (x, values, *pattern, torch.randn(M, device="cuda", dtype=dtype)))
    torch.library.opcheck(torch.ops.rarefy.bsr_linear_transposed.default, (p, values, *pattern))
    torch.library.opcheck(torch.ops.rarefy.bsr_sddmm.default, (p, x, *pattern, 64, 64, dtype))


@on_gpu
def test_second_derivatives():
    pattern, values, mask = case((32, 32), torch.float32, shape=(64, 96))
    values.requires_grad_()
    x = torch.randn(4, 96, device="cuda", requires_grad=True)

    def penalty(y):
        (grad,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), (x, values))

    want = penalty(nn.functional.linear(x, dense(mask, pattern, values)))
    for a, b in zip(penalty(ops.bsr_linear(x, values, pattern)), want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-2)


@on_gpu
def test_on_the_current_stream_and_from_threads():
    pattern, values, _ = case()
    x = torch.randn(67, K, device="cuda").bfloat16()
    want = ops.bsr_linear(x, values, pattern)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        later = torch.zeros_like(x)
        torch.cuda._sleep(20_000_000)
        later.copy_(x)
        got = ops.bsr_linear(later, values, pattern)  # Of the sleeping stream: sees the copy.
    stream.synchronize()
    assert got.equal(want), "the same bits"
    found = [None] * 4

    def run(i):
        found[i] = [ops.bsr_linear(x[: 8 + 16 * i + n], values, pattern) for n in range(3)]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results in found:
        for y in results:
            torch.testing.assert_close(y, want[: len(y)], rtol=1e-2, atol=1e-1)


@on_gpu
def test_the_fastest_is_measured(monkeypatch):
    monkeypatch.delenv("RAREFY_FREEZE")
    pattern, values, mask = case(shape=(1024, 1536))
    x = torch.randn(300, 1536, device="cuda").bfloat16()
    close(ops.bsr_linear(x, values, pattern), x.double() @ dense(mask, pattern, values).double().T, torch.bfloat16)
    ((product, dtype, tokens, kernel, us, measured),) = ops.bsr_kernels(pattern, 64)
    assert (product, dtype, tokens, measured) == ("linear", "bf16", 512, True)
    assert kernel.startswith("forward.") and 0 < us < 1e4


def train(layer, x):
    layer.zero_grad(set_to_none=True)
    x.grad = None
    y = layer(x)
    y.float().square().sum().backward()
    return y


@on_gpu
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty", "ignore:The AccumulateGrad node")  # torch's own.
def test_recorded_in_a_graph():
    layer = BlockSparseLinear(K, M, density=0.25, block_shape=64, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(67, K, device="cuda").bfloat16().requires_grad_()
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(UnsupportedError, match="recorded"), torch.cuda.graph(graph), torch.no_grad():
        layer(x)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        train(layer, x)
    torch.cuda.current_stream().wait_stream(side)
    layer.zero_grad(set_to_none=True)
    x.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = train(layer, x)
    x.data.copy_(torch.randn_like(x))
    graph.replay()
    got = [t.clone() for t in (y, x.grad, layer.weight.grad, layer.bias.grad)]
    y = train(layer, x)
    for a, b in zip(got, (y, x.grad, layer.weight.grad, layer.bias.grad), strict=True):
        assert a.equal(b)
    more = torch.zeros(1500, K, device="cuda").bfloat16()
    with pytest.raises(UnsupportedError, match="of 1500 tokens: expected such a call before"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        layer(more)
    close(layer(more), layer.bias.expand(1500, M), torch.bfloat16)


@on_gpu
@pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning", "ignore:The CUDA Graph is empty"
)  # torch's own.
@pytest.mark.parametrize("how", [{"backend": "aot_eager"}, {"mode": "reduce-overhead"}], ids=["aot_eager", "reduce-overhead"])
def test_compiled_without_a_break(how):
    if "mode" in how and not (has_triton() and shutil.which("cc")):
        pytest.skip("Inductor needs Triton and a C compiler")
    torch._dynamo.reset()
    layer = BlockSparseLinear(K, M, density=0.25, block_shape=64, device="cuda", dtype=torch.bfloat16)
    compiled = torch.compile(layer, **how, fullgraph=True)
    x = torch.randn(67, K, device="cuda").bfloat16().requires_grad_()
    for _ in range(3):
        y = train(compiled, x)
        got = [t.clone() for t in (y, x.grad, layer.weight.grad, layer.bias.grad)]
    y = train(layer, x)
    for a, b in zip(got, (y, x.grad, layer.weight.grad, layer.bias.grad), strict=True):
        close(a, b, torch.bfloat16)


@on_gpu
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch's own.
def test_compiled_graphs_follow_blocks_that_move_back_and_forth():
    """New index tensors take the memory of old ones, by which inductor would find an old graph."""
    if not (has_triton() and shutil.which("cc")):
        pytest.skip("Inductor needs Triton and a C compiler")
    torch._dynamo.reset()
    layer = BlockSparseLinear(K, M, density=0.25, block_shape=64, device="cuda", dtype=torch.bfloat16).requires_grad_(False)
    compiled = torch.compile(layer, mode="reduce-overhead", fullgraph=True)
    x = torch.randn(67, K, device="cuda").bfloat16()
    blocks = torch.randn(M // 64, K // 64, 64, 64, device="cuda").bfloat16()
    for _ in range(6):
        layer.assign_blocks(torch.randperm(layer.block_mask.numel(), device="cuda").view(layer.grid) < layer.nnz_blocks, blocks)
        with torch.compiler.set_stance("force_eager"):
            want = compiled(x)
        for _ in range(4):
            close(compiled(x).clone(), want, torch.bfloat16)


@on_gpu
def test_autocast_runs_kernels_on_float_parameters():
    layer = BlockSparseLinear(K, M, density=0.25, block_shape=64, device="cuda")
    x = torch.randn(67, K, device="cuda", requires_grad=True)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y = layer(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16 and layer.weight.grad.dtype == x.grad.dtype == torch.float32
    close(y, nn.functional.linear(*(t.bfloat16().double() for t in (x, layer.to_dense(), layer.bias))), torch.bfloat16)
    pattern = [layer.row_offsets, layer.col_indices, None, None, None, M, K]
    assert len(ops.bsr_kernels(pattern, 64)) == 3


@on_gpu
def test_layers_move_copy_and_save():
    layer = BlockSparseLinear(K, M, density=0.25, block_shape=64, dtype=torch.bfloat16)
    x = torch.randn(9, K).bfloat16()
    want = layer(x).cuda()
    layer.cuda()
    assert all(t.is_cuda for t in (*layer.parameters(), *layer.buffers()))
    other = BlockSparseLinear(K, M, density=0.25, block_shape=64, dtype=torch.bfloat16, device="cuda")
    other(x.cuda())  # Has kernels for a pattern that goes.
    other.load_state_dict({name: t.cpu() for name, t in layer.state_dict().items()})
    again = BlockSparseLinear.from_dense(layer.to_linear(), mask=layer.block_mask, block_shape=64)
    for one in (layer, other, copy.deepcopy(layer), again):
        close(one(x.cuda()), want, torch.bfloat16)
    fewer = nn.Sequential(BlockSparseLinear(K, M, density=0.125, block_shape=64, dtype=torch.bfloat16, device="cuda"))
    state = {f"0.{name}": t.cpu() for name, t in layer.state_dict().items()}
    rarefy.load_block_sparse(fewer, state, density="model")
    assert all(t.is_cuda for t in fewer.buffers()) and fewer[0].nnz_blocks == layer.nnz_blocks // 2
    kept = fewer[0].to_dense()
    assert kept[kept != 0].equal(layer.to_dense()[kept != 0])
    close(fewer(x.cuda()), nn.functional.linear(x.cuda().double(), kept.double(), layer.bias.double()), torch.bfloat16)


@on_gpu
@pytest.mark.parametrize("grow", ["gradient", "random"])
def test_blocks_move_while_training(grow):
    torch.manual_seed(0)
    model = nn.Sequential(BlockSparseLinear(K, M, density=0.25, block_shape=64, device="cuda", dtype=torch.bfloat16))
    layer = model[0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sparse = rarefy.SparseOptimizer(model, optimizer, total_steps=100, every=2, fraction=0.4, grow=grow)
    x = torch.randn(64, K, device="cuda").bfloat16()
    for _ in range(4):
        before = layer.block_mask
        train(model, x)
        close(
            layer.weight.grad,
            2 * dense_samples(layer(x).detach(), x, before.repeat_interleave(64, 0).repeat_interleave(64, 1)),
            torch.bfloat16,
        )
        optimizer.step()
        moved = sparse.step()
        after = layer.block_mask
        assert int((after & ~before).sum()) == moved
        new = (after & ~before)[after]
        assert not layer.weight[new].any() and not optimizer.state[layer.weight]["exp_avg"][new].any()
        close(layer(x), nn.functional.linear(x.double(), layer.to_dense().double(), layer.bias.double()), torch.bfloat16)
        optimizer.zero_grad()
    assert sparse.moved > 0


@on_gpu
def test_masks_train():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(K, M), nn.GELU(), nn.Linear(M, 128)).cuda()
    rarefy.apply_sr_ste(model, "2")
    pruner = rarefy.MovementPruner(model, "0", rarefy.CubicSchedule(final=0.75, begin=0, end=3), block_shape=64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    x = torch.randn(64, K, device="cuda")
    for _ in range(4):
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.step()
    want = model(x)
    pruner.finish()
    assert rarefy.remove_sr_ste(model) == 1
    assert isinstance(model[0], BlockSparseLinear) and model[0].nnz_blocks == 24
    assert float((model[2].weight == 0).float().mean()) == 0.5
    torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-4)


@on_gpu
def test_distributed_data_parallel():
    if not torch.distributed.is_nccl_available():
        pytest.skip("missing: NCCL")
    layer = BlockSparseLinear(K, M, density=0.25, block_shape=64, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(67, K, device="cuda").bfloat16().requires_grad_()
    want = [t.clone() for t in (train(layer, x), x.grad, layer.weight.grad)]
    torch.distributed.init_process_group("nccl", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(layer, device_ids=[0])
        for _ in range(2):
            y = train(model, x)
        for a, b in zip((y, x.grad, layer.weight.grad), want, strict=True):
            assert a.equal(b)
    finally:
        torch.distributed.destroy_process_group()


@on_gpu
def test_no_zero_is_stored():
    """Neither forward nor backward of a kernel holds a dense weight, even for a moment."""
    layer = BlockSparseLinear(8192, 8192, bias=False, density=1 / 64, block_shape=64, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(16, 8192, device="cuda").bfloat16().requires_grad_()
    train(layer, x)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    train(layer, x)
    assert torch.cuda.max_memory_allocated() - before < 2 * layer.weight.nbytes + (8 << 20) < 8192 * 8192


@on_gpu
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": (2, K - 4)}, r"x: expected bf16 \[…, 768\], got bf16 \[2, 764\]"),
        ({"values": (3, 64, 64)}, r"values: expected f16 or bf16 \[\d+, 64, 64\], got bf16 \[3, 64, 64\]"),
        ({"bias": (7,)}, r"bias: expected f32 \[512\], got f32 \[7\]"),
        ({"row_offsets": [0, 5, 2]}, "row_offsets: expected 9 entries, got 3"),
        ({"col_indices": "+100"}, "col_indices: expected 0 to 11, got 1"),
        ({"row_offsets": "cpu"}, r"row_offsets: expected one dimension on cuda:0, got int32 \[9\] on cpu"),
    ],
)
def test_bad_input(change, message):
    pattern, values, _ = case()
    x, bias = torch.zeros(2, K, device="cuda").bfloat16(), None
    for name, to in change.items():
        if name in ("x", "values", "bias"):
            made = torch.zeros(to, device="cuda").bfloat16()
            x, values, bias = (made if name == n else t for n, t in (("x", x), ("values", values), ("bias", bias)))
        elif to == "cpu":
            pattern = pattern._replace(row_offsets=pattern.row_offsets.cpu())
        elif to == "+100":
            pattern = pattern._replace(col_indices=pattern.col_indices + 100)
        else:
            pattern = pattern._replace(**{name: torch.tensor(to, dtype=torch.int32, device="cuda")})
    with pytest.raises(ValueError, match=message):
        ops.bsr_linear(x, values, pattern, bias)
    torch.cuda.synchronize()  # Nothing went wrong there.


@on_gpu
def test_devices_that_differ():
    layer = BlockSparseLinear(K, M, density=0.25, block_shape=64, device="cuda")
    with pytest.raises(ValueError, match="x: expected a tensor on cuda:0, got float32"):
        layer(torch.zeros(2, K))
    with pytest.raises(ValueError, match="x: expected a tensor on cpu, got float32"):
        layer.cpu()(torch.zeros(2, K, device="cuda"))
