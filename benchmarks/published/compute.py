"""PAGnol counts compute in two ways and states neither (Launay et al. 2022, arXiv 2110.08554): which is where."""

from __future__ import annotations

import numpy as np

from benchmarks.published.figure_data import SHAPES, read_figure, with_embeddings, without_embeddings
from benchmarks.published.section import Numbers, Options, Section, table, text
from pagnol_jax.scaling import PF_DAY, Curve, RunRecord
from pagnol_jax.scaling.conventions import infer_size, match_conventions, with_tokens_between

TOKENS_BETWEEN = 24_576_000  # evaluations of Figure 1: 24,000 windows of 1,024 tokens
TABLE_TOKENS = 30e9
TABLE_3 = {"small": (0.3, 124e6), "medium": (0.7, 355e6), "large": (2, 773e6), "xlarge": (3, 1.5e9)}  # PF-days, N


def measure(options: Options) -> Numbers:
    _, curves = read_figure(options.data)
    candidates = [size for name in SHAPES for size in (without_embeddings(name), with_embeddings(name))]
    figure = []
    for run in curves:
        size, error = infer_size(run, candidates, TOKENS_BETWEEN)
        tokens = with_tokens_between(run, TOKENS_BETWEEN).curve.tokens[-1]
        counts = {"6*N_non_embedding*D": without_embeddings(run.name), "6*N_total*D": with_embeddings(run.name)}
        (convention,) = [name for name, count in counts.items() if count == size]
        figure.append({"run": run.name, "size": size, "relative_error": error, "convention": convention}
                      | {"tokens": float(tokens)})  # fmt: skip
    known = [with_tokens_between(run, TOKENS_BETWEEN) for run in curves]
    return {
        "figure_1": figure,
        "matches": {"Figure 1": _matches(known), "Table 3": _matches([_table_run(name) for name in TABLE_3])},
        "table_3_pf_days": {name: compute for name, (compute, _) in TABLE_3.items()},
    }


def _table_run(name: str) -> RunRecord:
    """A row of Table 3 after 30 GT; its loss plays no part."""
    compute, size = TABLE_3[name]
    curve = Curve(np.array([TABLE_TOKENS]), np.array([compute * PF_DAY.flops]), np.array([1.0]))
    return RunRecord(name, curve, None, size, without_embeddings(name))


def _matches(runs: list[RunRecord]) -> Numbers:
    """Convention -> relative errors by run, the best convention first."""
    names = [run.name for run in runs]
    return {
        match.convention.name: dict(zip(names, match.relative_errors.tolist(), strict=True))
        for match in match_conventions(runs)
    }


def page(numbers: Numbers) -> list[str]:
    best = {source: next(iter(matches)) for source, matches in numbers["matches"].items()}
    stated, counted = numbers["table_3_pf_days"], numbers["matches"]["Table 3"]
    return [
        text(
            f"Figure 1 counts **{best['Figure 1']}**. Its curves are evaluated every {TOKENS_BETWEEN:,} tokens; of the "
            "paper's sizes, with and without embeddings, these give the curves their compute:"
        ),
        table(map(_curve_row, numbers["figure_1"])),
        text(f"Tables 1 and 3 count **{best['Table 3']}** over 30 GT. Table 3, in PF-days, printed to one digit:"),
        table(
            {"model": name, "stated": f"{compute:g}"}
            | {convention: f"{compute * (1 + errors[name]):.3g}" for convention, errors in counted.items()}
            for name, compute in stated.items()
        ),
    ]


def _curve_row(one: Numbers) -> dict[str, str]:
    return {
        "curve": one["run"],
        "N": f"{one['size']:,.0f}",
        "relative error": f"{one['relative_error']:+.0e}",
        "counted as": one["convention"],
        "curve ends at": f"{one['tokens'] / 1e9:.2f} GT",
    }


SECTION = Section("PAGnol's two ways to count compute", measure, page)
