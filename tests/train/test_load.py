"""What a run's checkpoints give to other programs."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from pagnol_jax.models.config import GPTConfig
from pagnol_jax.train.checkpoint import Checkpoints
from pagnol_jax.train.load import load_params, load_state
from pagnol_jax.train.record import RunFolder
from pagnol_jax.train.step import State


def test_feedback_at_a_module_and_inside_it_is_no_hindrance(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    (tmp_path / "tokenizer.json").write_text("{}")
    with folder.locked():
        folder.open(
            {"model": GPTConfig(8, 1, 8, 1).to_json(), "total_steps": 3}, tmp_path / "tokenizer.json", config=""
        )
    checkpoints = Checkpoints(folder.checkpoints)
    feedback = {"final_norm": {"blocks": jnp.ones((1, 2)), "blocks/attended": jnp.ones((1, 2))}}
    checkpoints.save(State(jnp.int32(3), {"head": jnp.arange(4.0)}, {"mu": jnp.ones(3)}, feedback), {})
    checkpoints.wait()
    checkpoints.close()
    state = load_state(folder.path)
    assert (state.step, state.params.keys(), state.optimizer.keys()) == (3, {"head"}, {"mu"})
    np.testing.assert_array_equal(load_params(folder.path)["head"], np.arange(4.0))
