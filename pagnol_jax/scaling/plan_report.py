"""A plan told in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pagnol_jax.scaling.estimate import Estimate
from pagnol_jax.scaling.laws import constants
from pagnol_jax.scaling.plan import Plan, Smaller
from pagnol_jax.scaling.plan_notes import Report, notes
from pagnol_jax.scaling.record import PF_DAY
from pagnol_jax.scaling.text import aligned, count


def as_text(report: Report) -> str:
    """What `pagnol scaling plan` prints."""
    sections = (
        _premises(report),
        _optimum(report.plan),
        [*_smaller(report.plan), *_lifetime(report.plan)],
        _rung(report),
        _ladder(report),
        [f"note       {note}" for note in notes(report)],
    )
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _premises(report: Report) -> list[str]:
    budget, basis = report.budget, report.plan.basis
    values = ", ".join(f"{name} {value:.4g}" for name, value in constants(basis.law, basis.parameters).items())
    compute = budget.compute_flops
    lines = [
        f"law        {basis.law.formula}: {values}",
        f"source     {basis.source}",
        f"budget     {budget.slice.name}: {budget.slice.chips:,} x "
        f"{budget.slice.chip.peak_flops_per_second:.3g} FLOP/s x {100 * budget.mfu:g} % x {budget.hours:,.4g} h",
        f"compute    {compute:.3g} FLOP = {compute / PF_DAY.flops:,.3g} PF-days, as 6 N D, N "
        f"{'with' if basis.with_embedding else 'without'} embeddings",
    ]
    if budget.cost is not None:
        lines.append(f"cost       {budget.chip_hours:,.4g} chip-hours at {budget.price:g} = {budget.cost:,.0f}")
    return lines


def _optimum(plan: Plan) -> list[str]:
    return [
        f"N*         {_estimate(plan.parameters, count)} parameters",
        f"D*         {_estimate(plan.tokens, count)} tokens, {_estimate(plan.ratio, count)} per parameter",
        f"loss       {_estimate(plan.loss, '{:.4f}'.format)} nats per token",
        f"exponent   {_estimate(plan.exponent, '{:.4f}'.format)} of N* ~ C^a",
    ]


def _smaller(plan: Plan) -> list[str]:
    header = ("as good", "N", "tokens", "per N", "training", "serving", "pays from (tokens served)")
    return aligned([header, *map(_smaller_row, plan.smaller)], least=9)


def _smaller_row(smaller: Smaller) -> Sequence[str]:
    size, tokens, _ = smaller.allocation
    name, served = f"N* / {smaller.shrink}", f"x {1 / smaller.shrink:.3g}"
    if not np.isfinite(tokens):
        return name, count(size), "never", "-", "-", served, "-"
    factor = f"x {_estimate(smaller.compute_factor, count)}"
    return name, count(size), count(tokens), count(tokens / size), factor, served, count(smaller.pays_from_tokens)


def _lifetime(plan: Plan) -> Iterable[str]:
    if plan.lifetime is None or plan.inference_tokens is None:
        return
    served = plan.inference_tokens
    whole, usual = (float(model.compute_flops + 2 * model.parameters * served) for model in (plan.lifetime, plan.best))
    yield (
        f"serving    {count(served)} tokens at this loss costs least with N = {count(plan.lifetime.parameters)} on "
        f"{count(plan.lifetime.tokens)} tokens: {whole:.3g} FLOP over its life, "
        f"{100 * (1 - whole / usual):.2g} % less than with N*"
    )


def _rung(report: Report) -> list[str]:
    rung, compute = report.rung, report.budget.compute_flops
    size, tokens, _ = rung.allocation
    return [
        f"rung       {rung.name}: N = {count(size)}, {count(tokens)} tokens, {rung.steps:,} steps, "
        f"loss {_estimate(rung.loss, '{:.4f}'.format)}",
        f"           as good as an optimal model on {100 * rung.worth_flops / compute:.3g} % of the compute",
        f"           {rung.command}",
    ]


def _ladder(report: Report) -> list[str]:
    if report.ladder is None:
        return [f"ladder     none: {report.no_ladder}"]
    design, budget = report.ladder.design, report.budget
    total = float(design.compute_flops.sum())
    share = total / budget.compute_flops
    runs = [("ladder", "N", "tokens", "per N", "FLOP")]
    for number, (size, tokens, flops) in enumerate(zip(*design, design.compute_flops, strict=True), start=1):
        runs.append((f"{number}", count(size), count(tokens), count(tokens / size), f"{flops:.2e}"))
    errors = [("standard error of", "loss", "N*", "a")]
    for name, told in (("this ladder", report.ladder.precision), ("runs along the optimum", report.ladder.usual)):
        errors.append((name, _percent(told.log_loss), _percent(told.log_parameters), count(told.exponent)))
    return [
        *aligned(runs, least=9),
        f"in all     {total:.3g} FLOP, {100 * share:.2g} % of the budget, {share * budget.hours:.3g} h of the slice",
        "",
        *aligned(errors, least=9),
        f"           predicted for this budget, with runs that scatter by {100 * report.plan.basis.noise:.2g} %",
    ]


def _percent(value: float) -> str:
    return f"{100 * value:.2g} %" if np.isfinite(value) else "-"


def _estimate(value: Estimate, text: Callable[[float], str]) -> str:
    """`0.52 [0.48, 0.57]`; the value alone where there are no draws."""
    return text(value.value) + ("" if np.isnan(value.low) else f" [{text(value.low)}, {text(value.high)}]")
