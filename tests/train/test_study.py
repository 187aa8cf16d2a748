"""The step loop of the small studies: a stop or a kill changes no bit, and a folder keeps to its experiment."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pagnol_jax.errors import Stopped, UserError
from pagnol_jax.train import record as records
from pagnol_jax.train import study

RECORD = {"model": "line", "rate": 0.1}
TOTAL = 12


@flax.struct.dataclass
class State:
    step: jax.Array
    params: Any
    best: jax.Array


def fresh() -> State:
    return State(jnp.int32(0), {"w": jax.random.normal(jax.random.key(0), (4,))}, jnp.float32(jnp.inf))


def batch(step: int) -> np.ndarray:
    return np.random.default_rng(step).normal(size=(8, 4)).astype(np.float32)


@jax.jit
def update(state: State, x: jax.Array) -> tuple[State, dict[str, jax.Array]]:
    def loss(params: Any) -> jax.Array:
        return jnp.mean((x @ params["w"] - x.sum(-1)) ** 2)

    value, grads = jax.value_and_grad(loss)(state.params)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
    return state.replace(step=state.step + 1, params=params), {"loss": value}


def evaluate(state: State) -> tuple[State, dict[str, float]]:
    error = float(jnp.abs(state.params["w"] - 1).max())
    return state.replace(best=jnp.minimum(state.best, error)), {"error": error}


def fit(folder: Path, batch: Callable[[int], Any] = batch, total: int = TOTAL, **changed: Any) -> State:
    arguments: dict[str, Any] = {
        "record": RECORD,
        "evaluate": evaluate,
        "evaluate_every": 4,
        "checkpoint_every": 3,
        "log_every": 2,
        "config_text": lambda: "RATE = 0.1\n",
    }
    return study.fit(folder, fresh(), update, total, batch=batch, **arguments | changed)


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_a_study_explains_itself(tmp_path: Path) -> None:
    state = fit(tmp_path / "run")
    assert int(state.step) == TOTAL
    steps, evaluations = study.metrics(tmp_path / "run"), study.metrics(tmp_path / "run", "validation")
    assert [line["step"] for line in steps] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in evaluations] == [4, 8, 12]
    assert float(state.best) == pytest.approx(min(line["error"] for line in evaluations))
    assert steps[-1]["loss"] < steps[0]["loss"]
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described.items() >= (RECORD | {"total_steps": TOTAL}).items()
    assert (tmp_path / "run" / "config.gin").read_text() == "RATE = 0.1\n"


def test_update_may_make_its_own_batch(tmp_path: Path) -> None:
    x = batch(0)
    fixed = study.fit(
        tmp_path / "run",
        fresh(),
        lambda state: update(state, x),
        3,
        record=RECORD,
        evaluate=evaluate,
        evaluate_every=3,
        checkpoint_every=3,
        log_every=3,
    )
    assert same(fixed, fit(tmp_path / "other", lambda step: x, 3, evaluate_every=3))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("at", [0, 5, 7, 11])
def test_a_stop_changes_no_bit(tmp_path: Path, number: signal.Signals, at: int, capsys: Any) -> None:
    whole = fit(tmp_path / "whole")

    def stopping(step: int) -> np.ndarray:
        if step == at:
            signal.raise_signal(number)
        return batch(step)

    with pytest.raises(Stopped) as stopped:
        fit(tmp_path / "run", stopping)
    assert stopped.value.signal == number
    assert same(fit(tmp_path / "run"), whole)
    assert f"pagnol: run resumes at step {at + 1}\n" in capsys.readouterr().err
    metrics = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "run")]
    assert metrics[0] == metrics[1]


def test_a_crash_changes_no_bit(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole")

    def crashing(step: int) -> np.ndarray:
        if step == 8:
            raise ZeroDivisionError
        return batch(step)

    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "run", crashing)
    assert same(fit(tmp_path / "run"), whole)


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    fit(tmp_path / "run")
    with pytest.raises(UserError, match="holds a run with another rate; name another folder"):
        fit(tmp_path / "run", record=RECORD | {"rate": 0.2})
    with pytest.raises(UserError, match="is at step 12 already, past 11"):
        fit(tmp_path / "run", total=11)
    assert int(fit(tmp_path / "run", total=14).step) == 14


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        records.RunFolder(tmp_path / "run").locked(),
        pytest.raises(UserError, match="another process is training here"),
    ):
        fit(tmp_path / "run")


def test_a_damaged_checkpoint_falls_back(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    whole = fit(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "12" / "state")
    assert same(fit(tmp_path / "run"), whole)
    assert "pagnol: run resumes at step 9\n" in capsys.readouterr().err


def test_early_stop(tmp_path: Path) -> None:
    """The evaluation after eight steps is enough, and still is for whoever starts again."""
    for _ in range(2):
        state = fit(tmp_path / "run", finished=lambda state: int(state.step) >= 8)
        assert int(state.step) == 8


def test_whether_to_end_is_asked_at_the_start_and_after_evaluations(tmp_path: Path) -> None:
    asked: list[int] = []
    for total in (TOTAL, TOTAL + 1):
        fit(tmp_path / "run", total=total, finished=lambda state: bool(asked.append(int(state.step))))
    assert asked == [0, 4, 8, 12, 12, 13]


def test_divergence_is_told_in_a_line(tmp_path: Path) -> None:
    def broken(step: int) -> np.ndarray:
        return batch(step) * (np.nan if step == 7 else 1)

    with pytest.raises(UserError, match=r"run: .* not finite at step 8|run: loss is nan at step 8"):
        fit(tmp_path / "run", broken)
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_whole_numbers_only(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="log_every 0 is not a whole number above 0"):
        fit(tmp_path / "run", log_every=0)
    for total in (0, 1.5):
        with pytest.raises(UserError, match=f"total_steps {total} is not a whole number above 0"):
            fit(tmp_path / "run", total=total)  # type: ignore[arg-type]
