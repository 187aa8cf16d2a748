from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from scaling.builders import power_runs

from pagnol_jax.errors import UserError
from pagnol_jax.scaling import FLOP, PF_DAY, Curve, RunRecord, fit_frontier
from pagnol_jax.scaling.plots import DARK, LIGHT, draw_frontier, plot_frontier

RUNS = power_runs(20, -0.05, 7, noise=0.01)
FIT = fit_frontier(RUNS, draws=100)


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")])
def test_writes_the_kind_that_the_name_says(tmp_path: Path, name: str, magic: bytes) -> None:
    plot_frontier(FIT, RUNS, tmp_path / name, PF_DAY)
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_refuses_other_kinds_and_places(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a figure is one of \.png"):
        plot_frontier(FIT, RUNS, tmp_path / "a.txt", PF_DAY)
    with pytest.raises(UserError, match="cannot write"):
        plot_frontier(FIT, RUNS, tmp_path / "none" / "a.png", PF_DAY)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_labels_are_whole_and_apart(theme) -> None:  # type: ignore[no-untyped-def]
    line = Curve(np.full(2, np.nan), np.array([1e14, 1e16]), np.array([4.0, 3.5]))
    figure = Figure(figsize=(4.8, 3.4), layout="constrained")
    axes = figure.add_subplot()
    draw_frontier(axes, FIT, RUNS, FLOP, reference=RunRecord("published_line", line), theme=theme)
    figure.draw_without_rendering()
    texts = [*axes.texts]
    names = {text.get_text() for text in texts if isinstance(text, Annotation)}
    assert {run.name for run in RUNS} | {"published line"} < names
    boxes = [text.get_window_extent() for text in texts]
    frame = axes.get_window_extent().padded(1)
    for index, box in enumerate(boxes):
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
        assert not any(box.overlaps(other) for other in boxes[:index])


def test_axes_name_their_units() -> None:
    axes = Figure().add_subplot()
    draw_frontier(axes, FIT, RUNS, PF_DAY)
    assert axes.get_xlabel().startswith("Compute (PF-days, $C = 6")
    assert axes.get_ylabel() == "Validation loss (nats per token)"


def test_many_runs_of_one_point_and_two_runs(tmp_path: Path) -> None:
    for runs in (power_runs(20, -0.05, 40, noise=0.02, steps=1), power_runs(20, -0.05, 2)):
        plot_frontier(fit_frontier(runs, draws=50), runs, tmp_path / "a.png", FLOP)
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "a.png").unlink()
