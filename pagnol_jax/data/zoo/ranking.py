"""How well scores rank clicks: exact, from ranks."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from pagnol_jax.errors import UserError


def auc(scores: np.ndarray, clicks: np.ndarray) -> float:
    """Area under the ROC curve of scores [N], ties counted half; nan where one class is missing.

    clicks [N] are labels 0 and 1, or probabilities p of a click: then it is the area in expectation over labels drawn
    with them, Σ_ij p_i (1 - p_j) ([s_i > s_j] + [s_i = s_j] / 2) / Σ_ij p_i (1 - p_j) over pairs i ≠ j.
    Raises UserError for scores that are not finite.
    """
    _check_finite(scores)
    clicks = clicks.astype(np.float64)
    place = rankdata(scores, "dense") - 1
    yes, no = np.bincount(place, clicks), np.bincount(place, 1 - clicks)
    below = np.cumsum(no) - no
    with_itself = (clicks * (1 - clicks)).sum()  # i = j, a tie
    pairs = yes.sum() * no.sum() - with_itself
    return float(((yes * (below + no / 2)).sum() - with_itself / 2) / pairs) if pairs > 0 else float("nan")


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean binary cross-entropy of logits [N] and labels [N], in nats."""
    logits = logits.astype(np.float64)
    return float(np.mean(np.logaddexp(0, logits) - labels * logits))


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the positives (labels [N] of 1) of the share of positives among all with at least their score.

    Raises UserError for scores [N] that are not finite.
    """
    _check_finite(scores)
    place = rankdata(-scores, "max").astype(np.int64)  # how many score at least as high
    found = np.bincount(place, labels, minlength=len(scores) + 1)
    precision = np.cumsum(found) / np.maximum(np.arange(len(found)), 1)
    return float((precision * found).sum() / found.sum())


def _check_finite(scores: np.ndarray) -> None:
    """A model that diverged has no ranking."""
    if wrong := int((~np.isfinite(scores)).sum()):
        raise UserError(f"{wrong:,} of {len(scores):,} predictions are not finite: they cannot be ranked")
