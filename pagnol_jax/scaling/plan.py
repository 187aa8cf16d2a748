"""From a law and a compute budget to a plan: size, tokens and loss with intervals, and what smaller models cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.allocate import Allocation, at_size, cheapest, exponents, lifetime_optimum, optimum, overtrained
from pagnol_jax.scaling.estimate import Estimate, estimate
from pagnol_jax.scaling.laws import CHINCHILLA, Law, from_constants
from pagnol_jax.scaling.parametric import LawFit, fit_law
from pagnol_jax.scaling.points import final_points
from pagnol_jax.scaling.record import Array, RunRecord

DRAWS = 1000
SHRINKS = (2, 4, 8)  # how much smaller than the optimum the over-trained models are
TYPICAL_NOISE = 0.003  # std of log loss about a law: the .3 % of the annealed OLMo ladder's residuals


class Basis(NamedTuple):
    """The law that a plan stands on.

    parameters: [K]. draws: [R, K] of a bootstrap, none for published constants. noise: std of log loss of a run about
    the law. with_embedding: whether N counts the embeddings. largest_flops: 6 N D of the largest run fitted. fit: None
    for published constants.
    """

    law: Law
    parameters: Array
    draws: Array
    source: str
    noise: float
    with_embedding: bool
    largest_flops: float | None = None
    fit: LawFit | None = None

    def estimate(self, derived: Callable[[Array], Array]) -> Estimate:
        """Of a quantity derived from parameters, [..., K] to [...]."""
        return estimate(derived(self.parameters), derived(self.draws))


def _published(source: str, **values: float) -> Basis:
    parameters = from_constants(CHINCHILLA, **values)
    return Basis(CHINCHILLA, parameters, np.empty((0, parameters.size)), source, TYPICAL_NOISE, with_embedding=True)


# Nats per token of their own tokenizer and corpus, N with embeddings. The rounded constants that Hoffmann et al. print
# put N* 20 % lower at Gopher's budget: these are the digits of their TeX source, found by Besiroglu et al.
PUBLISHED = {
    "hoffmann": _published(
        "Hoffmann et al. 2022 (arXiv 2203.15556), approach 3, unrounded",
        A=np.exp(6.0073404),
        B=np.exp(6.0179186),
        E=np.exp(0.5267228),
        alpha=0.33917084,
        beta=0.2849083,
    ),
    "besiroglu": _published(
        "Besiroglu et al. 2024 (arXiv 2404.10102), refit of Hoffmann's runs",
        A=482.01,
        B=2085.43,
        E=1.8172,
        alpha=0.3478,
        beta=0.3658,
    ),
}


def basis_of(runs: Sequence[RunRecord], draws: int = DRAWS) -> Basis:
    """Chinchilla's law fitted to the last checkpoints of comparable runs, with a bootstrap over runs.

    Raises UserError as `fit_law`: unknown tokens or sizes, one run, runs that are all alike.
    """
    points = final_points(runs)
    size, tokens = points.parameters, points.tokens
    fit = fit_law(CHINCHILLA, {"N": size, "D": tokens}, points.loss_nats_per_token, run=points.run, draws=draws)
    return Basis(
        law=CHINCHILLA,
        parameters=fit.parameters,
        draws=fit.draws,
        source=f"fitted to {len(runs)} runs, {fit.objective.name} on log loss",
        noise=float(np.sqrt((fit.residuals**2).sum() / (size.size - fit.parameters.size))),
        with_embedding=runs[0].counted_parameters != runs[0].parameters_non_embedding,
        largest_flops=float((6 * size * tokens).max()),
        fit=fit,
    )


class Smaller(NamedTuple):
    """A model `shrink` times smaller than the optimum, trained until it is as good.

    allocation: infinite tokens where it never is. compute_factor: its training compute over the optimum's.
    pays_from_tokens: inference tokens from which it costs less over its life, at 2 N FLOP a token.
    """

    shrink: int
    allocation: Allocation
    compute_factor: Estimate
    pays_from_tokens: float


class Plan(NamedTuple):
    """What `compute_flops` = 6 N D buys by a law; intervals are 95 %, NaN for published constants.

    best: the optimum. ratio: tokens per parameter. exponent: a of N* ~ C^a. lifetime: the model of least compute over
    its life that is as good, where `inference_tokens` are given. lost_draws: share of the bootstrap without an optimum.
    """

    basis: Basis
    compute_flops: float
    best: Allocation
    parameters: Estimate
    tokens: Estimate
    ratio: Estimate
    loss: Estimate
    exponent: Estimate
    smaller: tuple[Smaller, ...]
    inference_tokens: float | None
    lifetime: Allocation | None
    lost_draws: float

    @property
    def extrapolation(self) -> float | None:
        """Compute over that of the largest run fitted, None for published constants."""
        return None if self.basis.largest_flops is None else self.compute_flops / self.basis.largest_flops


def make_plan(basis: Basis, compute_flops: float, inference_tokens: float | None = None) -> Plan:
    """The plan for a compute budget (6 N D, FLOP); `inference_tokens` as in `lifetime_optimum`.

    Raises UserError for a law without an optimum.
    """

    def best(parameters: Array) -> Allocation:
        return optimum(basis.law, parameters, compute_flops)

    chosen, drawn = best(basis.parameters), best(basis.draws)
    if not np.isfinite(chosen.loss):
        raise UserError("the fitted loss does not fall in both size and tokens: there is no optimum")
    return Plan(
        basis=basis,
        compute_flops=compute_flops,
        best=chosen,
        parameters=estimate(chosen.parameters, drawn.parameters),
        tokens=estimate(chosen.tokens, drawn.tokens),
        ratio=estimate(chosen.tokens / chosen.parameters, drawn.tokens / drawn.parameters),
        loss=estimate(chosen.loss, drawn.loss),
        exponent=basis.estimate(lambda parameters: exponents(basis.law, parameters)[0]),
        smaller=tuple(_smaller(basis, compute_flops, shrink) for shrink in SHRINKS),
        inference_tokens=inference_tokens,
        lifetime=None
        if inference_tokens is None
        else lifetime_optimum(basis.law, basis.parameters, chosen.loss, inference_tokens),
        lost_draws=float(np.mean(~np.isfinite(drawn.loss))) if drawn.loss.size else 0.0,
    )


def _smaller(basis: Basis, compute_flops: float, shrink: int) -> Smaller:
    def allocation(parameters: Array) -> Allocation:
        best = optimum(basis.law, parameters, compute_flops)
        return overtrained(basis.law, parameters, best.loss, best.parameters / shrink)

    chosen = allocation(basis.parameters)
    return Smaller(
        shrink=shrink,
        allocation=chosen,
        compute_factor=basis.estimate(lambda parameters: allocation(parameters).compute_flops / compute_flops),
        pays_from_tokens=float((chosen.compute_flops - compute_flops) / (2 * chosen.parameters * (shrink - 1))),
    )


class RungPlan(NamedTuple):
    """A given model trained on the whole budget: its size and tokens, its loss, and the compute of an optimum as good.

    steps, command: how it is trained.
    """

    name: str
    allocation: Allocation
    loss: Estimate
    worth_flops: float
    steps: int
    command: str


def plan_rung(plan: Plan, name: str, size: float, tokens_per_step: int, command: Callable[[int], str]) -> RungPlan:
    """The plan of a model of N = `size`; `command` says for a number of steps how to train it."""
    basis = plan.basis
    allocation = at_size(basis.law, basis.parameters, plan.compute_flops, size)
    steps = max(1, round(float(allocation.tokens) / tokens_per_step))
    return RungPlan(
        name=name,
        allocation=allocation,
        loss=basis.estimate(lambda parameters: at_size(basis.law, parameters, plan.compute_flops, size).loss),
        worth_flops=float(cheapest(basis.law, basis.parameters, allocation.loss).compute_flops),
        steps=steps,
        command=command(steps),
    )
