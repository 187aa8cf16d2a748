"""The 15 exponents of Porian et al. 2024 (arXiv 2406.19146) from their IsoFLOP points."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.published.section import Numbers, Options, Section, interval, table, text
from pagnol_jax.scaling.isoflop import IsoflopFit, fit_isoflop
from pagnol_jax.scaling.points import Points
from pagnol_jax.scaling.valleys import absolute_noise, akima, group_valleys

KEYS = ("dataset", "hparams", "warmup", "decay", "param_count", "val")
COLUMNS = ("tokens", "flops", "loss", "params")
Row = dict[str, Any]
NATS = {"rw": 0.002, "owt2": 0.01}  # noise of the loss in their configs.py


def read(data: Path) -> tuple[list[Row], dict[str, Row]]:
    """Their IsoFLOP points, and what they publish of each configuration, by its name."""
    folder = data / "porian"
    with (folder / "isoflop_points.csv").open(encoding="utf-8") as file:
        points = list(csv.DictReader(file))
    published = json.loads((folder / "published_fits.json").read_text(encoding="utf-8"))
    return points, {_name(theirs): theirs for theirs in published}


def _name(row: Row) -> str:
    return " ".join(row[key] for key in KEYS)


def refit(rows: list[Row], name: str, draws: int) -> IsoflopFit:
    """Our fit of a configuration."""
    own = [row for row in rows if _name(row) == name]
    points = Points(np.arange(len(own)), *(np.array([float(row[column]) for row in own]) for column in COLUMNS))
    return fit_isoflop(group_valleys(points), akima, absolute_noise(NATS[own[0]["dataset"]]), draws)


def measure(options: Options) -> Numbers:
    rows, published = read(options.data)
    return {"fits": [_fit(theirs, name, refit(rows, name, options.draws)) for name, theirs in published.items()]}


def _fit(theirs: Row, name: str, fit: IsoflopFit) -> Numbers:
    """One configuration: what they publish, and ours."""
    low, high = theirs["ci95"]
    return {
        "configuration": name,
        "published": theirs["n_exponent"],
        "published_interval": [low, high],
        "exponent": fit.law.exponent,
        "interval": fit.law.exponent_interval.tolist(),
        "inside": low <= fit.law.exponent <= high,
        "unweighted": float(fit.line_unweighted[1]),
        "distance": abs(float(fit.line_unweighted[1]) - theirs["n_exponent"]),
    }


def page(numbers: Numbers) -> list[str]:
    fits = numbers["fits"]
    return [
        text(
            "N* = k C^a: minima of Akima splines of log loss over log N, their noised medians through a line weighted "
            f"by 1 / variance. **{sum(fit['inside'] for fit in fits)} of {len(fits)}** are inside the published "
            "interval. Without noise and weights (Akima and plain least squares), they are at most "
            f"**{max(fit['distance'] for fit in fits):.4f}** from the published exponent. Brackets are 95 % intervals."
        ),
        table(map(_row, fits)),
    ]


def _row(fit: Numbers) -> dict[str, str]:
    return {
        "configuration": fit["configuration"],
        "published": f"{fit['published']:.4f} {interval(*fit['published_interval'])}",
        "ours": f"{fit['exponent']:.4f} {interval(*fit['interval'])}",
        "inside": "yes" if fit["inside"] else "**no**",
        "without noise": f"{fit['unweighted']:.4f}",
        "distance": f"{fit['distance']:.4f}",
    }


SECTION = Section("Porian et al.: 15 IsoFLOP exponents", measure, page)
