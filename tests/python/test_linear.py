"""The operator rarefy::linear."""

import pytest

torch = pytest.importorskip("torch", reason="missing: torch (RAREFY_TEST_TORCH=1 make test installs it)")

import rarefy
from rarefy import ops


def sparse(m, k, density=0.3):
    return torch.randn(m, k) * (torch.rand(m, k) < density)


@pytest.mark.parametrize("activation", ops.ACTIVATIONS)
def test_forward_and_gradients_match_dense_torch(activation):
    torch.manual_seed(0)
    dense, x = sparse(64, 96), torch.randn(2, 5, 96, requires_grad=True)
    bias = torch.randn(64, requires_grad=True)
    act = {"none": lambda z: z, "relu": torch.relu, "gelu": torch.nn.functional.gelu, "silu": torch.nn.functional.silu}
    y = ops.linear(x, ops.pack(dense, "bitmap"), bias, activation)
    expected = act[activation](torch.nn.functional.linear(x, dense, bias))
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    grad = torch.randn_like(y)
    for got, want in zip(torch.autograd.grad(y, (x, bias), grad), torch.autograd.grad(expected, (x, bias), grad), strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_opcheck():
    weight, x = ops.pack(sparse(32, 48), "csr16"), torch.randn(3, 48, requires_grad=True)
    torch.library.opcheck(torch.ops.rarefy.linear.default, (x, weight.handle, torch.randn(32), "gelu", 32))
    torch.library.opcheck(torch.ops.rarefy.linear_transposed.default, (torch.randn(3, 32), weight.handle, 48))


def test_compiles_without_graph_breaks():
    weight, x = ops.pack(sparse(32, 48), "bitmap"), torch.randn(3, 48)
    compiled = torch.compile(lambda x: ops.linear(x, weight, None, "silu").sin(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), ops.linear(x, weight, None, "silu").sin())


def test_a_copied_handle_of_a_weight_that_is_gone_is_an_error():
    weight = ops.pack(sparse(32, 48), "bitmap")
    copy = weight.handle.clone()
    del weight
    with pytest.raises(ValueError, match="weight is gone"):
        torch.ops.rarefy.linear(torch.randn(3, 48), copy, None, "none", 32)
    with pytest.raises(rarefy.Error, match="another"):
        torch.ops.rarefy.linear(torch.randn(3, 48), torch.zeros(2, dtype=torch.int64), None, "none", 32)
