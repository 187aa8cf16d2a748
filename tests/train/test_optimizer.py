"""Schedules against their formulas, AdamW against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pagnol_jax.errors import UserError
from pagnol_jax.models import gpt, positions
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.train.optimizer import (
    Schedule,
    adamw,
    adamw_on_plateau,
    decayed,
    warmup_cosine,
    warmup_stable_decay,
)

RATES = st.floats(1e-5, 1e-1)


def rate(schedule: Schedule, step: int) -> float:
    return float(schedule.function(step))


@settings(deadline=None, max_examples=30)
@given(peak=RATES, warmup=st.integers(1, 50), after=st.integers(1, 200), final=st.floats(0, 1), data=st.data())
def test_warmup_cosine(peak: float, warmup: int, after: int, final: float, data: st.DataObject) -> None:
    total = warmup + after
    schedule = warmup_cosine(peak, warmup, total, final)
    step = data.draw(st.integers(0, total))
    if step <= warmup:  # from peak / (warmup + 1), never zero, to peak on step `warmup`
        expected = peak * (1 / (warmup + 1) + step / warmup * warmup / (warmup + 1))
    else:
        half = (1 + np.cos(np.pi * (step - warmup) / after)) / 2
        expected = peak * (final + (1 - final) * half)
    assert rate(schedule, step) == pytest.approx(expected, rel=1e-4, abs=1e-6 * peak)
    assert rate(schedule, 0) > 0
    assert rate(schedule, warmup) == pytest.approx(peak, rel=1e-5)
    assert rate(schedule, total) == pytest.approx(final * peak, rel=1e-4, abs=1e-6 * peak)
    assert schedule.name == "cosine"


@settings(deadline=None, max_examples=30)
@given(
    peak=RATES,
    warmup=st.integers(1, 20),
    plateau=st.integers(1, 50),
    decay=st.integers(1, 50),
    final=st.floats(0, 1),
    data=st.data(),
)
def test_warmup_stable_decay(
    peak: float, warmup: int, plateau: int, decay: int, final: float, data: st.DataObject
) -> None:
    total = warmup + plateau + decay
    schedule = warmup_stable_decay(peak, warmup, total, decay, final)
    on_plateau = data.draw(st.integers(warmup, warmup + plateau))
    falling = data.draw(st.integers(0, decay))
    expected = peak * (1 - (1 - final) * falling / decay)
    assert rate(schedule, 0) == pytest.approx(peak / (warmup + 1), rel=1e-5)
    assert rate(schedule, on_plateau) == pytest.approx(peak, rel=1e-5)
    assert rate(schedule, warmup + plateau + falling) == pytest.approx(expected, rel=1e-4, abs=1e-6 * peak)
    assert schedule.name == "warmup_stable_decay"


def test_no_warmup() -> None:
    schedule = warmup_cosine(1.0, 0, 10)
    assert rate(schedule, 0) == 1
    assert rate(schedule, 10) == pytest.approx(0.1)


@pytest.mark.parametrize("make", [lambda: warmup_cosine(1, 10, 10), lambda: warmup_stable_decay(1, 5, 10, 5)])
def test_too_short_a_run_is_refused(make) -> None:
    with pytest.raises(UserError, match="a run of 10 steps is too short for 10 steps of warm-up and decay"):
        make()


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_plateaus_are_pytorch_s(patience: int) -> None:
    window, factor = 2, 0.5
    optimizer = adamw_on_plateau(1.0, 0, window, factor, patience)
    theirs = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, factor=factor, patience=patience, eps=0)
    params = {"kernel": jnp.zeros((2, 2))}
    state, update = optimizer.transform.init(params), jax.jit(optimizer.transform.update)
    losses = np.random.default_rng(0).uniform(1, 2, (40, window)) - 0.01 * np.arange(40)[:, None]
    for pair in losses:
        for loss in pair:
            _, state = update(params, state, params, value=loss)
        scheduler.step(pair.mean())
        assert float(optimizer.scale(state)) == pytest.approx(scheduler.get_last_lr()[0])
    assert scheduler.get_last_lr()[0] < 1


def test_what_is_decayed() -> None:
    """Matrices, tables of tokens, the head; no norm, no bias, no table of positions."""
    config = GPTConfig(
        vocab_size=8, num_layers=1, d_model=4, num_heads=2, embedding_norm=True, position=positions.learned()
    )
    shapes = jax.eval_shape(lambda: gpt.init(config, jax.random.key(0)))
    mask = {jax.tree_util.keystr(path): on for path, on in jax.tree_util.tree_leaves_with_path(decayed(shapes))}
    on = {name for name, is_on in mask.items() if is_on}
    off = set(mask) - on
    assert any("head" in name for name in on)
    assert any("token_embedding" in name for name in on)
    assert all("bias" not in name and "scale" not in name for name in on)
    assert all("kernel" not in name and "token_embedding" not in name for name in off)
    assert any("position_embedding" in name for name in off)


def test_adamw_equals_its_formula() -> None:
    """Loshchilov and Hutter (2019), algorithm 2, after clipping by the global norm."""
    b1, b2, eps, decay, clip = 0.8, 0.9, 1e-6, 0.3, 0.5
    optimizer = adamw(warmup_cosine(0.1, 2, 10), b1, b2, eps, decay, clip)
    rng = np.random.default_rng(0)
    params = {"a": {"kernel": rng.normal(size=(3, 2))}, "b": {"bias": rng.normal(size=2)}}
    ours, state = jax.tree.map(jnp.float32, params), None
    state = optimizer.transform.init(ours)
    flat = {"kernel": params["a"]["kernel"], "bias": params["b"]["bias"]}
    mean = {name: np.zeros_like(x) for name, x in flat.items()}
    square = {name: np.zeros_like(x) for name, x in flat.items()}
    for step in range(5):
        grads = {name: rng.normal(size=x.shape) * (10 if step % 2 else 0.01) for name, x in flat.items()}
        tree = {"a": {"kernel": jnp.float32(grads["kernel"])}, "b": {"bias": jnp.float32(grads["bias"])}}
        updates, state = optimizer.transform.update(tree, state, ours)
        ours = optax.apply_updates(ours, updates)
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        learning_rate = float(optimizer.schedule(step))
        for name, x in flat.items():
            g = grads[name] * min(1, clip / norm)
            mean[name] = b1 * mean[name] + (1 - b1) * g
            square[name] = b2 * square[name] + (1 - b2) * g**2
            adam = mean[name] / (1 - b1 ** (step + 1))
            adam /= np.sqrt(square[name] / (1 - b2 ** (step + 1))) + eps
            flat[name] = x - learning_rate * (adam + decay * x * (name == "kernel"))
    np.testing.assert_allclose(ours["a"]["kernel"], flat["kernel"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours["b"]["bias"], flat["bias"], rtol=1e-4, atol=1e-6)
