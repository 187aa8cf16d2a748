"""Click models against PyTorch twins written from the papers' equations: values, gradients, DFA's gradients."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
import torch
from models.zoo.recommender_cases import BATCH, MODELS, TAPS, data, started
from models.zoo.recommender_torch import from_flax, loaded

from pagnol_jax import dfa
from pagnol_jax.dfa import feedback, rules, silent
from pagnol_jax.train.zoo import recommend


@pytest.mark.parametrize("name", MODELS)
def test_forward_values_are_pytorchs(name: str) -> None:
    """In training and in evaluation mode, and the running statistics that training leaves."""
    module, variables = started(name)
    ids, _ = data()

    def both(variables: Any) -> Any:
        return module.apply(variables, ids, False), module.apply(variables, ids, True, mutable=["batch_stats"])

    evaluated, (trained, changed) = jax.jit(both)(variables)
    twin = loaded(module, variables)
    for train, ours in ((False, evaluated), (True, trained)):
        theirs = twin.train(train)(torch.tensor(ids))
        assert ours.shape == (BATCH, 1)
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=1e-5)
    for layer, found in changed.get("batch_stats", {}).get("mlp", {}).items():
        norm = twin.mlp.norm[int(layer.removeprefix("layer_"))]
        np.testing.assert_allclose(found["norm"]["mean"], norm.running_mean, rtol=1e-4, atol=1e-6)
        # torch keeps the unbiased variance: B / (B - 1) of ours, in the tenth that is new
        ours, theirs = np.asarray(found["norm"]["var"]) - 0.9, norm.running_var.numpy() - 0.9
        np.testing.assert_allclose(ours, theirs * (BATCH - 1) / BATCH, rtol=1e-3, atol=1e-6)


def torch_gradients(
    twin: Any, ids: Any, labels: Any, taps: tuple[str, ...], quiet: tuple[str, ...], error: str, B: Any
):
    """DFA's gradients by the auxiliary loss: L(top(sg h_N)) + Σ_l <h_l(sg h_{l-1}), sg(e B[:, :d_l]) / sqrt(D)>."""
    heard: dict[str, torch.Tensor] = {}
    outputs: dict[str, torch.Tensor] = {}

    def point(name: str, value: torch.Tensor) -> torch.Tensor:
        outputs[name] = value
        if name not in taps:
            return value
        heard[name] = value
        return value.detach()

    logits = twin.train()(torch.tensor(ids), point)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], torch.tensor(labels))
    (e,) = torch.autograd.grad(loss, outputs[error], retain_graph=True)
    auxiliary = loss
    if B is not None:
        for name, h in heard.items():
            if name not in quiet:
                signal = (e @ B)[:, : h[0].numel()] / B.shape[1] ** 0.5
                auxiliary = auxiliary + (h.flatten(1) * signal.detach()).sum()
    auxiliary.backward()
    return {name: p.grad.numpy() for name, p in twin.named_parameters() if p.grad is not None}


def assert_equal(ours: np.ndarray, theirs: np.ndarray) -> None:
    """To 1e-5 of the largest entry; 1e-7 for the gradients that batch normalisation makes zero."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max() + 1e-7)


def our_gradients(module: nn.Module, variables: Any, rule: rules.Rule, ids: Any, labels: Any) -> tuple[Any, Any]:
    net = recommend.network(module, rule, recommend.adam(1e-3), 0)
    args = variables["params"], variables.get("batch_stats", {}), ids, labels, jax.random.key(0)
    matrices = nn.unbox(jax.jit(dfa.init(net.loss, rule, jax.random.key(5)))(*args))
    _, grads = jax.jit(dfa.value_and_grad(net.loss, rule, matrices, has_aux=True))(*args)
    return grads, matrices


@pytest.mark.parametrize("name", TAPS)
def test_dfa_gradients_are_those_of_the_equations(name: str) -> None:
    """With batch normalisation in training mode; AFN as published and as meant."""
    module, variables = started(name.split(",", maxsplit=1)[0])
    ids, labels = data()
    taps, quiet, error, without = TAPS[name]
    rule = rules.dfa(taps, error, silent.silent(feedback.uniform(), quiet), without)
    grads, matrices = our_gradients(module, variables, rule, ids, labels)
    B = torch.tensor(np.asarray(matrices[error]["matrix"]))
    theirs = torch_gradients(loaded(module, variables), ids, labels, taps, quiet, error, B)
    ours = from_flax(module, grads)
    assert set(theirs) <= set(ours)
    for parameter, value in ours.items():
        if parameter not in theirs:  # no gradient at all in torch: the frozen embedding
            assert parameter.startswith("tables")
            assert not value.any()
            continue
        np.testing.assert_allclose(
            value, theirs[parameter], rtol=1e-5, atol=1e-5 * np.abs(theirs[parameter]).max() + 1e-7
        )
    hidden = [value for parameter, value in theirs.items() if parameter.startswith("mlp.dense.0.weight")]
    assert np.abs(hidden).max() > 1e-4


def test_backprop_and_shallow_gradients_are_pytorchs() -> None:
    module, variables = started("DeepFM")
    ids, labels = data()
    taps, _, error, _ = TAPS["DeepFM"]
    for rule, cut in ((rules.backprop(), ()), (rules.shallow(taps), taps)):
        grads, _ = our_gradients(module, variables, rule, ids, labels)
        theirs = torch_gradients(loaded(module, variables), ids, labels, cut, (), error, None)
        for parameter, value in from_flax(module, grads).items():
            expected = theirs.get(parameter, np.zeros(value.shape))
            assert_equal(value, expected)


def test_dropout_is_drawn_from_the_key() -> None:
    module, variables = started("DeepFM", dropout=0.5)
    net = recommend.network(module, rules.backprop(), recommend.adam(1e-3), 0)
    loss = jax.jit(net.loss)
    first, again, other = (
        loss(variables["params"], variables["batch_stats"], *data(), jax.random.key(k))[0] for k in (0, 0, 1)
    )
    assert first == again != other
