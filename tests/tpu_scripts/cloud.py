"""A cloud in a folder: the scripts run against stand-ins of gcloud, tmux, uv and pagnol, on a PATH of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "tpu_scripts"
STAND_INS = Path(__file__).parent / "stand_ins"
TOOLS = """
awk basename bash cat date dirname env git grep gzip head hostname ln mkdir mktemp mv rm sed sh sleep sort tail tar
touch
"""
WHERE = ["--project=my-project", "--zone=us-central1-a"]
COMMON = ["--name", "my-tpu", "--project", "my-project", "--zone", "us-central1-a"]
ASK = "bash pagnol/worker.sh status 2>/dev/null || echo fresh $(hostname)"


class Cloud:
    """`plans`: for each creation of the resource, what `describe` answers in turn (the last one for good)."""

    def __init__(self, folder: Path, workers: int = 1) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        for tool in TOOLS.split():
            (self.bin / tool).symlink_to(shutil.which(tool))
        (self.bin / "python3").symlink_to(sys.executable)
        for name, program in (("gcloud", "gcloud"), ("tmux", "tmux"), ("uv", "uv"), ("pagnol-stand-in", "pagnol")):
            self.program(name, f'exec "{sys.executable}" -S -E "{STAND_INS / program}.py" "$@"')
        self.environment = {"PATH": str(self.bin), "CLOUD": str(folder), "WORKERS": str(workers), "HOME": str(folder)}
        self.set("plans", [])
        self.set("broken", {})
        self.set("endings", ["SIGTERM"])
        self.checkout = folder / "a checkout"
        self.checkout.mkdir()
        (self.checkout / "pyproject.toml").write_text("[project]\n")
        subprocess.run(["git", "init", "-q", self.checkout], check=True)

    def program(self, name: str, body: str) -> None:
        """Puts a shell script on PATH, in place of the link to a real tool: never through it."""
        (self.bin / name).unlink(missing_ok=True)
        with (self.bin / name).open("x") as file:
            file.write(f"#!/bin/sh\n{body}\n")
        (self.bin / name).chmod(0o755)

    def set(self, name: str, value: object) -> None:
        """Tells the stand-ins: plans, broken, endings, now."""
        (self.folder / f"{name}.json").write_text(json.dumps(value))

    def active(self) -> None:
        """A resource that is there."""
        self.set("now", ["ACTIVE"])

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a script without a terminal."""
        return subprocess.run(
            [SCRIPTS / script, *arguments],
            env=self.environment | environment,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=240,
        )

    def lines(self, name: str) -> list:
        """What the stand-ins recorded: calls (of gcloud), runs (of pagnol), uv."""
        file = self.folder / f"{name}.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def home(self, worker: str) -> Path:
        """The home folder of a worker, as in my-tpu-w0."""
        return self.folder / "workers" / worker

    def close(self) -> None:
        """Ends what still runs."""
        for session in self.folder.glob("workers/*/.session"):
            os.killpg(int(session.read_text()), signal.SIGKILL)


def queued(verb: str, *flags: str) -> list[str]:
    """The arguments of `gcloud compute tpus queued-resources`."""
    return ["compute", "tpus", "queued-resources", verb, "my-tpu", *WHERE, *flags]


DESCRIBE = queued("describe", "--format=value(state.state)")
DELETE = queued("delete", "--force", "--quiet")


def ssh(command: str, node: str = "my-tpu", worker: str = "all") -> list[str]:
    """The arguments of `gcloud compute tpus tpu-vm ssh`."""
    return ["compute", "tpus", "tpu-vm", "ssh", node, *WHERE, f"--worker={worker}", f"--command={command}"]


def setup_calls(archive: Path, node: str = "my-tpu") -> list[list[str]]:
    """What setup.sh asks of gcloud for one node."""
    return [
        ssh("mkdir -p pagnol", node),
        [
            "compute",
            "tpus",
            "tpu-vm",
            "scp",
            str(SCRIPTS / "worker.sh"),
            str(archive),
            f"{node}:pagnol/",
            *WHERE,
            "--worker=all",
        ],
        ssh("bash pagnol/worker.sh install tpu,data,gcs", node),
    ]


def wait_for(file: Path) -> None:
    """Until a stand-in has made the file."""
    deadline = time.monotonic() + 30
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
