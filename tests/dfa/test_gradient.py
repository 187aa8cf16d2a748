"""Gradients of the rule: against PyTorch autograd on its equations, and against themselves in other forms."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from pagnol_jax import dfa
from pagnol_jax.dfa import parallel, rules
from pagnol_jax.models import gpt
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.models.gpt import Block
from pagnol_jax.models.masks import Mask
from pagnol_jax.train.loss import cross_entropy

MACRO = ("blocks",)
MICRO = ("blocks", "blocks/attended", "blocks/mlp/hidden")
MODEL = GPTConfig(vocab_size=50, num_layers=3, d_model=16, num_heads=2, max_length=12)
Torch = dict[str, torch.Tensor]


class Layer(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.relu(nn.Dense(self.width)(x))


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(4, name="head")(Layer(9, name="b")(Layer(12, name="a")(x)))


@functools.cache
def mlp() -> tuple[Callable, Any, jax.Array, jax.Array]:
    """(loss, params, x [8, 7], y [8])"""
    x = jax.random.normal(jax.random.key(0), (8, 7))
    params = MLP().init(jax.random.key(1), x)["params"]

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = MLP().apply({"params": params}, x)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()

    return loss, params, x, jnp.arange(8) % 4


@functools.cache
def model(**options: Any) -> tuple[Callable, Any, jax.Array]:
    """(loss, params, tokens [3, 12])"""
    config = GPTConfig(**{**MODEL.__dict__, **options})
    params = nn.unbox(gpt.init(config, jax.random.key(0)))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    tokens = jax.random.randint(jax.random.key(1), (3, 12), 0, 50)

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        features, head, _ = gpt.features(config, params, tokens)
        total = cross_entropy(features, head, jnp.roll(tokens, 1, 1), jnp.ones(tokens.shape))
        return total.nats / total.weight

    return loss, params, tokens


def matrices(loss: Callable, rule: rules.Rule, *args: Any) -> Any:
    return nn.unbox(dfa.init(loss, rule, jax.random.key(2))(*args))


def to_torch(tree: Any) -> Any:
    return jax.tree.map(lambda x: torch.tensor(np.asarray(x), requires_grad=True), tree)


def torch_rule(loss: torch.Tensor, error: torch.Tensor, taps: list[torch.Tensor], matrix: torch.Tensor) -> None:
    """Gradients by equation 3 of Launay et al. 2020 with one sliced matrix: h gets e B[:, :d] / sqrt(D)."""
    e = torch.autograd.grad(loss, error, retain_graph=True)[0]
    signal = e @ matrix / matrix.shape[1] ** 0.5
    total = loss + sum((h * signal[..., : h.shape[-1]]).sum() for h in taps)
    total.backward()


def close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * 1e-1), found, expected)


def gradients(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.grad.numpy(), tree)


def test_mlp_is_the_rule_in_torch() -> None:
    loss, params, x, y = mlp()
    rule = rules.dfa(("a", "b"))
    ours = matrices(loss, rule, params, x, y)
    value, grads = jax.jit(dfa.value_and_grad(loss, rule, ours))(params, x, y)

    theirs, taps = to_torch(params), []
    h = torch.tensor(np.asarray(x))
    for name in ("a", "b"):
        dense = theirs[name]["Dense_0"]
        taps.append(torch.relu(h @ dense["kernel"] + dense["bias"]))
        h = taps[-1].detach()
    logits = h @ theirs["head"]["kernel"] + theirs["head"]["bias"]
    expected = functional.cross_entropy(logits, torch.tensor(np.asarray(y)).long())
    torch_rule(expected, logits, taps, torch.tensor(np.asarray(ours[""]["matrix"])))
    np.testing.assert_allclose(value, expected.item(), rtol=1e-6)
    close(grads, gradients(theirs))


def torch_gpt(p: Any, tokens: torch.Tensor, micro: bool) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """(features, logits, taps) of a pre-norm transformer with cuts; parameters stacked over layers as ours are."""
    taps: list[torch.Tensor] = []

    def cut(h: torch.Tensor) -> torch.Tensor:
        taps.append(h)
        return h.detach()

    def norm(x: torch.Tensor, p: Torch) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], p["scale"], p["bias"])

    x = p["token_embedding"]["embedding"][tokens] + p["position_embedding"]["embedding"][: tokens.shape[1]]
    for i in range(MODEL.num_layers):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], p["blocks"])
        a, y = layer["attention"], norm(x, layer["attention_norm"])
        q, k, v = (
            torch.einsum("btd,dhk->bhtk", y, a[n]["kernel"]) + a[n]["bias"][:, None] for n in ("query", "key", "value")
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + torch.einsum("bhtk,hkd->btd", mixed, a["out"]["kernel"]) + a["out"]["bias"]
        x = cut(x) if micro else x
        m = layer["mlp"]
        y = functional.gelu(norm(x, layer["mlp_norm"]) @ m["up"]["kernel"] + m["up"]["bias"])
        y = cut(y) if micro else y
        x = cut(x + y @ m["down"]["kernel"] + m["down"]["bias"])
    features = norm(x, p["final_norm"])
    return features, features @ p["head"], taps


@pytest.mark.parametrize("normalised", [False, True], ids=["plain", "normalised"])
@pytest.mark.parametrize("taps", [MACRO, MICRO], ids=["macro", "micro"])
def test_transformer_is_the_rule_in_torch(taps: tuple[str, ...], normalised: bool) -> None:
    loss, params, tokens = model()
    rule = rules.dfa(taps, "final_norm", normalise=taps if normalised else ())
    ours = matrices(loss, rule, params, tokens)
    value, grads = jax.jit(dfa.value_and_grad(loss, rule, ours))(params, tokens)

    theirs, ids = to_torch(params), torch.tensor(np.asarray(tokens))
    features, logits, points = torch_gpt(theirs, ids.long(), micro=taps == MICRO)
    if normalised:
        points = [functional.layer_norm(h, h.shape[-1:]) for h in points]
    expected = functional.cross_entropy(logits.flatten(0, 1), ids.long().roll(1, 1).flatten())
    torch_rule(expected, features, points, torch.tensor(np.asarray(ours["final_norm"]["matrix"])))
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    close(grads, gradients(theirs))


@pytest.mark.parametrize("options", [{}, {"remat": "full"}, {"unroll": 3}], ids=str)
@pytest.mark.parametrize("taps", [MACRO, MICRO], ids=["macro", "micro"])
def test_the_gradient_above_the_taps_is_backpropagation_s(taps: tuple[str, ...], options: dict[str, Any]) -> None:
    loss, params, tokens = model(**options)
    rule = rules.dfa(taps, "final_norm")
    grads = dfa.value_and_grad(loss, rule, matrices(loss, rule, params, tokens))(params, tokens)[1]
    true = jax.grad(loss)(params, tokens)
    np.testing.assert_array_equal(grads["head"], true["head"])
    close(grads["final_norm"], true["final_norm"], 1e-6)


class Unrolled(nn.Module):
    """The blocks of a GPT one by one, each with a name of its own."""

    config: GPTConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        positions = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
        carry = (x, None)
        for i in range(self.config.num_layers):
            carry, _ = Block(self.config, name=f"block_{i}")(carry, i, positions, Mask())
        return nn.Dense(5, name="head")(carry[0])


class Scanned(nn.Module):
    config: GPTConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        positions = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
        scan = nn.scan(
            Block,
            variable_axes={True: 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=self.config.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        carry, _ = scan(self.config, name="blocks")((x, None), jnp.arange(self.config.num_layers), positions, Mask())
        return nn.Dense(5, name="head")(carry[0])


@pytest.mark.parametrize("inner", [(), ("attended", "mlp/hidden")], ids=["macro", "micro"])
def test_scanned_unrolled_and_layer_parallel_are_one(inner: tuple[str, ...]) -> None:
    x = jax.random.normal(jax.random.key(0), (2, 12, 16))
    scanned = nn.unbox(Scanned(MODEL).init(jax.random.key(1), x)["params"])
    layers = {f"block_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], scanned["blocks"]) for i in range(3)}

    def loss(module: nn.Module) -> Callable:
        return lambda params: (module.apply({"params": params}, x) ** 2).mean()

    def grads(module: nn.Module, params: Any, prefix: str, how: Callable) -> Any:
        rule = rules.dfa([f"{prefix}{part}" for part in ("", *(f"/{i}" for i in inner))])
        mine = matrices(loss(module), rule, params)
        return dfa.value_and_grad(loss(module), rule, mine, layers=how)(params)[1]

    one_by_one = grads(Unrolled(MODEL), {**layers, "head": scanned["head"]}, "block_?", parallel.batched)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[one_by_one[f"block_{i}"] for i in range(3)])
    for how in (parallel.looped, parallel.batched):
        found = grads(Scanned(MODEL), scanned, "blocks", how)
        close(found, {"blocks": stacked, "head": one_by_one["head"]}, 1e-6)


def test_no_loop_over_layers_is_left_of_the_backward_pass() -> None:
    loss, params, tokens = model()
    rule = rules.dfa(MICRO, "final_norm")
    mine = matrices(loss, rule, params, tokens)

    def loops(how: Callable) -> int:
        jaxpr = jax.make_jaxpr(dfa.value_and_grad(loss, rule, mine, layers=how))(params, tokens)
        return sum(eqn.primitive.name == "scan" and eqn.params["length"] == 3 for eqn in jaxpr.jaxpr.eqns)

    assert (loops(parallel.looped), loops(parallel.batched)) == (2, 1)


def test_backpropagation_s_loop_is_kept() -> None:
    loss, params, tokens = model()
    jaxpr = jax.make_jaxpr(jax.grad(loss))(params, tokens)
    assert not any(parallel.independent(eqn) for eqn in jaxpr.jaxpr.eqns)


def test_half_precision_points_the_same_way() -> None:
    loss, params, tokens = model()
    half, *_ = model(dtype="bfloat16")
    rule = rules.dfa(MICRO, "final_norm")
    mine = matrices(loss, rule, params, tokens)
    a, b = (jax.tree.leaves(dfa.value_and_grad(f, rule, mine)(params, tokens)[1]) for f in (loss, half))
    cosines = [float((x * y).sum() / jnp.linalg.norm(x) / jnp.linalg.norm(y)) for x, y in zip(a, b, strict=True)]
    # Keys' biases have no gradient but rounding: softmax does not see them.
    assert np.mean(np.array(cosines) > 0.99) > 0.9


def test_every_network_of_a_loss_has_its_own_error_and_matrices() -> None:
    loss, params, x, y = mlp()
    rule = rules.dfa(("a", "b"))

    def two(params: Any) -> jax.Array:
        return loss(params["one"], x, y) + loss(params["two"], 2 * x, y)

    both = {"one": params, "two": jax.tree.map(lambda leaf: leaf + 0.1, params)}
    mine = matrices(two, rule, both)
    assert set(mine) == {"", "#1"}
    grads = dfa.value_and_grad(two, rule, mine)(both)[1]
    alone = dfa.value_and_grad(loss, rule, {"": mine["#1"]})(both["two"], 2 * x, y)[1]
    close(grads["two"], alone, 1e-6)


class Normed(nn.Module):
    """Submodules given as attributes, and statistics that a call changes."""

    layer: nn.Module

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.BatchNorm(use_running_average=False, name="norm")(self.layer(x))
        return nn.Dense(1)(x)


def test_statistics_of_the_network_are_the_caller_s_as_ever() -> None:
    module, x = Normed(nn.Sequential([Layer(5), Layer(6)])), jax.random.normal(jax.random.key(0), (8, 3))
    variables = module.init(jax.random.key(1), x)

    def loss(params: Any) -> tuple[jax.Array, Any]:
        out, changed = module.apply({**variables, "params": params}, x, mutable=["batch_stats"])
        return (out**2).mean(), changed

    rule = rules.dfa(("layer/layers_*",))
    mine = matrices(lambda params: loss(params)[0], rule, variables["params"])
    (value, changed), grads = dfa.value_and_grad(loss, rule, mine, has_aux=True)(variables["params"])
    (expected, plain), true = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    np.testing.assert_allclose(value, expected)
    close(changed, plain)
    close(grads["Dense_0"], true["Dense_0"], 1e-6)


@pytest.mark.parametrize("inner", [False, True], ids=["loss", "apply"])
def test_what_is_jitted_is_cut_too_and_only_under_the_rule(inner: bool) -> None:
    loss, params, x, y = mlp()
    apply = jax.jit(MLP().apply)

    def around(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return -jnp.take_along_axis(jax.nn.log_softmax(apply({"params": params}, x)), y[:, None], 1).mean()

    jitted = around if inner else jax.jit(loss)
    rule, true = rules.dfa(("a", "b")), jax.grad(loss)(params, x, y)
    close(jax.grad(jitted)(params, x, y), true)  # traced without cuts
    mine = matrices(jitted, rule, params, x, y)
    close(dfa.value_and_grad(jitted, rule, mine)(params, x, y), dfa.value_and_grad(loss, rule, mine)(params, x, y))
    close(jax.grad(jitted)(params, x, y), true)


def test_a_decorated_loss_stays_decorated() -> None:
    loss, params, x, y = mlp()

    @functools.wraps(loss)
    def doubled(*args: Any) -> jax.Array:
        return 2 * loss(*args)

    rule = rules.dfa(("a", "b"))
    value, grads = dfa.value_and_grad(doubled, rule, matrices(doubled, rule, params, x, y))(params, x, y)
    plain, once = dfa.value_and_grad(loss, rule, matrices(loss, rule, params, x, y))(params, x, y)
    np.testing.assert_allclose(value, 2 * plain)
    close(grads, jax.tree.map(lambda leaf: 2 * leaf, once))


def test_shallow_and_frozen_leave_out_what_they_should() -> None:
    loss, params, tokens = model()
    true = jax.grad(loss)(params, tokens)
    shallow = dfa.value_and_grad(loss, rules.shallow(MACRO))(params, tokens)[1]
    frozen = dfa.value_and_grad(loss, rules.frozen(MACRO))(params, tokens)[1]
    for grads, learning in ((shallow, {"head", "final_norm"}), (frozen, set(params) - {"blocks"})):
        for name, expected in true.items():
            close(grads[name], expected if name in learning else jax.tree.map(jnp.zeros_like, expected), 1e-5)


def test_what_setup_has_read_is_frozen_too() -> None:
    loss, params, tokens = model()
    grads = dfa.value_and_grad(loss, rules.frozen(("token_embedding",)))(params, tokens)[1]
    assert not np.any(grads["token_embedding"]["embedding"])
    close(grads["blocks"], jax.grad(loss)(params, tokens)["blocks"])
