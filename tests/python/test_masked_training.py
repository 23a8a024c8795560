"""SR-STE, movement pruning and their schedule, against the formulas of their papers."""

import pytest

torch = pytest.importorskip("torch", reason="missing: torch (RAREFY_TEST_TORCH=1 make test installs it)")
from rarefy import BlockSparseLinear, CubicSchedule, MovementPruner, apply_sr_ste, remove_sr_ste
from rarefy.masks import Structure, n_of_m_mask
from torch import nn


def test_cubic_schedule():
    schedule = CubicSchedule(final=0.8, begin=10, end=110, initial=0.2)
    assert schedule(0) == schedule(10) == pytest.approx(0.2)
    assert schedule(60) == pytest.approx(0.8 - 0.6 / 8)
    assert schedule(110) == schedule(1000) == pytest.approx(0.8)
    with pytest.raises(ValueError, match="final"):
        CubicSchedule(1.0, 0, 10)
    with pytest.raises(ValueError, match="end: expected a step after begin=10"):
        CubicSchedule(0.5, 10, 10)


class TestMasks:
    def test_n_of_m(self):
        scores = torch.tensor([[3.0, 1, 2, 4, 5, 5, 5, 5]])
        assert n_of_m_mask(scores, 2, 4).tolist() == [[True, False, False, True, True, True, False, False]]

    @pytest.mark.parametrize("scope", ["tensor", "row"])
    @pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.5, 0.9])
    def test_unstructured_counts_are_exact_even_with_ties(self, scope, sparsity):
        torch.manual_seed(0)
        scores = torch.randint(0, 4, (10, 30)).float()
        mask = Structure.parse("unstructured").mask(scores, sparsity, scope)
        if scope == "row":
            assert ((~mask).sum(1) == round(sparsity * 30)).all()
            assert all(scores[i][mask[i]].min() >= scores[i][~mask[i]].max() for i in range(10) if sparsity > 0)
        else:
            assert int((~mask).sum()) == round(sparsity * 300)
            assert sparsity == 0 or scores[mask].min() >= scores[~mask].max()

    def test_blocks(self):
        scores = torch.ones(4, 8)
        scores[:2, 4:] = 3
        scores[2:, :4] = 2
        mask = Structure.parse("2x4").mask(scores, 0.5)
        assert mask.equal(scores > 1)

    @pytest.mark.parametrize("text", ["2:2", "0:4", "3x", "half", "4x0", 3])
    def test_bad_structures(self, text):
        with pytest.raises((ValueError, TypeError), match='pattern: expected "unstructured"'):
            Structure.parse(text)


class TestSrSte:
    def test_forward_and_gradient(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 8, bias=False))
        dense = model[0].weight.detach().clone()
        apply_sr_ste(model, "0", 2, 4, decay=0.01)
        mask = n_of_m_mask(dense.abs(), 2, 4)
        x = torch.randn(5, 16)
        y = model(x)
        torch.testing.assert_close(y, x @ (dense * mask).T)
        g = torch.randn_like(y)
        y.backward(g)
        want = g.T @ x + 0.01 * torch.where(mask, 0, dense)
        torch.testing.assert_close(model[0].parametrizations.weight.original.grad, want)

    def test_trains_and_bakes_in(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
        apply_sr_ste(model, "[02]")
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        x, target = torch.randn(64, 32), torch.randn(64, 32)
        losses = []
        for _ in range(50):
            optimizer.zero_grad()
            loss = (model(x) - target).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        before = model(x)
        assert remove_sr_ste(model) == 2
        assert model(x).equal(before)
        assert all((model[i].weight.unflatten(1, (-1, 4)) != 0).sum(-1).max() <= 2 for i in (0, 2))

    def test_errors(self):
        with pytest.raises(ValueError, match=r"pattern: expected a regular expression, got '\('"):
            apply_sr_ste(nn.Sequential(nn.Linear(4, 4)), "(")
        with pytest.raises(ValueError, match="pattern: expected an expression that matches a Linear, got 'x'; the nearest"):
            apply_sr_ste(nn.Sequential(nn.Linear(4, 4)), "x")
        with pytest.raises(ValueError, match="0: expected in_features that are a multiple of m=4, got 6"):
            apply_sr_ste(nn.Sequential(nn.Linear(6, 4)), "0")
        model = nn.Sequential(nn.Linear(8, 4))
        with pytest.raises(ValueError, match="n: expected at least 1 and below m=4, got 4"):
            apply_sr_ste(model, "0", 4, 4)
        with pytest.raises(ValueError, match="decay: expected at least 0, got -1"):
            apply_sr_ste(model, "0", decay=-1)
        assert type(model[0]) is nn.Linear  # nothing was changed


class TestMovement:
    def test_gradient_of_scores(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 32, bias=False))
        pruner = MovementPruner(model, "0", lambda step: 0.5, block_shape=16)
        dense = model[0].parametrizations.weight.original
        with torch.no_grad():
            pruner.scores()[0].copy_(torch.arange(8.0).view(2, 4))
        x = torch.randn(5, 64)
        y = model(x)
        mask = torch.tensor([[0.0] * 4, [1.0] * 4]).repeat_interleave(16, 0).repeat_interleave(16, 1)
        torch.testing.assert_close(y, x @ (dense * mask).T)
        g = torch.randn_like(y)
        y.backward(g)
        into = g.T @ x  # ∂L/∂W'
        want = (into * dense).unflatten(1, (-1, 16)).unflatten(0, (-1, 16)).sum((1, 3))
        torch.testing.assert_close(pruner.scores()[0].grad, want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(dense.grad, into * mask)

    def test_prunes_on_schedule_and_ends_block_sparse(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))
        pruner = MovementPruner(model, "[02]", CubicSchedule(0.75, 5, 25), block_shape=(16, 32))
        groups = [{"params": pruner.weights()}, {"params": pruner.scores(), "lr": 1e-2}]
        optimizer = torch.optim.AdamW(groups, 1e-3)
        x = torch.randn(32, 64)
        seen = []
        for _ in range(30):
            optimizer.zero_grad()
            (model(x) - x.roll(1, 1)).square().mean().backward()
            optimizer.step()
            pruner.step()
            seen.append(pruner.sparsity())
        assert seen == sorted(seen) and seen[-1] == pytest.approx(0.75)
        before = model(x)
        pruner.finish()
        assert isinstance(model[0], BlockSparseLinear) and model[0].density == pytest.approx(0.25)
        torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)

    def test_single_weights(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(10, 6))
        pruner = MovementPruner(model, "0", lambda step: 0.5, block_shape=1)
        model(torch.randn(4, 10)).sum().backward()
        pruner.finish()
        assert type(model[0]) is nn.Linear and int((model[0].weight == 0).sum()) == 30

    def test_errors(self):
        with pytest.raises(ValueError, match=r"pattern: expected a regular expression, got None"):
            MovementPruner(nn.Sequential(nn.Linear(64, 64)), None, lambda step: 0.5)
        with pytest.raises(ValueError, match="0: block_shape: expected a divisor of out_features=10, got 32"):
            MovementPruner(nn.Sequential(nn.Linear(64, 10)), "0", lambda step: 0.5)
        with pytest.raises(TypeError, match="0: block_shape: expected an int or a pair .*, got '32'"):
            MovementPruner(nn.Sequential(nn.Linear(64, 64)), "0", lambda step: 0.5, "32")
        model = nn.Sequential(nn.Linear(64, 64))
        with pytest.raises(ValueError, match="schedule: expected a sparsity of at least 0 and below 1, got 1"):
            MovementPruner(model, "0", lambda step: 1)
        assert type(model[0]) is nn.Linear  # nothing was changed
