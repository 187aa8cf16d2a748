"""Gadre et al. 2024 (arXiv 2403.08540): four extrapolation errors from five and six small runs."""

import numpy as np
import pytest
from scaling.published import needs_data, rows

from pagnol_jax.scaling.laws import ERROR, OVERTRAINED
from pagnol_jax.scaling.objectives import least_squares
from pagnol_jax.scaling.parametric import LawFit, fit_law

# The tasks of the paper's 17-task split (their repository, scaling/constants.py).
TASKS = (
    "bigbench_operators", "pubmed_qa_labeled", "hellaswag_zeroshot", "boolq", "arc_easy", "coqa",
    "bigbench_dyck_languages", "lambada_openai", "bigbench_novel_concepts", "winograd", "bigbench_cs_algorithms",
    "commonsense_qa", "bigbench_qa_wikidata", "hellaswag", "copa", "squad", "piqa",
)  # fmt: skip
SMALL = ("d=96_l=8_h=4", "d=512_l=8_h=4", "d=576_l=24_h=8", "d=1024_l=24_h=8")
Run = dict[str, str]


def run(model: str, multiple: float) -> Run:
    """A run on RedPajama with `multiple` * 20 tokens per parameter."""
    found = [
        row
        for row in rows("gadre_overtraining", "runs.csv")
        if (row["dataset"], row["model"], float(row["cc_mult"])) == ("rpj", model, multiple)
    ]
    assert len(found) == 1
    return found[0]


def inputs(runs: list[Run]) -> dict[str, np.ndarray]:
    size = np.array([float(one["params"]) for one in runs])
    tokens = np.array([float(one["tokens"]) for one in runs])
    return {"C": 6 * size * tokens, "M": tokens / size}


def loss(runs: list[Run]) -> np.ndarray:
    return np.array([float(one["loss_c4_val"]) for one in runs])


def error(runs: list[Run]) -> np.ndarray:
    return np.array([np.mean([float(one[f"err_{task}"]) for task in TASKS]) for one in runs])


@pytest.fixture(scope="module")
def fits() -> tuple[LawFit, LawFit]:
    """The loss law of five runs, and the error law of those and the 1.4B run at 20 tokens per parameter."""
    five = [run(model, 1.0) for model in SMALL] + [run(SMALL[0], 16.0)]
    six = [*five, run("open_lm_1b", 1.0)]
    squares = least_squares(log=False)
    return (
        fit_law(OVERTRAINED, inputs(five), loss(five), objective=squares),
        fit_law(ERROR, {"L": loss(six)}, error(six), objective=squares),
    )


@needs_data
@pytest.mark.parametrize(
    ("model", "multiple", "loss_error", "task_error"),
    [("open_lm_1b", 32.0, 0.7103, 3.6365), ("open_lm_7b", 1.0, 0.7320, 0.0464)],
)
def test_extrapolation_errors(
    fits: tuple[LawFit, LawFit], model: str, multiple: float, loss_error: float, task_error: float
) -> None:
    law, errors = fits
    held = [run(model, multiple)]
    predicted = law.predict(**inputs(held))
    assert 100 * abs(predicted / loss(held) - 1) == pytest.approx(loss_error, rel=1e-3)
    assert 100 * abs(errors.predict(L=predicted) / error(held) - 1) == pytest.approx(task_error, rel=0.02)


@needs_data
def test_constants(fits: tuple[LawFit, LawFit]) -> None:
    law, errors = ({name: one.value for name, one in fit.constants.items()} for fit in fits)
    # The repository's form is alpha N^b + beta 6^(b/2) (M N)^b + E with b = -2 eta.
    assert law["A"] * 6 ** -law["eta"] == pytest.approx(166.2, rel=1e-3)
    assert (law["B"], -2 * law["eta"], law["E"]) == pytest.approx((366.7, -0.27285, 1.83665), rel=1e-4)
    assert (errors["k"], errors["gamma"], errors["epsilon"]) == pytest.approx((2.206, 0.7146, 0.857), rel=1e-3)
