"""Checkpoints of t5x, read and written with orbax alone: t5x need not be there.

t5x's folder holds `checkpoint_STEP/state`, an orbax tree {target: parameters, state: {step, param_states: optimiser}}
with the parameters under the names they have here. `pagnol_jax.with_t5x` adds `model.json` and `tokenizer.json`.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from pagnol_jax.errors import UserError
from pagnol_jax.models import gpt, store
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.train.checkpoint import one_line, quiet_reading

PREFIX, STATE = "checkpoint", "state"


class Progress(NamedTuple):
    """How far training is: updates done, and the optimiser's state as nested dictionaries of arrays under flax's
    names ({'1': {'0': {'count': .., 'mu': .., 'nu': ..}, ..}})."""

    step: int
    optimizer: Mapping[str, Any]


def is_at(path: Path) -> bool:
    """Whether `path` is t5x's folder of a model of ours, or one checkpoint in it."""
    folder = path.parent if (path / STATE).is_dir() else path
    return (folder / store.CONFIG).is_file() and bool(_steps(folder))


def read(source: Path) -> tuple[GPTConfig, store.Params, str | None]:
    """(configuration, float32 parameters as NumPy arrays, text of the tokenizer file or None) of one checkpoint, or
    of the newest in a folder; without padding of the vocabulary.

    Raises UserError where it cannot be read or its parameters are not those of `model.json`.
    """
    checkpoint = source if (source / STATE).is_dir() else source / f"{PREFIX}_{max(_steps(source))}"
    config = GPTConfig.from_json(store.read_json(checkpoint.parent / store.CONFIG))
    wanted = store.unflatten({path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in _shapes(config)})
    kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray, dtype=np.float32), wanted)
    try:
        with quiet_reading(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            args = ocp.args.PyTreeRestore({"target": wanted}, restore_args={"target": kinds}, partial_restore=True)
            params = reader.restore((checkpoint / STATE).absolute(), args)["target"]
    except Exception as error:  # orbax and tensorstore have many
        raise UserError(f"{checkpoint}: not a whole checkpoint of this model: {one_line(error)}") from error
    store.check_shapes(store.flatten(params), config, str(checkpoint))
    tokenizer = checkpoint.parent / store.TOKENIZER
    return *gpt.unpadded(config, params), tokenizer.read_text("utf-8") if tokenizer.is_file() else None


def write(
    dest: Path, config: GPTConfig, params: store.Params, tokenizer: str | None, progress: Progress | None = None
) -> str:
    """Writes a folder with one checkpoint, which appears only when it is whole; returns what it holds.

    With `progress` t5x goes on from it as from its own (`MODEL_DIR` is the folder); without, it starts at step 0 from
    the parameters (gin/t5x/from_weights.gin). Raises UserError as `store.save` does.
    """
    flat = store.flatten(params)
    store.check_shapes(flat, config, str(dest))
    step = progress.step if progress else 0
    state: dict[str, Any] = {"step": np.int32(step)}
    if progress:
        state["param_states"] = progress.optimizer
    with store.new_folder(dest) as unfinished:
        options = ocp.CheckpointManagerOptions(step_prefix=PREFIX, create=True)
        with ocp.CheckpointManager(unfinished, options=options) as manager:
            tree = {"target": store.unflatten(flat), "state": state}
            manager.save(step, args=ocp.args.Composite(**{STATE: ocp.args.PyTreeSave(tree)}))
        describe(unfinished, config, tokenizer)
    return f"checkpoint of step {step}, {'with' if progress else 'without'} its optimiser"


def describe(folder: Path, config: GPTConfig, tokenizer: str | None) -> None:
    """Writes what a folder of checkpoints lacks to be read again: `model.json`, and the tokenizer if there is one."""
    (folder / store.CONFIG).write_text(json.dumps(config.to_json(), indent=2) + "\n")
    if tokenizer is not None:
        (folder / store.TOKENIZER).write_text(tokenizer, encoding="utf-8")


def _steps(folder: Path) -> list[int]:
    names = (re.fullmatch(rf"{PREFIX}_(\d+)", path.parent.name) for path in folder.glob(f"{PREFIX}_*/{STATE}"))
    return [int(name[1]) for name in names if name]


def _shapes(config: GPTConfig) -> list[tuple[str, tuple[int, ...]]]:
    return list(store.shapes(config).items())
