"""The operators rarefy::sddmm and rarefy::csr_linear."""

import pytest

torch = pytest.importorskip("torch", reason="missing: torch (RAREFY_TEST_TORCH=1 make test installs it)")

import rarefy
from rarefy import ops


def case(m, k, format="csr", density=0.3):
    dense = torch.randn(m, k) * (torch.rand(m, k) < density)
    return dense, ops.pack(dense, format), dense[dense != 0]


@pytest.mark.parametrize("format", ["csr", "csr16"])
def test_values_train_at_their_places(format):
    torch.manual_seed(0)
    dense, pattern, values = case(24, 40, format)
    torch.testing.assert_close(ops.csr_values(pattern), values)
    values.requires_grad_()
    x = torch.randn(2, 3, 40, requires_grad=True)
    y = ops.csr_linear(x, values, pattern)
    exact, exact_x = dense.double().requires_grad_(), x.detach().double().requires_grad_()
    expected = torch.nn.functional.linear(exact_x, exact)
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
    grad = torch.randn_like(y)
    got = torch.autograd.grad(y, (x, values), grad)
    want = torch.autograd.grad(expected, (exact_x, exact), grad.double())
    torch.testing.assert_close(got[0].double(), want[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[1].double(), want[1][dense != 0], atol=1e-5, rtol=1e-5)


def test_gradcheck_twice():
    """As in test_block_sparse.py: products are linear in each argument."""
    torch.manual_seed(0)
    _, pattern, values = case(6, 8)
    values.requires_grad_()
    p, q = torch.randn(3, 6, requires_grad=True), torch.randn(3, 8, requires_grad=True)
    checks = {"eps": 0.5, "atol": 1e-3, "rtol": 1e-3, "nondet_tol": 0.0}
    with pytest.warns(UserWarning, match="double precision"):
        torch.autograd.gradcheck(lambda x, v: ops.csr_linear(x, v, pattern), (q, values), **checks)
        torch.autograd.gradgradcheck(lambda x, v: ops.csr_linear(x, v, pattern), (q, values), **checks)
        torch.autograd.gradcheck(lambda p, q: ops.sddmm(p, q, pattern), (p, q), **checks)
        torch.autograd.gradgradcheck(lambda p, q: ops.sddmm(p, q, pattern), (p, q), **checks)


def test_opcheck():
    _, pattern, values = case(6, 8)
    values.requires_grad_()
    p, q = torch.randn(3, 6, requires_grad=True), torch.randn(3, 8, requires_grad=True)
    torch.library.opcheck(torch.ops.rarefy.csr_linear.default, (q, values, pattern.handle, False, 6))
    torch.library.opcheck(torch.ops.rarefy.csr_linear.default, (p, values, pattern.handle, True, 8))
    torch.library.opcheck(torch.ops.rarefy.sddmm.default, (p, q, pattern.handle, values.numel()))


def test_errors():
    dense, pattern, values = case(6, 8)
    x = torch.randn(3, 8)
    with pytest.raises(rarefy.UnsupportedError, match="pattern: expected a weight packed as csr or csr16, got bitmap"):
        ops.csr_linear(x, values, ops.pack(dense, "bitmap"))
    with pytest.raises(ValueError, match=r"values: expected f32, f16 or bf16 \[\d+\], one for each place"):
        ops.csr_linear(x, values[1:], pattern)
    with pytest.raises(ValueError, match="x: expected f32, f16 or bf16 .*8.*, got f32 .3, 7."):
        ops.csr_linear(x[:, :7], values, pattern)
    with pytest.raises(ValueError, match="sddmm: p: expected M = 6 columns, got 8"):
        ops.sddmm(x, x, pattern)


def both_ways(m, k):
    """The CPU's kernels, and what GPUs run, which is torch's and runs on the CPU too."""
    from rarefy.ops import sampled

    dense, pattern, values = case(m, k)
    return dense, pattern.handle, values, sampled


def test_dense_products_give_what_kernels_give():
    torch.manual_seed(0)
    dense, handle, values, sampled = both_ways(24, 40)
    x, p = torch.randn(2, 3, 40), torch.randn(2, 3, 24)
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(
        sampled._csr_linear_dense(x, values, handle, False, 24), sampled._csr_linear_cpu(x, values, handle, False, 24), **close
    )
    torch.testing.assert_close(
        sampled._csr_linear_dense(p, values, handle, True, 40), sampled._csr_linear_cpu(p, values, handle, True, 40), **close
    )
    got = sampled._sddmm_dense(p, x, handle, values.numel())
    torch.testing.assert_close(got, sampled._sddmm_cpu(p, x, handle, values.numel()), **close)
    torch.testing.assert_close(got, torch.einsum("abm,abk->mk", p, x)[dense != 0], **close)
    assert sampled._sddmm_dense(p.bfloat16(), x, handle, values.numel(), torch.float16).dtype == torch.float16


def test_dense_products_say_what_is_wrong():
    _, handle, values, sampled = both_ways(6, 8)
    x = torch.randn(3, 8)
    with pytest.raises(ValueError, match=r"x: expected f32, f16 or bf16 \[…, K = 8\], got .*3, 7"):
        sampled._csr_linear_dense(x[:, :7], values, handle, False, 6)
    with pytest.raises(ValueError, match=r"values: expected \[\d+\], one for each place of the pattern"):
        sampled._csr_linear_dense(x, values[1:], handle, False, 6)
    with pytest.raises(ValueError, match="sddmm: p: expected .*M = 6"):
        sampled._sddmm_dense(x, x, handle, values.numel())
    with pytest.raises(ValueError, match="sddmm: q: expected as many rows as p"):
        sampled._sddmm_dense(torch.randn(2, 6), x, handle, values.numel())


def test_places_go_with_their_pattern():
    import gc

    from rarefy.ops import sampled

    _, pattern, values = case(6, 8)
    sampled._sddmm_dense(torch.randn(2, 6), torch.randn(2, 8), pattern.handle, values.numel())
    before = len(sampled._places)
    del pattern
    gc.collect()
    _, other, values = case(6, 8)
    sampled._sddmm_dense(torch.randn(2, 6), torch.randn(2, 8), other.handle, values.numel())
    assert len(sampled._places) <= before
