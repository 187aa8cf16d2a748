"""Every table covers every parameter, and every layout is undone exactly by its inverse."""

from dataclasses import replace

import numpy as np
import pytest
from convert.toy_models import assert_same_bits, random_params
from hypothesis import given, settings
from hypothesis import strategies as st

from pagnol_jax.convert import huggingface, lairgpt, table
from pagnol_jax.errors import UserError
from pagnol_jax.models import activations, positions, store
from pagnol_jax.models.config import GPTConfig

BASE = GPTConfig(vocab_size=13, num_layers=2, d_model=24, num_heads=6, max_length=5)
TANH = activations.gelu_tanh()

# (class name or None for LairGPT, a configuration that it expresses)
EXPRESSED = [
    (None, BASE),
    ("GPT2LMHeadModel", BASE),
    ("GPT2LMHeadModel", replace(BASE, d_ff=20, tie_embeddings=True, activation=TANH)),
    ("GPTNeoXForCausalLM", replace(BASE, position=positions.rotary())),
    ("GPTNeoXForCausalLM", replace(BASE, position=positions.rotary(fraction=0.5), parallel=True)),
    ("BloomForCausalLM", replace(BASE, position=positions.alibi(), embedding_norm=True, activation=TANH)),
    ("FalconForCausalLM", replace(BASE, position=positions.rotary(), use_bias=False)),
    ("FalconForCausalLM", replace(BASE, position=positions.rotary(), num_kv_heads=1)),
    *[
        ("FalconForCausalLM", replace(BASE, position=p, num_kv_heads=k, parallel=True, shared_norm=s))
        for p in (positions.rotary(), positions.alibi(4**-0.5))
        for k in (1, 2, 3, 6)
        for s in (True, False)
        if s or k < 6 or p.slopes  # else GPT-NeoX has it too, and is asked first
    ],
    ("FalconForCausalLM", replace(BASE, position=positions.alibi(4**-0.5))),
]


def _rows(name: str | None, config: GPTConfig) -> list[table.Row]:
    if name is None:
        return lairgpt.rows(config)
    arch, equal = huggingface.choose(config)
    assert (arch.name, equal) == (name, config)
    return arch.rows(config)


@pytest.mark.parametrize(("name", "config"), EXPRESSED)
def test_every_parameter_has_one_row(name, config):
    paths = [path for row in _rows(name, config) for path in row.ours]
    assert sorted(paths) == sorted(store.shapes(config))


@pytest.mark.parametrize(("name", "config"), EXPRESSED)
def test_round_trip_of_bits(name, config):
    rows, params = _rows(name, config), random_params(config)
    theirs = table.to_theirs(rows, params, config)
    assert sum(array.size for array in theirs.values()) == config.parameters()
    assert_same_bits(params, table.to_ours(rows, theirs, config))


@settings(max_examples=60, deadline=None)
@given(kv_heads=st.integers(1, 4), group=st.integers(1, 4), dim=st.integers(1, 4), lead=st.integers(0, 3))
def test_layouts_invert(kv_heads: int, group: int, dim: int, lead: int):
    heads = kv_heads * group
    config = GPTConfig(5, 1, heads * dim, heads, num_kv_heads=kv_heads)
    shape = (lead, (heads + 2 * kv_heads) * dim) if lead else ((heads + 2 * kv_heads) * dim,)
    array = np.arange(np.prod(shape)).reshape(shape)
    for layout in (table.qkv_blocks(config), table.qkv_groups(config)):
        parts = layout.split(array)
        assert [part.shape[-2:] for part in parts] == [(heads, dim), (kv_heads, dim), (kv_heads, dim)]
        np.testing.assert_array_equal(layout.join(*parts), array)
        turned = table.transposed(layout)
        np.testing.assert_array_equal(turned.join(*turned.split(array.T)), array.T)


def test_groups_are_queries_key_value():
    config = GPTConfig(5, 1, 4, 4, num_kv_heads=2)
    query, key, value = table.qkv_groups(config).split(np.arange(8))
    assert query.ravel().tolist() == [0, 1, 4, 5]
    assert (key.ravel().tolist(), value.ravel().tolist()) == ([2, 6], [3, 7])


def test_wrong_parameters_are_refused():
    params = random_params(BASE)
    del params["head"]
    with pytest.raises(UserError, match="head missing"):
        table.to_theirs(lairgpt.rows(BASE), params, BASE)
