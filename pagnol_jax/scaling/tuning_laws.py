"""Learning rate and batch size as power laws of model size and tokens, fitted to swept cells. Float64 throughout.

A law is fitted to the near-optimal trials of all cells, each cell weighing the same, and judged by what it predicts
for a cell that it has not seen. Compute is C = 6 N D wherever a law speaks of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.estimate import PERCENTILES
from pagnol_jax.scaling.record import Array
from pagnol_jax.scaling.tuning import Cell

MIN_SPREAD = 0.05  # rms of log N, D or C over cells, below which an exponent would be noise
VARIABLES = ("ND", "C", "N", "D", "")  # of the laws on offer


class TuningLaw(NamedTuple):
    """A power law of the hyperparameter `of`: a prefactor and an exponent for each of `variables`.

    variables: one of `VARIABLES`, letters for parameters N, tokens D and C = 6 N D (FLOP); none for a constant.
    constants: logarithm of the prefactor, then the exponents [1 + K]. Batches are in tokens.
    """

    of: str
    variables: str
    constants: Array
    source: str = "fitted"

    def predict(self, parameters: ArrayLike, tokens: ArrayLike) -> Array:
        """The hyperparameter [...] at model sizes and tokens [...]."""
        return _predict(self.constants, _features(self.variables, parameters, tokens))

    @property
    def formula(self) -> str:
        """As printed: learning_rate = 1.79 N^-0.713 D^0.307."""
        powers = [f" {name}^{power:.4g}" for name, power in zip(self.variables, self.constants[1:], strict=True)]
        return f"{self.of} = {np.exp(self.constants[0]):.4g}{''.join(powers)}"


def _published(of: str, variables: str, prefactor: float, exponents: Sequence[float], source: str) -> TuningLaw:
    return TuningLaw(of, variables, np.array([np.log(prefactor), *exponents]), source)


_STEP_LAW = "Step Law, arXiv 2503.04715; N non-embedding, batch in tokens"
_DEEPSEEK = "DeepSeek LLM, arXiv 2401.02954, eq. 1; its C = M D, M non-embedding FLOP per token with attention"
PUBLISHED = (
    _published("learning_rate", "ND", 1.79, (-0.713, 0.307), _STEP_LAW),
    _published("batch_tokens", "D", 0.58, (0.571,), _STEP_LAW),
    _published("learning_rate", "C", 0.3118, (-0.1250,), _DEEPSEEK),
    _published("batch_tokens", "C", 0.2920, (0.3271,), _DEEPSEEK),
)


class Misses(NamedTuple):
    """How far a law's values are from the cells' [cells]: the factor between them (1 is exact) and what it costs.

    `excess` is the relative excess of loss at the predicted value, NaN where a cell's sweep does not reach it.
    """

    factor: Array
    excess: Array


class LawFit(NamedTuple):
    """A law of `cells`, its bootstrap and what laws fitted without a cell predict for it.

    draws: constants [R, 1 + K] of refits; `draws_skipped` more drew cells that hold no such law. Fewer than three
    cells have no draws. left_out: values [cells], NaN where the other cells hold no such law.
    """

    law: TuningLaw
    cells: tuple[Cell, ...]
    centres: Array
    draws: Array
    draws_skipped: int
    left_out: Array

    @property
    def interval(self) -> Array | None:
        """95 % percentile intervals of the constants [2, 1 + K], None without draws."""
        return np.percentile(self.draws, PERCENTILES, axis=0) if self.draws.size else None

    def band(self, parameters: ArrayLike, tokens: ArrayLike) -> Array | None:
        """95 % percentile band of the hyperparameter at model sizes and tokens [P]: [2, P], None without draws."""
        if not self.draws.size:
            return None
        features = _features(self.law.variables, parameters, tokens)
        return np.percentile(_predict(self.draws[:, None], features), PERCENTILES, axis=0)

    @property
    def leave_one_out(self) -> Misses:
        """Errors [cells] of the laws that were fitted without the cell."""
        return misses(self.left_out, self.cells, self.centres)


def near_centre(cell: Cell) -> float:
    """Log of the geometric mean of the near-optimal values."""
    return float(np.log(cell.value[cell.near]).mean())


def vertex(cell: Cell) -> float:
    """Log of the optimum: less bound to the grid that was swept, more to the noise of few trials."""
    return float(np.log(cell.optimum))


def fit_law(
    of: str,
    cells: Sequence[Cell],
    variables: str | None = None,
    centre: Callable[[Cell], float] = near_centre,
    draws: int = 2000,
    seed: int = 0,
) -> LawFit:
    """Least squares of log value = c + a log N + b log D over cells.

    A trial of a near-optimal set of n weighs 1 / n. All share their cell's N and D, so that is least squares on
    the sets' means, one for each cell.

    Args:
      of: name of the hyperparameter.
      variables: one of `VARIABLES`; None takes N and D where the cells tell them apart, else what varies.
      centre: log of the value that stands for a cell, `near_centre` or `vertex`.
      draws, seed: of the bootstrap, which resamples cells.

    Raises:
      UserError: cells that cannot identify the law.
    """
    sizes, tokens = np.array([(cell.parameters, cell.tokens) for cell in cells]).reshape(-1, 2).T
    if sizes.size < 2:
        raise UserError(f"a law of {of} needs cells of several sizes or numbers of tokens, not {sizes.size} cell")
    variables = _what_varies(sizes, tokens) if variables is None else variables
    if variables not in VARIABLES:
        raise UserError(f"no law of {of} in {variables!r}: choose from {', '.join(filter(None, VARIABLES))}")
    x, y = _features(variables, sizes, tokens), np.array([centre(cell) for cell in cells])
    constants = _solve(x, y)
    if np.isnan(constants).any():
        how = "by too little" if len(variables) == 1 else "too little, or not independently,"
        raise UserError(f"these {y.size} cells vary {' and '.join(variables)} {how} for a law of {of} in {variables}")
    everyone = np.arange(y.size)
    others = np.array([np.delete(everyone, cell) for cell in everyone])  # [cells, cells - 1]
    picks = np.random.default_rng(seed).integers(y.size, size=(draws if y.size > 2 else 0, y.size))
    refits = _solve(x[picks], y[picks])
    kept = refits[~np.isnan(refits).any(-1)]
    left_out = _predict(_solve(x[others], y[others]), x)
    return LawFit(TuningLaw(of, variables, constants), tuple(cells), y, kept, len(picks) - len(kept), left_out)


def _what_varies(sizes: Array, tokens: Array) -> str:
    def told(variables: str) -> bool:
        return not np.isnan(_solve(_features(variables, sizes, tokens), np.zeros(sizes.size))).any()

    if told("ND"):
        return "ND"
    if told("N") and told("D") and told("C"):  # N and D in one proportion, as where D = 20 N
        return "C"
    return next((name for name in "ND" if told(name)), "ND")


def _features(variables: str, parameters: ArrayLike, tokens: ArrayLike) -> Array:
    """Logs [..., K] of the variables at sizes and tokens [...]."""
    n, d = np.broadcast_arrays(np.log(parameters), np.log(tokens))
    logs = {"N": n, "D": d, "C": np.log(6) + n + d}
    return np.moveaxis(np.reshape([logs[name] for name in variables], (len(variables), *n.shape)), 0, -1)


def _predict(constants: Array, features: Array) -> Array:
    return np.exp(constants[..., 0] + (constants[..., 1:] * features).sum(-1))


def _solve(features: Array, centres: Array) -> Array:
    """Least-squares constants [..., 1 + K] of features [..., cells, K]; NaN where cells do not tell them."""
    mean, count = features.mean(-2, keepdims=True), features.shape[-2]
    x, y = features - mean, centres - centres.mean(-1, keepdims=True)
    slopes = (np.linalg.pinv(x) @ y[..., None])[..., 0]
    first = centres.mean(-1) - (slopes * mean[..., 0, :]).sum(-1)
    # The spread of the cells in the direction of log N, log D in which they are most alike.
    spread = np.linalg.svd(x, compute_uv=False).min(-1, initial=np.inf) / np.sqrt(count)
    return np.where((spread >= MIN_SPREAD)[..., None], np.concatenate([first[..., None], slopes], -1), np.nan)


def misses(predicted: Array, cells: Sequence[Cell], centres: Array) -> Misses:
    """Errors of predicted values [cells] against the logs of those that stand for the cells [cells]."""
    factor = np.exp(np.abs(np.log(predicted) - centres))
    return Misses(factor, np.array([cell.excess(value) for cell, value in zip(cells, predicted, strict=True)]))
