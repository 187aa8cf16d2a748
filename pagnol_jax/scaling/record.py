"""One record for every run that a law is fitted to, whether it comes from a run folder or from a table.

Units are in the names. A loss is in nats per token: readers convert bits per byte, exactly, or refuse. A FLOP
count always says by which convention it was counted, since PAGnol's own paper uses two: Figure 1 counts
6 * N_non_embedding * D, Tables 1 and 3 count 6 * N_total * D (`conventions` tells them apart).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from pagnol_jax.errors import UserError

Array = NDArray[np.float64]
Loss = TypeVar("Loss", float, Array)
NOT_STATED = "not stated"


class ComputeUnit(NamedTuple):
    """A unit of compute: its printed name and its size in FLOP."""

    name: str
    flops: float


FLOP = ComputeUnit("FLOP", 1.0)
PF_DAY = ComputeUnit("PF-days", 8.64e19)  # 1e15 FLOP/s for a day (Kaplan et al. 2020, section 1.3)


class Convention(NamedTuple):
    """How compute was counted: a printed name, the same in TeX; of a run, the FLOP per token and N (or None)."""

    name: str
    tex: str
    flops_per_token: Callable[[RunRecord], float | None]
    parameters: Callable[[RunRecord], float | None]


class Curve(NamedTuple):
    """The checkpoints of one run in order of compute, float64 [P]; tokens are NaN where nobody says."""

    tokens: Array
    compute_flops: Array
    loss_nats_per_token: Array


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One training run: its size, its conventions, its curve. None means that the source does not say.

    `annealed` tells whether the last checkpoint closes a full learning-rate schedule. `corpus` and
    `tokenizer` are identities: losses of runs whose strings differ do not compare in nats per token.
    `learning_rate` is the peak of the schedule, `batch_tokens` are tokens a step, and `unique_tokens` the size
    of the data, below the tokens seen where they were repeated.
    """

    name: str
    curve: Curve
    convention: Convention | None = None
    parameters: float | None = None
    parameters_non_embedding: float | None = None
    attention_flops_per_token: float | None = None
    annealed: bool | None = None
    tokenizer: str | None = None
    bytes_per_token: float | None = None
    corpus: str | None = None
    learning_rate: float | None = None
    batch_tokens: float | None = None
    unique_tokens: float | None = None

    def __post_init__(self) -> None:
        """Sorts the curve by compute. Raises UserError where what is stated is not finite and positive."""
        curve = Curve(*(np.asarray(column, np.float64).reshape(-1) for column in self.curve))
        if not curve.loss_nats_per_token.size:
            raise UserError(f"run {self.name!r} has no checkpoint")
        stated = curve.tokens[~np.isnan(curve.tokens)]
        self._check("loss", curve.loss_nats_per_token)
        self._check("compute", curve.compute_flops)
        self._check("number of tokens", stated)
        for field in _POSITIVE:
            if getattr(self, field) is not None:
                self._check(f"value of {field}", np.array([getattr(self, field)], np.float64))
        order = np.argsort(curve.compute_flops, kind="stable")
        object.__setattr__(self, "curve", Curve(*(column[order] for column in curve)))

    def _check(self, what: str, values: Array) -> None:
        bad = values[~(np.isfinite(values) & (values > 0))]
        if bad.size:
            raise UserError(f"run {self.name!r} has a {what} of {bad[0]:g}: it must be finite and positive")

    @property
    def known_tokens(self) -> Array:
        """Tokens [P]; those that the source does not state are had back from its compute convention, else NaN."""
        per_token = (self.convention and self.convention.flops_per_token(self)) or np.nan
        stated = self.curve.tokens
        return np.where(np.isnan(stated), self.curve.compute_flops / per_token, stated)

    @property
    def counted_parameters(self) -> float | None:
        """N of the run's compute convention; where none is stated the non-embedding size, else the total."""
        if self.convention is None:
            return self.parameters_non_embedding or self.parameters
        return self.convention.parameters(self)

    @property
    def bits_per_byte(self) -> Array | None:
        """Loss in bits per byte [P], free of the tokenizer; None without bytes per token."""
        if self.bytes_per_token is None:
            return None
        return bits_per_byte(self.curve.loss_nats_per_token, self.bytes_per_token)


# Fields of a record that are sizes: positive where stated.
_POSITIVE = (
    "parameters", "parameters_non_embedding", "bytes_per_token", "learning_rate", "batch_tokens", "unique_tokens",
)  # fmt: skip


def nats_per_token(bits: Array, bytes_per_token: float) -> Array:
    """Loss in nats per token [P] of a loss in bits per byte [P], exactly."""
    return bits * math.log(2) * bytes_per_token


def bits_per_byte(nats: Loss, bytes_per_token: float) -> Loss:
    """Loss in bits per byte [...] of a loss in nats per token [...], exactly."""
    return nats / (math.log(2) * bytes_per_token)


def _size(run: RunRecord) -> float | None:
    return run.parameters


def _size_non_embedding(run: RunRecord) -> float | None:
    return run.parameters_non_embedding


def _total(run: RunRecord) -> float | None:
    return None if run.parameters is None else 6 * run.parameters


def _non_embedding(run: RunRecord) -> float | None:
    return None if run.parameters_non_embedding is None else 6 * run.parameters_non_embedding


def _with_attention(run: RunRecord) -> float | None:
    if run.parameters_non_embedding is None or run.attention_flops_per_token is None:
        return None
    return 6 * run.parameters_non_embedding + run.attention_flops_per_token


NON_EMBEDDING = Convention("6*N_non_embedding*D", r"6\,N_\mathrm{non\,emb}\,D", _non_embedding, _size_non_embedding)
TOTAL = Convention("6*N_total*D", r"6\,N_\mathrm{total}\,D", _total, _size)
WITH_ATTENTION = Convention(
    "(6*N_non_embedding+attention)*D",
    r"(6\,N_\mathrm{non\,emb} + \mathrm{attention})\,D",
    _with_attention,
    _size_non_embedding,
)
CONVENTIONS = {"non_embedding": NON_EMBEDDING, "total": TOTAL, "with_attention": WITH_ATTENTION}


def with_convention(run: RunRecord, convention: Convention) -> RunRecord:
    """The same run with its compute counted by `convention`, exactly: FLOP per token times tokens.

    Tokens that the source does not state are had back from its own convention. Raises UserError where the
    sizes that either convention needs are unknown.
    """
    if run.convention == convention:
        return run
    tokens = run.known_tokens
    wanted = convention.flops_per_token(run)
    if wanted is None or np.isnan(tokens).any():
        said = run.convention.name if run.convention else NOT_STATED
        raise UserError(
            f"run {run.name!r} (compute convention: {said}) cannot be counted as {convention.name}: "
            "it lacks the parameters or the tokens"
        )
    return replace(run, convention=convention, curve=run.curve._replace(tokens=tokens, compute_flops=wanted * tokens))


def check_comparable(runs: Sequence[RunRecord]) -> None:
    """Raises UserError unless all runs share one compute convention, one tokenizer and one corpus."""
    aspects: tuple[tuple[str, Callable[[RunRecord], str | None], str], ...] = (
        (
            "compute convention",
            lambda run: run.convention and run.convention.name,
            "convert with --convention",
        ),
        ("tokenizer", lambda run: run.tokenizer, "nats per token would not compare"),
        ("corpus", lambda run: run.corpus, "their losses would not compare"),
    )
    for what, of, advice in aspects:
        for run in runs[1:]:
            first, other = of(runs[0]) or NOT_STATED, of(run) or NOT_STATED
            if first != other:
                raise UserError(
                    f"runs {runs[0].name!r} and {run.name!r} differ in {what} ({first}; {other}): "
                    f"{advice}, or fit them apart"
                )


def counted_alike(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The same runs with their compute counted by one convention, where that can be.

    Where they differ, it is the first of `CONVENTIONS` that one of them states and that counts all of them exactly;
    where there is none, they are left as they are.
    """
    stated = {run.convention for run in runs}
    for convention in CONVENTIONS.values() if len(stated) > 1 else ():
        if convention in stated:
            with contextlib.suppress(UserError):
                return [with_convention(run, convention) for run in runs]
    return list(runs)


def harmonise(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Runs counted alike, ready for one fit. Raises UserError as `check_comparable`."""
    runs = counted_alike(runs)
    check_comparable(runs)
    return runs
