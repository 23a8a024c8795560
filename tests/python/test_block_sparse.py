"""The operators rarefy::bsr_linear, bsr_linear_transposed and bsr_sddmm."""

import pytest

torch = pytest.importorskip("torch", reason="missing: torch (RAREFY_TEST_TORCH=1 make test installs it)")

from rarefy import ops

SHAPES = [((4, 6), (8, 16)), ((3, 5), (32, 32)), ((2, 7), (16, 8)), ((5, 2), (64, 64)), ((6, 9), (3, 5))]


def weight(blocks, block_shape, density=0.4, dtype=torch.float32):
    """A mask of blocks, its pattern, its values and the dense weight."""
    mask = torch.rand(blocks) < density
    pattern = ops.block_pattern_of_mask(mask, block_shape)
    values = torch.randn(int(mask.sum()), *block_shape).to(dtype)
    return mask, pattern, values, dense(mask, values)


def dense(mask, values):
    """The dense weight, differentiable in the values."""
    (down, across), (r, c) = mask.shape, values.shape[1:]
    blocks = values.new_zeros(down * across, r, c).index_put((mask.flatten().nonzero()[:, 0],), values)
    return blocks.view(down, across, r, c).transpose(1, 2).reshape(down * r, across * c)


@pytest.mark.parametrize(("blocks", "block_shape"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_forward_and_gradients_match_dense_torch(blocks, block_shape, dtype):
    torch.manual_seed(0)
    mask, pattern, values, _ = weight(blocks, block_shape, dtype=dtype)
    values.requires_grad_()
    x = torch.randn(2, 3, pattern.in_features, dtype=dtype, requires_grad=True)
    bias = torch.randn(pattern.out_features, dtype=dtype, requires_grad=True)
    inputs = (x, values, bias)
    y = ops.bsr_linear(x, values, pattern, bias)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = torch.nn.functional.linear(exact[0], dense(mask, exact[1]), exact[2])
    # One rounding of the result to its dtype; f32 sums of up to 160 products of size 1.
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance * 4)
    grad = torch.randn_like(y)
    got = torch.autograd.grad(y, inputs, grad)
    want = torch.autograd.grad(expected, exact, grad.double())
    for g, w, t in zip(got, want, inputs, strict=True):
        assert g.dtype == dtype
        assert g.shape == t.shape
        torch.testing.assert_close(g.double(), w, rtol=tolerance, atol=tolerance * 4)


def test_gradcheck_twice():
    """Products are linear in each argument: finite differences are exact but for rounding, so that f32 and large steps serve."""
    torch.manual_seed(0)
    _, pattern, values, _ = weight((3, 4), (4, 2))
    x, bias = torch.randn(3, 8, requires_grad=True), torch.randn(12, requires_grad=True)
    values.requires_grad_()
    checks = {"eps": 0.5, "atol": 1e-3, "rtol": 1e-3, "nondet_tol": 0.0}
    with pytest.warns(UserWarning, match="double precision"):
        torch.autograd.gradcheck(lambda x, v, b: ops.bsr_linear(x, v, pattern, b), (x, values, bias), **checks)
        torch.autograd.gradgradcheck(lambda x, v, b: ops.bsr_linear(x, v, pattern, b), (x, values, bias), **checks)
        p = torch.randn(3, 12, requires_grad=True)
        torch.autograd.gradcheck(lambda p, x: ops.bsr_sddmm(p, x, pattern, (4, 2)), (p, x), **checks)
        torch.autograd.gradgradcheck(lambda p, x: ops.bsr_sddmm(p, x, pattern, (4, 2)), (p, x), **checks)


def test_opcheck():
    _, pattern, values, _ = weight((3, 4), (4, 2))
    values.requires_grad_()
    x, p = torch.randn(5, 8, requires_grad=True), torch.randn(5, 12, requires_grad=True)
    torch.library.opcheck(torch.ops.rarefy.bsr_linear.default, (x, values, *pattern, torch.randn(12, requires_grad=True)))
    torch.library.opcheck(torch.ops.rarefy.bsr_linear.default, (x.detach(), values.detach(), *pattern, None))
    torch.library.opcheck(torch.ops.rarefy.bsr_linear_transposed.default, (p, values, *pattern))
    torch.library.opcheck(torch.ops.rarefy.bsr_sddmm.default, (p, x, *pattern, 4, 2, torch.bfloat16))


def test_autocast_computes_in_its_dtype_and_keeps_gradients_in_the_parameters():
    torch.manual_seed(0)
    mask, pattern, values, full = weight((3, 4), (8, 8))
    values.requires_grad_()
    x = torch.randn(5, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ops.bsr_linear(x, values, pattern)
        expected = torch.nn.functional.linear(x, full)
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=1e-2, atol=5e-2)
    y.float().sum().backward()
    assert values.grad.dtype == torch.float32


def test_patterns_of_rows_and_of_masks_are_one():
    torch.manual_seed(0)
    mask = torch.rand(5, 7) < 0.4
    want = ops.block_pattern_of_mask(mask, (8, 16))
    rows = torch.cat([torch.zeros(1), mask.sum(1).cumsum(0)]).long()
    got = ops.block_pattern(rows, mask.nonzero()[:, 1], 40, 112, (8, 16))
    assert got[5:] == want[5:] == (40, 112)
    assert all(a.equal(b) and a.dtype == torch.int32 for a, b in zip(got[:5], want[:5], strict=True))
    assert ops.block_pattern_of_mask(mask, 8)[5:] == ops.block_pattern(rows, got.col_indices, 40, 56, 8)[5:] == (40, 56)
    with pytest.raises(ValueError, match="col_indices: expected 0 to 6, got 7"):
        ops.block_pattern(rows, mask.nonzero()[:, 1] + 1, 40, 112, (8, 16))
    with pytest.raises(ValueError, match="weight: expected multiples of the 8x16 blocks, got 41x112"):
        ops.block_pattern(rows, got.col_indices, 41, 112, (8, 16))
    with pytest.raises(TypeError, match=r"block_shape: expected an int or a pair \(rows, columns\), got '8' \(str\)"):
        ops.block_pattern_of_mask(mask, "8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"col_indices": torch.tensor([0, 9], dtype=torch.int32)}, "col_indices: expected 0 to 1, got 9"),
        ({"row_offsets": torch.tensor([0, 5, 2], dtype=torch.int32)}, "row_offsets"),
        ({"row_offsets": torch.tensor([0, 1, 2])}, "row_offsets: expected i32, got i64"),
        ({"out_features": 24}, "row_offsets: expected 4 entries, got 3"),
        ({"in_features": 15}, "x: expected f32, f16 or bf16 .*15"),
    ],
)
def test_bad_patterns_are_errors(change, message):
    pattern = ops.block_pattern_of_mask(torch.eye(2, dtype=torch.bool), (8, 8))._replace(**change)
    with pytest.raises(ValueError, match=message):
        ops.bsr_linear(torch.randn(3, 16), torch.randn(2, 8, 8), pattern)
