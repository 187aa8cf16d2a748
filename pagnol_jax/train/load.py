"""A run's model, for whoever wants to use it: no mesh, no gin; and its whole state, for another trainer."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import unflatten_dict

from pagnol_jax.errors import UserError
from pagnol_jax.models import gpt
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.train.checkpoint import checksums, compare, one_line, quiet_reading, verified
from pagnol_jax.train.record import RunFolder

T = TypeVar("T")


class WholeState(NamedTuple):
    """Everything that training changes, as NumPy arrays.

    config, params: as they train, padding of the vocabulary kept. optimizer: nested dictionaries under the names of
    flax.serialization.to_state_dict ('0', '1' in tuples), without what is empty. step: updates done.
    """

    config: GPTConfig
    params: Any
    optimizer: dict[str, Any]
    step: int


def load_run(path: str | Path) -> tuple[GPTConfig, Any, Path]:
    """(configuration, float32 parameters as NumPy arrays, tokenizer file) of the newest whole checkpoint of a run.

    Raises UserError if the folder is not a run, or no checkpoint of it can be read.
    """
    folder = RunFolder(path)
    config = GPTConfig.from_json(folder.read()["model"])
    return *gpt.unpadded(config, _newest(folder, lambda checkpoint: _params(checkpoint, config))), folder.tokenizer


def load_state(path: str | Path) -> WholeState:
    """The whole state in the newest whole checkpoint of a run. Raises UserError as `load_run` does."""
    folder = RunFolder(path)
    config = GPTConfig.from_json(folder.read()["model"])
    state = _newest(folder, _state)
    return WholeState(config, state["params"], state["optimizer"], int(state["step"]))


def load_params(path: str | Path) -> Any:
    """The parameters in the newest whole checkpoint of any run or study, nested dictionaries of NumPy arrays.

    Raises UserError as `load_run` does.
    """
    folder = RunFolder(path)
    folder.read()
    return _newest(folder, _state)["params"]


def _newest(folder: RunFolder, read: Callable[[Path], T]) -> T:
    """What `read` makes of the newest checkpoint that it can read."""
    steps = sorted(ocp.utils.checkpoint_steps(folder.checkpoints), reverse=True) if folder.checkpoints.is_dir() else []
    damage = "there is none yet"
    for step in steps:
        try:
            with quiet_reading():
                return read(folder.checkpoints / str(step))
        except Exception as error:  # whatever orbax, tensorstore or a checksum find wrong with it
            damage = f"step {step}: {one_line(error)}"
    raise UserError(f"{folder.path}: no checkpoint can be read ({damage})")


def _state(checkpoint: Path) -> dict[str, Any]:
    """The arrays of a checkpoint under the keys that orbax spells out: tuples have become dictionaries. Without
    the feedback."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.metadata(checkpoint / "state").item_metadata.tree
        kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = reader.restore(checkpoint / "state", args=ocp.args.PyTreeRestore(restore_args=kinds))
    expected = {_words(path): value for path, value in _note(checkpoint)["checksums"].items()}
    compare(expected, {_words(path): value for path, value in checksums(state).items()})
    state.pop("feedback", None)  # its keys are paths of modules, of which one may begin another; nobody asks for it
    arrays = {_words(jax.tree_util.keystr(path)): x for path, x in jax.tree_util.tree_leaves_with_path(state)}
    return unflatten_dict(arrays, sep=".")


def _words(path: str) -> str:
    """A path without its punctuation: `.optimizer[1][0].mu['head']` and `['optimizer'][1][0]['mu']['head']` are one."""
    return ".".join(re.findall(r"\w+", path))


def _note(checkpoint: Path) -> dict[str, Any]:
    return verified(json.loads((checkpoint / "note" / "metadata").read_text(encoding="utf-8")))


def _params(checkpoint: Path, config: GPTConfig) -> Any:
    shapes = jax.eval_shape(lambda: nn.unbox(gpt.init(config, jax.random.key(0))))
    kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        args = ocp.args.PyTreeRestore({"params": shapes}, restore_args={"params": kinds}, partial_restore=True)
        params = reader.restore(checkpoint / "state", args)["params"]
    compare(_note(checkpoint)["checksums"], {f".params{name}": value for name, value in checksums(params).items()})
    return params
