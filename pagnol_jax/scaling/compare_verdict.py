"""What the intervals of a comparison support, in sentences, and what a reader should hold against it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pagnol_jax.scaling.compare import Comparison
from pagnol_jax.scaling.estimate import Estimate
from pagnol_jax.scaling.group_frontiers import BITS, NATS, POWER, Frontier, Group
from pagnol_jax.scaling.record import ComputeUnit
from pagnol_jax.scaling.report import FEW_RUNS

FEW_DECADES = 2
FEW_DRAWS = 0.9  # share of resamples that determine a law, below which a reader is told
CONDITION = 1e10  # of a fit, above which its constants are hardly told apart


def verdict(comparison: Comparison, unit: ComputeUnit) -> list[str]:
    """What the intervals support, sentence by sentence, by the law that predicts best and by pairs of runs."""
    (a, b), judged = (group.name for group in comparison.groups), comparison.units[0]
    law, paired = judged.judge, judged.paired
    pairs = f"{paired.designs} designs in pairs" if paired else ""
    said = [_on_exponent(law.exponent, a, b, law.law)]
    if paired and paired.exponent and law.law == POWER:
        said.append(_on_exponent(paired.exponent, a, b, pairs))
    if not judged.comparable:
        return [*said, f"the losses of {a} and {b} cannot be compared: {NATS} of two tokenizers, no bytes per token"]
    if paired:
        said.append(_on_loss(paired.ratio, a, b, f"{pairs}: at equal N and D", judged.unit))
    if law.loss:
        where = f"{law.law}: at {judged.compute_flops[1] / unit.flops:.3g} {unit.name}"
        said.append(_on_loss(law.loss[1], a, b, where, judged.unit))
    if not law.compute:
        return [*said, f"no loss was reached by both {a} and {b}, so their compute at equal loss is not compared"]
    said.append(f"{law.law}: {_on_compute(law.compute[1], a, b)} for {judged.loss[1]:.4g} {judged.unit}")
    others = [each for each in judged.laws if _side(each.compute[1], 1) != _side(law.compute[1], 1)]
    return [*said, *(f"but {each.law}: {times(each.compute[1])} there, the laws do not agree" for each in others)]


def _on_exponent(difference: Estimate, a: str, b: str, by: str) -> str:
    side, value = _side(difference, 0), f"{b} - {a} = {signed(difference)}"
    if side is None:
        return f"{by}: the exponents differ by {value}, without an interval: too few runs"
    if side == 0:
        return f"{by}: no difference between the exponents is shown: {value} includes 0"
    return f"{by}: the loss of {b} falls {'more slowly' if side > 0 else 'faster'} with compute: exponents {value}"


def _on_loss(ratio: Estimate, a: str, b: str, where: str, unit: str) -> str:
    side, value = _side(ratio, 1), percent(ratio)
    if side is None:
        return f"{where}, the loss of {b} is {value} off that of {a} in {unit}, without an interval: too few runs"
    if side == 0:
        return f"{where}, no difference between the losses in {unit} is shown: {b} over {a} {value} includes 0"
    return f"{where}, the loss of {b} is {'higher' if side > 0 else 'lower'} than that of {a} in {unit}: {value}"


def _on_compute(ratio: Estimate, a: str, b: str) -> str:
    said = {None: " (without an interval: too few runs)", 0: " (which includes 1: no difference is shown)"}
    return f"{b} needs {times(ratio)}{said.get(_side(ratio, 1), '')} the compute of {a}"


def _side(of: Estimate, neutral: float) -> int | None:
    """1 or -1 where the whole interval lies above or below, 0 where it does not, None without an interval."""
    if math.isnan(of.low) or math.isnan(of.high):
        return None
    return int(of.low > neutral) - int(of.high < neutral)


def notes(comparison: Comparison) -> list[str]:
    """What a reader should hold against a comparison, a line each."""
    lines = list(_on_units(comparison))
    for group, frontiers, why in zip(comparison.groups, comparison.frontiers, comparison.without, strict=True):
        lines += [f"{group.name}: {note}" for note in (*_on_runs(group), *_on_fits(frontiers, why))]
    return lines


def _on_units(comparison: Comparison) -> Iterable[str]:
    a, b = comparison.groups
    judged = comparison.units[0]
    if _same_runs(a, b):
        yield f"{a.name} and {b.name} are the same runs: differences are 0, their intervals of separate draws"
    if judged.unit == NATS:
        yield "bytes per token are not stated for all runs, so there are no bits per byte"
    if a.runs[0].tokenizer != b.runs[0].tokenizer:
        yield f"the tokenizers differ: {NATS} do not compare, {BITS} and exponents do"
    elif a.runs[0].tokenizer is None:
        yield f"no tokenizer is stated: {NATS} compare if it is the same one"
    if a.runs[0].corpus != b.runs[0].corpus:
        yield "the texts differ, so what is compared is models and texts: how hard to predict, how many bytes a letter"
    if judged.judge.law != POWER:
        yield "the power laws predict held-out runs less well: their exponents hold at these computes, not beyond"
    if not judged.compute_flops.size:
        yield "the efficient runs of the groups share no range of compute, so no loss is compared at equal compute"


def _same_runs(a: Group, b: Group) -> bool:
    same = [run.name for run in a.runs] == [run.name for run in b.runs]
    return same and np.array_equal(a.points.loss_nats_per_token, b.points.loss_nats_per_token)


def _on_runs(group: Group) -> Iterable[str]:
    if group.left_out:
        yield f"left out, since not annealed: {', '.join(group.left_out)}"
    if any(run.annealed is None for run in group.runs):
        yield "it is not stated whether the runs are annealed"
    count, decades = group.efficient.size, np.ptp(np.log10(group.points.compute_flops[group.efficient]))
    if count < 3:
        yield f"{count} efficient runs carry no interval"
    elif count < FEW_RUNS:
        yield f"{count} efficient runs carry the interval: take it for a lower bound of the uncertainty"
    if decades < FEW_DECADES:
        yield f"compute spans {decades:.1f} decades: an exponent wants {FEW_DECADES} or more"


def _on_fits(frontiers: Sequence[Frontier], why: str) -> Iterable[str]:
    if why:
        yield f"no law of N and D: {why}"
    if frontiers[0].parameters[2] <= 0:
        yield "the loss does not fall with compute: these runs are no frontier"
    for law, fit, draws in ((each.law, each.fit, each.draws) for each in frontiers if each.fit):
        told = np.isfinite(draws).all(1).mean()
        if told < FEW_DRAWS:
            yield f"{law}: {100 * told:.0f} % of the resamples hold enough runs; the interval is theirs alone"
        if fit and (not fit.converged or fit.optima > 1 or fit.condition > CONDITION):
            state = "converged" if fit.converged else "not converged"
            yield f"{law}: {state}, {fit.optima} optima within 1 %, condition {fit.condition:.1g}: not pinned down"


def signed(value: Estimate) -> str:
    """An exponent or a difference."""
    return _between(value, lambda number: f"{number:+.4f}")


def percent(ratio: Estimate) -> str:
    """Of a ratio, what it is more than 1."""
    return _between(ratio, lambda number: f"{100 * (number - 1):+.2f}", " %")


def times(ratio: Estimate) -> str:
    """Of a ratio of compute; none where a floor keeps either group from the loss."""
    if not 0 < ratio.value < math.inf:
        return "none"
    return _between(ratio, lambda number: plain(number, ".2f" if number < 10 else ".3g"), "x")


def _between(value: Estimate, form: Callable[[float], str], mark: str = "") -> str:
    interval = "" if math.isnan(value.low) else f" [{form(value.low)}, {form(value.high)}]"
    return f"{form(value.value)}{mark}{interval}"


def plain(value: float, spec: str, mark: str = "") -> str:
    """A number; a dash for NaN, none for what is infinite."""
    return "-" if math.isnan(value) else "none" if math.isinf(value) else f"{value:{spec}}{mark}"
