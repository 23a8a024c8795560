"""Plans: found, explained, cached, packed by."""

import numpy as np
import pytest
import rarefy


@pytest.fixture
def weight():
    rng = np.random.default_rng(0)
    return np.where(rng.random((256, 512)) < 0.1, rng.standard_normal((256, 512)), 0).astype(np.float32)


def test_a_plan_tells_why_and_packs(weight, tmp_path):
    wishes = {"tokens": {1: 1.0, 16: 0.5}, "cache_dir": tmp_path, "time_budget_s": 0.2}
    plan = rarefy.plan(weight, **wishes)
    assert not plan.from_cache
    assert plan.steps[0].tokens_min == 1
    assert plan.steps[-1].tokens_max >= 2**62
    chosen = [c for c in plan.candidates if c.chosen]
    assert {c.tokens for c in chosen} == {1, 16}
    assert all(c.format == plan.format for c in chosen)
    assert all(c.reason for c in plan.candidates if not c.chosen)
    assert plan.format in str(plan)
    matrix = rarefy.pack(weight, plan)
    assert matrix.plan is not None
    assert matrix.plan.format == matrix.format == plan.format
    x = np.random.default_rng(1).standard_normal((5, 512), dtype=np.float32)
    np.testing.assert_allclose(rarefy.spmm(matrix, x), x @ weight.T, atol=1e-4)
    assert rarefy.plan(weight, **wishes).from_cache
    assert rarefy.pack(weight, "csr").plan is None


def test_only_named_formats_compete(weight):
    plan = rarefy.plan(weight, formats=["csr16"], measure=False, cache=False)
    assert {c.format for c in plan.candidates if not c.format.startswith("dense")} == {"csr16"}


def test_one_budget_for_many(weight):
    half = weight.nbytes // 2
    plans = rarefy.plan_all({"a": weight, "b": weight * 2}, memory_budget=half, measure=False, cache=False)
    assert list(plans) == ["a", "b"]
    assert sum(p.nbytes for p in plans.values()) <= half
    with pytest.raises(MemoryError, match="budget|fit"):
        rarefy.plan(weight, memory_budget=10, measure=False, cache=False)
