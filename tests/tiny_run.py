"""A tiny run through the real command, in processes that can be stopped, killed and starved of disk."""

import functools
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from pagnol_jax.train.optimizer import Optimizer

ROOT = Path(__file__).parents[1]
GIN = """
from __gin__ import dynamic_registration
from pagnol_jax.models import config
from pagnol_jax.train import run

include 'models/cpu.gin'
include 'data/files.gin'
include 'runs/base.gin'

PATTERN = '{corpus}'
VOCAB_SIZE = 320
BATCH_SIZE = 4
LENGTH = 32
TOTAL_STEPS = {steps}
WARMUP_STEPS = 5
LEARNING_RATE = 1e-2
config.GPTConfig:
    num_layers = 2
    d_model = 32
    num_heads = 2
    max_length = 32
run.train:
    evaluate_every = 20
    checkpoint_every = 10
    log_every = 1
"""
# What a training image without the data extra looks like: a built cache is all that a run needs.
WITHOUT_TENSORFLOW = """
import sys
for name in ("tensorflow", "seqio", "torch"):
    sys.modules[name] = None
"""
BAR = re.compile(r"%\||B/s\]")  # a line of a progress bar


class Result(NamedTuple):
    """How a command ended. errors: its lines on stderr, progress bars left out."""

    status: int
    out: str
    errors: list[str]


class Tiny(NamedTuple):
    """A folder with a corpus of French sentences, its token cache, and gin files."""

    folder: Path

    @property
    def gin(self) -> Path:
        return self.folder / "tiny.gin"

    def start(
        self, *arguments: object, devices: int = 1, tensorflow: bool = False, **variables: str
    ) -> subprocess.Popen[str]:
        """`pagnol` with these arguments, in a process of its own with these environment variables."""
        cheap = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        paths = [str(ROOT)] if tensorflow else [str(ROOT), str(self.folder / "shim")]
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{cheap} --xla_force_host_platform_device_count={devices}",
            "PAGNOL_CACHE": str(self.folder / "cache"),
            "PYTHONPATH": os.pathsep.join(paths),
            **variables,
        }
        environment.pop("PAGNOL_DATA_DIR", None)
        return subprocess.Popen(
            [sys.executable, "-m", "pagnol_jax", *map(str, arguments)],
            env=environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object, devices: int = 1, tensorflow: bool = False, **variables: str) -> Result:
        """`pagnol` with these arguments, to its end."""
        return finish(self.start(*arguments, devices=devices, tensorflow=tensorflow, **variables))

    def command(self, run_dir: Path | str, *more: object) -> list[object]:
        """The arguments that train the tiny run in `run_dir`."""
        return ["train", "--gin_file", self.gin, "--run_dir", run_dir, *more]

    def train(self, run_dir: Path | str, *more: object, devices: int = 1, **variables: str) -> Result:
        """The tiny run, to its end."""
        return self.run(*self.command(run_dir, *more), devices=devices, **variables)


def use(patch: pytest.MonkeyPatch, tiny: Tiny) -> None:
    """Lets this process train the tiny run."""
    patch.setenv("PAGNOL_CACHE", str(tiny.folder / "cache"))
    patch.delenv("PAGNOL_DATA_DIR", raising=False)


def plain_sgd() -> Optimizer:
    """An optimiser whose state is not AdamW's."""
    return Optimizer(optax.sgd(1.0), optax.constant_schedule(1.0), "constant")


def finish(process: subprocess.Popen[str]) -> Result:
    """Waits for a command that `Tiny.start` began."""
    out, err = process.communicate(timeout=500)
    lines = err.replace("\r", "\n").splitlines()
    return Result(process.returncode, out, [x for x in lines if x.strip() and not BAR.search(x)])


def sentences(documents: int = 400) -> str:
    """JSON Lines of made French, always the same."""
    rng = random.Random(0)
    who = ["La fée", "Le vieux pêcheur", "Une élève", "Mon cœur", "L'été", "Notre forêt", "Ce garçon"]
    does = ["regarde", "traverse", "oublie", "préfère", "écoute", "dessine"]
    what = ["la mer", "un château", "les étoiles", "son frère", "l'hôtel", "le théâtre", "une île"]
    texts = [
        " ".join(f"{rng.choice(who)} {rng.choice(does)} {rng.choice(what)}." for _ in range(12))
        for _ in range(documents)
    ]
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)


@functools.cache
def make(folder: Path, steps: int = 60) -> Tiny:
    """Writes the files and builds the cache, which needs seqio and TensorFlow for some seconds."""
    tiny = Tiny(folder)
    (folder / "shim").mkdir(parents=True, exist_ok=True)
    (folder / "shim" / "sitecustomize.py").write_text(WITHOUT_TENSORFLOW)
    (folder / "fr.jsonl").write_text(sentences(), encoding="utf-8")
    tiny.gin.write_text(GIN.format(corpus=folder / "fr.jsonl", steps=steps))
    built = tiny.run("data", "build", "--gin_file", tiny.gin, "--workers", 1, tensorflow=True)
    assert built.status == 0, built.errors
    return tiny


def shared(basetemp: Path) -> Tiny:
    """The tiny run of this session, one for all its workers (a cache's builders wait for each other)."""
    return make((basetemp.parent if "PYTEST_XDIST_WORKER" in os.environ else basetemp) / "tiny")


def steps_kept(run_dir: Path) -> list[int]:
    """The steps of a run's committed checkpoints."""
    return sorted(ocp.utils.checkpoint_steps(run_dir / "checkpoints"))


def arrays(run_dir: Path) -> dict[str, np.ndarray]:
    """{path: array} of the newest checkpoint, read without the package: parameters, optimiser and step."""
    path = run_dir / "checkpoints" / str(steps_kept(run_dir)[-1]) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.metadata(path).item_metadata.tree
        kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = reader.restore(path, args=ocp.args.PyTreeRestore(restore_args=kinds))
    return {jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(state)}


def assert_same_run(found: Path, expected: Path) -> None:
    """Bit for bit: every array of the state, every line of the metrics, the checksums that the notes hold."""
    ours, theirs = arrays(found), arrays(expected)
    assert ours.keys() == theirs.keys()
    assert any("params" in name for name in ours)
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype, name
        assert ours[name].tobytes() == array.tobytes(), name
    assert (found / "metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()
    assert note(found)["checksums"] == note(expected)["checksums"]


def note(run_dir: Path) -> dict[str, Any]:
    """What the newest checkpoint says of itself."""
    path = run_dir / "checkpoints" / str(steps_kept(run_dir)[-1]) / "note" / "metadata"
    return json.loads(path.read_text(encoding="utf-8"))
