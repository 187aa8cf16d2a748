"""Properties of the network: what depends on what, and that no way of running it changes its values."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from pagnol_jax.errors import UserError
from pagnol_jax.models import activations, gpt, positions
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.models.masks import Mask

SCHEMES = [positions.none(), positions.learned(), positions.rotary(), positions.alibi()]
TINY = GPTConfig(vocab_size=61, num_layers=3, d_model=24, num_heads=6, max_length=16)
VARIANTS = {
    "plain": TINY,
    "grouped rotary": dataclasses.replace(TINY, num_kv_heads=2, position=positions.rotary()),
    "multi-query parallel": dataclasses.replace(TINY, num_kv_heads=1, parallel=True, shared_norm=True),
    "parallel two norms": dataclasses.replace(TINY, parallel=True, use_bias=False, position=positions.none()),
    "post-norm": dataclasses.replace(TINY, post_norm=True),
    "swiglu tied": dataclasses.replace(TINY, activation=activations.swiglu(), tie_embeddings=True),
    "bloom": dataclasses.replace(
        TINY, position=positions.alibi(), embedding_norm=True, activation=activations.gelu_tanh(), norm_bias=False
    ),
}


@functools.cache
def fresh(config: GPTConfig, seed: int = 0):
    """The network's own initial parameters."""
    return jax.jit(lambda key: nn.unbox(gpt.init(config, key)))(jax.random.key(seed))


@functools.cache
def make(config: GPTConfig, seed: int = 0):
    """Parameters far from their small initial values, so that every term of the network matters."""
    params = fresh(config, seed)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return tree.unflatten(x + 0.2 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True))


def tokens(batch: int = 2, length: int = 12) -> jax.Array:
    return jax.random.randint(jax.random.key(7), (batch, length), 0, TINY.vocab_size)


def logits(config: GPTConfig, params, ids: jax.Array, **kwargs) -> jax.Array:
    return jax.jit(lambda p, t: gpt.GPT(config).apply({"params": p}, t, **kwargs))(params, ids)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_parameter_count_is_the_tree_s(config: GPTConfig) -> None:
    params = fresh(config)
    assert config.parameters() == sum(x.size for x in jax.tree.leaves(params))
    tables = sum(params[k]["embedding"].size for k in params if k.endswith("_embedding"))
    tables += params["head"].size if "head" in params else 0
    tables += sum(x.size for x in jax.tree.leaves(params.get("embedding_norm", {})))
    assert config.parameters(embedding=False) == config.parameters() - tables


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_flops_are_those_of_the_compiled_forward_pass(config: GPTConfig) -> None:
    """Two per weight and token forward, a third of training's six; XLA counts elementwise operations too."""
    config = dataclasses.replace(config, d_model=96, unroll=3)
    length, forward = 16, jax.jit(lambda p, t: gpt.GPT(config).apply({"params": p}, t))
    shapes = jax.eval_shape(lambda: nn.unbox(gpt.init(config, jax.random.key(0))))
    compiled = forward.lower(shapes, jax.ShapeDtypeStruct((4, length), jnp.int32)).compile()
    expected = config.flops_per_token(attention_length=length) / 3 * 4 * length
    assert expected <= compiled.cost_analysis()["flops"] <= 1.25 * expected


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_causality_by_gradient(config: GPTConfig) -> None:
    """The gradient of the outputs at t with respect to the token embedding at s is zero exactly when s > t."""
    params, ids = make(config), jnp.arange(12)[None]  # every position has its own row of the table

    def output(table: jax.Array, t: int) -> jax.Array:
        tree = params | {"token_embedding": {"embedding": table}}
        features, _, _ = gpt.GPT(config).apply({"params": tree}, ids, method="features")
        return jnp.sum(features[0, t] * jnp.arange(1.0, 1 + config.d_model))

    gradient = jax.jit(jax.grad(output))
    for t in (0, 5, 11):
        rows = np.abs(gradient(params["token_embedding"]["embedding"], t)).max(axis=1)[:12]
        assert (rows[: t + 1] > 0).all()
        assert (rows[t + 1 :] == 0).all()


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
def test_packed_documents_do_not_see_each_other(scheme: positions.Position) -> None:
    """A document packed between others gives the logits that it gives alone."""
    config = dataclasses.replace(TINY, position=scheme)
    params, ids = make(config), tokens()
    segments = jnp.array([[1] * 5 + [2] * 4 + [3] * 3] * 2)
    places = jnp.array([[*range(5), *range(4), *range(3)]] * 2)
    packed = logits(config, params, ids, positions=places, mask=Mask(segments))
    for start, stop in ((0, 5), (5, 9), (9, 12)):
        alone = logits(config, params, ids[:, start:stop])
        np.testing.assert_allclose(packed[:, start:stop], alone, rtol=1e-5, atol=1e-5)


def test_prefix_sees_itself_whole_and_the_rest_stays_causal() -> None:
    params, ids = make(TINY), tokens()
    prefix = jnp.arange(12)[None] < 5
    before = logits(TINY, params, ids, mask=Mask(bidirectional=jnp.repeat(prefix, 2, 0)))
    inside = logits(TINY, params, ids.at[:, 4].add(1), mask=Mask(bidirectional=jnp.repeat(prefix, 2, 0)))
    after = logits(TINY, params, ids.at[:, 8].add(1), mask=Mask(bidirectional=jnp.repeat(prefix, 2, 0)))
    assert (np.abs(before - inside).max(axis=(0, 2)) > 0).all()
    changed = np.abs(before - after).max(axis=(0, 2)) > 0
    assert not changed[:8].any()
    assert changed[8:].all()


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize(
    "change",
    [
        {"unroll": 3, "remat": "dots"},
        pytest.param({"unroll": 3}, marks=pytest.mark.slow),
        pytest.param({"remat": "full"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_unrolling_and_recomputing_change_nothing(config: GPTConfig, change: dict) -> None:
    for a, b in zip(gradients(config), gradients(dataclasses.replace(config, **change)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


@functools.cache
def gradients(config: GPTConfig) -> list[jax.Array]:
    """Of the mean square of the logits, at parameters that unrolling and recomputing leave alone."""
    ids = tokens()

    def loss(params):
        return jnp.mean(gpt.GPT(config).apply({"params": params}, ids) ** 2)

    return jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(make(config)))


def test_long_sequences_in_query_blocks_equal_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(TINY, num_kv_heads=2, position=positions.alibi())
    params, ids = make(config), tokens(2, 12)
    segments = Mask(jnp.array([[1] * 7 + [2] * 5] * 2))
    whole = logits(config, params, ids, mask=segments)
    monkeypatch.setattr("pagnol_jax.models.kernels.plain.QUERY_BLOCK", 5)
    np.testing.assert_allclose(whole, logits(config, params, ids, mask=segments), rtol=1e-5, atol=1e-5)


def test_dropout_is_off_without_a_key_and_unbiased_with_one() -> None:
    config = dataclasses.replace(TINY, dropout_rate=0.3)
    params, ids = make(TINY), tokens()
    apply = jax.jit(gpt.GPT(config).apply)
    np.testing.assert_array_equal(apply({"params": params}, ids), logits(TINY, params, ids))
    one, two = (apply({"params": params}, ids, rngs={"dropout": jax.random.key(i)}) for i in (0, 1))
    assert np.abs(one - two).max() > 1e-3


def test_bfloat16_compute_keeps_float32_parameters_and_logits() -> None:
    config = dataclasses.replace(TINY, dtype="bfloat16", unroll=3)
    params = make(TINY)
    exact, rough = logits(TINY, params, tokens()), logits(config, params, tokens())
    assert rough.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(fresh(config))} == {jnp.dtype("float32")}
    assert np.linalg.norm(exact - rough) < 5e-2 * np.linalg.norm(exact)


def test_megatron_initialisation() -> None:
    config = dataclasses.replace(TINY, d_model=96, num_layers=8)
    params = fresh(config)
    blocks = params["blocks"]
    for kernel in (blocks["mlp"]["up"], blocks["attention"]["query"]):
        assert np.std(kernel["kernel"]) == pytest.approx(0.02, rel=0.05)
    for kernel in (blocks["mlp"]["down"], blocks["attention"]["out"]):
        assert np.std(kernel["kernel"]) == pytest.approx(0.02 / 4, rel=0.05)


@pytest.mark.parametrize("name", ["plain", "bloom", "multi-query parallel"])
def test_folded_norms_change_no_value_and_no_gradient(name: str) -> None:
    params, ids = make(VARIANTS[name]), tokens()

    def loss(params: Any, config: GPTConfig) -> jax.Array:
        return (gpt.GPT(config).apply({"params": params}, ids) ** 2).mean()

    values = [
        jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, dataclasses.replace(VARIANTS[name], fold_norms=f))
        for f in (False, True)
    ]
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(values[0][1]))
    for a, b in zip(*map(jax.tree.leaves, values), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_json_round_trip(config: GPTConfig) -> None:
    assert GPTConfig.from_json(config.to_json()) == config


IMPOSSIBLE = [{"num_heads": 5}, {"num_kv_heads": 4}, {"shared_norm": True}, {"post_norm": True, "parallel": True}]


@pytest.mark.parametrize("change", IMPOSSIBLE, ids=str)
def test_impossible_shapes_are_refused(change: dict) -> None:
    with pytest.raises(UserError):
        dataclasses.replace(TINY, **change)


def test_post_norm_blocks_are_pytorch_s_encoder_layers() -> None:
    config = dataclasses.replace(VARIANTS["post-norm"], num_layers=1)
    params, x = make(config), np.random.default_rng(0).normal(size=(2, 9, 24)).astype(np.float32)
    p = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf[0])), params["blocks"])
    layer = torch.nn.TransformerEncoderLayer(24, 6, 96, 0.0, "gelu", batch_first=True).eval()
    qkv = [p["attention"][name] for name in ("query", "key", "value")]
    out, up, down = p["attention"]["out"], p["mlp"]["up"], p["mlp"]["down"]
    weights = {
        "self_attn.in_proj_weight": torch.cat([part["kernel"].reshape(24, 24).T for part in qkv]),
        "self_attn.in_proj_bias": torch.cat([part["bias"].flatten() for part in qkv]),
        "self_attn.out_proj.weight": out["kernel"].reshape(24, 24).T,
        "self_attn.out_proj.bias": out["bias"],
    }
    for theirs, ours in (("linear1", up), ("linear2", down)):
        weights |= {f"{theirs}.weight": ours["kernel"].T, f"{theirs}.bias": ours["bias"]}
    for theirs, ours in (("norm1", "attention_norm"), ("norm2", "mlp_norm")):
        weights |= {f"{theirs}.weight": p[ours]["scale"], f"{theirs}.bias": p[ours]["bias"]}
    layer.load_state_dict(weights)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(9)
    expected = layer(torch.tensor(x), src_mask=mask, is_causal=True).detach().numpy()
    ids = jnp.broadcast_to(jnp.arange(9), (2, 9))
    (found, _) = gpt.GPT(config).apply({"params": params}, x, ids, Mask(), method="body")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_alibi_slopes_of_twelve_heads() -> None:
    """Press et al. 2022: eight heads 2^-1..2^-8, then every other slope of sixteen heads."""
    expected = [2.0**-i for i in range(1, 9)] + [2.0**-0.5, 2.0**-1.5, 2.0**-2.5, 2.0**-3.5]
    np.testing.assert_allclose(positions.alibi_slopes(12), expected)


def test_swiglu_width_matches_the_parameters_of_gelu() -> None:
    for d in (96, 768, 1600):
        assert activations.swiglu().width(d) * 3 == pytest.approx(activations.gelu().width(d) * 2, rel=0.03)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_heads_turn_alike_whole_or_by_halves(dtype: Any) -> None:
    """The one is for TPUs, the other for CPUs."""
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, 8), dtype)
    angles = jax.random.normal(jax.random.key(1), (2, 5, 1, 4))
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    halves, whole = positions.turn_halves(x, sin, cos), positions.turn_whole(x, sin, cos)
    np.testing.assert_allclose(np.asarray(whole, np.float32), np.asarray(halves, np.float32), rtol=1e-6, atol=1e-6)
    # A rotation: pairs keep their length.
    wide = np.asarray(x, np.float32), np.asarray(whole, np.float32)
    lengths = [np.hypot(each[..., :4], each[..., 4:]) for each in wide]
    np.testing.assert_allclose(*lengths, rtol=1e-5 if dtype == jnp.float32 else 2e-2)
