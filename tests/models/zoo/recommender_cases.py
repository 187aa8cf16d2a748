"""Small click models, and the published feedback points of each."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

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
    variables = module.init(jax.random.key(3), jnp.zeros((2, len(SIZES)), jnp.int32), False)
    leaves, treedef = jax.tree.flatten(variables["params"])
    keys = jax.random.split(jax.random.key(4), len(leaves))
    moved = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return module, variables | {"params": treedef.unflatten(moved)}


def data() -> tuple[jax.Array, jax.Array]:
    """ids [BATCH, F], labels [BATCH]."""
    key = jax.random.key(1)
    ids = jnp.stack([jax.random.randint(jax.random.fold_in(key, i), (BATCH,), 0, n) for i, n in enumerate(SIZES)], 1)
    return ids, jax.random.bernoulli(key, 0.5, (BATCH,)).astype(jnp.float32)
