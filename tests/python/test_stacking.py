"""Layers that read the same input as one product: same results, one call, and what makes a layer leave."""

import copy
import gc
import pickle
import threading

import pytest

torch = pytest.importorskip("torch", reason="missing: torch (RAREFY_TEST_TORCH=1 make test installs it)")

import rarefy
from rarefy import SparseLinear, ops, stacking
from torch import nn

CLOSE = dict(rtol=1e-5, atol=1e-5)  # f32 sums of 48 products in another order


class Attention(nn.Module):
    """Three layers of one input, of different heights, two of them with a bias."""

    def __init__(self, dtype=torch.float32, format="bitmap"):
        super().__init__()
        torch.manual_seed(0)
        for name, rows, bias in (("q_proj", 32, True), ("k_proj", 8, False), ("v_proj", 8, True)):
            weight = (torch.randn(rows, 48) * (torch.rand(rows, 48) < 0.3)).to(dtype)
            setattr(self, name, SparseLinear(weight, torch.randn(rows).to(dtype) if bias else None, format))

    def forward(self, x):
        return torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], -1)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setenv("RAREFY_FREEZE", "1")
    torch._dynamo.reset()
    torch.manual_seed(1)


@pytest.fixture
def products(monkeypatch):
    """The calls of `ops.linear`."""
    calls, run = [], ops.linear
    monkeypatch.setattr(ops, "linear", lambda *args: (calls.append(args[0]), run(*args))[1])
    return calls


def stacked(**how):
    plain = Attention(**how)
    made = copy.deepcopy(plain)
    assert rarefy.stack(made) == [("q_proj", "k_proj", "v_proj")]
    return plain, made


@pytest.mark.parametrize("shape", [(48,), (3, 48), (2, 5, 48), (0, 48)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_product_gives_what_three_gave(shape, dtype, products):
    plain, made = stacked(dtype=dtype)
    x = torch.randn(shape).to(dtype)
    want = plain(x)
    del products[:]
    got = made(x)
    assert len(products) == 1 and got.dtype == dtype
    torch.testing.assert_close(got, want, **(CLOSE if dtype == torch.float32 else dict(rtol=2e-2, atol=2e-2)))
    assert made.q_proj.part.stack.held is None  # Nothing is kept.


def test_any_order_and_other_inputs(products):
    plain, made = stacked()
    x, other = torch.randn(3, 48), torch.randn(3, 48)
    want = {name: (getattr(plain, name)(x), getattr(plain, name)(other)) for name in ("q_proj", "k_proj", "v_proj")}
    for calls in (
        [("v_proj", 0), ("q_proj", 0), ("k_proj", 0)],
        [("q_proj", 0), ("k_proj", 1), ("v_proj", 1)],
        [("k_proj", 0), ("k_proj", 0), ("k_proj", 1), ("q_proj", 0), ("v_proj", 0)],
    ):
        for name, which in calls:
            torch.testing.assert_close(getattr(made, name)((x, other)[which]), want[name][which], **CLOSE)
    x += 1  # The same tensor, other values.
    made.q_proj(x)
    x += 1
    torch.testing.assert_close(made.k_proj(x), plain.k_proj(x), **CLOSE)
    assert len(products) == 6 + 1 + 2 + 4 + 2 + 1  # The plain layers' seven among them.


def test_gradients_reach_inputs_and_biases():
    plain, made = stacked()
    x, x2 = (torch.randn(4, 48, generator=torch.Generator().manual_seed(2)).requires_grad_() for _ in range(2))
    grad = torch.randn(4, 48)
    with torch.no_grad():
        made.q_proj(x)  # Its results, which have no graph, are not for who wants one.
    made(x).backward(grad)
    plain(x2).backward(grad)
    torch.testing.assert_close(x.grad, x2.grad, **CLOSE)
    for name, parameter in made.named_parameters():
        torch.testing.assert_close(parameter.grad, plain.get_parameter(name).grad, **CLOSE)
    made.q_proj(x), made.k_proj(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert made.v_proj(x).dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")  # Strict export: what is held comes and goes.
def test_under_compile_export_and_checkpoint():
    plain, made = stacked()
    x = torch.randn(3, 48)
    graphs = []

    def record(graph, inputs):
        graphs.append([node.target for node in graph.graph.nodes if node.op == "call_function"])
        return graph.forward

    torch.testing.assert_close(torch.compile(made, backend=record, fullgraph=True)(x), plain(x), **CLOSE)
    assert len(graphs) == 1 and graphs[0].count(torch.ops.rarefy.linear.default) == 1
    assert made.q_proj.part.stack.held is None
    x.requires_grad_()
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    got = torch.autograd.grad(compiled(x).sum(), x)
    torch.testing.assert_close(got, torch.autograd.grad(plain(x).sum(), x), **CLOSE)
    again = torch.utils.checkpoint.checkpoint(made, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(again.sum(), x), got, **CLOSE)
    batch = ({0: torch.export.Dim("batch")},)
    for strict in (False, True):
        program = torch.export.export(made, (x.detach(),), dynamic_shapes=batch, strict=strict)
        torch.testing.assert_close(program.module()(x.detach()[:2]), plain(x.detach()[:2]), **CLOSE)


class FeedForward(nn.Module):
    """One result is written to in place after the other was saved for a backward."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        for name in ("gate_proj", "up_proj"):
            setattr(self, name, SparseLinear(torch.randn(16, 48) * (torch.rand(16, 48) < 0.3), format="bitmap"))

    def forward(self, x):
        gate, up = self.gate_proj(x), self.up_proj(x)
        squares = up.square()
        return gate.mul_(0.5).relu_() + squares


@pytest.mark.parametrize("how", [None, "eager", "aot_eager"])
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")
def test_results_may_be_written_to(how):
    plain = FeedForward()
    made = copy.deepcopy(plain)
    assert rarefy.stack(made) == [("gate_proj", "up_proj")]
    run = made if how is None else torch.compile(made, backend=how, fullgraph=True)
    x, x2 = (torch.randn(3, 48, generator=torch.Generator().manual_seed(2)).requires_grad_() for _ in range(2))
    for _ in range(2):
        y, want = run(x), plain(x2)
        torch.testing.assert_close(y, want, **CLOSE)
        y.sum().backward(), want.sum().backward()
        torch.testing.assert_close(x.grad, x2.grad, **CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(run(x), plain(x2), **CLOSE)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_under_vmap():
    plain, made = stacked()
    x = torch.randn(4, 3, 48)
    torch.testing.assert_close(torch.func.vmap(made)(x), plain(x), **CLOSE)


def test_layers_save_and_show_their_own():
    plain, made = stacked()
    state = made.state_dict()
    assert sorted(state) == sorted(plain.state_dict())
    assert all(state[key].equal(value) for key, value in plain.state_dict().items())
    for name in ("q_proj", "k_proj", "v_proj"):
        layer, twin = getattr(made, name), getattr(plain, name)
        assert layer.weight.equal(twin.weight) and layer.density == twin.density and layer.format == "bitmap"
        assert layer.to_linear().weight.equal(twin.weight)
    total = made.q_proj.packed.matrix.nbytes
    assert abs(sum(getattr(made, name).nbytes for name in ("q_proj", "k_proj", "v_proj")) - total) <= 2


def test_copies_have_results_of_their_own():
    plain, made = stacked()
    x = torch.randn(3, 48)
    made.q_proj(x)
    twin = copy.deepcopy(made)
    assert twin.q_proj.part.stack is twin.v_proj.part.stack is not made.q_proj.part.stack
    assert twin.q_proj.packed is made.q_proj.packed and twin.q_proj.part.stack.held is None
    back = pickle.loads(pickle.dumps(made))
    assert back.q_proj.part is None
    del made
    gc.collect()
    for other in (twin, back):
        torch.testing.assert_close(other(x), plain(x), **CLOSE)


def test_nothing_is_held_for_who_has_left():
    plain, made = stacked()
    x, whole = torch.randn(3, 48), made.q_proj.part.stack
    compiled = torch.compile(made, backend="eager", fullgraph=True)
    for run in (made, compiled):
        run(x)
        assert whole.held is None
    made.q_proj(x), made.v_proj(x)
    assert whole.held.missing == {1}
    made.k_proj.load_state_dict({"weight": torch.eye(8, 48)})  # All that was waited for.
    assert whole.held is None
    for run in (made, compiled):
        torch.testing.assert_close(run(x)[:, -8:], plain.v_proj(x), **CLOSE)
        assert whole.held is None
    made.q_proj = nn.Linear(48, 32)
    gc.collect()
    torch.testing.assert_close(made.v_proj(x), plain.v_proj(x), **CLOSE)
    assert whole.held is None and whole.members == {2}
    made.bfloat16()
    assert not whole.members and whole.held is None


def test_nothing_is_held_for_who_was_not_copied():
    plain, made = stacked()
    x = torch.randn(3, 48)
    lone = copy.deepcopy(made.k_proj)
    torch.testing.assert_close(lone(x), plain.k_proj(x), **CLOSE)
    assert lone.part.stack.held is None
    del lone
    gc.collect()
    assert made.k_proj.part.stack.members == {0, 1, 2}


def test_who_changes_leaves():
    plain, made = stacked()
    x = torch.randn(3, 48)
    weight = torch.randn(8, 48)
    whole = made.q_proj.part.stack
    made.k_proj.load_state_dict({"weight": weight})
    assert made.k_proj.part is None and made.q_proj.part is not None
    torch.testing.assert_close(made.k_proj(x), x @ weight.T, **CLOSE)
    torch.testing.assert_close(made.q_proj(x), plain.q_proj(x), **CLOSE)
    torch.testing.assert_close(made.v_proj(x), plain.v_proj(x), **CLOSE)
    assert whole.held is None and whole.members == {0, 2}
    made.bfloat16()
    assert made.q_proj.part is None and made.v_proj.weight.equal(plain.v_proj.weight.bfloat16())
    made.k_proj.add_side_weights(2)
    with pytest.raises(ValueError, match="siblings: expected names of SparseLinears side by side"):
        rarefy.stack(made)
    assert rarefy.stack(made, (("q_proj", "v_proj"),)) == [("q_proj", "v_proj")]


def test_side_weights_beside_a_stack():
    plain, made = stacked()
    for model in (plain, made):
        model.k_proj.add_side_weights(2, alpha=4)
        nn.init.ones_(model.k_proj.side_in), nn.init.ones_(model.k_proj.side_out)
    x = torch.randn(3, 48)
    torch.testing.assert_close(made(x), plain(x), **CLOSE)


def test_threads_that_share_a_model():
    plain, made = stacked()
    wrong = []

    def work(seed):
        x = torch.randn(3, 48, generator=torch.Generator().manual_seed(seed))
        want = plain(x)
        wrong.extend(seed for _ in range(200) if not torch.allclose(made(x), want, **CLOSE))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_only_layers_that_fit_are_stacked():
    model = Attention()
    model.gate_proj = SparseLinear(torch.eye(48), format="csr")
    model.up_proj = SparseLinear(torch.eye(48).bfloat16(), format="csr")
    assert rarefy.stack(model) == [("q_proj", "k_proj", "v_proj")]
    with pytest.raises(ValueError, match="siblings"):  # They are already.
        rarefy.stack(model)
    shared = Attention()
    shared.k_proj = shared.q_proj
    with pytest.raises(ValueError, match="siblings"):
        rarefy.stack(shared)
    with pytest.raises(ValueError, match="siblings"):
        rarefy.stack(nn.Linear(4, 4))
    with pytest.raises(TypeError, match="model: expected a torch.nn.Module"):
        rarefy.stack([])
    mixed = Attention()
    mixed.v_proj = SparseLinear(torch.eye(8, 48), format="csr")
    assert rarefy.stack(mixed) and mixed.v_proj.weight.equal(torch.eye(8, 48))


def test_a_language_model():
    transformers = pytest.importorskip("transformers", minversion="5")
    config = transformers.LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    rarefy.thin(model, {"sparsity": 0.7, "format": "bitmap"})
    made = copy.deepcopy(model)
    names = rarefy.stack(made)
    assert len(names) == 4 and names[0] == tuple(f"model.layers.0.self_attn.{p}_proj" for p in "qkv")
    ids = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(made(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
    how = dict(max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert made.generate(ids, **how).equal(model.generate(ids, **how))
    assert stacking.SIBLINGS[0] == ("q_proj", "k_proj", "v_proj")
