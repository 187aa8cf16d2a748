"""Clicks drawn from a known law with planted second- and third-order interactions: what can be learnt is known.

Every value of every field has a hidden sign, s = ±1, and a hidden weight w ~ N(0, 1). The logit is

    first * Σ_f w_f / √F  +  second * Σ_pairs a s_f s_g / √P  +  third * Σ_triples b s_f s_g s_h / √T,     a, b = ±1,

over P pairs and T triples of fields drawn once. A sum over fields sees nothing of the second term, products of two
embeddings nothing of the third.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from pagnol_jax.data.zoo.ranking import auc
from pagnol_jax.data.zoo.rows import Rows
from pagnol_jax.errors import UserError


class Planted(NamedTuple):
    """Rows and the truth about them. probabilities: float64 [N], of a click given the row's ids."""

    rows: Rows
    probabilities: np.ndarray


def planted(
    count: int = 60_000,
    fields: int = 8,
    values: int = 8,
    pairs: int = 6,
    triples: int = 6,
    first: float = 0.5,
    second: float = 1.5,
    third: float = 1.5,
    seed: int = 0,
) -> Rows:
    """`draw` without its truth: the data of a run."""
    return draw(count, fields, values, pairs, triples, first, second, third, seed).rows


def draw(
    count: int = 60_000,
    fields: int = 8,
    values: int = 8,
    pairs: int = 6,
    triples: int = 6,
    first: float = 0.5,
    second: float = 1.5,
    third: float = 1.5,
    seed: int = 0,
) -> Planted:
    """`count` rows of `fields` fields, uniform over `values` values each, and their clicks.

    first, second, third: standard deviations of the three orders' parts of the logit (the first's on average).
    Raises UserError for more pairs or triples than the fields have.
    """
    random = np.random.default_rng(seed)
    weights = random.standard_normal((fields, values))
    # As many signs of either kind in a field as can be: else they have a mean, and interactions leak downwards.
    signs = random.permuted(np.tile(np.arange(values) % 2 * 2.0 - 1, (fields, 1)), axis=1)
    ids = random.integers(values, size=(count, fields), dtype=np.int32)
    logit = first * _first_order(weights, ids) / np.sqrt(fields)
    for order, number, scale in ((2, pairs, second), (3, triples, third)):
        every = list(itertools.combinations(range(fields), order))
        if number > len(every):
            raise UserError(f"{fields} fields have {len(every)} sets of {order}, not {number}")
        chosen = random.permutation(len(every))[:number]
        for sign, index in zip(random.choice([-1.0, 1.0], number), chosen, strict=True):
            product = np.prod([signs[field, ids[:, field]] for field in every[index]], axis=0)  # [N]
            logit += scale * sign * product / np.sqrt(number)
    probabilities = 1 / (1 + np.exp(-logit))
    labels = (random.random(count) < probabilities).astype(np.uint8)
    name = f"planted {count} {fields} {values} {pairs} {triples} {first} {second} {third} {seed}"
    return Planted(Rows(ids, labels, (values,) * fields, name), probabilities)


def _first_order(weights: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """[N]: weights [F, V] of ids [N, F], summed over fields."""
    return weights[np.arange(len(weights)), ids].sum(axis=1)


def bayes_auc(probabilities: np.ndarray) -> float:
    """The AUC that no score of these rows passes in expectation over their labels: that of the probabilities."""
    return auc(probabilities, probabilities)
