"""Several processes as one run: the same numbers as one, stopped as one, and none left hanging by a lost one."""

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
from hosts_run import assert_close, ends, lines, newest, quick, send, start, steps_kept, train, wait_for, within
from tiny_run import Result, Tiny, assert_same_run, note

pytestmark = pytest.mark.usefixtures("quick")
__all__ = ["quick"]
# Over four devices the network sums in another order than memory does. AdamW makes a whole step of that rounding where
# the gradient is nothing else (a bias of keys, to which softmax is blind), so steps are few and small.
SMALL = ("--gin.TOTAL_STEPS=12", "--gin.LEARNING_RATE=1e-4")
LONG = "--gin.TOTAL_STEPS=5000"  # so that it is still under way when something happens to it


@pytest.fixture(scope="module")
def alone(tiny: Tiny) -> Path:
    """One process of two devices."""
    assert tiny.train("hosts-alone", devices=2).status == 0
    return tiny.folder / "hosts-alone"


@pytest.fixture(scope="module")
def two(tiny: Tiny) -> Path:
    """Two processes of a device each."""
    assert_done(train(tiny, "hosts-two", 2))
    return tiny.folder / "hosts-two"


def assert_done(results: list[Result], first: tuple[str, ...] = ()) -> None:
    """Status 0 everywhere, and nothing said but by process 0."""
    assert [(x.status, tuple(x.errors)) for x in results] == [(0, first)] + [(0, ())] * (len(results) - 1)


def test_two_are_one(alone: Path, two: Path) -> None:
    assert_close(two, alone, 1e-6, state=1e-6)
    records = [json.loads((run_dir / "run.json").read_text()) for run_dir in (alone, two)]
    assert [record.pop("name") for record in records] == ["hosts-alone", "hosts-two"]
    assert records[0] == records[1]
    assert steps_kept(two) == [40, 50, 60]
    assert note(two)["data"] == note(alone)["data"]


def test_stopped_by_a_signal_to_one_and_resumed_bit_for_bit(tiny: Tiny, two: Path, tmp_path: Path) -> None:
    """That the run is the same as another of two processes also says that two processes repeat each other."""
    run_dir = tmp_path / "run"
    processes = start(tiny, run_dir, 2)
    wait_for(processes, lambda: newest(run_dir) >= 10)
    send(processes, signal.SIGTERM, 1)
    results = ends(processes)
    saved = "pagnol: SIGTERM: checkpoint saved; the same command goes on from it"
    assert [(x.status, x.errors) for x in results] == [(143, [saved]), (143, [])]
    stopped = newest(run_dir)
    assert 10 < stopped < 60
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {str(step) for step in steps_kept(run_dir)}
    assert_done(train(tiny, run_dir, 2), first=(f"pagnol: run resumes at step {stopped}",))
    assert_same_run(run_dir, two)


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_process_ends_the_other(tiny: Tiny, tmp_path: Path, victim: int) -> None:
    run_dir = tmp_path / "run"
    processes = start(tiny, run_dir, 2, LONG)
    wait_for(processes, lambda: newest(run_dir) >= 10)
    send(processes, signal.SIGKILL, victim)
    with within(30):
        results = ends(processes)
    assert results[victim].status == -signal.SIGKILL
    survivor = results[1 - victim]
    assert survivor.status == 75
    gone = rf"pagnol: error: host {victim} of 2 \(.+\) is gone; the same command goes on from step {newest(run_dir)}"
    assert [bool(re.fullmatch(gone, line)) for line in survivor.errors] == [True], survivor.errors


@pytest.mark.slow
def test_killed_while_saving_and_resumed_by_one(tiny: Tiny, alone: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    processes = start(tiny, run_dir, 2)
    wait_for(processes, lambda: newest(run_dir) >= 20)
    wait_for(processes, lambda: any(run_dir.glob("checkpoints/*tmp*")))
    send(processes, signal.SIGKILL, 0, 1)
    ends(processes)
    kept = newest(run_dir)
    assert 20 <= kept < 60
    resumed = tiny.train(run_dir, devices=2)
    assert (resumed.status, resumed.errors[0]) == (0, f"pagnol: run resumes at step {kept}")
    assert_close(run_dir, alone, 1e-5)
    assert json.loads((run_dir / "run.json").read_text())["batches"] == note(alone)["data"]["fingerprint"]


def test_bad_input_is_told_once(tiny: Tiny, two: Path) -> None:
    """By process 0, of what only it looks at; nobody waits for it."""
    before = (two / "metrics.jsonl").read_bytes()
    with within(240):
        results = train(tiny, two, 2, "--gin.run.train.seed=7")
    told = f"pagnol: error: {two} holds a run with another seed and batches; name another folder"
    assert [(x.status, x.errors) for x in results] == [(2, [told]), (2, [])]
    assert (two / "metrics.jsonl").read_bytes() == before


def test_a_damaged_part_is_damage_for_all(tiny: Tiny, two: Path, tmp_path: Path) -> None:
    """Where only process 1's part of an array is cut short, both go back to the checkpoint before."""
    run_dir = Path(shutil.copytree(two, tmp_path / "run"))
    part = run_dir / "checkpoints" / "60" / "state" / "ocdbt.process_1"
    victim = max((path for path in part.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:100])
    results = train(tiny, run_dir, 2)
    damaged, resumes = results[0].errors
    assert damaged.startswith("pagnol: checkpoint 60 is damaged: ")
    assert resumes == "pagnol: run resumes at step 50"
    assert [x.status for x in results] == [0, 0]
    assert results[1].errors == []
    assert_same_run(run_dir, two)
    assert (run_dir / "damaged" / "60").is_dir()


@pytest.mark.slow
def test_divergence_is_told_once(tiny: Tiny, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    results = train(tiny, run_dir, 2, "--gin.LEARNING_RATE=1e20", "--gin.run.train.checkpoint_every=1")
    (kept,) = (run_dir / "diverged").iterdir()
    step = int(kept.stem.removeprefix("step_"))
    (told,) = results[0].errors
    assert told.endswith(f"at step {step}; its batch is kept in {kept}")
    assert [x.status for x in results] == [2, 2]
    assert results[1].errors == []
    assert newest(run_dir) == step - 1


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(2, 2), (4, 1)])
def test_four_devices_are_one_mesh(tiny: Tiny, tmp_path: Path, processes: int, devices: int) -> None:
    assert tiny.train(tmp_path / "alone", *SMALL, devices=4).status == 0
    for name in ("once", "twice"):
        assert_done(train(tiny, tmp_path / name, processes, *SMALL, devices=devices))
    assert_close(tmp_path / "once", tmp_path / "alone", 1e-6, state=1e-6)
    assert_same_run(tmp_path / "twice", tmp_path / "once")


@pytest.mark.slow
@pytest.mark.parametrize("axes", [{"sequence": 2, "data": 1}, {"tensor": 2, "data": 1}, {"sequence": 2, "fsdp": 2}])
def test_rows_and_models_split_over_hosts(tiny: Tiny, tmp_path: Path, axes: dict[str, int]) -> None:
    """Two hosts with halves of one row, halves of one model, and four with both."""
    mesh = [*SMALL, *(f"--gin.mesh.make_mesh.{axis}={size}" for axis, size in axes.items())]
    count = 4 if "fsdp" in axes else 2
    assert tiny.train(tmp_path / "alone", *mesh, devices=count).status == 0
    assert_done(train(tiny, tmp_path / "run", count, *mesh))
    assert_close(tmp_path / "run", tmp_path / "alone", 1e-6, state=1e-6)


@pytest.mark.slow
def test_killed_on_four_and_resumed_on_two(tiny: Tiny, tmp_path: Path) -> None:
    assert tiny.train(tmp_path / "alone", devices=4).status == 0
    run_dir = tmp_path / "run"
    processes = start(tiny, run_dir, 4)
    wait_for(processes, lambda: newest(run_dir) >= 20)
    send(processes, signal.SIGKILL, 0, 1, 2, 3)
    ends(processes)
    kept = newest(run_dir)
    assert_done(train(tiny, run_dir, 2, devices=2), first=(f"pagnol: run resumes at step {kept}",))
    assert_close(run_dir, tmp_path / "alone", 1e-5)
    assert lines(run_dir)[-1]["step"] == 60


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_to_all_of_four(tiny: Tiny, tmp_path: Path, number: signal.Signals) -> None:
    run_dir = tmp_path / "run"
    processes = start(tiny, run_dir, 4, LONG, "--gin.run.train.checkpoint_every=1")
    wait_for(processes, lambda: newest(run_dir) >= 10)
    send(processes, number, 0, 1, 2, 3)
    results = ends(processes)
    assert [(x.status, len(x.errors)) for x in results] == [(128 + number, 1)] + [(128 + number, 0)] * 3
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {str(step) for step in steps_kept(run_dir)}
    assert lines(run_dir)[-1]["step"] == newest(run_dir)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 2])
@pytest.mark.parametrize("moment", ["start", "checkpoint"])
def test_killed_at_other_moments(tiny: Tiny, tmp_path: Path, victim: int, moment: str) -> None:
    run_dir = tmp_path / "run"
    processes = start(tiny, run_dir, 4, LONG)
    happened = {
        "start": (run_dir / "run.json").exists,
        "checkpoint": lambda: any(run_dir.glob("checkpoints/*tmp*")),
    }
    wait_for(processes, happened[moment])
    send(processes, signal.SIGKILL, victim)
    with within(30):
        results = ends(processes)
    survivors = [x for number, x in enumerate(results) if number != victim]
    assert [(x.status, len(x.errors)) for x in survivors] == [(75, 1)] * 3
    assert all(f"host {victim} of 4" in x.errors[0] for x in survivors)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_hangs_is_lost(tiny: Tiny, tmp_path: Path, victim: int) -> None:
    """As a machine that lost its network: nothing closes its connections."""
    run_dir = tmp_path / "run"
    processes = start(tiny, run_dir, 2, LONG)
    wait_for(processes, lambda: newest(run_dir) >= 10)
    send(processes, signal.SIGSTOP, victim)
    with within(30):
        (survivor,) = ends([processes[1 - victim]])
    assert survivor.status == 75
    assert f"host {victim} of 2" in survivor.errors[0]
    assert "does not answer; the same command goes on from step" in survivor.errors[0]
    send(processes, signal.SIGCONT, victim)
    assert ends([processes[victim]])[0].status == 75
