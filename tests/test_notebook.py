"""Commands in a notebook, without a notebook: their words, their errors, their end."""

import os
from pathlib import Path

import pytest
from tiny_run import Tiny, steps_kept

from pagnol_jax.notebook import CommandError, pagnol, show


def test_prints_what_a_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    pagnol("scaling plan --chips v5e-16 --hours 1 --law hoffmann")
    printed = capsys.readouterr().out
    assert printed.startswith("$ pagnol scaling plan --chips v5e-16")
    assert "N* " in printed


def test_an_error_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CommandError) as caught:
        pagnol("data info --gin_file data/debian_fr.gin", PAGNOL_CACHE=str(tmp_path / "nothing"))
    assert "nothing" in str(caught.value)  # the variable reached the command
    assert caught.value._render_traceback_() == [f"pagnol: error: {caught.value}"]
    assert "\n" not in str(caught.value)


def test_the_stop_button_saves_a_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    run, looks = tmp_path / "run", []

    def interrupt() -> bool:
        if (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text():
            looks.append(1)
            raise KeyboardInterrupt
        return False

    line = " ".join(map(str, tiny.command(run, "--gin.TOTAL_STEPS=100000")))
    environment = {
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1"),
        "PAGNOL_CACHE": str(tiny.folder / "cache"),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), str(tiny.folder / "shim")]),
    }
    with pytest.raises(CommandError, match="SIGINT: checkpoint saved"):
        pagnol(line, until=interrupt, **environment)
    assert looks == [1]
    assert steps_kept(run)


def test_a_figure_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    drawn = []
    show(lambda figure: drawn.append(figure.add_subplot().plot([1, 2])), width=3, height=2)
    assert len(drawn) == 1
    assert "Image" in capsys.readouterr().out
