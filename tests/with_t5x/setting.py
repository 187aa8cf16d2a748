"""What `t5x.train` makes of gin files, in this process; and a batch under both names. (Needs t5x.)"""

import types

import gin
import numpy as np
from t5x import utils

from pagnol_jax.data.batches import Batch, packed
from pagnol_jax.with_t5x import tasks
from pagnol_jax.with_t5x.model import GPTModel
from pagnol_jax.with_t5x.partitioner import Partitioner


class Setting(types.SimpleNamespace):
    """A model, a partitioner and a fresh state, made as `t5x.train` makes them."""

    model: GPTModel
    partitioner: Partitioner
    initial: utils.TrainStateInitializer

    @classmethod
    def from_gin(cls, batch_size: int, length: int) -> "Setting":
        model, partitioner = gin.get_configurable(GPTModel)(), gin.get_configurable(Partitioner)()
        shapes = dict.fromkeys(tasks.BATCH, (batch_size, length))
        initial = utils.TrainStateInitializer(model.optimizer_def, model.get_initial_variables, shapes, partitioner)
        return cls(model=model, partitioner=partitioner, initial=initial)


def some_batch() -> tuple[Batch, dict[str, np.ndarray]]:
    """Windows of several documents, ours and under t5x's names; parts of two rows do not count."""
    batch = packed(np.random.default_rng(0).integers(2, 40, (8, 33)).astype(np.int32), sep_id=2)
    batch.weights[[1, 5], 20:] = 0  # one in each half: t5x's microbatches weigh the same
    return batch, {name: getattr(batch, field) for name, field in tasks.BATCH.items()}
