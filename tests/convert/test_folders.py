"""Folders as they are found: shards, torch files, old names, other dtypes, and all that can be wrong."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from convert.toy_models import assert_same_bits, random_params
from safetensors.numpy import load_file, save_file

from pagnol_jax.convert import huggingface
from pagnol_jax.errors import UserError
from pagnol_jax.models import activations, positions
from pagnol_jax.models.config import GPTConfig

CONFIG = GPTConfig(13, 2, 24, 3, max_length=7, tie_embeddings=True)
PARAMS = random_params(CONFIG)
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    huggingface.write(tmp_path / "model", CONFIG, PARAMS)
    return tmp_path / "model"


def _shard(folder: Path, name: str, write) -> dict:
    """Splits the weights in two files with an index, as published checkpoints come."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    stem, _, end = name.rpartition(".")
    where = {key: f"{stem}-{i % 2}.{end}" for i, key in enumerate(tensors)}
    for shard in sorted(set(where.values())):
        write({key: tensors[key] for key in tensors if where[key] == shard}, folder / shard)
    (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": where}))
    return where


def _save_torch(tensors: dict, path: Path) -> None:
    torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, path)


def _assert_reads(folder: Path) -> None:
    config, params, tokenizer = huggingface.read(folder)
    assert (config, tokenizer) == (CONFIG, None)
    assert_same_bits(params, PARAMS)


@pytest.mark.parametrize(("name", "write"), [(WEIGHTS, save_file), ("pytorch_model.bin", _save_torch)])
def test_shards(folder: Path, name: str, write):
    where = _shard(folder, name, write)
    _assert_reads(folder)
    (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": where | {"lost.weight": where.popitem()[1]}}))
    with pytest.raises(UserError, match=r"no shard holds lost\.weight"):
        huggingface.read(folder)
    (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    with pytest.raises(UserError, match="outside its folder"):
        huggingface.read(folder)


def test_torch_file_alone(folder: Path):
    _save_torch(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    _assert_reads(folder)


def test_names_of_old_checkpoints(folder: Path):
    """No prefix, attention masks kept as tensors, a copy of the tied head."""
    tensors = {name.removeprefix("transformer."): array for name, array in load_file(folder / WEIGHTS).items()}
    tensors |= {"h.0.attn.bias": np.ones((1, 1, 7, 7)), "h.1.attn.masked_bias": np.zeros(1)}
    tensors["lm_head.weight"] = tensors["wte.weight"].copy()
    save_file(tensors, folder / WEIGHTS)
    _assert_reads(folder)


def test_bfloat16_stays(tmp_path: Path):
    params = random_params(CONFIG, dtype=ml_dtypes.bfloat16)
    huggingface.write(tmp_path / "model", CONFIG, params)
    config, again, _ = huggingface.read(tmp_path / "model")
    assert config.dtype == "bfloat16"
    assert_same_bits(params, again)


def _edit_config(folder: Path, **changes) -> None:
    fields = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in fields.items() if v is not ...}))


def _edit_weights(folder: Path, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


BROKEN = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: cannot be read"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json: not JSON"),
    "other model": (
        lambda f: _edit_config(f, model_type="llama"),
        "model_type 'llama', known are gpt2, gpt_neox",
    ),
    "no width": (lambda f: _edit_config(f, n_embd=...), "config.json has no n_embd"),
    "wrong type": (lambda f: _edit_config(f, n_head="three"), "config.json describes no model"),
    "zero heads": (lambda f: _edit_config(f, n_head=0), "config.json describes no model"),
    "activation": (
        lambda f: _edit_config(f, activation_function="relu"),
        "activation 'relu' is none of gelu",
    ),
    "mathematics": (
        lambda f: _edit_config(f, scale_attn_by_inverse_layer_idx=True),
        "scale_attn_by_inverse_layer_idx = True",
    ),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "neither model.safetensors nor pytorch_model.bin"),
    "truncated": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-1]),
        "not a whole safetensors",
    ),
    "missing": (lambda f: _edit_weights(f, lambda t: t.pop("transformer.ln_f.bias")), "ln_f.bias missing"),
    "unknown": (
        lambda f: _edit_weights(f, lambda t: t.update(score=np.zeros(2))),
        "hold transformer.score, which",
    ),
    "other shape": (
        lambda f: _edit_config(f, vocab_size=14),
        r"wte.weight has shape \(13, 24\), .* \(14, 24\)",
    ),
    "more layers": (lambda f: _edit_config(f, n_layer=3), "missing from the weights"),
    "fewer layers": (lambda f: _edit_config(f, n_layer=1), "the weights hold transformer.h.1"),
    "tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "the tokenizer file is not JSON"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folder(name: str, folder: Path):
    change, message = BROKEN[name]
    change(folder)
    with pytest.raises(UserError, match=message) as error:
        huggingface.read(folder)
    assert "\n" not in str(error.value)


def test_scaled_rotary_is_refused(tmp_path: Path):
    config = GPTConfig(13, 1, 24, 3, position=positions.rotary())
    huggingface.write(tmp_path / "model", config, random_params(config))
    _edit_config(tmp_path / "model", rope_scaling={"type": "linear", "factor": 2.0})
    with pytest.raises(UserError, match="type 'linear' are not supported"):
        huggingface.read(tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"activation": activations.swiglu()}, "GPT2LMHeadModel needs GELU"),
        ({"num_kv_heads": 1}, "GPT2LMHeadModel needs as many key heads as query heads"),
        ({"position": positions.alibi()}, "BloomForCausalLM needs an embedding norm"),
        ({"position": positions.rotary(fraction=0.4)}, "GPTNeoXForCausalLM needs an even number"),
        (
            {"position": positions.rotary(), "num_kv_heads": 2},
            "FalconForCausalLM needs grouped heads in parallel",
        ),
    ],
)
def test_refusals(change: dict, reason: str, tmp_path: Path):
    config = GPTConfig(**({"vocab_size": 13, "num_layers": 1, "d_model": 32, "num_heads": 4} | change))
    with pytest.raises(UserError, match=reason):
        huggingface.write(tmp_path / "model", config, random_params(config))
    assert not list(tmp_path.iterdir())
