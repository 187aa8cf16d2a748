"""A run is a folder that explains itself.

config.gin         the operative configuration
run.json           what was trained on what, by which versions: units in the names
tokenizer.json     the tokenizer, so that the run can speak
metrics.jsonl      losses by step; a pure function of the configuration, cut back to the checkpoint on resume
speed.jsonl        what depends on the machine: tokens/s and share of its matmul peak
checkpoints/ tensorboard/
"""

import importlib.metadata
import json
import os
import platform
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pagnol_jax.errors import UserError

PACKAGES = ("pagnol_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# What a resumed run must share with its folder; anything else (more steps, other evaluations) may change.
IDENTITY = ("model", "tokenizer", "corpora", "seed", "tokens_per_step")


def versions() -> dict[str, str]:
    """Versions of the interpreter and of the packages that a result depends on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def write_atomically(path: Path, text: str) -> None:
    """Replaces `path` in one step: a kill leaves the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class RunFolder:
    """Reads and writes a run's files (not its checkpoints)."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer.json"

    def read(self) -> dict[str, Any]:
        """run.json. Raises UserError if the folder is not a run."""
        try:
            return json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path} is not a run folder: {error}") from error

    def open(self, record: dict[str, Any], tokenizer: Path, config: str) -> None:
        """Creates the folder, or checks that what it holds is the same experiment.

        Raises UserError naming what differs: another model, tokenizer, corpus, seed or batch is another run.
        """
        if (self.path / "run.json").exists():
            before, record_ = self.read(), json.loads(json.dumps(record))
            if changed := [key for key in IDENTITY if before.get(key) != record_[key]]:
                raise UserError(f"{self.path} holds a run with another {' and '.join(changed)}; name another folder")
        self.path.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tokenizer, self.tokenizer)
        write_atomically(self.path / "config.gin", config)
        write_atomically(self.path / "run.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")

    def cut_back(self, step: int) -> None:
        """Drops every metric after `step`, and a last line that a kill left unfinished."""
        for name in ("metrics.jsonl", "speed.jsonl"):
            if (self.path / name).exists():
                lines = (self.path / name).read_text(encoding="utf-8").splitlines(keepends=True)
                write_atomically(self.path / name, "".join(line for line in lines if _step(line) <= step))


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"] if line.endswith("\n") else float("inf")
    except ValueError:
        return float("inf")


class Log:
    """Appends to metrics.jsonl and speed.jsonl, and mirrors both in TensorBoard from a thread of its own."""

    def __init__(self, folder: RunFolder) -> None:
        self._files = {name: (folder.path / f"{name}.jsonl").open("a") for name in ("metrics", "speed")}
        # TensorFlow takes seconds to import: the first task of the thread does it, training does not wait.
        self._thread = ThreadPoolExecutor(1, "tensorboard")
        self._writer = self._thread.submit(_tensorboard, str(folder.path / "tensorboard"))

    def write(self, file: str, prefix: str, line: dict[str, Any]) -> None:
        """One line of `file` ('metrics' or 'speed'); its numbers go to TensorBoard as prefix/name."""
        self._files[file].write(json.dumps(line, ensure_ascii=False) + "\n")
        scalars = {f"{prefix}/{k}": v for k, v in line.items() if isinstance(v, float)}
        self._thread.submit(self._mirror, line["step"], scalars)

    def _mirror(self, step: int, scalars: dict[str, float]) -> None:
        if writer := self._writer.result():
            writer.write_scalars(step, scalars)

    def flush(self) -> None:
        """Returns when every line is on disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        self.flush()
        self._thread.submit(lambda: self._writer.result() and self._writer.result().close())
        self._thread.shutdown()
        for file in self._files.values():
            file.close()


def _tensorboard(folder: str) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")
        from clu import metric_writers
    except ImportError:
        print("pagnol: no TensorBoard log: TensorFlow is not installed (extra 'data')", file=sys.stderr)
        return None
    return metric_writers.SummaryWriter(folder)
