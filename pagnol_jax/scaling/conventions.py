"""Which convention a stated compute was counted by, and which size a curve of compute belongs to.

PAGnol (Launay et al., arXiv 2110.08554) states neither: its Tables 1 and 3 match 6 * N_total * D, its Figure 1
6 * N_non_embedding * D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.record import CONVENTIONS, Array, Convention, RunRecord

TOLERANCE = 0.02


class Match(NamedTuple):
    """A convention held against stated compute: `relative_errors` [R] are counted / stated - 1, one per run."""

    convention: Convention
    relative_errors: Array

    @property
    def total_log_error(self) -> float:
        """Sum over runs of |log(counted / stated)|."""
        return float(np.abs(np.log1p(self.relative_errors)).sum())

    @property
    def worst_percent(self) -> float:
        """The largest relative error of a run, in %."""
        return float(100 * np.abs(self.relative_errors).max())


def match_conventions(runs: Sequence[RunRecord]) -> list[Match]:
    """Every convention that counts all the runs, by its total log error on their last checkpoints, best first.

    What a record says of its own convention is not looked at. Raises UserError for a run without tokens, or
    without the sizes that any convention needs.
    """
    for run in runs:
        if np.isnan(run.curve.tokens[-1]):
            raise UserError(f"run {run.name!r} states no tokens: no convention can be held against its compute")
    tokens, compute = np.array([(run.curve.tokens[-1], run.curve.compute_flops[-1]) for run in runs]).T
    matches = []
    for convention in CONVENTIONS.values():
        per_token = [convention.flops_per_token(run) for run in runs]
        if None not in per_token:
            matches.append(Match(convention, np.array(per_token, np.float64) * tokens / compute - 1))
    if not matches:
        raise UserError(f"no convention counts all of {', '.join(run.name for run in runs)}: sizes are not stated")
    return sorted(matches, key=lambda match: match.total_log_error)


def infer_convention(runs: Sequence[RunRecord], tolerance: float = TOLERANCE) -> Match:
    """The convention that best reproduces the compute of all the runs, which state tokens and sizes.

    Args:
      runs: of one source. Numbers printed to few digits need several runs and a larger tolerance.
      tolerance: the largest relative error of any run.

    Raises:
      UserError: none reproduces every run within the tolerance, or as `match_conventions`.
    """
    best = match_conventions(runs)[0]
    if best.worst_percent > 100 * tolerance:
        raise UserError(
            f"no convention reproduces the stated compute within {100 * tolerance:g} %: "
            f"the best, {best.convention.name}, is {best.worst_percent:.1f} % off"
        )
    return best


def with_tokens_between(run: RunRecord, tokens: float) -> RunRecord:
    """The run with its tokens read off its compute, evaluated every `tokens` tokens from the first such on.

    Compute is proportional to tokens, and the first checkpoint has seen `tokens` of them. Raises UserError
    unless the usual gap between checkpoints is the first one's compute, to 2 %.
    """
    compute = run.curve.compute_flops
    if compute.size < 2 or abs(np.median(np.diff(compute)) / compute[0] - 1) > TOLERANCE:
        raise UserError(f"run {run.name!r} is not evaluated evenly from the start: its tokens cannot be told")
    return replace(run, curve=run.curve._replace(tokens=tokens * compute / compute[0]))


def infer_size(
    run: RunRecord, candidates: Sequence[float], tokens_between: float, tolerance: float = TOLERANCE
) -> tuple[float, float]:
    """Which of the sizes N makes C = 6 N D of a curve of compute alone, and the relative error of its compute.

    Args:
      run: its convention and sizes are not looked at.
      candidates: parameters, counted in any way: the answer tells which way the curve was counted.
      tokens_between: tokens from one evaluation to the next.
      tolerance: the largest relative error.

    Raises:
      UserError: no candidate fits within the tolerance, or as `with_tokens_between`.
    """
    curve = with_tokens_between(run, tokens_between).curve
    implied = float(curve.compute_flops[0] / (6 * tokens_between))
    best = min(candidates, key=lambda size: abs(np.log(size / implied)))
    error = best / implied - 1
    if abs(error) > tolerance:
        raise UserError(
            f"the compute of run {run.name!r} implies {implied:,.0f} parameters: no candidate is within "
            f"{100 * tolerance:g} % (the nearest is {best:,.0f})"
        )
    return best, error
