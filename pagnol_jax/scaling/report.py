"""A fit told in words and in JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pagnol_jax.scaling.fit import FrontierFit, HoldOut
from pagnol_jax.scaling.frontier import FORMULA, SOURCE, power_line, prefactor
from pagnol_jax.scaling.record import NOT_STATED, Array, ComputeUnit, RunRecord, bits_per_byte
from pagnol_jax.scaling.text import aligned, count

FEW_RUNS = 6  # below this a percentile bootstrap over runs is known to be too narrow


def as_text(fit: FrontierFit, runs: Sequence[RunRecord], unit: ComputeUnit) -> str:
    """The table of points and the law that `pagnol scaling fit` prints, compute in `unit`."""
    return "\n".join(
        [*conventions(runs[0]), "", *_table(fit, runs, unit), "", *_law(fit, runs, unit), *_notes(fit, runs)]
    )


def conventions(run: RunRecord, note: str = "") -> list[str]:
    """What the runs of a fit share, a line each; `note` is added to that on compute."""
    return [
        f"compute    C = {run.convention.name if run.convention else NOT_STATED}{note}",
        "loss       L in nats per token",
        f"tokenizer  {run.tokenizer or NOT_STATED}",
        f"corpus     {run.corpus or NOT_STATED}",
    ]


def _table(fit: FrontierFit, runs: Sequence[RunRecord], unit: ComputeUnit) -> list[str]:
    """One line per run: the last of its points in the fit."""
    header = (
        "run",
        "N non-emb.",
        "N total",
        "tokens",
        f"C ({unit.name})",
        "loss",
        "bits/byte",
        "law",
        "law - loss",
    )
    rows = [header]
    predicted = power_line(fit.parameters, fit.points.compute_flops)
    last = {int(run): row for row, run in enumerate(fit.points.run)}
    for index, row in sorted(last.items(), key=lambda item: fit.points.compute_flops[item[1]]):
        run, loss = runs[index], fit.points.loss_nats_per_token[row]
        rows.append((
            run.name,
            count(run.parameters_non_embedding),
            count(run.parameters),
            count(fit.points.tokens[row]),
            f"{fit.points.compute_flops[row] / unit.flops:.4g}",
            f"{loss:.4f}",
            "-" if run.bytes_per_token is None else f"{bits_per_byte(loss, run.bytes_per_token):.4f}",
            f"{predicted[row]:.4f}",
            _percent(100 * (predicted[row] / loss - 1)),
        ))  # fmt: skip
    # A column that no source states says nothing.
    columns = [column for column in zip(*rows, strict=True) if set(column[1:]) != {"-"}]
    return aligned(zip(*columns, strict=True))


def _percent(value: float) -> str:
    """Two decimals with a sign; what rounds to zero has a plus."""
    return f"{round(value, 2) + 0.0:+.2f} %"


def _law(fit: FrontierFit, runs: Sequence[RunRecord], unit: ComputeUnit) -> list[str]:
    free, free_prefactor = fit.unconstrained, float(prefactor(fit.unconstrained, unit))
    interval = _interval(fit.prefactor_interval(unit), 4)
    count, points = np.unique(fit.points.run).size, fit.points.run.size
    lines = [
        f"law        {FORMULA}, log-log least squares held under {points} points of {count} runs",
        f"exponent   {fit.exponent:.5f}{_interval(fit.exponent_interval, 5)}",
        f"prefactor  {fit.prefactor(unit):.4f}{interval}   nats per token, C in {unit.name}",
        f"free fit   {free[1]:.5f}, {free_prefactor:.4f} without the constraint",
    ]
    if fit.draws.size:
        skipped = f" ({fit.draws_skipped} more had one run alone)" if fit.draws_skipped else ""
        lines.append(f"bootstrap  {len(fit.draws):,} resamples of {count} runs{skipped}")
    else:
        lines.append("bootstrap  none: an interval needs at least three runs")
    return [*lines, _hold_out_line(fit.hold_out, runs)]


def _interval(interval: Array | None, digits: int) -> str:
    return "" if interval is None else f"   95 % [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def _hold_out_line(held: HoldOut | None, runs: Sequence[RunRecord]) -> str:
    if held is None:
        return "hold-out   none: it needs at least three runs of unlike compute"
    return (
        f"hold-out   {runs[held.run].name}: {held.predicted:.4f} predicted from the others, "
        f"{held.loss_nats_per_token:.4f} measured, error {_percent(held.error_percent)} "
        f"(free fit {_percent(held.error_percent_unconstrained)})"
    )


def _notes(fit: FrontierFit, runs: Sequence[RunRecord]) -> Iterable[str]:
    """What a reader should hold against this fit."""
    used = [runs[index] for index in np.unique(fit.points.run)]
    decades = np.ptp(np.log10(fit.points.compute_flops))
    unfinished = [run.name for run in used if run.annealed is False]
    if len(used) < FEW_RUNS and fit.draws.size:
        yield f"note       {len(used)} runs carry the interval: take it for a lower bound of the uncertainty"
    if decades < 2:
        yield f"note       compute spans {decades:.1f} decades: an exponent wants two or more"
    if unfinished:
        yield f"note       not annealed, so above the loss their compute can give: {', '.join(unfinished)}"
    if fit.exponent >= 0:
        yield "note       the loss does not fall with compute: these points are no frontier"


def as_json(fit: FrontierFit, runs: Sequence[RunRecord], unit: ComputeUnit) -> dict[str, Any]:
    """The fit and its points as plain values, units in the names."""
    first, held = runs[0], fit.hold_out
    return {
        "law": FORMULA,
        "source": SOURCE,
        "compute_unit": unit.name,
        "compute_convention": first.convention and first.convention.name,
        "tokenizer": first.tokenizer,
        "corpus": first.corpus,
        "exponent": fit.exponent,
        "exponent_interval_95": _list(fit.exponent_interval),
        "prefactor_nats_per_token": fit.prefactor(unit),
        "prefactor_nats_per_token_interval_95": _list(fit.prefactor_interval(unit)),
        "unconstrained": {
            "exponent": float(fit.unconstrained[1]),
            "prefactor_nats_per_token": float(prefactor(fit.unconstrained, unit)),
        },
        "bootstrap": {
            "runs": int(np.unique(fit.points.run).size),
            "resamples": len(fit.draws),
            "resamples_skipped": fit.draws_skipped,
        },
        "hold_out": held and {
            **held._asdict(),
            "run": runs[held.run].name,
            "error_percent": held.error_percent,
            "error_percent_unconstrained": held.error_percent_unconstrained,
        },
        "points": [_json_point(runs[run], *numbers) for run, *numbers, _ in zip(*fit.points, strict=True)],
    }  # fmt: skip


def _json_point(run: RunRecord, tokens: float, compute_flops: float, loss: float) -> dict[str, Any]:
    return {
        "run": run.name,
        "parameters": run.parameters,
        "parameters_non_embedding": run.parameters_non_embedding,
        "annealed": run.annealed,
        "tokens": float(tokens) if np.isfinite(tokens) else None,
        "compute_flops": float(compute_flops),
        "loss_nats_per_token": float(loss),
        "bits_per_byte": run.bytes_per_token and float(bits_per_byte(loss, run.bytes_per_token)),
    }


def _list(interval: Array | None) -> list[float] | None:
    return None if interval is None else interval.tolist()
