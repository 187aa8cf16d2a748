"""A run's whole life under supervise.sh: every gcloud call, in order, and what the run was started with."""

import subprocess

import pytest
from tpu_scripts.cloud import ASK, COMMON, DELETE, DESCRIBE, SCRIPTS, Cloud, queued, setup_calls, ssh, wait_for

TRAIN = ["pagnol", "train", "--gin_file", "gin/runs/pagnol_s.gin", "--run_dir", "gs://my bucket/it's $HOME"]
START = ssh(
    "bash pagnol/worker.sh start -- env 'NOTE=5 $ a \"day\"' "
    "pagnol train --gin_file gin/runs/pagnol_s.gin --run_dir 'gs://my bucket/it'\\''s $HOME'"
)
CREATE = queued(
    "create", "--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite", "--node-id=my-tpu", "--spot"
)
FAST = ["--poll", "0.01", "--backoff", "0"]


def arguments(cloud: Cloud, *more: str) -> list[str]:
    """Of supervise.sh, for the run above."""
    tpu = ["--accelerator-type", "v5litepod-16", "--spot", "--yes", "--checkout", str(cloud.checkout)]
    return [*COMMON, *tpu, *FAST, '--env=NOTE=5 $ a "day"', *more, "--", *TRAIN]


def without_repeats(calls: list[list[str]]) -> list[list[str]]:
    """A poll is a describe and a status: how many of them pass while a process ends is chance."""
    kept: list[list[str]] = []
    for call in calls:
        kept.append(call)
        if kept[-2:] == kept[-4:-2] == [DESCRIBE, ssh(ASK)]:
            del kept[-2:]
    return kept


def test_preempted_run_is_resumed_to_its_end(cloud: Cloud) -> None:
    """Create, set up, launch, preemption, delete, create, set up, launch, done, delete."""
    cloud.environment["WORKERS"] = "2"
    cloud.set("plans", [["WAITING_FOR_RESOURCES", "ACTIVE", "ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDED"], ["ACTIVE"]])
    cloud.set("endings", ["SIGTERM", 0])
    done = cloud.run("supervise.sh", *arguments(cloud, "--delete-at-end"), TMPDIR=str(cloud.folder))
    assert done.returncode == 0, done.stderr
    install = setup_calls(cloud.folder / "pagnol-my-tpu" / "source.tar.gz")
    launch = [ssh(ASK), START]
    poll = [DESCRIBE, ssh(ASK)]
    assert without_repeats(cloud.lines("calls")) == [
        *[DESCRIBE, CREATE, DESCRIBE, DESCRIBE],  # none; created; waiting, active
        *[ssh(ASK), *install, *launch],
        *[*poll, DESCRIBE, DESCRIBE],  # running; suspending, suspended
        *[DESCRIBE, DELETE, CREATE, DESCRIBE, *install, *launch],
        *[*poll, DESCRIBE, DELETE],  # exited 0
    ]
    runs = cloud.lines("runs")
    assert [run["arguments"] for run in runs] == [TRAIN[1:]] * 4  # two workers, twice
    assert {run["environment"]["NOTE"] for run in runs} == {'5 $ a "day"'}
    assert sorted(run["host"] for run in runs) == ["my-tpu-w0"] * 2 + ["my-tpu-w1"] * 2
    assert "SUSPENDED; restart 1 of 20" in done.stderr
    assert "the run has finished" in done.stderr


def test_bad_input_ends_at_once(cloud: Cloud) -> None:
    """Exit status 2 of pagnol is the supervisor's; the last lines of the log are shown, nothing is made again."""
    cloud.set("plans", [["ACTIVE"]])
    cloud.set("endings", [2])
    done = cloud.run("supervise.sh", *arguments(cloud))
    assert done.returncode == 2
    assert "the run failed: bad input" in done.stderr
    assert "start 1 of my-tpu-w0 ends with 2" in done.stdout
    assert "the TPU stays, and costs, until delete.sh" in done.stderr
    assert cloud.lines("calls").count(CREATE) == 1
    assert DELETE not in cloud.lines("calls")


def test_crash_is_looked_at_twice_and_not_restarted(cloud: Cloud) -> None:
    cloud.set("plans", [["ACTIVE"]])
    cloud.set("endings", [1])
    done = cloud.run("supervise.sh", *arguments(cloud))
    assert done.returncode == 1
    assert "the run failed with exit status 1" in done.stderr
    assert len(cloud.lines("runs")) == 1


def test_crash_of_a_preemption_is_a_preemption(cloud: Cloud) -> None:
    """A worker that crashes because another was taken away, before the resource says so."""
    cloud.set("plans", [["ACTIVE", "ACTIVE", "SUSPENDED"], ["ACTIVE"]])
    cloud.set("endings", [134, 0])
    # The second look must find SUSPENDED: the run has crashed before the first.
    cloud.program("sleep", "while [ -e $CLOUD/workers/my-tpu-w0/.session ]; do :; done")
    done = cloud.run("supervise.sh", *arguments(cloud))
    assert done.returncode == 0, done.stderr
    assert "failed 134" in done.stderr
    assert "SUSPENDED; restart 1" in done.stderr


@pytest.mark.parametrize("ending", [143, 75])
def test_interrupted_run_starts_again_on_the_same_tpu(cloud: Cloud, ending: int) -> None:
    """SIGTERM (a maintenance event) or a host that was lost, without the loss of the resource."""
    cloud.set("plans", [["ACTIVE"]])
    cloud.set("endings", [ending, 0])
    done = cloud.run("supervise.sh", *arguments(cloud))
    assert done.returncode == 0, done.stderr
    assert "the run was interrupted; restart 1" in done.stderr
    assert cloud.lines("calls").count(CREATE) == 1
    assert cloud.lines("calls").count(ssh("[ ! -f pagnol/worker.sh ] || bash pagnol/worker.sh stop 300")) == 1


def test_restarts_are_bounded(cloud: Cloud) -> None:
    """A TPU that is taken away every time: as many creations as allowed, doubling waits, then status 1."""
    cloud.set("plans", [["ACTIVE", "SUSPENDED"]] * 9)
    cloud.set("endings", ["SIGTERM"] * 9)
    cloud.program("sleep", 'echo "$1" >> "$CLOUD/sleeps"')
    done = cloud.run("supervise.sh", *arguments(cloud, "--max-restarts", "2", "--backoff", "7"))
    assert done.returncode == 1
    assert "given up after 2 restarts" in done.stderr
    assert cloud.lines("calls").count(CREATE) == 3
    waits = [line for line in (cloud.folder / "sleeps").read_text().split() if line not in {"0.01", "0.2"}]
    assert waits == ["7", "14"]


def test_tpu_that_cannot_be_had_is_asked_for_again(cloud: Cloud) -> None:
    cloud.set("plans", [["FAILED"], ["WAITING_FOR_RESOURCES", "FAILED"], ["ACTIVE"]])
    cloud.set("endings", [0])
    done = cloud.run("supervise.sh", *arguments(cloud))
    assert done.returncode == 0, done.stderr
    assert cloud.lines("calls").count(CREATE) == 3


def test_refused_creation_is_not_repeated(cloud: Cloud) -> None:
    """No quota, no permission, a wrong zone: gcloud says so, once."""
    cloud.set("broken", {"queued-resources create": 99})
    done = cloud.run("supervise.sh", *arguments(cloud))
    assert done.returncode == 1
    assert "UNAVAILABLE" in done.stderr
    assert cloud.lines("calls").count(CREATE) == 1


def test_passing_faults_are_outlived(cloud: Cloud) -> None:
    """Calls that fail now and then, while a run goes on and while it is brought back."""
    cloud.set("plans", [["ACTIVE", "ACTIVE", "SUSPENDED"], ["ACTIVE"]])
    cloud.set("endings", ["SIGTERM", 0])
    cloud.set("broken", {"queued-resources describe": 4, "queued-resources delete": 1})
    done = cloud.run("supervise.sh", *arguments(cloud))
    assert done.returncode == 0, done.stderr
    assert "deleting failed; restart 2" in done.stderr


def test_workers_that_do_not_answer_are_replaced(cloud: Cloud) -> None:
    cloud.set("plans", [["ACTIVE"], ["ACTIVE"]])
    cloud.set("endings", ["SIGTERM", 0])
    with subprocess.Popen(
        [SCRIPTS / "supervise.sh", *arguments(cloud)], env=cloud.environment, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(cloud.folder / "waiting-my-tpu-w0-1")
        cloud.set("broken", {"tpu-vm ssh": 3})
        told = process.communicate(timeout=60)[1]
    assert process.returncode == 0, told
    assert "workers do not answer; restart 1" in told
    assert cloud.lines("calls").count(DELETE) == 1


def test_run_stopped_by_hand_is_not_started_again(cloud: Cloud) -> None:
    cloud.set("plans", [["ACTIVE"]])
    with subprocess.Popen(
        [SCRIPTS / "supervise.sh", *arguments(cloud)], env=cloud.environment, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(cloud.folder / "waiting-my-tpu-w0-1")
        stopped = cloud.run("stop.sh", *COMMON)
        told = process.communicate(timeout=60)[1]
    assert stopped.stdout.splitlines() == ["my-tpu-w0: stopped"]
    assert process.returncode == 143, told
    assert "stopped by hand" in told
    assert "checkpoint saved" in (cloud.home("my-tpu-w0") / "pagnol/session/log").read_text()


def test_run_under_way_is_taken_up(cloud: Cloud) -> None:
    """Started again beside a run, the supervisor watches it; a resource deleted by someone is not made again."""
    cloud.active()
    cloud.run("setup.sh", *COMMON, "--checkout", str(cloud.checkout))
    assert cloud.run("launch.sh", *COMMON, "--", *TRAIN).returncode == 0
    with subprocess.Popen(
        [SCRIPTS / "supervise.sh", *arguments(cloud)], env=cloud.environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "watching it" in next(line for line in process.stderr if "run" in line)
        assert cloud.run("delete.sh", *COMMON, "--yes").returncode == 0
        told = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "was deleted by someone else" in told
    assert len(cloud.lines("runs")) == 1
    assert CREATE not in cloud.lines("calls")


@pytest.mark.parametrize(
    ("states", "answered", "meaning"),
    [
        (["running a", "running b"], "yes", "running"),
        (["exited 0 a", "running b"], "yes", "running"),
        (["exited 0 a", "exited 0 b"], "yes", "done"),
        (["exited 2 a", "exited 75 b"], "yes", "failed 2"),
        (["exited 2 a"], "no", "failed 2"),
        (["exited 134 a", "running b"], "yes", "failed 134"),
        (["exited 1 a", "exited 75 b"], "yes", "failed 1"),  # b lost a, which crashed by itself
        (["exited 134 a", "lost b"], "yes", "interrupted"),
        (["exited 134 a", "fresh b"], "yes", "interrupted"),
        (["exited 143 a", "exited 1 b"], "yes", "interrupted"),
        (["exited 75 a", "exited 75 b"], "yes", "interrupted"),
        (["exited 134 a"], "no", "silent"),
        ([], "no", "silent"),
        (["stopped a", "exited 1 b"], "yes", "stopped"),
    ],
)
def test_what_states_mean(states: list[str], answered: str, meaning: str) -> None:
    command = [
        "bash",
        "-c",
        'source "$1"; verdict "${@:2}"',
        "-",
        SCRIPTS / "supervise.sh",
        "\n".join(states),
        answered,
    ]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{meaning}\n"


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--env=1X=2", "launch.sh: error: --env 1X=2: not a variable's name"),
        ("--extras=a b", "setup.sh: error: --extras a b"),
        ("--runtime-version=", "supervise.sh: error: --runtime-version needs a value"),
        ("--grace=soon", "stop.sh: error: --grace soon"),
        ("--reserved", "create.sh: error: --spot and --reserved"),
    ],
)
def test_bad_usage_is_told_before_anything_is_created(cloud: Cloud, option: str, told: str) -> None:
    done = cloud.run("supervise.sh", *arguments(cloud, option))
    assert done.returncode == 2
    assert told in done.stderr
    assert cloud.lines("calls") == []
