"""The exchange folder: the same bits come back, and each way a folder can be wrong has its line."""

import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pagnol_jax.errors import UserError
from pagnol_jax.models import activations, gpt, positions, store
from pagnol_jax.models.config import GPTConfig

CONFIG = GPTConfig(vocab_size=11, num_layers=2, d_model=8, num_heads=2, max_length=5)
VARIANT = GPTConfig(
    11,
    3,
    8,
    4,
    num_kv_heads=2,
    position=positions.alibi(2**-0.5),
    activation=activations.swiglu(),
    embedding_norm=True,
    tie_embeddings=True,
    use_bias=False,
    norm_bias=False,
    parallel=True,
    shared_norm=True,
)


def _params(config: GPTConfig, dtype=np.float32) -> store.Params:
    rng = np.random.default_rng(0)
    return store.unflatten({k: rng.normal(size=s).astype(dtype) for k, s in store.shapes(config).items()})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store.save(tmp_path / "model", CONFIG, _params(CONFIG))
    return tmp_path / "model"


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("config", [CONFIG, VARIANT])
def test_round_trip(config: GPTConfig, dtype, tmp_path: Path):
    (tmp_path / "tokens.json").write_text("{}")
    params = _params(config, dtype)
    store.save(tmp_path / "model", config, params, tmp_path / "tokens.json")
    loaded, again, tokenizer = store.load(tmp_path / "model")
    assert loaded == config
    assert tokenizer == tmp_path / "model/tokenizer.json"
    assert tokenizer.read_text() == "{}"
    one, two = store.flatten(params), store.flatten(again)
    assert {k: (v.dtype, v.tobytes()) for k, v in one.items()} == {k: (v.dtype, v.tobytes()) for k, v in two.items()}


def test_boxed_jax_parameters(tmp_path: Path):
    boxed = gpt.init(CONFIG, jax.random.key(0))
    store.save(tmp_path / "model", CONFIG, boxed)
    _, params, tokenizer = store.load(tmp_path / "model")
    assert tokenizer is None
    flat = store.flatten(boxed)
    assert all(np.array_equal(flat[path], array) for path, array in store.flatten(params).items())


def test_shapes_count_the_parameters():
    for config in (CONFIG, VARIANT):
        assert sum(np.prod(shape) for shape in store.shapes(config).values()) == config.parameters()


def _edit(folder: Path, change) -> None:
    tensors = load_file(folder / store.WEIGHTS)
    change(tensors)
    save_file(tensors, folder / store.WEIGHTS)


BROKEN = {
    "no config": (lambda f: (f / store.CONFIG).unlink(), "model.json: cannot be read"),
    "no JSON": (lambda f: (f / store.CONFIG).write_text("{"), "model.json: not JSON"),
    "a list": (lambda f: (f / store.CONFIG).write_text("[]"), "not a JSON object"),
    "unknown field": (
        lambda f: (f / store.CONFIG).write_text(json.dumps(CONFIG.to_json() | {"depth": 2})),
        "depth",
    ),
    "no weights": (lambda f: (f / store.WEIGHTS).unlink(), "model.safetensors: no such file"),
    "truncated": (
        lambda f: (f / store.WEIGHTS).write_bytes((f / store.WEIGHTS).read_bytes()[:-5]),
        "not a whole safetensors",
    ),
    "garbage": (lambda f: (f / store.WEIGHTS).write_bytes(b"weights"), "not a whole safetensors"),
    "missing": (lambda f: _edit(f, lambda t: t.pop("head")), "head missing"),
    "unknown": (lambda f: _edit(f, lambda t: t.update(tail=np.zeros(2))), "tail not in this model"),
    "shape": (
        lambda f: _edit(f, lambda t: t.update(head=np.zeros(2))),
        r"head has shape \(2,\), .* \(8, 11\)",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folder(name: str, folder: Path):
    change, message = BROKEN[name]
    change(folder)
    with pytest.raises(UserError, match=message) as error:
        store.load(folder)
    assert "\n" not in str(error.value)


def test_existing_folder_is_kept(folder: Path):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="exists already"):
        store.save(folder, CONFIG, _params(CONFIG))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_failed_save_leaves_nothing(tmp_path: Path):
    with pytest.raises(UserError, match="cannot be written"):
        store.save(tmp_path / "model", CONFIG, _params(CONFIG), tmp_path / "no tokenizer here")
    assert not list(tmp_path.iterdir())


def test_parameters_of_another_model(tmp_path: Path):
    with pytest.raises(UserError, match="key/bias and 11 more missing"):
        store.save(tmp_path / "model", CONFIG, _params(VARIANT))
