"""Block-sparse values as ordinary parameters of DistributedDataParallel and of FSDP2."""

import socket

import pytest

torch = pytest.importorskip("torch", reason="missing: torch (RAREFY_TEST_TORCH=1 make test installs it)")

import torch.distributed as dist
import torch.multiprocessing as mp
from ranks import leave
from rarefy import ops

RANKS = 2


class Mlp(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.pattern = ops.block_pattern_of_mask(torch.eye(4, dtype=torch.bool), (8, 8))
        self.values = torch.nn.Parameter(torch.randn(4, 8, 8))
        self.frozen = ops.pack(torch.randn(16, 32) * (torch.rand(16, 32) < 0.3), "bitmap")
        self.bias = torch.nn.Parameter(torch.randn(16))

    def forward(self, x):
        return ops.linear(torch.relu(ops.bsr_linear(x, self.values, self.pattern)), self.frozen, self.bias)


def step(model, x, optimizer):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def worker(rank, port):
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS)
    torch.manual_seed(0)
    alone, data = Mlp(), torch.randn(3, RANKS * 4, 32)
    for wrap in (torch.nn.parallel.DistributedDataParallel, fully_shard):
        torch.manual_seed(0)
        reference, model = Mlp(), Mlp()
        model.load_state_dict(alone.state_dict())
        reference.load_state_dict(alone.state_dict())
        model.frozen = reference.frozen
        wrapped = wrap(model)
        optimizers = [torch.optim.AdamW(m.parameters(), lr=0.05) for m in (wrapped, reference)]
        for batch in data:
            step(wrapped, batch.chunk(RANKS)[rank], optimizers[0])
            step(reference, batch, optimizers[1])
        for got, want in zip(model.parameters(), reference.parameters(), strict=True):
            got = got.full_tensor() if hasattr(got, "full_tensor") else got
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    leave()


def test_two_ranks_train_as_one_does():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, (port,), nprocs=RANKS)
