"""Four extrapolation errors of Gadre et al. 2024 (arXiv 2403.08540) from five and six small runs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from benchmarks.published.section import Numbers, Options, Section, table, text
from pagnol_jax.scaling.laws import ERROR, OVERTRAINED
from pagnol_jax.scaling.objectives import least_squares
from pagnol_jax.scaling.parametric import LawFit, fit_law

# The tasks of the paper's 17-task split (their repository, scaling/constants.py).
TASKS = (
    "bigbench_operators", "pubmed_qa_labeled", "hellaswag_zeroshot", "boolq", "arc_easy", "coqa",
    "bigbench_dyck_languages", "lambada_openai", "bigbench_novel_concepts", "winograd", "bigbench_cs_algorithms",
    "commonsense_qa", "bigbench_qa_wikidata", "hellaswag", "copa", "squad", "piqa",
)  # fmt: skip
# Model, and multiple of 20 tokens per parameter.
SMALL = (("d=96_l=8_h=4", 1), ("d=512_l=8_h=4", 1), ("d=576_l=24_h=8", 1), ("d=1024_l=24_h=8", 1), ("d=96_l=8_h=4", 16))
FOR_ERRORS = ("open_lm_1b", 1)
# Predicted run: relative errors in per cent of the loss on C4 and of the 17 tasks' error, by the authors' procedure; to
# the digits that the paper prints, they are the paper's.
HELD_OUT = {("open_lm_1b", 32): (0.7103, 3.6365), ("open_lm_7b", 1): (0.7320, 0.0464)}
Run = dict[str, str]


def read(data: Path) -> dict[tuple[str, float], Run]:
    """The runs on RedPajama by model and multiple of 20 tokens per parameter."""
    with (data / "gadre_overtraining" / "runs.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == "rpj"]
    return {(row["model"], float(row["cc_mult"])): row for row in rows}


def fit(runs: dict[tuple[str, float], Run]) -> tuple[LawFit, LawFit]:
    """The loss law of five runs, and the error law of those and the 1.4B run at 20 tokens per parameter."""
    five = [runs[key] for key in SMALL]
    six = [*five, runs[FOR_ERRORS]]
    squares = least_squares(log=False)
    return (
        fit_law(OVERTRAINED, _inputs(five), _loss(five), objective=squares),
        fit_law(ERROR, {"L": _loss(six)}, _error(six), objective=squares),
    )


def measure(options: Options) -> Numbers:
    runs = read(options.data)
    law, errors = fit(runs)
    rows = []
    for key, published in HELD_OUT.items():
        held = [runs[key]]
        loss = law.predict(**_inputs(held))
        found = (loss / _loss(held) - 1, errors.predict(L=loss) / _error(held) - 1)
        for what, theirs, ours in zip(("C4 loss", "error of 17 tasks"), published, found, strict=True):
            rows.append({"run": f"{key[0]}, {20 * key[1]} tokens per parameter", "predicted": what}
                        | {"published_percent": theirs, "percent": 100 * abs(float(ours[0]))})  # fmt: skip
    return {"errors": rows}


def _inputs(runs: list[Run]) -> dict[str, np.ndarray]:
    size, tokens = (np.array([float(run[name]) for run in runs]) for name in ("params", "tokens"))
    return {"C": 6 * size * tokens, "M": tokens / size}


def _loss(runs: list[Run]) -> np.ndarray:
    return np.array([float(run["loss_c4_val"]) for run in runs])


def _error(runs: list[Run]) -> np.ndarray:
    return np.array([np.mean([float(run[f"err_{task}"]) for task in TASKS]) for run in runs])


def page(numbers: Numbers) -> list[str]:
    return [
        text(
            f"{OVERTRAINED.formula} through five runs on RedPajama of at most 0.4 B parameters, and {ERROR.formula} "
            "through these and one of 1.4 B, by least squares: the errors of what they say of larger and of "
            "over-trained runs."
        ),
        table(map(_row, numbers["errors"])),
    ]


def _row(one: Numbers) -> dict[str, str]:
    return {
        "run": one["run"],
        "predicted": one["predicted"],
        "published error": f"{one['published_percent']:.4f} %",
        "ours": f"{one['percent']:.4f} %",
        "relative difference": f"{100 * abs(one['percent'] / one['published_percent'] - 1):.2f} %",
    }


SECTION = Section("Gadre et al.: four extrapolation errors", measure, page)
