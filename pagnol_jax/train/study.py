"""The step loop of the small studies: one process, any state, and the reliability of the GPT's own loop.

A folder of a study is a run folder (`train.record`): config.gin, run.json, metrics.jsonl, speed.jsonl, checkpoints/.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from tqdm import tqdm

from pagnol_jax.errors import Stopped, UserError, check_counts
from pagnol_jax.train.checkpoint import Checkpoints, Stepped, all_finite
from pagnol_jax.train.interrupt import Interrupt
from pagnol_jax.train.record import Log, RunFolder, versions


class Trained(Stepped, Protocol):
    """The state of a study: its step, what it learns, and whatever else its updates need."""

    @property
    def params(self) -> Any: ...


S = TypeVar("S", bound=Trained)
Values = Mapping[str, Any]  # scalars by name
KEPT = 2  # checkpoints


def fit(
    folder: str | Path,
    state: S,
    update: Callable[..., tuple[S, Values]],
    total_steps: int,
    *,
    record: dict[str, Any],
    evaluate: Callable[[S], tuple[S, Values]],
    evaluate_every: int,
    checkpoint_every: int,
    log_every: int,
    batch: Callable[[int], Any] | None = None,
    finished: Callable[[S], bool] = lambda state: False,
    config_text: Callable[[], str] = str,
) -> S:
    """Updates `state` until its step is `total_steps`, or goes on where the folder's last checkpoint stands.

    state: a flax.struct dataclass of arrays, among them an int32 `step` (the updates done) and `params`.
    update: state -> (state with one more step, scalars of the step); gets batch(step) too where `batch` is given.
        A pure function of both, jitted by the caller, so that a run that was stopped ends with the same bits.
    evaluate: state -> (state, scalars), after every `evaluate_every` steps and the last; it may keep in the state what
        a stop must not lose (the best parameters so far).
    finished: state -> whether to end before `total_steps`, asked at the start and after evaluations (early stopping).
    record: all that makes the run what it is, as JSON; a folder that holds another is refused. gin's text is
        `config_text()`, called once all is built.

    Raises UserError, in one line, for a folder of another run, one in use, a full disk and numbers that are not finite;
    Stopped when a SIGTERM or SIGINT came and the checkpoint is saved.
    """
    every = {"evaluate_every": evaluate_every, "checkpoint_every": checkpoint_every, "log_every": log_every}
    check_counts(total_steps=total_steps, **every)
    place = RunFolder(folder, identity=tuple(record))
    described = record | {"total_steps": total_steps, "device": jax.devices()[0].device_kind, "versions": versions()}
    with place.shared(described, None, config_text()), contextlib.ExitStack() as opened:
        checkpoints = Checkpoints(place.checkpoints, KEPT)
        opened.callback(checkpoints.close)
        state = start(checkpoints, state, place.path.name)
        place.cut_back(int(state.step))
        log = Log(place)
        opened.callback(log.close)
        study = Study(checkpoints, log, place.path, evaluate, **every)
        try:
            return study.run(state, update, batch, total_steps, finished)
        except OSError as error:
            what = f"{place.path}: {error.strerror or error}"
            raise UserError(f"{what}; of its checkpoints {checkpoints.newest()}") from error


def start(checkpoints: Checkpoints, state: S, name: str) -> S:
    """The newest whole checkpoint, or `state`."""
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    restored = checkpoints.restore(abstract)
    if restored is None:
        return state
    print(f"pagnol: {name} resumes at step {int(restored[0].step)}", file=sys.stderr)
    return restored[0]


class Study:
    """The loop proper, between an open folder and a closed one."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        log: Log,
        path: Path,
        evaluate: Callable[[Any], tuple[Any, Values]],
        evaluate_every: int,
        checkpoint_every: int,
        log_every: int,
    ) -> None:
        self.checkpoints, self.log, self.path, self.evaluate = checkpoints, log, path, evaluate
        self.evaluate_every, self.checkpoint_every, self.log_every = evaluate_every, checkpoint_every, log_every
        self.shown: dict[str, str] = {}

    def run(
        self,
        state: S,
        update: Callable[..., tuple[S, Values]],
        batch: Callable[[int], Any] | None,
        total_steps: int,
        finished: Callable[[S], bool],
    ) -> S:
        step, ended = int(state.step), finished(state)
        self.since = step, time.perf_counter()
        with (
            Interrupt() as interrupt,
            tqdm(total=total_steps, initial=step, desc=self.path.name, unit="step", dynamic_ncols=True) as bar,
        ):
            while step < total_steps and not ended:
                state, values = update(state, *([batch(step)] if batch else []))
                step += 1
                bar.update()
                if step % self.log_every == 0 or step == total_steps:
                    self.write(step, values, bar)
                stop = interrupt.signal
                last = step == total_steps
                if last or step % self.evaluate_every == 0:
                    state = self.evaluated(state, step, bar)
                    ended = finished(state)
                if last or ended or stop or step % self.checkpoint_every == 0:
                    self.save(state, step)
                if stop:
                    self.checkpoints.wait()
                    raise Stopped(stop)
        self.checkpoints.wait()
        return state

    def write(self, step: int, values: Values, bar: tqdm) -> None:
        """The step's own numbers, and how fast the last ones were."""
        found = {name: float(value) for name, value in jax.device_get(dict(values)).items()}
        if wrong := [name for name, value in found.items() if not np.isfinite(value)]:
            raise UserError(f"{self.path.name}: {wrong[0]} is {found[wrong[0]]} at step {step}")
        self.log.write("metrics", "train", {"step": step} | found)
        (before, then), self.since = self.since, (step, time.perf_counter())
        self.log.write("speed", "speed", {"step": step, "steps_per_second": (step - before) / (self.since[1] - then)})
        self.show(bar, found)

    def evaluated(self, state: S, step: int, bar: tqdm) -> S:
        """The state after an evaluation, whose numbers are written: they stand in the log before its checkpoint."""
        self.check(state, step)
        state, values = self.evaluate(state)
        found = {name: float(value) for name, value in values.items()}
        self.log.write("metrics", "validation", {"step": step, "split": "validation"} | found)
        self.show(bar, found)
        self.since = step, time.perf_counter()  # the speed is the steps' own
        return state

    def save(self, state: S, step: int) -> None:
        self.check(state, step)
        self.log.flush()
        self.checkpoints.save(state, {})

    def check(self, state: S, step: int) -> None:
        if not all_finite(state.params):
            raise UserError(f"{self.path.name}: a parameter is not finite at step {step}")

    def show(self, bar: tqdm, found: dict[str, float]) -> None:
        self.shown |= {name: f"{value:.4g}" for name, value in found.items()}
        bar.set_postfix(self.shown, refresh=False)


def metrics(folder: str | Path, split: str | None = None) -> list[dict[str, float]]:
    """The lines of a study's metrics.jsonl: of its steps, or of its evaluations ("validation").

    Raises UserError if the folder is no run or its log is damaged.
    """
    place = RunFolder(folder)
    place.read()
    try:
        lines = [json.loads(line) for line in (place.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{place.path}/metrics.jsonl cannot be read: {error}") from None
    return [line for line in lines if line.get("split") == split]
