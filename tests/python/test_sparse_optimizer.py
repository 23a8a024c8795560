"""Moving blocks, what follows them, and what RigL's schedule and criteria choose."""

import math
import sys

import pytest

torch = pytest.importorskip("torch", reason="missing: torch (RAREFY_TEST_TORCH=1 make test installs it)")
from rarefy import BlockSparseLinear, CosineSchedule, SparseOptimizer, move_blocks
from torch import nn


def layer(density=0.5, features=128, block=32):
    torch.manual_seed(0)
    return BlockSparseLinear(features, features, True, density, block)


def changed_blocks(before, after, block=32):
    return int((before != after).unflatten(1, (-1, block)).unflatten(0, (-1, block)).any(3).any(1).sum())


def swap_one(mask):
    """The mask with its last block moved to the first empty place."""
    mask = mask.clone()
    gone, new = mask.nonzero()[-1], (~mask).nonzero()[0]
    mask[tuple(gone)], mask[tuple(new)] = False, True
    return mask, gone, new


class TestMoveBlocks:
    def test_kept_blocks_keep_their_values_and_new_ones_are_zero(self):
        moved = layer()
        before, parameter = moved.to_dense().detach(), moved.weight
        mask, gone, new = swap_one(moved.block_mask)
        assert move_blocks(moved, mask) == 1
        assert moved.weight is parameter and moved.block_mask.equal(mask)
        want = before.clone()
        want[gone[0] * 32 : gone[0] * 32 + 32, gone[1] * 32 : gone[1] * 32 + 32] = 0
        assert moved.to_dense().equal(want)

    def test_products_and_gradients_follow(self):
        moved = layer()
        mask, _, _ = swap_one(moved.block_mask)
        move_blocks(moved, mask, fresh=torch.randn(1, 32, 32))
        x = torch.randn(3, 128, requires_grad=True)
        y = moved(x)
        torch.testing.assert_close(y, nn.functional.linear(x, moved.to_dense(), moved.bias), rtol=1e-5, atol=1e-5)
        g = torch.randn_like(y)
        gx, gw = torch.autograd.grad(y, (x, moved.weight), g)
        torch.testing.assert_close(gx, g @ moved.to_dense(), rtol=1e-5, atol=1e-5)
        stored = moved.to_dense(torch.ones_like(moved.weight))
        torch.testing.assert_close(moved.to_dense(gw), g.T @ x * stored, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        "make",
        [
            lambda p: torch.optim.Adam(p, amsgrad=True),
            torch.optim.AdamW,
            lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
            torch.optim.Adagrad,
            torch.optim.RMSprop,
        ],
    )
    def test_states_of_any_optimizer_follow_their_blocks(self, make):
        moved = layer()
        optimizer = make(moved.parameters())
        moved(torch.randn(8, 128)).square().sum().backward()
        optimizer.step()
        states = {k: v for k, v in optimizer.state[moved.weight].items() if v is not None and v.shape == moved.weight.shape}
        assert states
        before = {key: moved.to_dense(value.clone()) for key, value in {**states, "grad": moved.weight.grad}.items()}
        mask, gone, _ = swap_one(moved.block_mask)
        move_blocks(moved, mask, [optimizer])
        for key, want in before.items():
            want[gone[0] * 32 : gone[0] * 32 + 32, gone[1] * 32 : gone[1] * 32 + 32] = 0
            now = moved.weight.grad if key == "grad" else optimizer.state[moved.weight][key]
            assert moved.to_dense(now).equal(want), key
        optimizer.step()

    def test_number_of_blocks_must_stay(self):
        with pytest.raises(ValueError, match="mask: expected 8 blocks, as many as are stored, got 16"):
            move_blocks(layer(), torch.ones(4, 4, dtype=torch.bool))
        with pytest.raises(ValueError, match=r"mask: expected bool \[4, 4\]"):
            move_blocks(layer(), torch.ones(2, 4, dtype=torch.bool))


class TestSparseOptimizer:
    def test_step_replaces_the_share_of_blocks(self):
        model = layer(0.25, 256)
        adam = torch.optim.Adam(model.parameters())
        sparse = SparseOptimizer(model, schedule=lambda step: 0.2, every=1, grow="random", new_scale=1.0)
        sparse.attach_optimizer(adam)
        model(torch.randn(4, 256)).sum().backward()
        adam.step()
        before = model.to_dense().detach()
        assert sparse.step() == 3  # int(0.2 · 16)
        assert changed_blocks(before, model.to_dense()) == 6
        assert model.nnz_blocks == 16

    def test_drops_the_smallest_and_grows_the_largest_gradient(self):
        model = BlockSparseLinear(128, 64, False, mask=torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]]).bool())
        with torch.no_grad():
            model.weight[:] = 1.0
            model.weight[1] = 0.01  # block (0, 1) is worth the least
        sgd = torch.optim.SGD(model.parameters(), 0.0)
        sparse = SparseOptimizer(model, sgd, schedule=lambda step: 0.34, every=1)
        x = torch.full((4, 128), 0.1)
        x[:, 96:] = 10.0  # the gradient is largest in block column 3
        y = model(x)
        (y[:, 32:] * 5 + y[:, :32]).sum().backward()  # and in block row 1
        sgd.step()
        assert sparse.step() == 1
        assert model.block_mask.tolist() == [[True, False, False, False], [True, False, False, True]]
        assert model.to_dense()[32:, 96:].eq(0).all()

    def test_gradient_of_empty_places_is_that_of_the_dense_layer(self):
        from rarefy.regrowth import GradientProbe

        model = layer(0.5)
        probe = GradientProbe(model, 1.0, torch.Generator())
        dense = model.to_linear()
        for _ in range(2):  # summed over backward passes
            x = torch.randn(2, 6, 128)
            model(x).square().sum().backward()
            dense(x).square().sum().backward()
        want = dense.weight.grad.unflatten(1, (-1, 32)).unflatten(0, (-1, 32)).square().sum((1, 3)).sqrt()
        norms = probe.close()
        torch.testing.assert_close(norms, torch.where(model.block_mask, -1.0, want), rtol=1e-4, atol=1e-4)
        assert model.probe is None

    def test_criterion_by_gradient(self):
        model = BlockSparseLinear(64, 64, False, mask=torch.tensor([[1, 1], [0, 1]]).bool())
        with torch.no_grad():
            model.weight[:] = 1.0
        model.weight.grad = torch.ones_like(model.weight)
        model.weight.grad[2] = 0  # of equal magnitude, but the loss does not feel it
        sgd = torch.optim.SGD(model.parameters(), 0.0)
        SparseOptimizer(model, sgd, schedule=lambda step: 0.34, every=1, drop="gradient", grow="random").step()
        assert model.block_mask.tolist() == [[True, True], [True, False]]

    def test_schedule_and_period(self):
        model = layer(0.5, 256)
        sgd = torch.optim.SGD(model.parameters(), 0.1)
        sparse = SparseOptimizer(model, sgd, total_steps=16, every=3, fraction=0.5)
        moved = []
        for _ in range(16):
            model(torch.randn(4, 256)).square().mean().backward()
            sgd.step()
            moved.append(sparse.step())
            sgd.zero_grad()
        want = [0] * 16
        for step in (3, 6, 9):  # T_end = 12
            want[step - 1] = int(0.25 * (1 + math.cos(math.pi * step / 12)) * 32)
        assert moved == want
        assert model.probe is None

    @pytest.mark.skipif(
        sys.version_info[:3] == (3, 13, 0),
        reason="torch.compile sees no changed attribute on Python 3.13.0 (CPython 125608)",
    )
    def test_a_compiled_model_is_measured_too(self):
        model = layer(0.5)
        other = layer(0.5)
        x = torch.randn(4, 128)
        for module, call in ((model, torch.compile(model, backend="aot_eager", fullgraph=True)), (other, other)):
            sparse = SparseOptimizer(module, torch.optim.SGD(module.parameters(), 0.1), schedule=lambda step: 0.4, every=2)
            for _ in range(4):
                call(x).square().sum().backward()
                sparse.step()
            assert sparse.moved == 6
        assert model.block_mask.equal(other.block_mask)

    def test_share_of_candidates(self):
        from rarefy.regrowth import GradientProbe

        model = layer(0.25, 256)
        probe = GradientProbe(model, 0.25, torch.Generator())
        model(torch.randn(4, 256)).square().sum().backward()
        assert probe.zeros.grad.shape == (12, 32, 32)
        assert int((probe.close() >= 0).sum()) == 12

    def test_goes_on_from_a_state(self):
        model = layer()
        sparse = SparseOptimizer(model, torch.optim.SGD(model.parameters(), 0.1), total_steps=10, every=2)
        sparse.steps = 5
        other = SparseOptimizer(model, torch.optim.SGD(model.parameters(), 0.1), total_steps=10, every=2)
        other.load_state_dict(sparse.state_dict())
        assert other.steps == 5 and other._probes

    def test_errors(self):
        model = layer()
        with pytest.raises(ValueError, match="model: expected at least one BlockSparseLinear"):
            SparseOptimizer(nn.Linear(2, 2), total_steps=1)
        with pytest.raises(TypeError, match="model: expected BlockSparseLinear layers, got Linear"):
            SparseOptimizer([nn.Linear(2, 2)], total_steps=1)
        with pytest.raises(ValueError, match="either total_steps or schedule"):
            SparseOptimizer(model)
        with pytest.raises(ValueError, match="grow: expected"):
            SparseOptimizer(model, total_steps=3, grow="up")
        other = torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)
        with pytest.raises(ValueError, match="optimizers: expected one that holds the weight of .* got none"):
            SparseOptimizer(model, other, schedule=lambda step: 0.5, every=1, grow="random").step()

    def test_a_layer_that_is_full_stays(self):
        model = layer(1.0)
        sparse = SparseOptimizer(model, torch.optim.SGD(model.parameters(), 0.1), schedule=lambda step: 0.5, every=1)
        model(torch.randn(2, 128)).sum().backward()
        assert sparse.step() == 0


def test_regrowth_finds_the_blocks_that_matter():
    """A target with four blocks at known places: RigL ends with most of them stored, and a lower loss than a fixed pattern."""
    torch.manual_seed(0)
    target = torch.zeros(128, 128)
    places = [(0, 3), (1, 0), (2, 2), (3, 1)]
    for r, c in places:
        target[r * 32 : r * 32 + 32, c * 32 : c * 32 + 32] = torch.randn(32, 32) / 8
    losses = []
    for grow in (True, False):
        torch.manual_seed(1)
        model = BlockSparseLinear(128, 128, False, mask=torch.eye(4, dtype=torch.bool))
        adam = torch.optim.Adam(model.parameters(), 3e-3)
        sparse = SparseOptimizer(model, adam, total_steps=200, every=10, fraction=0.5)
        for _ in range(200):
            x = torch.randn(64, 128)
            loss = (model(x) - x @ target.T).square().mean()
            loss.backward()
            adam.step()
            if grow:
                sparse.step()
            adam.zero_grad()
        losses.append(loss.item())
        if grow:
            assert sum(bool(model.block_mask[r, c]) for r, c in places) >= 3
    assert losses[0] < 0.5 * losses[1]


def test_cosine_schedule():
    schedule = CosineSchedule(0.3, 100)
    assert schedule(0) == pytest.approx(0.3) and schedule(50) == pytest.approx(0.15) and schedule(100) == 0
    with pytest.raises(ValueError, match="fraction"):
        CosineSchedule(1.0, 10)
