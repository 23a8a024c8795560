"""Packing and multiplying numpy's arrays; nothing here needs torch."""

import numpy as np
import pytest
import rarefy

FORMATS = ["dense", "dense16x16", "csr", "csr16", "bitmap", "window", "csb", "delta4", "delta8", "sell8", "sell16", "bsr16x32"]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def sparse(rng, m, k, density=0.3, dtype=np.float32):
    return np.where(rng.random((m, k)) < density, rng.standard_normal((m, k)), 0).astype(dtype)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_format_reads_back_what_was_packed(rng, format, dtype):
    if format == "dense16x16" and dtype == np.float16:
        format = "dense16x32"
    weight = sparse(rng, 65, 130, dtype=dtype)
    matrix = rarefy.pack(weight, format)
    assert matrix.shape == (65, 130)
    assert matrix.format == format
    assert matrix.nnz == np.count_nonzero(weight)
    assert matrix.nbytes > 0
    matrix.validate()
    np.testing.assert_array_equal(rarefy.to_dense(matrix), weight)


@pytest.mark.parametrize("format", FORMATS)
def test_spmm_matches_numpy(rng, format):
    weight, x = sparse(rng, 48, 100), rng.standard_normal((7, 100), dtype=np.float32)
    matrix = rarefy.pack(weight, format)
    expected = x.astype(np.float64) @ weight.T.astype(np.float64)
    # f32 sums of 30 products of size 1.
    np.testing.assert_allclose(rarefy.spmm(matrix, x), expected, atol=1e-4)
    np.testing.assert_allclose(rarefy.spmm(matrix, np.ascontiguousarray(x.T), layout="feature"), expected.T, atol=1e-4)


def test_a_weight_can_be_packed_again(rng):
    weight = sparse(rng, 40, 64)
    csr = rarefy.pack(rarefy.pack(weight, "bitmap"), "csr")
    assert csr.format == "csr"
    np.testing.assert_array_equal(rarefy.to_dense(csr), weight)
    for dtype in ("f16", np.float16, np.dtype("float16")):
        half = rarefy.pack(csr, "csr16", dtype=dtype)
        np.testing.assert_array_equal(rarefy.to_dense(half), weight.astype(np.float16))


def test_a_row_stride_is_no_copy_but_other_strides_are_errors(rng):
    weight = sparse(rng, 40, 64)
    matrix = rarefy.pack(weight[:, 16:48], "csr")
    np.testing.assert_array_equal(rarefy.to_dense(matrix), weight[:, 16:48])
    with pytest.raises(rarefy.errors.ArgumentError, match="weight: expected rows .* strides"):
        rarefy.pack(weight[:, ::2], "csr")
    with pytest.raises(rarefy.errors.ArgumentError, match="strides"):
        rarefy.pack(weight.T, "csr")


def test_epilogue_and_given_result(rng):
    weight, x = sparse(rng, 48, 100), rng.standard_normal((7, 100), dtype=np.float32)
    bias, residual = rng.standard_normal(48, dtype=np.float32), rng.standard_normal((7, 48), dtype=np.float32)
    out = np.empty((7, 48), np.float32)
    matrix = rarefy.pack(weight, "csr")
    assert rarefy.spmm(matrix, x, out=out, bias=bias, activation="relu", residual=residual) is out
    np.testing.assert_allclose(out, np.maximum(x @ weight.T + bias, 0) + residual, atol=1e-4)


def test_threads_do_not_change_a_bit(rng):
    weight, x = sparse(rng, 300, 400), rng.standard_normal((9, 400), dtype=np.float32)
    matrix, before = rarefy.pack(weight, "bitmap"), rarefy.threads()
    results = []
    for threads in (1, 2, 3):
        rarefy.set_threads(threads)
        assert rarefy.threads() == threads
        results.append(rarefy.spmm(matrix, x))
    rarefy.set_threads(before)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_named_kernels(rng):
    weight, x = sparse(rng, 32, 64), rng.standard_normal((1, 64), dtype=np.float32)
    matrix, ran = rarefy.pack(weight, "csr"), 0
    for kernel in rarefy.spmm_kernels():
        try:
            y = rarefy.spmm(matrix, x, kernel=kernel)
        except rarefy.UnsupportedError as error:
            assert kernel in str(error)
        else:
            ran += 1
            np.testing.assert_allclose(y, x @ weight.T, atol=1e-4)
    assert ran >= 1
    with pytest.raises(ValueError, match="no kernel is named 'nope'"):
        rarefy.spmm(matrix, x, kernel="nope")


def test_sddmm(rng):
    weight = sparse(rng, 24, 40)
    p, q = rng.standard_normal((6, 24), dtype=np.float32), rng.standard_normal((6, 40), dtype=np.float32)
    sampled = rarefy.to_dense(rarefy.sddmm(rarefy.pack(weight, "csr"), p, q))
    np.testing.assert_allclose(sampled, (p.T @ q) * (weight != 0), atol=1e-4)


def test_transposed(rng):
    for format in FORMATS:
        weight = sparse(rng, 48, 96)
        np.testing.assert_array_equal(rarefy.to_dense(rarefy.pack(weight, format).transposed()), weight.T)
    two_of_four = np.tile(np.array([1, 0, 2, 0], np.float32), (8, 16))
    np.testing.assert_array_equal(rarefy.to_dense(rarefy.pack(two_of_four, "2:4").transposed()), two_of_four.T)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (1, 1)])
def test_empty_weights(shape):
    weight = np.ones(shape, np.float32)
    matrix = rarefy.pack(weight, "csr")
    assert matrix.shape == shape
    assert rarefy.spmm(matrix, np.ones((3, shape[1]), np.float32)).shape == (3, shape[0])
    assert rarefy.spmm(matrix, np.ones((0, shape[1]), np.float32)).shape == (0, shape[0])


ERRORS = {
    "format: expected a format": lambda m, x: rarefy.pack(x, "cheese"),
    "weight: expected a matrix, got f32 .2, 2, 2.": lambda m, x: rarefy.pack(np.zeros((2, 2, 2), np.float32), "csr"),
    "weight: expected f32, f16 or bf16, got f64": lambda m, x: rarefy.pack(np.zeros((2, 2)), "csr"),
    "weight: expected an array .* got list": lambda m, x: rarefy.pack([[1.0]], "csr"),
    "dtype: expected f32, f16 or bf16, got 'i8'": lambda m, x: rarefy.pack(x, "csr", dtype="i8"),
    "dtype: expected f32, f16 or bf16, got 'float64'": lambda m, x: rarefy.pack(x, "csr", dtype=np.float64),
    "format: expected the name of a format, a plan or None, got 3": lambda m, x: rarefy.pack(x, 3),
    "kernels: expected names of spmm_kernels.*, got 'nope'": lambda m, x: rarefy.plan(x, kernels="nope"),
    "format: expected a format .*, got 'cheese'": lambda m, x: rarefy.plan(x, formats="cheese"),
    "b: expected 3x100, got 3x99": lambda m, x: rarefy.spmm(m, x[:, :99]),
    "b: expected a matrix": lambda m, x: rarefy.spmm(m, x[0]),
    "activation: expected none, relu, gelu or silu, got 'tanh'": lambda m, x: rarefy.spmm(m, x, activation="tanh"),
    "layout: expected token or feature": lambda m, x: rarefy.spmm(m, x, layout="row"),
    "precision: expected exact or bf16": lambda m, x: rarefy.spmm(m, x, precision="f64"),
    "bias: expected f32 .48., got f32 .47.": lambda m, x: rarefy.spmm(m, x, bias=np.zeros(47, np.float32)),
    "c: expected 3x48, got 3x47": lambda m, x: rarefy.spmm(m, x, out=np.zeros((3, 47), np.float32)),
    "out: expected a writable array": lambda m, x: rarefy.spmm(m, x, out=np.broadcast_to(np.float32(0), (3, 48))),
    "threads": lambda m, x: rarefy.set_threads(-1),
    "tokens: expected": lambda m, x: rarefy.plan(x, tokens={0: 1.0}),
    "tokens: expected a mapping .*, got .1, 128.": lambda m, x: rarefy.plan(x, tokens=[1, 128]),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors_name_argument_expected_and_got(rng, message):
    matrix, x = rarefy.pack(sparse(rng, 48, 100), "csr"), rng.standard_normal((3, 100), dtype=np.float32)
    with pytest.raises(ValueError, match=message):
        ERRORS[message](matrix, x)


def test_what_a_format_cannot_hold_is_unsupported(rng):
    with pytest.raises(rarefy.UnsupportedError, match="csr16"):
        rarefy.pack(np.zeros((1, 70000), np.float32), "csr16")
    with pytest.raises(NotImplementedError):
        rarefy.pack(np.ones((4, 8), np.float32), "2:4")
