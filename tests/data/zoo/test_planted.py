"""Planted interactions: what is known of them holds."""

import numpy as np
import pytest

from pagnol_jax.data.zoo.planted import bayes_auc, draw
from pagnol_jax.data.zoo.ranking import auc
from pagnol_jax.errors import UserError


def test_labels_follow_their_probabilities() -> None:
    truth = draw(40_000, seed=1)
    drawn = auc(truth.probabilities, truth.rows.labels)
    assert drawn == pytest.approx(bayes_auc(truth.probabilities), abs=0.006)  # three standard errors
    likely = truth.probabilities > 0.8
    assert truth.rows.labels[likely].mean() == pytest.approx(truth.probabilities[likely].mean(), abs=0.01)


def test_nothing_beats_the_truth_in_expectation() -> None:
    truth = draw(2_000)
    noise = np.random.default_rng(0).standard_normal(2_000)
    assert auc(truth.probabilities + 0.1 * noise, truth.probabilities) < bayes_auc(truth.probabilities)


def test_orders_are_hidden_from_lower_ones() -> None:
    """With the third order alone, no value of a field and no pair of values says anything about the click."""
    third = draw(60_000, first=0, second=0, third=3, seed=2)
    values = third.rows.ids
    for i in range(values.shape[1]):
        for j in range(i, values.shape[1]):
            cell = values[:, i] * 8 + values[:, j]
            means = np.bincount(cell, third.probabilities, 64) / np.maximum(np.bincount(cell, minlength=64), 1)
            assert np.ptp(means[np.bincount(cell, minlength=64) > 0]) < 0.14  # 64 cells of 940 rows
    assert bayes_auc(third.probabilities) > 0.85


def test_seeds() -> None:
    first, again, other = draw(100), draw(100), draw(100, seed=1)
    np.testing.assert_array_equal(first.rows.ids, again.rows.ids)
    np.testing.assert_array_equal(first.rows.labels, again.rows.labels)
    assert (first.rows.ids != other.rows.ids).any()
    assert first.rows.fingerprint == again.rows.fingerprint != other.rows.fingerprint


def test_more_interactions_than_there_are() -> None:
    with pytest.raises(UserError, match="4 fields have 4 sets of 3, not 6"):
        draw(10, fields=4, pairs=2)
