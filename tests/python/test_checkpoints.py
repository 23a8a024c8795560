"""Checkpoints: read, packed from, written."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import rarefy

TINY_LM = Path(__file__).parents[2] / "examples" / "models" / "tiny-lm"
NAME = "model.layers.0.mlp.up_proj.weight"


def test_reads_and_packs_without_a_dense_copy_of_the_caller():
    checkpoint = rarefy.Checkpoint(TINY_LM)
    assert NAME in checkpoint
    assert len(checkpoint) == len(list(checkpoint)) == len(checkpoint.tensors)
    info = checkpoint.info(NAME)
    source = checkpoint[NAME]
    assert info.name == NAME
    assert source.shape == info.shape
    assert source.dtype == info.dtype
    dense = rarefy.to_dense(source)
    np.testing.assert_array_equal(rarefy.to_dense(rarefy.pack(source, "csr")), dense)
    assert checkpoint.raw(NAME).nbytes == info.nbytes
    with pytest.raises(KeyError):
        checkpoint["nothing"]
    with pytest.raises(ValueError, match="read-only"):
        checkpoint.raw(NAME)[0] = 1


def test_writes_sparse_and_reads_back(tmp_path):
    checkpoint = rarefy.Checkpoint(TINY_LM)
    dense = rarefy.to_dense(checkpoint[NAME])
    thin = np.where(np.abs(dense) > np.quantile(np.abs(dense), 0.8), dense, 0)
    with rarefy.CheckpointWriter(tmp_path / "thin", checkpoint) as writer:
        for name in checkpoint:
            if name == NAME:
                # The original's dtype is written: the values are exact in it.
                writer.add(name, rarefy.pack(thin, "bitmap", dtype=checkpoint.info(name).dtype))
            else:
                writer.copy(name)
    again = rarefy.Checkpoint(tmp_path / "thin")
    assert again.info(NAME).storage == "sparse-bitmask"
    assert again.info(NAME).nbytes < checkpoint.info(NAME).nbytes
    np.testing.assert_array_equal(rarefy.to_dense(again[NAME]), thin)


def test_an_exception_leaves_no_checkpoint(tmp_path):
    checkpoint = rarefy.Checkpoint(TINY_LM)
    with pytest.raises(KeyboardInterrupt), rarefy.CheckpointWriter(tmp_path / "thin", checkpoint) as writer:
        writer.copy(NAME)
        raise KeyboardInterrupt
    assert not (tmp_path / "thin" / "model.safetensors").exists()
    with pytest.raises(ValueError, match="finished"):
        writer.copy(NAME)


def test_bad_files_are_exceptions(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        rarefy.Checkpoint(tmp_path / "nowhere")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(rarefy.errors.CorruptError, match="model.safetensors"):
        rarefy.Checkpoint(tmp_path / "bad")
    shutil.copy(TINY_LM / "model.safetensors", tmp_path / "cut.safetensors")
    with open(tmp_path / "cut.safetensors", "r+b") as file:
        file.truncate(10_000)
    with pytest.raises(rarefy.errors.CorruptError, match="cut.safetensors"):
        rarefy.Checkpoint(tmp_path / "cut.safetensors")
