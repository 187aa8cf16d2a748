"""setup.sh, launch.sh, status.sh, logs.sh, fetch.sh, stop.sh: what gcloud is asked, what arrives on the workers."""

import json
import subprocess
import time
from pathlib import Path

import pytest
from tpu_scripts.cloud import ASK, COMMON, DESCRIBE, WHERE, Cloud, setup_calls, ssh, wait_for

ADDRESS = ["compute", "tpus", "tpu-vm", "describe", "my-tpu-0", *WHERE, "--format=value(networkEndpoints[0].ipAddress)"]
STOP = "[ ! -f pagnol/worker.sh ] || bash pagnol/worker.sh stop 300"
SLICES = [*COMMON, "--node-count", "2"]
NASTY = [
    *[
        "pagnol",
        "train",
        "two  spaces",
        " ",
        "",
        "it's",
        '"',
        "'",
        "$HOME",
        "$(touch hacked)",
        "`id`",
        "a;b",
        "a&&b",
        "*",
    ],
    *["back\\slash", "\\", "new\nline", "tab\t", "!x", "~", "#no", "{a,b}", "été", "--gin.NAME='œuvre $1'", "%d", "-n"],
]


@pytest.fixture
def ready(cloud: Cloud) -> Cloud:
    """A TPU that is set up, with nothing recorded yet."""
    cloud.active()
    done = cloud.run("setup.sh", *COMMON, "--checkout", str(cloud.checkout))
    assert done.returncode == 0, done.stderr
    (cloud.folder / "calls.jsonl").unlink()
    return cloud


def ended(cloud: Cloud, worker: str = "my-tpu-w0") -> int:
    """Waits for a run to end; its exit status."""
    deadline = time.monotonic() + 30
    while cloud.home(worker).joinpath(".session").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int((cloud.home(worker) / "pagnol/session/exit_status").read_text())


def test_two_slices_by_hand(cloud: Cloud, tmp_path: Path) -> None:
    """Set up, launched, looked at, stopped, fetched: two slices of two workers."""
    cloud.environment["WORKERS"] = "2"
    cloud.active()
    cloud.program("curl", "exit 22")  # a metadata server that knows of no slices
    train = ["pagnol", "train", "--run_dir", "my runs/it's"]
    archive = cloud.folder / "pagnol-my-tpu" / "source.tar.gz"
    assert cloud.run("setup.sh", *SLICES, f"--checkout={cloud.checkout}", TMPDIR=str(cloud.folder)).returncode == 0
    assert cloud.run("launch.sh", *SLICES, "--", *train).returncode == 0
    for run in range(4):
        wait_for(cloud.folder / f"waiting-my-tpu-{run // 2}-w{run % 2}-1")
    status = cloud.run("status.sh", *SLICES)
    logs = cloud.run("logs.sh", *SLICES, "--slice", "1", "--worker", "1", "--lines", "1", "--no-follow")
    results = cloud.home("my-tpu-0-w0") / "pagnol" / "my runs" / "it's"
    (results / "checkpoints").mkdir(parents=True)
    (results / "checkpoints" / "large").touch()
    (results / "metrics.jsonl").write_text("{}")
    fetch = cloud.run("fetch.sh", *SLICES, "--run-dir", "my runs/it's", "--to", str(tmp_path / "re sults"))
    stop = cloud.run("stop.sh", *SLICES)

    names = [f"my-tpu-{run // 2}-w{run % 2}" for run in range(4)]
    assert status.stdout.splitlines() == ["my-tpu: ACTIVE", *(f"running {name}" for name in names)]
    assert logs.stdout == "start 1 of my-tpu-1-w1 ends with SIGTERM\n"
    assert [str(p.relative_to(tmp_path)) for p in sorted((tmp_path / "re sults").iterdir())] == [
        "re sults/metrics.jsonl"
    ]
    assert fetch.returncode == 0
    assert stop.stdout.splitlines() == [f"{name}: stopped" for name in names]
    start = 'bash pagnol/worker.sh start --slice 10.0.0.2 2 {} -- pagnol train --run_dir "my runs/it\'s"'
    assert cloud.lines("calls") == [
        *setup_calls(archive, "my-tpu-0"),
        *setup_calls(archive, "my-tpu-1"),
        *[ssh(ASK, "my-tpu-0"), ssh(ASK, "my-tpu-1"), ADDRESS],
        *[ssh(start.format(0), "my-tpu-0"), ssh(start.format(1), "my-tpu-1")],
        *[DESCRIBE, ssh(ASK, "my-tpu-0"), ssh(ASK, "my-tpu-1")],
        ssh("tail -n 1 pagnol/session/log", "my-tpu-1", "1"),
        ssh('cd pagnol && tar -C "my runs/it\'s" --exclude=./checkpoints -czf - .', "my-tpu-0", "0"),
        *[ssh(STOP, "my-tpu-0"), ssh(STOP, "my-tpu-1")],
    ]
    assert not archive.exists()
    for run in cloud.lines("runs"):
        assert run["arguments"] == train[1:]
        assert run["folder"] == str(cloud.home(run["host"]) / "pagnol")
        assert {k: v for k, v in run["environment"].items() if k.startswith("MEGASCALE")} == {
            "MEGASCALE_COORDINATOR_ADDRESS": "10.0.0.2",
            "MEGASCALE_PORT": "8081",
            "MEGASCALE_NUM_SLICES": "2",
            "MEGASCALE_SLICE_ID": run["host"][len("my-tpu-")],
        }


def test_slices_that_describe_themselves_are_left_alone(cloud: Cloud) -> None:
    """A queued multislice resource has its MEGASCALE variables in the metadata attribute tpu-env, read by JAX."""
    cloud.active()
    answer = "ACCELERATOR_TYPE: 'v4-8'\\nMEGASCALE_COORDINATOR_ADDRESS: '10.9.9.9:8080'"
    url = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/tpu-env"
    cloud.program("curl", f'for last; do :; done; [ "$last" = {url} ] && printf "{answer}\\n"')
    cloud.run("setup.sh", *SLICES, "--checkout", str(cloud.checkout))
    assert cloud.run("launch.sh", *SLICES, "--", "pagnol", "train").returncode == 0
    wait_for(cloud.folder / "waiting-my-tpu-1-w0-1")
    assert not [name for run in cloud.lines("runs") for name in run["environment"] if name.startswith("MEGASCALE")]


def test_arguments_and_variables_arrive_exactly(ready: Cloud) -> None:
    ready.set("endings", [0])
    variables = {"NOTE": '5 $ a "day" & it\'s', "EMPTY": "", "WANDB_API_KEY": "se cret$"}
    options = [f"--env=NOTE={variables['NOTE']}", "--env", "EMPTY=", "--env", "WANDB_API_KEY"]
    done = ready.run("launch.sh", *COMMON, *options, "--", *NASTY, WANDB_API_KEY=variables["WANDB_API_KEY"])
    assert done.returncode == 0, done.stderr
    assert ended(ready) == 0
    (run,) = ready.lines("runs")
    assert run["arguments"] == NASTY[1:]
    assert {name: run["environment"][name] for name in variables} == variables
    assert (ready.home("my-tpu-w0") / "pagnol/session/argv").stat().st_mode & 0o077 == 0
    assert not list(ready.folder.rglob("hacked"))


def test_not_started_twice(ready: Cloud) -> None:
    assert ready.run("launch.sh", *COMMON, "--", "pagnol", "train").returncode == 0
    second = ready.run("launch.sh", *COMMON, "--", "pagnol", "train")
    assert second.returncode == 3
    assert second.stderr == "launch.sh: error: a run is under way: stop.sh stops it\n"
    refused = ready.run("setup.sh", *COMMON, "--checkout", str(ready.checkout))
    assert (refused.returncode, refused.stderr.splitlines()[-1]) == (
        3,
        "setup.sh: error: a run is under way on my-tpu: stop.sh stops it",
    )
    wait_for(ready.folder / "waiting-my-tpu-w0-1")
    assert len(ready.lines("runs")) == 1


def test_start_refuses_on_the_worker_too(ready: Cloud) -> None:
    """Two launches at the same moment pass each other's first look."""
    assert ready.run("launch.sh", *COMMON, "--", "pagnol", "train").returncode == 0
    command = [ready.bin / "gcloud", *ssh("bash pagnol/worker.sh start -- pagnol train")]
    done = subprocess.run(command, env=ready.environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "worker.sh on my-tpu-w0: a run is under way already\n")


def test_states_of_a_worker(ready: Cloud) -> None:
    """fresh, running, exited, stopped, lost; a log that tells every start."""
    ready.set("endings", [7, "SIGTERM", "SIGTERM"])
    states = []

    def look() -> None:
        states.append(ready.run("status.sh", *COMMON).stdout.splitlines()[1])

    def launch() -> None:
        assert ready.run("launch.sh", *COMMON, "--", "pagnol", "train").returncode == 0

    look()
    launch()
    ended(ready)
    look()
    launch()
    wait_for(ready.folder / "waiting-my-tpu-w0-2")
    look()
    ready.run("stop.sh", *COMMON)
    look()
    launch()
    wait_for(ready.folder / "waiting-my-tpu-w0-3")
    ready.close()  # as a reboot does
    (ready.home("my-tpu-w0") / ".session").unlink()
    look()
    expected = ["fresh", "exited 7", "running", "stopped", "lost"]
    assert states == [f"{state} my-tpu-w0" for state in expected]
    log = (ready.home("my-tpu-w0") / "pagnol/session/log").read_text()
    assert log.count(": start\n") == 3
    assert log.count("exit status 7\n") == log.count("exit status 143\n") == 1


def test_setup_packs_the_checkout_as_it_is(cloud: Cloud) -> None:
    """Changes and new files go along; what git ignores and what was deleted do not; twice is as good as once."""
    cloud.active()
    git = ["git", "-C", str(cloud.checkout), "-c", "user.name=a", "-c", "user.email=a@b"]
    for name in ("deleted.py", "changed.py", ".gitignore"):
        (cloud.checkout / name).write_text("ignored.py\n")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    (cloud.checkout / "deleted.py").unlink()
    (cloud.checkout / "changed.py").write_text("changed\n")
    (cloud.checkout / "new $file.py").touch()
    (cloud.checkout / "ignored.py").touch()
    for _ in range(2):
        done = cloud.run("setup.sh", *COMMON, "--checkout", str(cloud.checkout), "--extras", "tpu")
        assert (done.returncode, done.stdout) == (0, "my-tpu-w0: pagnol_jax 0.0\n"), done.stderr
        (cloud.checkout / "new $file.py").unlink(missing_ok=True)
    source = cloud.home("my-tpu-w0") / "pagnol" / "source"
    assert sorted(p.name for p in source.iterdir()) == [".gitignore", "changed.py", "pyproject.toml"]
    assert (source / "changed.py").read_text() == "changed\n"
    venv = ["my-tpu-w0", "venv", "--quiet", "--python", "3.11", "venv"]
    install = ["my-tpu-w0", "pip", "install", "--quiet", "--python", "venv/bin/python", "--editable", "./source[tpu]"]
    assert cloud.lines("uv") == [venv, install, install]


def test_setup_from_a_repository(cloud: Cloud) -> None:
    """A branch, then another, over the first."""
    cloud.active()
    git = ["git", "-C", str(cloud.checkout), "-c", "user.name=a", "-c", "user.email=a@b"]
    for branch in ("one", "two"):
        subprocess.run([*git, "checkout", "-qb", branch], check=True)
        (cloud.checkout / "branch").write_text(branch)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-qm", branch], check=True)
    for branch in ("one", "two"):
        done = cloud.run("setup.sh", *COMMON, "--repository", str(cloud.checkout), "--ref", branch)
        assert done.returncode == 0, done.stderr
        assert (cloud.home("my-tpu-w0") / "pagnol/source/branch").read_text() == branch
    install = f"bash pagnol/worker.sh install tpu,data,gcs '{cloud.checkout}' two"
    assert cloud.lines("calls")[-1] == ssh(install)


@pytest.mark.parametrize(("more", "flags"), [([], ["--exclude=^checkpoints/.*"]), (["--checkpoints"], [])])
def test_fetch_from_cloud_storage(cloud: Cloud, tmp_path: Path, more: list[str], flags: list[str]) -> None:
    """Needs neither project nor TPU."""
    done = cloud.run("fetch.sh", "--run-dir", "gs://my bucket/s", "--to", str(tmp_path / "s"), *more)
    assert done.returncode == 0, done.stderr
    assert cloud.lines("calls") == [
        ["storage", "rsync", "--recursive", *flags, "gs://my bucket/s", str(tmp_path / "s")]
    ]


def test_faults_are_told_in_a_line(ready: Cloud) -> None:
    """A worker that does not answer, a run folder that is not there, a log that is not there."""
    ready.set("broken", {"tpu-vm ssh": 1})
    done = ready.run("launch.sh", *COMMON, "--", "pagnol", "train")
    assert (done.returncode, done.stderr) == (1, "launch.sh: error: not every worker of my-tpu answers\n")
    for script, more in (("logs.sh", ["--no-follow"]), ("fetch.sh", ["--run-dir", "none", "--to", str(ready.folder)])):
        done = ready.run(script, *COMMON, *more)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(f"{script}: error: ")
    assert json.loads((ready.folder / "broken.json").read_text()) == {"tpu-vm ssh": 0}
