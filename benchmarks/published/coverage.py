"""How often 95 % intervals hold the truth, over repeats of simulated data, on several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np

from benchmarks.published.section import Numbers, table, text
from pagnol_jax.scaling.record import Array

CHUNK = 20  # repeats that a process takes at once
BOUNDS = (92.0, 98.0)  # per cent; at 500 repeats, three standard errors about 95


class Method(NamedTuple):
    """An estimator: (seed, draws) to value, low and high of its quantities [3, Q], of which `truth` [Q] is known.

    `repeat` must be picklable. `share` of the draws is what it takes, for slow ones.
    """

    label: str
    truth: dict[str, float]
    repeat: Callable[[int, int], Array]
    share: float = 1.0


class _Job(NamedTuple):
    """Repeats of one method, which has a number."""

    method: int
    repeat: Callable[[int, int], Array]
    draws: int
    seeds: range


def _do(job: _Job) -> Array:
    return np.array([job.repeat(seed, job.draws) for seed in job.seeds])


def study(methods: Sequence[Method], repeats: int, draws: int, processes: int) -> list[Numbers]:
    """One entry a method: its label, draws, repeats, and what `summary` says of each quantity."""
    jobs = [
        _Job(number, method.repeat, max(2, round(method.share * draws)), range(first, min(first + CHUNK, repeats)))
        for number, method in enumerate(methods)
        for first in range(0, repeats, CHUNK)
    ]
    results = zip(jobs, _results(jobs, processes), strict=True)
    told = []
    for number, own in groupby(results, key=lambda pair: pair[0].method):
        parts = list(own)
        found = np.concatenate([part for _, part in parts])  # [R, 3, Q]
        label, truth = methods[number].label, methods[number].truth
        quantities = {name: summary(value, found[:, :, q]) for q, (name, value) in enumerate(truth.items())}
        told.append({"method": label, "draws": parts[0][0].draws, "repeats": repeats, "quantities": quantities})
    return told


def _results(jobs: Sequence[_Job], processes: int) -> Iterator[Array]:
    if processes == 1:
        yield from map(_do, jobs)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        yield from pool.map(_do, jobs)


def summary(truth: float, found: Array) -> dict[str, float]:
    """Coverage in per cent, bias and std of the value, median width of the interval, from value, low, high [R, 3]."""
    value, low, high = found.T
    return {
        "truth": truth,
        "coverage_percent": float(100 * ((low <= truth) & (truth <= high)).mean()),
        "bias": float(value.mean() - truth),
        "std": float(value.std()),
        "median_width": float(np.median(high - low)),
    }


def study_blocks(told: Sequence[Numbers]) -> list[str]:
    """The study in Markdown: coverages, whether they are within the bounds, and widths."""
    return [
        text("Coverage of 95 % intervals, in per cent:"),
        _table(told, _coverage),
        text(_verdict(told)),
        text("What the intervals are worth, their median width (of N* and D*, their upper over their lower end):"),
        _table(told, _width),
        text("That width over 3.92 standard deviations of the estimates; above 1, intervals are wider than need be:"),
        _table(told, _excess),
    ]


def _coverage(name: str, numbers: Numbers) -> str:
    return f"{numbers['coverage_percent']:.1f}"


def _width(name: str, numbers: Numbers) -> str:
    width = numbers["median_width"]
    return f"× {np.exp(width):.3g}" if name.startswith("log ") else f"{width:.3g}"


def _excess(name: str, numbers: Numbers) -> str:
    return f"{numbers['median_width'] / (3.92 * numbers['std']):.2f}"


def _table(told: Sequence[Numbers], cell: Callable[[str, Numbers], str]) -> str:
    names = dict.fromkeys(name for one in told for name in one["quantities"])
    rows = []
    for one in told:
        own = {name: cell(name, numbers) for name, numbers in one["quantities"].items()}
        cells = {name.removeprefix("log "): own.get(name, "") for name in names}
        rows.append({"approach": one["method"], "draws": f"{one['draws']:,}", **cells})
    return table(rows)


def outside(told: Sequence[Numbers]) -> list[str]:
    """The coverages that are not within the bounds, in words."""
    return [
        f"{one['method']}, {name.removeprefix('log ')} ({numbers['coverage_percent']:.1f} %)"
        for one in told
        for name, numbers in one["quantities"].items()
        if not BOUNDS[0] <= numbers["coverage_percent"] <= BOUNDS[1]
    ]


def _verdict(told: Sequence[Numbers]) -> str:
    """A line on the bounds, and on what the repeats can tell."""
    error = 100 * (0.95 * 0.05 / told[0]["repeats"]) ** 0.5
    bounds = f"{BOUNDS[0]:.0f} to {BOUNDS[1]:.0f} %"
    found = outside(told)
    said = f"outside {bounds}: **{'; '.join(found)}**" if found else f"**all within {bounds}**"
    return f"Coverage over {told[0]['repeats']} repeats, of which the standard error is {error:.1f} %: {said}."
