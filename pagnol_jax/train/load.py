"""A run's model, for whoever wants to use it: no optimiser state, no mesh, no gin."""

import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp

from pagnol_jax.errors import UserError
from pagnol_jax.models import gpt
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.train.checkpoint import checksums, compare, one_line, quiet_reading, verified
from pagnol_jax.train.record import RunFolder


def load_run(path: str | Path) -> tuple[GPTConfig, Any, Path]:
    """(configuration, float32 parameters as NumPy arrays, tokenizer file) of the newest whole checkpoint of a run.

    Raises UserError if the folder is not a run, or no checkpoint of it can be read.
    """
    folder = RunFolder(path)
    config = GPTConfig.from_json(folder.read()["model"])
    steps = sorted(ocp.utils.checkpoint_steps(folder.checkpoints), reverse=True) if folder.checkpoints.is_dir() else []
    damage = "there is none yet"
    for step in steps:
        try:
            with quiet_reading():
                params = _params(folder.checkpoints.absolute() / str(step), config)
            return *gpt.unpadded(config, params), folder.tokenizer
        except Exception as error:  # whatever orbax, tensorstore or a checksum find wrong with it
            damage = f"step {step}: {one_line(error)}"
    raise UserError(f"{folder.path}: no checkpoint can be read ({damage})")


def _params(checkpoint: Path, config: GPTConfig) -> Any:
    shapes = jax.eval_shape(lambda: nn.unbox(gpt.init(config, jax.random.key(0))))
    kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        args = ocp.args.PyTreeRestore({"params": shapes}, restore_args={"params": kinds}, partial_restore=True)
        params = reader.restore(checkpoint / "state", args)["params"]
    note = verified(json.loads((checkpoint / "note" / "metadata").read_text(encoding="utf-8")))
    compare(note["checksums"], {f".params{name}": value for name, value in checksums(params).items()})
    return params
