"""What a small ladder can say: coverage and width of approach 3's intervals from 21 runs over two decades."""

from __future__ import annotations

from functools import partial

from benchmarks.published.coverage import Method, study, study_blocks
from benchmarks.published.recovery import BEYOND, parametric, truth
from benchmarks.published.section import Numbers, Options, Section, text
from benchmarks.published.simulate import NOISE, ladder
from pagnol_jax.scaling.objectives import least_squares


def measure(options: Options) -> Numbers:
    runs = ladder()
    method = Method("3, least squares of log loss", truth(runs), partial(parametric, runs, least_squares()))
    return {
        "noise": NOISE,
        "runs": runs["N"].size,
        "methods": study([method], options.repeats, options.draws, options.processes),
    }


def page(numbers: Numbers) -> list[str]:
    told = numbers["methods"]
    share = told[0]["quantities"]["a"]
    return [
        text(
            f"{numbers['runs']} runs, six sizes at five budgets over two decades of compute, one run in three seeds: "
            "the plan of `gin/ladders/matched_grid.gin`, moved up to where Hoffmann's law was fitted. Noise of "
            f"{100 * numbers['noise']:.1f} %; N*, D* and loss at {BEYOND} times the largest compute."
        ),
        *study_blocks(told),
        text(
            f"So such a ladder tells a to about ± {share['median_width'] / 2:.2f}: two whose exponents differ by less "
            "have not been told apart."
        ),
    ]


SECTION = Section("Recovery: what a small ladder can say", measure, page)
