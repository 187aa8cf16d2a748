"""The two compute conventions of PAGnol's paper (Launay et al., arXiv 2110.08554), told apart."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scaling.builders import power_runs

from benchmarks.published.compute import TABLE_3, TABLE_TOKENS, TOKENS_BETWEEN
from benchmarks.published.figure_data import SHAPES, with_embeddings, without_embeddings
from pagnol_jax.errors import UserError
from pagnol_jax.scaling import NON_EMBEDDING, PF_DAY, TOTAL, Curve, RunRecord
from pagnol_jax.scaling.conventions import infer_convention, infer_size, match_conventions, with_tokens_between
from pagnol_jax.scaling.tables import read_table


def sizes(name: str) -> tuple[float, float]:
    """Parameters with the embeddings counted once, and without."""
    return with_embeddings(name), without_embeddings(name)


def table_run(name: str, parameters: float) -> RunRecord:
    """A row of Table 3: compute to one digit, after 30 GT; the loss plays no part."""
    curve = Curve(np.array([TABLE_TOKENS]), np.array([TABLE_3[name][0] * PF_DAY.flops]), np.array([3.0]))
    return RunRecord(name, curve, None, parameters, sizes(name)[1])


@pytest.fixture
def figure(data_dir: Path) -> list[RunRecord]:
    curves = read_table(data_dir / "scaling" / "pagnol_figure1" / "pagnol_figure1_curves.csv")
    return [run for run in curves if run.name != "published_fit_line"]


@pytest.mark.parametrize("of", [lambda name: TABLE_3[name][1], lambda name: sizes(name)[0]], ids=["printed", "exact"])
def test_the_tables_count_embeddings(of: Callable[[str], float]) -> None:
    runs = [table_run(name, of(name)) for name in TABLE_3]
    total, non_embedding = match_conventions(runs)
    assert (total.convention, non_embedding.convention) == (TOTAL, NON_EMBEDDING)
    assert total.total_log_error < 0.55 * non_embedding.total_log_error
    # Compute is printed to one digit: 2 stands for 1.5 to 2.5, a quarter either way.
    assert infer_convention(runs, tolerance=0.25).convention == TOTAL
    with pytest.raises(UserError, match=r"no convention .* within 2 %: the best, 6\*N_total\*D, is \d+\.\d % off"):
        infer_convention(runs)


def test_compute_of_the_tables_by_either_convention() -> None:
    runs = [table_run(name, TABLE_3[name][1]) for name in TABLE_3]
    stated = np.array([compute for compute, _ in TABLE_3.values()])
    total, non_embedding = match_conventions(runs)
    np.testing.assert_allclose(stated * (1 + total.relative_errors), [0.258, 0.740, 1.61, 3.13], rtol=2e-3)
    np.testing.assert_allclose(stated * (1 + non_embedding.relative_errors), [0.177, 0.629, 1.475, 3.07], rtol=2e-3)


def test_figure_1_does_not_count_embeddings(figure: list[RunRecord]) -> None:
    assert [run.name for run in figure] == list(SHAPES)[:4]
    every_size = [size for name in SHAPES for size in sizes(name)]
    for run in figure:
        total, non_embedding = sizes(run.name)
        found, error = infer_size(run, every_size, TOKENS_BETWEEN)
        assert found == non_embedding
        assert abs(error) < 1e-6
        with pytest.raises(UserError, match=r"implies .* parameters: no candidate is within 2 %"):
            infer_size(run, [total], TOKENS_BETWEEN)


def test_figure_1_as_a_whole(figure: list[RunRecord]) -> None:
    runs = []
    for run in figure:
        total, non_embedding = sizes(run.name)
        known = replace(run, parameters=total, parameters_non_embedding=non_embedding)
        runs.append(with_tokens_between(known, TOKENS_BETWEEN))
    match = infer_convention(runs)
    assert match.convention == NON_EMBEDDING
    assert match.worst_percent < 1e-4
    # The curves end well before the 30 GT of the tables.
    ends = [run.curve.tokens[-1] / 1e9 for run in runs]
    np.testing.assert_allclose(ends, [9.19, 7.99, 14.31, 19.14], atol=0.005)


def test_a_made_up_run_of_either_convention() -> None:
    (run,) = power_runs(20, -0.05, 1)
    for convention in (NON_EMBEDDING, TOTAL):
        per_token = convention.flops_per_token(run)
        assert per_token is not None
        stated = replace(run, convention=None, curve=run.curve._replace(compute_flops=per_token * run.curve.tokens))
        match = infer_convention([stated])
        assert match.convention == convention
        np.testing.assert_allclose(match.relative_errors, 0, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": None, "parameters_non_embedding": None}, "no convention counts all of run0: sizes"),
        ({"curve": Curve(np.array([np.nan]), np.array([1e15]), np.array([3.0]))}, "run 'run0' states no tokens"),
        ({"curve": Curve(np.array([1e9]), np.array([1e18]), np.array([3.0]))}, "no convention reproduces"),
    ],
)
def test_what_cannot_be_told_is_said(change: dict[str, object], message: str) -> None:
    (run,) = power_runs(20, -0.05, 1)
    with pytest.raises(UserError, match=message) as error:
        infer_convention([replace(run, **change)])  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("compute", [[1e15], [1e15, 4e15, 7e15]])
def test_tokens_of_an_uneven_curve_are_not_made_up(compute: list[float]) -> None:
    curve = Curve(np.full(len(compute), np.nan), np.array(compute), np.full(len(compute), 3.0))
    with pytest.raises(UserError, match="run 'a' is not evaluated evenly from the start"):
        with_tokens_between(RunRecord("a", curve), TOKENS_BETWEEN)
