"""Feedback rules against their definitions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pagnol_jax.dfa import feedback
from pagnol_jax.dfa.feedback import Tap

TAPS = [Tap("wide", (), (5, 2), (3, 4)), Tap("narrow", (), (5, 2), (7,)), Tap("stacked", (3,), (5, 2), (7,))]
ERROR = jax.random.normal(jax.random.key(0), (5, 2, 4))


def drawn(rule: feedback.Feedback, taps: list[Tap] = TAPS, width: int = 4) -> dict[str, jax.Array]:
    return nn.unbox(rule.init(jax.random.key(1), width, taps))


def test_uniform_is_one_sliced_matrix_over_the_root_of_the_widest() -> None:
    rule = feedback.uniform()
    matrix = drawn(rule)["matrix"]
    assert matrix.shape == (4, 12)
    assert -1 <= matrix.min() < -0.8
    assert 0.8 < matrix.max() < 1
    wide, narrow, stacked = rule.project({"matrix": matrix}, ERROR, TAPS)
    np.testing.assert_allclose(wide, np.einsum("abi,ij->abj", ERROR, matrix) / np.sqrt(12), rtol=1e-5)
    np.testing.assert_array_equal(narrow, wide[..., :7])
    np.testing.assert_array_equal(stacked, narrow)


@pytest.mark.parametrize("rule", [feedback.gaussian(), feedback.orthogonal()], ids=["gaussian", "orthogonal"])
def test_every_layer_has_a_matrix_of_its_own(rule: feedback.Feedback) -> None:
    matrices = drawn(rule)
    assert {name: m.shape for name, m in matrices.items()} == {"wide": (4, 12), "narrow": (4, 7), "stacked": (3, 4, 7)}
    signals = rule.project(matrices, ERROR, TAPS)
    np.testing.assert_allclose(signals[0], np.einsum("abi,ij->abj", ERROR, matrices["wide"]), rtol=1e-5, atol=1e-6)
    expected = np.einsum("abi,lij->labj", ERROR, matrices["stacked"])
    np.testing.assert_allclose(signals[2], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 256), (256, 64)], ids=str)
def test_lengths_are_kept_on_average(shape: tuple[int, int]) -> None:
    error = jax.random.normal(jax.random.key(0), (200, shape[0]))
    tap = Tap("tap", (), (200,), (shape[1],))
    for rule in (feedback.gaussian(), feedback.orthogonal()):
        signal = rule.project(drawn(rule, [tap], shape[0]), error, [tap])[0]
        assert float((signal**2).sum() / (error**2).sum()) == pytest.approx(1, rel=0.1)


def test_orthogonal_rows_are_orthonormal() -> None:
    matrix = drawn(feedback.orthogonal(), [Tap("tap", (), (1,), (16,))], 8)["tap"]
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(8), atol=1e-5)


@pytest.mark.parametrize("rule", [feedback.uniform(), feedback.orthogonal()], ids=["uniform", "orthogonal"])
def test_redrawn_matrices_are_the_same_at_every_step_and_not_stored(rule: feedback.Feedback) -> None:
    again = feedback.redrawn(rule)
    kept = drawn(again)
    assert [leaf.size for leaf in jax.tree.leaves(kept)] == [2]
    stored = nn.unbox(rule.init(jax.random.wrap_key_data(kept["key"]), 4, TAPS))
    for a, b in zip(again.project(kept, ERROR, TAPS), rule.project(stored, ERROR, TAPS), strict=True):
        np.testing.assert_array_equal(a, b)


def test_matrices_lie_on_a_mesh_as_weights_do() -> None:
    boxed = feedback.gaussian().init(jax.random.key(0), 4, TAPS)
    assert boxed["stacked"].names == ("layers", "embed", None)
    assert boxed["narrow"].names == ("embed", None)
    assert jnp.issubdtype(boxed["narrow"].value.dtype, jnp.float32)
