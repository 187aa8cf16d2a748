"""create.sh and delete.sh: the request, its price, the question, the wait."""

import os
import pty
import subprocess

import pytest
from tpu_scripts.cloud import COMMON, DELETE, DESCRIBE, SCRIPTS, Cloud, queued

FAST = ["--poll", "0.01"]


@pytest.mark.parametrize(
    ("options", "flags", "told"),
    [
        (
            ["--accelerator-type", "v4-8"],
            ["--accelerator-type=v4-8", "--runtime-version=tpu-ubuntu2204-base", "--node-id=my-tpu"],
            ["1 x v4-8, 4 chips, on demand", "12.88 USD an hour, 309 USD a day: 4 chip-hours an hour at 3.22 USD"],
        ),
        (
            ["--accelerator-type=v5e-16", "--spot", "--valid-until-duration", "6h"],
            [
                *["--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite", "--node-id=my-tpu"],
                *["--spot", "--valid-until-duration=6h"],
            ],
            ["1 x v5litepod-16, 16 chips, spot", "6.53 USD an hour", "list price of us-central read on 2026-11-23"],
        ),
        (
            ["--accelerator-type", "v5p-128", "--reserved"],
            ["--accelerator-type=v5p-128", "--runtime-version=v2-alpha-tpuv5", "--node-id=my-tpu", "--reserved"],
            ["64 chips, reserved", "64 chip-hours an hour; a reservation's price is in its contract"],
        ),
        (
            ["--accelerator-type", "v6e-256", "--node-count", "4", "--price-per-chip-hour", "1.5"],
            [
                *["--accelerator-type=v6e-256", "--runtime-version=v2-alpha-tpuv6e"],
                *["--node-count=4", "--node-prefix=my-tpu"],
            ],
            ["4 x v6e-256, 1024 chips", "1536.00 USD an hour, 36864 USD a day", "at 1.5 USD", "(your price)"],
        ),
        (
            ["--accelerator-type", "v6e-8", "--node-count=2", "--node-prefix", "sl", "--runtime-version", "own"],
            ["--accelerator-type=v6e-8", "--runtime-version=own", "--node-count=2", "--node-prefix=sl"],
            ["2 x v6e-8, 16 chips, on demand", "43.20 USD an hour"],
        ),
    ],
)
def test_request_and_price(cloud: Cloud, options: list[str], flags: list[str], told: list[str]) -> None:
    cloud.set("plans", [["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]])
    done = cloud.run("create.sh", *COMMON, *options, *FAST, "--yes")
    assert done.returncode == 0, done.stderr
    assert cloud.lines("calls") == [queued("create", *flags), DESCRIBE, DESCRIBE, DESCRIBE]
    for words in told:
        assert words in done.stderr
    states = [line.split(": ")[1] for line in done.stderr.splitlines()[3 - ("--reserved" in options) :]]
    assert states == ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_tpu_that_is_not_to_be_had(cloud: Cloud, state: str) -> None:
    cloud.set("plans", [["WAITING_FOR_RESOURCES", state]])
    done = cloud.run("create.sh", *COMMON, "--accelerator-type", "v4-8", *FAST, "--yes")
    assert done.returncode == 4
    assert "my-tpu cannot be had" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(("answer", "calls"), [("y\n", 2), ("n\n", 0), ("\n", 0)])
def test_asks_first(cloud: Cloud, answer: str, calls: int) -> None:
    """On a terminal: the price stands there, and nothing has been asked of gcloud."""
    cloud.set("plans", [["ACTIVE"]])
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [SCRIPTS / "create.sh", *COMMON, "--accelerator-type", "v4-8"],
        env=cloud.environment,
        stdin=theirs,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        while "USD" not in process.stderr.readline():
            pass
        assert cloud.lines("calls") == []
        os.write(ours, answer.encode())
        process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == (0 if calls else 1)
    assert len(cloud.lines("calls")) == calls


def test_without_a_terminal_only_yes_creates(cloud: Cloud) -> None:
    done = cloud.run("create.sh", *COMMON, "--accelerator-type", "v4-8")
    assert (done.returncode, cloud.lines("calls")) == (2, [])
    assert done.stderr.splitlines()[-1] == "create.sh: error: no terminal to ask on: give --yes (see create.sh --help)"


def test_delete(cloud: Cloud) -> None:
    """With the machines; what is gone already is not an error; not without a yes."""
    cloud.active()
    assert cloud.run("delete.sh", *COMMON).returncode == 2
    assert cloud.run("delete.sh", *COMMON, "--yes").returncode == 0
    again = cloud.run("delete.sh", *COMMON, "--yes")
    assert (again.returncode, again.stderr) == (0, "my-tpu: there is no such resource\n")
    assert cloud.lines("calls") == [DESCRIBE, DESCRIBE, DELETE, DESCRIBE]
