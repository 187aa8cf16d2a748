"""Logits equal those of `transformers` on weights that it saved, and the weights come back bit by bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from convert.toy_models import (
    VOCAB,
    assert_same_bits,
    our_greedy,
    our_logits,
    random_params,
    randomise,
    saved,
    their_logits,
    tokens,
)
from safetensors.numpy import load_file

from pagnol_jax.convert import huggingface
from pagnol_jax.models import positions
from pagnol_jax.models.config import GPTConfig

GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}
NEOX = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 100,
    "max_position_embeddings": 40,
}
BLOOM = {"vocab_size": VOCAB, "hidden_size": 48, "n_layer": 2}
FALCON = {"vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8}


def _neox(parallel: bool, fraction: float, **more):
    rope = {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": fraction}
    config = hf.GPTNeoXConfig(**NEOX, use_parallel_residual=parallel, rope_parameters=rope, **more)
    return hf.GPTNeoXForCausalLM(config)


def _falcon(**more):
    return hf.FalconForCausalLM(hf.FalconConfig(**FALCON, **more))


MODELS = {
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)),
    "gpt2 pagnol": lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(**GPT2, activation_function="gelu", tie_word_embeddings=False, n_inner=80)
    ),
    "neox parallel .25": lambda: _neox(True, 0.25),
    "neox sequential .25": lambda: _neox(False, 0.25),
    "neox parallel 1": lambda: _neox(True, 1.0),
    "neox pagnol xl": lambda: _neox(False, 1.0),
    "neox tied": lambda: _neox(True, 0.5, tie_word_embeddings=True, hidden_act="gelu_new"),
    "bloom 12 heads": lambda: hf.BloomForCausalLM(hf.BloomConfig(**BLOOM, n_head=12)),
    "bloom 8 heads untied": lambda: hf.BloomForCausalLM(hf.BloomConfig(**BLOOM, n_head=8, tie_word_embeddings=False)),
    "falcon 7b": _falcon,
    "falcon old multi-head": lambda: _falcon(multi_query=False, bias=True),
    "falcon 40b": lambda: _falcon(new_decoder_architecture=True, num_kv_heads=2),
    "falcon 11b": lambda: _falcon(
        new_decoder_architecture=True,
        num_kv_heads=4,
        num_ln_in_parallel_attn=1,
        ffn_hidden_size=120,
        rope_parameters={"rope_type": "default", "rope_theta": 500042.0},
    ),
    "falcon rw": lambda: _falcon(alibi=True, parallel_attn=False, multi_query=False, bias=True),
    "falcon multi-query in sequence": lambda: _falcon(parallel_attn=False, bias=True, tie_word_embeddings=False),
}


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_and_come_back(name: str, tmp_path: Path):
    model = randomise(MODELS[name]())
    config, params = saved(model, tmp_path / "theirs")
    ids = tokens()
    expected = their_logits(model, ids)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(our_logits(config, params, ids), expected, rtol=1e-5, atol=2e-5)

    assert huggingface.write(tmp_path / "back", config, params) == type(model).__name__
    theirs = load_file(tmp_path / "theirs/model.safetensors")
    back = load_file(tmp_path / "back/model.safetensors")
    rename = {"embed_out.weight": "lm_head.weight"} if "lm_head.weight" in theirs else {}
    back = {rename.get(name, name): tensor for name, tensor in back.items()}
    assert back.keys() == theirs.keys()
    for tensor in back:
        assert back[tensor].tobytes() == theirs[tensor].tobytes(), tensor

    again, same, _ = huggingface.read(tmp_path / "back")
    assert again == config
    assert_same_bits(params, same)


@pytest.mark.parametrize(
    "name",
    ["gpt2 pagnol", "neox pagnol xl", "neox parallel .25", "bloom 12 heads", "falcon 40b", "falcon rw"],
)
def test_exported_model_generates_the_same_tokens(name: str, tmp_path: Path):
    config, params = saved(randomise(MODELS[name](), seed=3), tmp_path / "theirs")
    huggingface.write(tmp_path / "ours", config, params)
    model = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    ids = tokens(length=6)
    theirs = model.generate(torch.from_numpy(ids), max_new_tokens=12, do_sample=False).numpy()
    np.testing.assert_array_equal(theirs, our_greedy(config, params, ids, 12))


@pytest.mark.parametrize("position", [positions.none(), positions.learned(), positions.rotary()], ids=lambda p: p.name)
@pytest.mark.parametrize("biases", [{"use_bias": False}, {"norm_bias": False}, {"attention_bias": False}], ids=str)
def test_what_is_absent_is_written_as_zeros(position, biases: dict, tmp_path: Path):
    config = GPTConfig(VOCAB, 2, 24, 3, max_length=40, position=position, **biases)
    params = random_params(config)
    huggingface.write(tmp_path / "model", config, params)
    model = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = tokens()
    np.testing.assert_allclose(our_logits(config, params, ids), their_logits(model, ids), rtol=1e-5, atol=2e-5)
