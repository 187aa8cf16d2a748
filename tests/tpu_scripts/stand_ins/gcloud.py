"""Stands in for gcloud: records its arguments, keeps one queued resource, runs ssh commands here under bash.

Folder $CLOUD: `plans.json` holds for each coming creation the answers to `describe`, one after the other, the last for
good; `now.json` those of the resource there is. A worker is a folder `workers/NODE-wK`, its user's home.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

CLOUD = Path(os.environ["CLOUD"])
NOW, PLANS, WORKERS = CLOUD / "now.json", CLOUD / "plans.json", CLOUD / "workers"


def main(arguments: list[str]) -> int:
    with (CLOUD / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    flags = {name: value for name, _, value in (a.partition("=") for a in arguments if a.startswith("--"))}
    words = [a for a in arguments if not a.startswith("--")]
    broken = json.loads((CLOUD / "broken.json").read_text())
    if (verb := " ".join(words[2:4])) in broken and broken[verb] > 0:
        broken[verb] -= 1
        (CLOUD / "broken.json").write_text(json.dumps(broken))
        print(f"ERROR: (gcloud) UNAVAILABLE: {verb}", file=sys.stderr)
        return 1
    return {
        "queued-resources create": create,
        "queued-resources describe": lambda: describe(words[4]),
        "queued-resources delete": delete,
        "tpu-vm describe": lambda: print("10.0.0.2"),
        "tpu-vm ssh": lambda: ssh(words[4], flags["--worker"], flags["--command"]),
        "tpu-vm scp": lambda: copy(words[4:-1], *words[-1].split(":", 1)),
    }.get(verb, lambda: 0)() or 0


def create() -> int:
    if NOW.exists():
        print("ERROR: (gcloud) ALREADY_EXISTS: the resource exists", file=sys.stderr)
        return 1
    first, *rest = json.loads(PLANS.read_text())
    NOW.write_text(json.dumps(first))
    PLANS.write_text(json.dumps(rest))
    return 0


def describe(name: str) -> int:
    if not NOW.exists():
        print(f"ERROR: (gcloud) NOT_FOUND: Resource '{name}' was not found", file=sys.stderr)
        return 1
    states = json.loads(NOW.read_text())
    print(states[0])
    if len(states) > 1:
        NOW.write_text(json.dumps(states[1:]))
    if states[0] == "SUSPENDING":  # the machines get SIGTERM first
        stop_workers(signal.SIGTERM)
    return 0


def delete() -> int:
    stop_workers(signal.SIGKILL)
    shutil.rmtree(WORKERS, ignore_errors=True)
    NOW.unlink()
    return 0


def stop_workers(with_signal: int) -> None:
    for file in WORKERS.glob("*/.session"):
        os.killpg(int(file.read_text()), with_signal)


def homes(node: str, worker: str) -> list[Path]:
    numbers = range(int(os.environ["WORKERS"])) if worker == "all" else [int(worker)]
    found = [WORKERS / f"{node}-w{number}" for number in numbers]
    for home in found:
        home.mkdir(parents=True, exist_ok=True)
    return found


def ssh(node: str, worker: str, command: str) -> int:
    """As sshd does it: the user's shell gets the command line as one string. Returns the first failure's status."""
    failures = []
    for home in homes(node, worker):
        environment = {"HOME": str(home), "HOSTNAME": home.name, "PATH": os.environ["PATH"], "CLOUD": str(CLOUD)}
        done = subprocess.run(["bash", "-c", command], env=environment, cwd=home, check=False, stdin=subprocess.DEVNULL)
        failures += [done.returncode] if done.returncode else []
    return failures[0] if failures else 0


def copy(sources: list[str], node: str, folder: str) -> int:
    for home in homes(node, "all"):
        for source in sources:
            shutil.copy(source, home / folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
