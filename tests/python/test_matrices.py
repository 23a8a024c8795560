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
