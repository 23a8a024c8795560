"""Models on Rarefy's own engine."""

import threading
from pathlib import Path

import pytest
import rarefy

TINY_LM = Path(__file__).parents[2] / "examples" / "models" / "tiny-lm"
TEXT = "Once upon a time there was a little girl who lived in a house by the sea. " * 12


@pytest.fixture(scope="module")
def model():
    return rarefy.Model(TINY_LM, measure=False)


def test_generate_in_pieces(model):
    pieces = []
    made = model.generate("Once", max_tokens=24, on_text=pieces.append)
    assert "".join(pieces) == made.text == str(made) and len(pieces) > 1
    assert len(made.ids) <= 24 and made.finish in ("length", "eos") and model.decode(made.ids) == made.text
    assert made.prompt_ids == model.encode("Once")
    assert model.generate("Once", max_tokens=24).ids == made.ids


def test_generate_stops(model):
    whole = model.generate("Once", max_tokens=24).text
    middle = whole[5:8]
    stopped = model.generate("Once", max_tokens=24, stop=[middle])
    assert stopped.finish == "stop" and stopped.text == whole[: whole.index(middle)]
    cancelled = model.generate("Once", max_tokens=24, on_text=lambda piece: False)
    assert cancelled.finish == "cancelled" and len(cancelled.text) < len(whole)


def test_drawing_is_reproducible(model):
    drawn = [model.generate("Once", max_tokens=16, temperature=1.0, top_p=0.9, seed=seed).ids for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_same_tokens_as_transformers(model):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", minversion="5")
    twin = transformers.AutoModelForCausalLM.from_pretrained(TINY_LM, dtype=torch.float32)
    made = model.generate("Once", max_tokens=16, stop_at_eos=False)
    ids = twin.generate(torch.tensor([made.prompt_ids]), max_new_tokens=16, min_new_tokens=16, do_sample=False)[0]
    assert ids.tolist() == [*made.prompt_ids, *made.ids]


def test_perplexity_grows_with_sparsity(model, tmp_path):
    seen = []
    dense = model.perplexity(TEXT, context=32, progress=lambda *step: seen.append(step))
    assert seen and dense.context == 32 and dense.windows == dense.tokens // 32
    rarefy.prune(TINY_LM, tmp_path / "thin", method="magnitude", sparsity=0.9)
    thin = rarefy.Model(tmp_path / "thin", measure=False)
    assert thin.perplexity(TEXT, context=32).ppl > dense.ppl > 1
    assert thin.nbytes < model.nbytes <= model.dense_nbytes * 1.2
    assert repr(thin).startswith("Model(")


def test_an_exception_in_a_callback_stops_it(model):
    def stop(*_):
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        model.generate("Once", max_tokens=16, on_text=stop)
    with pytest.raises(KeyError, match="enough"):
        model.perplexity(TEXT, context=32, progress=stop)
    assert model.generate("Once", max_tokens=4).ids


def test_one_call_at_a_time(model):
    inside, done = threading.Event(), threading.Event()
    errors = []

    def other():
        inside.wait(10)
        try:
            model.generate("Once", max_tokens=4)
        except ValueError as error:
            errors.append(str(error))
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    model.generate("Once", max_tokens=2, on_text=lambda piece: (inside.set(), done.wait(10))[0])
    inside.set()
    thread.join()
    assert errors == ["model: expected one call at a time, another is running"]


def test_bad_input(tmp_path):
    with pytest.raises(OSError, match="expected a model folder, found none"):
        rarefy.Model(tmp_path / "none")
    with pytest.raises(ValueError, match="device: expected cpu, cuda or auto, got 'tpu'"):
        rarefy.Model(TINY_LM, device="tpu")
    with pytest.raises(ValueError, match="format: expected"):
        rarefy.Model(TINY_LM, formats=["zip"])
    model = rarefy.Model(TINY_LM, formats=["dense"], measure=False)
    with pytest.raises(ValueError):
        model.generate("Once", temperature=-1)
    with pytest.raises(ValueError):
        model.perplexity("short", context=512)
