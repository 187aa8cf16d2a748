"""A run is a folder that explains itself.

config.gin         the operative configuration
run.json           what was trained on what, by which versions: units in the names
tokenizer.json     the tokenizer, so that the run can speak
metrics.jsonl      losses by step; a pure function of the configuration, cut back to the checkpoint on resume
speed.jsonl        what depends on the machine: tokens/s and share of its matmul peak
checkpoints/, tensorboard/
lock               held while a process trains here
"""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pagnol_jax.data.disk import at, is_remote
from pagnol_jax.errors import UserError
from pagnol_jax.train import hosts
from pagnol_jax.train.tensorboard import TensorBoard

PACKAGES = ("pagnol_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# What a resumed run must share with its folder; anything else (more steps, other evaluations) may change.
IDENTITY = ("model", "tokenizer", "corpora", "rates", "length", "tokens_per_step", "seed", "batches", "rule")
# What run.json did not say while it could not be otherwise.
UNSAID: dict[str, Any] = {"rule": {"name": "backprop", "taps": []}}
UNSAID_OF_MODELS = {"post_norm": False}
# How a model is run, not what it is.
EXECUTION = ("unroll", "remat", "attention", "fold_norms")


def versions() -> dict[str, str]:
    """Versions of the interpreter and of the packages that a result depends on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def write_atomically(path: Path, text: str) -> None:
    """Replaces `path` in one step: a kill leaves the old file or the new one, a full disk (UserError) the old."""
    if is_remote(path):  # an object is there whole or not at all
        path.write_text(text)
        return
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)  # a full disk has no room for it
        raise UserError(f"{path}: {error.strerror or error}") from error


class RunFolder:
    """Reads and writes a run's files (not its checkpoints)."""

    def __init__(self, path: str | Path, identity: tuple[str, ...] = IDENTITY) -> None:
        """identity: what of run.json a resumed run must share with it."""
        self.path, self.identity = at(path), identity
        self._mark = f"{socket.gethostname()} {os.getpid()} {time.time()}"

    @property
    def checkpoints(self) -> Path:
        """An absolute path, as orbax wants it."""
        folder = self.path / "checkpoints"
        return folder if is_remote(folder) else folder.absolute()

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer.json"

    def read(self) -> dict[str, Any]:
        """run.json. Raises UserError if the folder is not a run."""
        try:
            return json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path} is not a run folder: {error}") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Creates the folder and keeps it from other processes; one that ends, however it ends, lets go of it.

        An object store has no locks: there the last to come puts its mark, and `keep` ends the one before.
        Raises UserError if another process trains here.
        """
        if is_remote(self.path):
            (self.path / "lock").write_text(self._mark)
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{self.path}: another process is training here") from None
            yield

    def keep(self) -> None:
        """Raises UserError where another process has come to train in an object store since `locked`."""
        if is_remote(self.path) and (mark := (self.path / "lock").read_text()) != self._mark:
            host, process, _ = mark.split(" ")
            raise UserError(f"{self.path}: process {process} on {host} has begun to train here, this one ends")

    @contextlib.contextmanager
    def shared(self, record: dict[str, Any], tokenizer: Path | None, config: str) -> Iterator[None]:
        """The folder locked and opened by the first host, and seen by all of them.

        Raises UserError as `locked` and `open` do, and for a folder that is not the same on every host.
        """
        with self.locked() if hosts.first() else contextlib.nullcontext():
            if hosts.first():
                self.open(record, tokenizer, config)
            hosts.exchange()
            ours, *theirs = hosts.exchange(self._seen())
            if other := [str(index) for index, seen in enumerate(theirs, start=1) if seen != ours]:
                where = f"{self.path} is not the same folder on host {', '.join(other)} as on host 0"
                raise UserError(f"{where}: it must lie on storage that all hosts share")
            yield

    def _seen(self) -> str:
        """run.json as this host reads it, in short."""
        path = self.path / "run.json"
        return hosts.digest(path.read_text(encoding="utf-8")) if path.exists() else ""

    def open(self, record: dict[str, Any], tokenizer: Path | None, config: str) -> None:
        """Writes what the run is, or checks that what the folder holds is the same experiment.

        Raises UserError naming what differs (another model, tokenizer, corpus, seed or batch is another run), and
        for a run that has gone further than `total_steps`.
        """
        if (self.path / "run.json").exists():
            before, now = (identity(each, self.identity) for each in (self.read(), json.loads(json.dumps(record))))
            if changed := [key for key in self.identity if before[key] != now[key]]:
                raise UserError(f"{self.path} holds a run with another {' and '.join(changed)}; name another folder")
        done = max((int(path.name) for path in self.checkpoints.glob("*") if path.name.isdigit()), default=0)
        if done > record["total_steps"]:
            raise UserError(f"{self.path} is at step {done} already, past {record['total_steps']}")
        if tokenizer:
            write_atomically(self.tokenizer, tokenizer.read_text(encoding="utf-8"))
        write_atomically(self.path / "config.gin", config)
        write_atomically(self.path / "run.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")

    def cut_back(self, step: int) -> None:
        """Drops every metric after `step`, and a last line that a kill left unfinished."""
        for name in ("metrics.jsonl", "speed.jsonl"):
            if (self.path / name).exists():
                lines = (self.path / name).read_text(encoding="utf-8").splitlines(keepends=True)
                write_atomically(self.path / name, "".join(line for line in lines if _step(line) <= step))


def identity(record: dict[str, Any], keys: tuple[str, ...] = IDENTITY) -> dict[str, Any]:
    """What makes a run the run it is."""
    found = {key: record.get(key, UNSAID.get(key)) for key in keys}
    if isinstance(model := found.get("model"), dict):
        found["model"] = {k: value for k, value in (UNSAID_OF_MODELS | model).items() if k not in EXECUTION}
    return found


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"] if line.endswith("\n") else float("inf")
    except ValueError:
        return float("inf")


class Lines:
    """A file on disk that lines are appended to."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1, encoding="utf-8")  # line by line, for whoever watches

    def write(self, line: str) -> None:
        self._file.write(line)

    def flush(self) -> None:
        """Returns when every line is on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class RemoteLines:
    """The same in an object store, which cannot append: held in memory, and written whole at every flush."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = [path.read_text()] if path.exists() else []

    def write(self, line: str) -> None:
        self._lines.append(line)

    def flush(self) -> None:
        """Returns when every line is in the store."""
        self._lines = ["".join(self._lines)]
        self._path.write_text(self._lines[0])

    def close(self) -> None: ...


class Log:
    """Appends to metrics.jsonl and speed.jsonl, and mirrors both in TensorBoard."""

    def __init__(self, folder: RunFolder) -> None:
        lines = RemoteLines if is_remote(folder.path) else Lines
        self._files = {name: lines(folder.path / f"{name}.jsonl") for name in ("metrics", "speed")}
        self._tensorboard = TensorBoard(folder.path / "tensorboard")

    def write(self, file: str, prefix: str, line: dict[str, Any]) -> None:
        """One line of `file` ('metrics' or 'speed'); its numbers go to TensorBoard as prefix/name."""
        self._files[file].write(json.dumps(line, ensure_ascii=False) + "\n")
        scalars = {f"{prefix}/{name}": value for name, value in line.items() if isinstance(value, float)}
        self._tensorboard.write(line["step"], scalars)

    def flush(self) -> None:
        """Returns when every line is where it is kept."""
        for file in self._files.values():
            file.flush()

    def close(self) -> None:
        """Flushes and closes, every file though one fails."""
        with contextlib.ExitStack() as closing:
            closing.callback(self._tensorboard.close)
            for file in self._files.values():
                closing.callback(file.close)
            self.flush()


class NoLog:
    """The log of a host that leaves writing to the first."""

    def write(self, file: str, prefix: str, line: dict[str, Any]) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...
