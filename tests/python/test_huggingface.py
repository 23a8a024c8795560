"""transformers: thin checkpoints load and save, from Python and from the command; patched models; the Trainer."""

import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="missing: torch (RAREFY_TEST_TORCH=1 make test installs it)")
transformers = pytest.importorskip("transformers", minversion="5.0", reason="missing: transformers 5")

import rarefy
from rarefy import BlockSparseLinear, BlockSparseModelPatcher, SparseLinear

TINY = Path(__file__).parents[2] / "examples" / "models" / "tiny-lm"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(autouse=True)
def estimates(monkeypatch):
    monkeypatch.setenv("RAREFY_FREEZE", "1")


def load(path=TINY, **kwargs):
    return transformers.AutoModelForCausalLM.from_pretrained(path, **kwargs)


def logits(model):
    ids = torch.arange(2, 34).view(2, 16)
    with torch.no_grad():
        return model(ids).logits


@pytest.fixture(scope="module")
def thin_folder(tmp_path_factory):
    """A folder that save_pretrained wrote after thin, and the logits of a masked dense model."""
    folder = tmp_path_factory.mktemp("thin")
    dense = load(dtype=torch.float32)
    thin = load(dtype=torch.float32)
    rarefy.thin(thin, {"sparsity": 0.6, "format": "bitmap"})
    for name, layer in thin.named_modules():
        if isinstance(layer, SparseLinear):
            dense.get_submodule(name).weight.data = layer.to_dense()
    torch.testing.assert_close(logits(thin), logits(dense), rtol=1e-4, atol=1e-4)
    thin.save_pretrained(folder)
    return folder, logits(dense)


def test_saves_as_compressed_tensors(thin_folder):
    folder, _ = thin_folder
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "compressed-tensors"
    sparsity = config["sparsity_config"]
    assert sparsity["format"] == "sparse-bitmask" and len(sparsity["targets"]) == 42
    assert sparsity["global_sparsity"] == pytest.approx(0.6, abs=0.01)
    checkpoint = rarefy.Checkpoint(folder)
    info = checkpoint.info("model.layers.0.mlp.up_proj.weight")
    assert info.storage == "sparse-bitmask" and info.shape == (512, 192)
    # 32-bit values and a bit for each position, against 32 bits for each.
    assert info.nbytes < (0.4 + 1 / 32 + 0.02) * info.dense_nbytes


def test_pretrained_packs_what_was_saved(thin_folder):
    folder, want = thin_folder
    model = rarefy.pretrained(folder)
    layers = [layer for layer in model.modules() if isinstance(layer, SparseLinear)]
    assert len(layers) == 42 and not model.training
    torch.testing.assert_close(logits(model), want, rtol=1e-4, atol=1e-4)
    csr = rarefy.pretrained(folder, format="csr", dtype=torch.bfloat16)
    assert {layer.format for layer in csr.modules() if isinstance(layer, SparseLinear)} == {"csr"}
    assert csr.dtype == torch.bfloat16


def test_from_pretrained_itself_and_generate(thin_folder):
    folder, want = thin_folder
    model = load(folder)
    assert isinstance(model.model.layers[0].mlp.up_proj, SparseLinear)
    torch.testing.assert_close(logits(model), want, rtol=1e-4, atol=1e-4)
    ids = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=5, do_sample=False)
    assert ids.shape[1] > 3


def test_what_was_loaded_saves_again_and_goes_back_to_dense(thin_folder, tmp_path):
    folder, want = thin_folder
    model = rarefy.pretrained(folder, format="bitmap")
    model.save_pretrained(tmp_path / "again")
    again = rarefy.pretrained(tmp_path / "again", format="bitmap")
    torch.testing.assert_close(logits(again), want, rtol=1e-4, atol=1e-4)
    dense = again.dequantize()
    assert not any(isinstance(layer, SparseLinear) for layer in dense.modules())
    torch.testing.assert_close(logits(dense), want, rtol=1e-4, atol=1e-4)
    dense.save_pretrained(tmp_path / "dense")
    assert "quantization_config" not in json.loads((tmp_path / "dense" / "config.json").read_text())
    torch.testing.assert_close(logits(load(tmp_path / "dense")), want, rtol=1e-4, atol=1e-4)


def test_checkpoints_of_prune(tmp_path):
    rarefy.prune(TINY, tmp_path / "thin", method="magnitude", sparsity=0.5)
    model = rarefy.pretrained(tmp_path / "thin", dtype=torch.float32)
    dense = load(dtype=torch.float32)
    checkpoint = rarefy.Checkpoint(tmp_path / "thin")
    thinned = 0
    for name, parameter in dense.named_parameters():
        if checkpoint.info(name).storage == "sparse-bitmask":
            parameter.data = rarefy.ops.to_dense(rarefy.ops.pack(checkpoint[name], "dense"), torch.float32)
            assert isinstance(model.get_submodule(name.removesuffix(".weight")), SparseLinear)
            thinned += 1
    assert thinned == 42
    torch.testing.assert_close(logits(model), logits(dense), rtol=1e-4, atol=1e-4)


def test_only_ours_is_taken_from_compressed_tensors():
    import rarefy.huggingface as hf
    from transformers.quantizers.auto import AutoQuantizationConfig

    ours = {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-bitmask"}}
    assert isinstance(AutoQuantizationConfig.from_dict(ours), hf.RarefyConfig)
    quantised = {"config_groups": {"a": {"targets": ["Linear"]}}, "sparsity_config": {"format": "sparse-bitmask"}}
    assert not hf._is_thin(quantised) and not hf._is_thin({"sparsity_config": {"format": "dense"}}) and not hf._is_thin({})


@pytest.mark.parametrize("names", ["now", "before 0.10"])
def test_biases_and_older_names(names, tmp_path):
    """Layers with biases, which load before or after their weights are packed; arrays as compressed-tensors 0.9 called them."""
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    rarefy.thin(model, {"sparsity": 0.5, "format": "bitmap"})
    model.save_pretrained(tmp_path)
    if names != "now":
        file = tmp_path / "model.safetensors"
        arrays = load_file(file)
        ours = [key for key in arrays if key.rsplit(".", 1)[1] in ("bitmask", "compressed", "row_offsets", "shape")]
        for key in ours:
            module, array = key.rsplit(".", 1)
            arrays[f"{module}.weight.{array}"] = arrays.pop(key)
        assert len(ours) == 14 * 4
        save_file(arrays, file, {"format": "pt"})
    again = rarefy.pretrained(tmp_path, format="bitmap")
    assert not any(parameter.is_meta for parameter in again.parameters())
    assert logits(again).equal(logits(model))


def test_a_checkpoint_of_another_shape(thin_folder, tmp_path):
    folder, _ = thin_folder
    shutil.copytree(folder, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["intermediate_size"] = 256
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"model.layers.0.mlp.\w+_proj.weight: expected \[\d+, \d+\], got \[\d+, \d+\]"):
        rarefy.pretrained(tmp_path / "other")
    with open(tmp_path / "other" / "model.safetensors", "r+b") as file:
        file.truncate(10_000)
    with pytest.raises(rarefy.errors.CorruptError, match="model.safetensors: expected safetensors, got: "):
        rarefy.pretrained(tmp_path / "other")
    for path in (tmp_path, tmp_path / "nowhere", "./nowhere"):
        with pytest.raises(ValueError, match="path: expected a folder with config.json, or a name on the Hub, got"):
            rarefy.pretrained(path)


def test_patched_models_save_and_load_back(tmp_path):
    model = load(dtype=torch.float32)
    patcher = BlockSparseModelPatcher()
    patcher.add_pattern(r"model\.layers\.[0-9]+\.mlp\.(up|gate)_proj", {"density": 0.5})
    assert len(patcher.patch_model(model)) == 12
    model.save_pretrained(tmp_path)
    again = rarefy.pretrained(tmp_path)
    layer = again.model.layers[3].mlp.up_proj
    assert isinstance(layer, BlockSparseLinear) and layer.density == 0.5
    assert logits(again).equal(logits(model))


def test_trainer(tmp_path):
    """pytorch_block_sparse's integration test: patch, train with the Trainer, save, load back."""
    pytest.importorskip("accelerate", reason="missing: accelerate")
    from rarefy.huggingface import RegrowthCallback

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2
    )
    model = transformers.LlamaForCausalLM(config)
    patcher = BlockSparseModelPatcher()
    patcher.add_pattern(r"model\.layers\.0\.mlp\..*_proj", {"density": 0.5, "block_shape": 16})
    layers = patcher.patch_model(model)
    before = [layer.block_mask.clone() for layer in layers.values()]
    rows = torch.arange(16).repeat(64, 2)
    data = [{"input_ids": row, "labels": row} for row in rows]
    arguments = transformers.TrainingArguments(
        tmp_path / "run", max_steps=12, per_device_train_batch_size=8, learning_rate=1e-2, report_to=[], use_cpu=True,
        save_strategy="no", logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    callback = RegrowthCallback(every=4, fraction=0.5)
    trainer = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[callback])
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.5 * losses[0]
    assert callback.sparse.moved > 0
    assert any(not layer.block_mask.equal(mask) for layer, mask in zip(layers.values(), before))
    trainer.save_model(tmp_path / "saved")
    again = rarefy.pretrained(tmp_path / "saved")
    ids = rows[:2]
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model.eval()(ids).logits)


@pytest.mark.parametrize("stacked", [False, True])
def test_generate_compiles_without_a_break(thin_folder, stacked):
    """What transformers does by itself on a GPU where the cache is static."""
    model = load(thin_folder[0], dtype=torch.float32)
    if stacked:
        assert len(rarefy.stack(model)) == 12
    how = dict(max_new_tokens=6, min_new_tokens=6, do_sample=False, pad_token_id=0)
    prompt = torch.arange(2, 10)[None]
    want = model.generate(prompt, **how)
    config = transformers.CompileConfig(backend="aot_eager", mode=None)
    config._compile_all_devices = True
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    assert model.generate(prompt, **how, cache_implementation="static", compile_config=config).equal(want)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
