"""Small click models, and the published feedback points of each."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pagnol_jax.models.zoo import recommender

SIZES, BATCH = (5, 3, 7, 4), 16
MODELS = {
    "FM": functools.partial(recommender.FM, SIZES, 4),
    "DeepFM": functools.partial(recommender.DeepFM, SIZES, 4, (8, 6)),
    "DeepCross": functools.partial(recommender.DeepCross, SIZES, 4, 3, (8, 6)),
    "AutoInt": functools.partial(recommender.AutoInt, SIZES, 4, 6, 2, 3, (8, 6)),
    "AFN": functools.partial(recommender.AFN, SIZES, 4, 7, (8, 6)),
}
MLP = ("mlp/layer_0", "mlp/layer_1")
# taps, those of them that hear nothing, where the error is, parameters that do not learn
TAPS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str, tuple[str, ...]]] = {
    "DeepFM": (("mlp_input", *MLP), ("mlp_input",), "mlp", ()),
    "DeepCross": (("embedding", "cross_0", "cross_1", *MLP, "stack"), (), "", ()),
    "AutoInt": (("embedding", "attention_embedding", "attention_0", "attention_1", "attended", *MLP), (), "", ()),
    "AFN, as published": (("embedding", "logarithmic", *MLP), ("embedding",), "", ("embedding/*",)),
    "AFN, as meant": (("embedding", "logarithmic", *MLP), (), "", ()),
}


def started(name: str, dropout: float = 0.0) -> tuple[nn.Module, Any]:
    """A module and its variables, embeddings and biases large enough to matter."""
    module = MODELS[name](**({} if name == "FM" else {"dropout": dropout}))
    variables = jax.jit(lambda key: module.init(key, jnp.zeros((2, len(SIZES)), jnp.int32), False))(jax.random.key(3))
    random = np.random.default_rng(4)
    moved = jax.tree.map(lambda x: x + random.normal(0, 0.3, x.shape).astype("f"), jax.device_get(variables["params"]))
    return module, jax.device_get(variables) | {"params": moved}


def data() -> tuple[np.ndarray, np.ndarray]:
    """ids int32 [BATCH, F], labels float32 [BATCH]."""
    random = np.random.default_rng(1)
    ids = np.stack([random.integers(0, size, BATCH, dtype=np.int32) for size in SIZES], axis=1)
    return ids, random.integers(0, 2, BATCH).astype("f")
