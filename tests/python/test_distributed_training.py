"""Two processes over gloo: DistributedDataParallel and fully_shard, against one process with the whole batch."""

import copy

import pytest

torch = pytest.importorskip("torch", reason="missing: torch (RAREFY_TEST_TORCH=1 make test installs it)")
import torch.distributed as dist
import torch.multiprocessing as mp
from ranks import leave
from torch import nn

if not dist.is_available() or not dist.is_gloo_available():
    pytest.skip("needs torch.distributed with gloo", allow_module_level=True)

STEPS = 6


def make_model():
    from rarefy import BlockSparseLinear

    torch.manual_seed(0)
    first, second = (BlockSparseLinear(m, n, density=0.5, block_shape=16) for m, n in ((64, 128), (128, 64)))
    return nn.Sequential(first, nn.ReLU(), second)


def batch(step):
    return torch.randn(8, 64, generator=torch.Generator().manual_seed(step))


def train(model, layers, rows):
    """Adam with regrowth at steps 2, 4 and 6; `rows` of each batch are this process's."""
    from rarefy import SparseOptimizer

    adam = torch.optim.Adam(model.parameters(), 1e-2)
    sparse = SparseOptimizer(layers, adam, schedule=lambda step: 0.25, every=2)
    for step in range(STEPS):
        adam.zero_grad()
        x = batch(step)[rows]
        (model(x) - x.roll(1, 1)).square().mean().backward()
        adam.step()
        sparse.step()
    return sparse.moved


def start(rank, store):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)


def data_parallel(rank, store, expected):
    start(rank, store)
    model = nn.parallel.DistributedDataParallel(make_model())
    layers = [model.module[0], model.module[2]]
    assert train(model, layers, slice(rank * 4, rank * 4 + 4)) == expected["moved"]
    check(layers, expected)
    for layer in layers:  # and the processes agree to the bit
        theirs = [torch.empty_like(layer.weight) for _ in range(2)]
        dist.all_gather(theirs, layer.weight.detach())
        assert theirs[0].equal(theirs[1])
    leave()


def sharded(rank, store, expected):
    from torch.distributed.fsdp import fully_shard

    start(rank, store)
    model = make_model()
    for layer in (model[0], model[2]):
        fully_shard(layer)
    fully_shard(model)
    layers = [model[0], model[2]]
    assert model[0].weight.to_local().shape[0] == model[0].nnz_blocks // 2
    assert train(model, layers, slice(rank * 4, rank * 4 + 4)) == expected["moved"]
    check(layers, expected)
    leave()


def check(layers, expected):
    for layer, want in zip(layers, expected["layers"]):
        weight = layer.weight.full_tensor() if hasattr(layer.weight, "full_tensor") else layer.weight
        assert layer.block_mask.equal(want.block_mask)
        # Adam divides by roots of small gradients, whose halves are summed in another order here.
        torch.testing.assert_close(weight.detach(), want.weight.detach(), rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def expected():
    model = make_model()
    layers = [model[0], model[2]]
    before = [layer.block_mask.clone() for layer in layers]
    moved = train(model, layers, slice(None))
    assert moved > 0 and any(not layer.block_mask.equal(mask) for layer, mask in zip(layers, before))
    return {"moved": moved, "layers": copy.deepcopy(layers)}


@pytest.mark.parametrize("worker", [data_parallel, sharded])
def test_two_processes_equal_one(worker, expected, tmp_path):
    mp.spawn(worker, (str(tmp_path / "store"), expected), nprocs=2)


def test_data_parallel_wrapper_runs():
    """pytorch_block_sparse's test: nn.DataParallel, which without GPUs is the module itself."""
    model = nn.DataParallel(make_model())
    assert model(torch.randn(3, 64)).shape == (3, 64)
