"""Kaplan's exponents from Chinchilla's law, without data (Pearce and Song 2024, arXiv 2406.12907)."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from pagnol_jax.scaling.counting import EMBEDDING, without_embeddings
from pagnol_jax.scaling.laws import CHINCHILLA, evaluate, from_constants

# The sizes that Kaplan et al. trained: 768 to 1.5 billion parameters without embeddings (section 3).
KAPLANS_SIZES = np.geomspace(768, 1.5e9, 20)
# Hoffmann et al.'s constants, and Besiroglu et al.'s, as the paper's script has them.
HOFFMANN = from_constants(CHINCHILLA, A=406.4, B=410.7, alpha=0.3392, beta=0.2849, E=1.6934)
BESIROGLU = from_constants(CHINCHILLA, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658, E=1.8172)


@pytest.mark.parametrize(("law", "seen"), [(HOFFMANN, 0.74), (BESIROGLU, 0.78)], ids=["hoffmann", "besiroglu"])
def test_kaplans_size_exponent(law: np.ndarray, seen: float) -> None:
    view = without_embeddings(law, KAPLANS_SIZES)
    assert view.size_exponent == pytest.approx(seen, abs=0.011)  # Pearce and Song: 0.74 and 0.78
    assert view.size_exponent == pytest.approx(0.73, abs=0.06)  # Kaplan: 0.73
    assert view.loss_exponent == pytest.approx(-0.057, abs=0.013)  # Kaplan: -0.057 of plain compute


def test_counting_embeddings_gives_chinchillas_exponent_back() -> None:
    alpha, beta = HOFFMANN[3:]
    none = without_embeddings(HOFFMANN, KAPLANS_SIZES, embedding=0.0)
    large = without_embeddings(HOFFMANN, np.geomspace(1e14, 1e17, 20))
    assert none.size_exponent == pytest.approx(beta / (alpha + beta), rel=1e-9)
    assert large.size_exponent == pytest.approx(beta / (alpha + beta), abs=1e-4)


def test_sizes_are_the_best_at_their_compute() -> None:
    view = without_embeddings(HOFFMANN, KAPLANS_SIZES)
    for blocks, compute, loss in zip(*view, strict=True):

        def at(log_blocks: float, compute: float = compute) -> float:
            n = np.exp(log_blocks)
            return float(evaluate(CHINCHILLA, HOFFMANN, N=n + EMBEDDING * np.cbrt(n), D=compute / 6 / n))

        best = minimize_scalar(at, bounds=(np.log(blocks) - 3, np.log(blocks) + 3), method="bounded")
        assert best.x == pytest.approx(np.log(blocks), abs=1e-3)
        assert best.fun == pytest.approx(loss, rel=1e-8)
