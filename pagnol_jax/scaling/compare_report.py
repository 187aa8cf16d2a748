"""A comparison of two groups of runs told in words and in JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from pagnol_jax.scaling import allocate
from pagnol_jax.scaling.compare import Comparison, Crossing, LawDifference, Paired, UnitComparison
from pagnol_jax.scaling.compare_verdict import notes, percent, plain, signed, times, verdict
from pagnol_jax.scaling.estimate import Estimate, estimate
from pagnol_jax.scaling.group_frontiers import Frontier, Group, split
from pagnol_jax.scaling.laws import CHINCHILLA, constants
from pagnol_jax.scaling.parametric import LawFit
from pagnol_jax.scaling.record import NOT_STATED, ComputeUnit
from pagnol_jax.scaling.text import aligned

Rows = Iterable[Sequence[str]]


def as_text(comparison: Comparison, unit: ComputeUnit) -> str:
    """What `pagnol scaling compare` prints, compute in `unit`."""
    sections = [_premises(comparison, unit), aligned(_laws(comparison), right=False)]
    for losses in comparison.units:
        sections.append([*_in_unit(losses, comparison, unit), *_paired(losses.paired, losses.unit)])
    sections.append([f"note       {note}" for note in notes(comparison)])
    sections.append([f"verdict    {sentence}" for sentence in verdict(comparison, unit)])
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _premises(comparison: Comparison, unit: ComputeUnit) -> list[str]:
    lines = []
    for letter, group in zip("AB", comparison.groups, strict=True):
        run, compute = group.runs[0], group.points.compute_flops / unit.flops
        size = f"{run.bytes_per_token:.4g} bytes per token" if run.bytes_per_token else "bytes per token not stated"
        lines += [
            f"{letter}          {group.name}: {len(group.runs)} runs, {group.efficient.size} of them efficient, "
            f"{compute.min():.3g} to {compute.max():.3g} {unit.name}",
            f"           tokenizer {run.tokenizer or NOT_STATED}, {size}; corpus {run.corpus or NOT_STATED}",
        ]
    convention = comparison.groups[0].runs[0].convention
    return [*lines, f"compute    C = {convention.name if convention else NOT_STATED}; of Chinchilla's laws C = 6 N D"]


def _laws(comparison: Comparison) -> Rows:
    """Exponents, constants and hold-out errors: each group's, and B's less A's."""
    a, b = comparison.groups
    yield "", a.name, b.name, f"{b.name} - {a.name}"
    differences = {law.law: law for law in comparison.units[0].laws}
    sides = [{frontier.law: frontier for frontier in group} for group in comparison.frontiers]
    for law in dict.fromkeys((*sides[0], *sides[1])):
        pair = [side.get(law) for side in sides]
        yield law, "", "", ""
        of_both = signed(differences[law].exponent) if law in differences else "-"
        yield "  exponent of C", *(signed(each.exponent) if each else "-" for each in pair), of_both
        if any(each and each.fit for each in pair):
            yield from _constants(comparison, [each.fit if each else None for each in pair])
        yield "  hold-out error", *(plain(each.held_out_percent, "+.2f", " %") if each else "-" for each in pair), ""
    best = [group.runs[split(group.points)[1]].name for group in comparison.groups]
    yield "  held-out run", *best, ""


def _constants(comparison: Comparison, fits: Sequence[LawFit | None]) -> Rows:
    """Of Chinchilla's law, the floor in the unit to judge by, and the exponent a of N* = G (C/6)^a."""
    unit = comparison.units[0].unit
    for name, of in _DERIVED.items():
        factors = [group.factor(unit) if name == "E" else 1.0 for group in comparison.groups]
        a, b = (
            (factor * of(fit.parameters), factor * of(fit.draws)) if fit else None
            for factor, fit in zip(factors, fits, strict=True)
        )
        told = (f"{estimate(*each):.4f}" if each else "-" for each in (a, b))
        difference = signed(estimate(b[0] - a[0], b[1] - a[1])) if a and b else "-"
        yield f"  {name} ({unit})" if name == "E" else f"  {name}", *told, difference


_DERIVED: dict[str, Callable[[Any], Any]] = {
    "E": lambda parameters: constants(CHINCHILLA, parameters)["E"],
    "alpha": lambda parameters: constants(CHINCHILLA, parameters)["alpha"],
    "beta": lambda parameters: constants(CHINCHILLA, parameters)["beta"],
    "a": lambda parameters: allocate.exponents(CHINCHILLA, parameters)[0],
}


def _in_unit(losses: UnitComparison, comparison: Comparison, unit: ComputeUnit) -> list[str]:
    (a, b), rows = (group.name for group in comparison.groups), []
    warning = "" if losses.comparable else ": of two tokenizers, so these do not compare models"
    if losses.compute_flops.size:
        at = [f"{compute / unit.flops:.3g} {unit.name}" for compute in losses.compute_flops]
        rows += [(f"loss of {b} over {a} at", *at), *((law.law, *map(percent, law.loss)) for law in losses.laws)]
    if losses.loss.size:
        at = [f"{loss:.4g}" for loss in losses.loss]
        rows += [(f"compute of {b} over {a} at", *at), *((law.law, *map(times, law.compute)) for law in losses.laws)]
    laws = losses.laws if losses.comparable else ()
    crossings = [f"crossing   {law.law}: {_crossing(law, unit, losses.compute_flops)}" for law in laws]
    return [f"loss       {losses.unit}{warning}", *aligned(rows, right=False), *crossings]


def _crossing(law: LawDifference, unit: ComputeUnit, measured: Any) -> str:
    crossing: Crossing = law.crossing
    share = "" if math.isnan(crossing.share) else f"; {100 * crossing.share:.0f} % of the resamples cross"
    if not math.isfinite(crossing.compute_flops.value):
        return f"none up to {crossing.limit / unit.flops:.2g} {unit.name}{share}"
    value, low, high = (plain(compute / unit.flops, ".2g") for compute in crossing.compute_flops[:3])
    inside = measured.size and measured[0] <= crossing.compute_flops.value <= measured[-1]
    between = "" if low == "-" else f" [{low}, {high}]"
    return f"{value}{between} {unit.name}{'' if inside else ', extrapolated'}{share}"


def _paired(paired: Paired | None, unit: str) -> list[str]:
    if paired is None:
        return []
    exponent = f", exponent {signed(paired.exponent)}" if paired.exponent else ""
    return [
        f"paired     {paired.designs} designs, {len(paired.names)} runs of one name, N and D: "
        f"difference {paired.difference:+.4f} {unit}, {percent(paired.ratio)}{exponent}"
    ]


def as_json(comparison: Comparison, unit: ComputeUnit) -> dict[str, Any]:
    """The comparison as plain values: computes in FLOP, estimates with 95 % intervals, "inf" where there is no end."""
    groups = zip(comparison.groups, comparison.frontiers, comparison.without, strict=True)
    return {
        "groups": [_json_group(*group) for group in groups],
        "units": [_json_unit(losses) for losses in comparison.units],
        "notes": notes(comparison),
        "verdict": verdict(comparison, unit),
    }


def _json_group(group: Group, frontiers: Sequence[Frontier], without: str) -> dict[str, Any]:
    first = group.runs[0]
    held, best = split(group.points)
    return {
        "name": group.name,
        "runs": [run.name for run in group.runs],
        "efficient": [group.runs[row].name for row in group.efficient],
        "left_out": list(group.left_out),
        "compute_convention": first.convention and first.convention.name,
        "tokenizer": first.tokenizer,
        "bytes_per_token": first.bytes_per_token,
        "corpus": first.corpus,
        "no_law_of_n_and_d": without or None,
        "hold_out": {"left_out": [group.runs[row].name for row in held], "predicted": group.runs[best].name},
        "laws": {frontier.law: _json_frontier(frontier) for frontier in frontiers},
    }


def _json_frontier(frontier: Frontier) -> dict[str, Any]:
    fit = frontier.fit
    floor, log_k, gamma = map(float, frontier.parameters)
    law: dict[str, Any] = {
        "frontier_nats_per_token": {"E": floor, "log_K": log_k, "gamma": gamma},
        "exponent": _json(frontier.exponent),
        "hold_out_error_percent": _number(frontier.held_out_percent),
        "resamples": int(np.isfinite(frontier.draws).all(1).sum()),
    }
    if fit:
        law |= {
            f"{name}_nats_per_token" if name == "E" else name: _json(fit.estimate(of)) for name, of in _DERIVED.items()
        }
        law |= {"converged": fit.converged, "optima": fit.optima, "condition": _number(fit.condition)}
    return law


def _json_unit(losses: UnitComparison) -> dict[str, Any]:
    paired = losses.paired
    return {
        "unit": losses.unit,
        "comparable": losses.comparable,
        "compute_flops": losses.compute_flops.tolist(),
        "loss": losses.loss.tolist(),
        "laws": {
            law.law: {
                "exponent_difference": _json(law.exponent),
                "loss_ratio_at_equal_compute": [_json(ratio) for ratio in law.loss],
                "compute_ratio_at_equal_loss": [_json(ratio) for ratio in law.compute],
                "crossing_flops": _json(law.crossing.compute_flops),
                "crossing_share_of_resamples": _number(law.crossing.share),
            }
            for law in losses.laws
        },
        "paired": paired
        and {
            "runs": list(paired.names),
            "designs": paired.designs,
            "difference": _json(paired.difference),
            "loss_ratio": _json(paired.ratio),
            "exponent_difference": paired.exponent and _json(paired.exponent),
        },
    }


def _json(value: Estimate) -> dict[str, Any]:
    return {"value": _number(value.value), "interval_95": [_number(value.low), _number(value.high)]}


def _number(value: float) -> float | str | None:
    return None if math.isnan(value) else "inf" if math.isinf(value) else float(value)
