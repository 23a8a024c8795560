"""How packed weights travel through operators: by numbers on the CPU, by addresses on a GPU. No GPU is needed."""

import copy
import gc
import weakref

import pytest

torch = pytest.importorskip("torch", reason="missing: torch (RAREFY_TEST_TORCH=1 make test installs it)")

from rarefy import SparseLinear, UnsupportedError, _core, ops
from torch._subclasses import FakeTensorMode

PLACED = "weight: expected one that is packed for cuda:0, got one that is not"  # Says who has found the weight.


class Memory:
    """Stands for memory of a GPU: an address that nobody follows."""

    def __init__(self, address):
        self.address = address


def on_gpu(weight, address=0x7F0000001000):
    memory = Memory(address)
    return weight.matrix._device_handle(address, 0, memory), weakref.ref(memory)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


def test_an_address_names_a_weight_and_keeps_it():
    weight = ops.pack(torch.eye(8), "csr")
    numbers = weight.handle.clone()
    handle, memory = on_gpu(weight)
    assert handle.__dlpack_device__() == (2, 0)
    del weight
    gc.collect()
    with pytest.raises(ValueError, match=PLACED):
        _core.device_dense(handle, 0)
    x = torch.randn(2, 8)
    assert torch.ops.rarefy.linear(x, numbers, None, "none", 8).equal(x)
    del handle
    gc.collect()
    assert memory() is None
    with pytest.raises(ValueError, match="weight: expected the handle of a packed weight, got one whose weight is gone"):
        torch.ops.rarefy.linear(x, numbers, None, "none", 8)


def test_an_address_names_one_weight_at_a_time():
    one, other = ops.pack(torch.eye(8), "csr"), ops.pack(torch.eye(8), "csr")
    handle, _ = on_gpu(one)
    with pytest.raises(ValueError, match="address: expected one that names no weight yet, got 0x7f0000001000"):
        on_gpu(other)
    again, _ = on_gpu(one, 0x7F0000002000)
    del handle
    gc.collect()
    later, _ = on_gpu(other)
    for each in (again, later):
        with pytest.raises(ValueError, match=PLACED):
            _core.device_dense(each, 0)
    for address, device in ((0, 0), (16, -1)):
        with pytest.raises(ValueError, match="address: expected memory of a GPU"):
            one.matrix._device_handle(address, device, object())


def test_copies_are_read_back_but_not_while_a_graph_records(monkeypatch):
    weight = ops.pack(torch.eye(8), "csr")
    with pytest.raises(TypeError, match="weight: expected the handle of a packed weight, got"):
        ops.handles.read_back(object(), "weight")
    assert ops.handles.read_back(weight.handle, "weight").equal(weight.handle)

    class Copy(torch.Tensor):
        is_cuda = True

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(UnsupportedError, match="weight: expected the handle of a packed weight itself while a graph records"):
        ops.handles.read_back(weight.handle.clone().as_subclass(Copy), "weight")


@pytest.fixture
def slots(monkeypatch):
    """Memory for handles, on the CPU, three at a time."""
    monkeypatch.setattr(ops.handles, "_SLOTS", 3)
    monkeypatch.setattr(ops.handles, "_chunks", [])
    monkeypatch.setattr(ops.handles, "_free", {})
    return lambda: ops.handles._slot(torch.device("cpu"))


def test_no_address_is_used_twice(slots):
    """Inductor finds its graphs by the addresses that they were recorded with."""
    seen = []
    for _ in range(10):
        seen.append(slots().data_ptr())
        gc.collect()
    assert len(set(seen)) == 10 and len(ops.handles._chunks) == 4
    assert all(address % 16 == 0 for address in seen)


def test_memory_that_was_short_once_may_come_later(slots, monkeypatch):
    def refuse(*sizes, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    first = [slots().data_ptr() for _ in range(3)]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", refuse)
        for _ in range(2):
            with pytest.raises(torch.OutOfMemoryError):
                slots()
    assert slots().data_ptr() not in first


def place(weight):
    """As `Weight.to("cuda")`, in fakes."""
    weight.gpu_handles[0] = torch.empty(2, dtype=torch.int64, device="cuda")
    torch._dynamo.mark_static_address(weight.gpu_handles[0], guard=False)


def test_compilers_see_a_gpus_handle_beside_a_gpus_activations():
    """Nothing of the CPU's, which would keep inductor from recording graphs, and nothing that such a graph would copy."""
    weight, layer = ops.pack(torch.eye(8), "csr"), SparseLinear(torch.eye(8), format="csr")
    layer._on_cpu, layer._device = False, torch.device("cuda", 0)
    graphs = []

    def record(graph, inputs):
        graphs.append(graph)
        return graph.forward

    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(3, 8, device="cuda")
        for call, packed in ((layer, layer.packed), (lambda x: ops.linear(x, weight), weight)):
            place(packed)
            assert torch.compile(call, backend=record, fullgraph=True)(x).device == x.device
    for graph in graphs:
        given = [node.meta for node in graph.graph.nodes if node.op == "placeholder"]
        assert [meta["example_value"].device.type for meta in given] == ["cuda", "cuda"]
        assert given[1]["tensor_dict"]["_dynamo_static_input_type"] == "unguarded"
    assert len(graphs) == 2


def test_where_activations_lie_decides():
    weight = ops.pack(torch.eye(8), "csr")
    with FakeTensorMode(allow_non_fake_inputs=True):
        place(weight)
        there, elsewhere = (torch.empty(2, 8, device=f"cuda:{i}") for i in (0, 1))
        assert weight.handle_for(there) is weight.gpu_handles[0]
        assert weight.handle_for(elsewhere) is weight.handle
    assert weight.handle_for(torch.empty(2, 8)) is weight.handle
    assert weight.handle_for(torch.empty(2, 8, device="meta")) is weight.handle
    assert copy.deepcopy(weight) is weight


def test_packed_in_inference_mode_and_trained_around():
    with torch.inference_mode():
        weight = ops.pack(torch.eye(8), "csr")
    bias = torch.zeros(8, requires_grad=True)
    torch.ops.rarefy.linear(torch.ones(2, 8), weight.handle, bias, "none", 8).sum().backward()
    assert bias.grad.equal(torch.full((8,), 2.0))
