"""Attention with its gradients, on random inputs, for the tests of kernels."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from pagnol_jax.models import positions
from pagnol_jax.models.attention import attend
from pagnol_jax.models.kernels import plain
from pagnol_jax.models.masks import Mask

SCHEMES = {"none": positions.none(), "rotary": positions.rotary(), "alibi": positions.alibi()}
HEADS = {"multi-head": (4, 4), "grouped": (4, 2), "multi-query": (4, 1), "odd": (5, 5)}
MASKS = ("causal", "packed", "prefix", "packed prefix")


def make_mask(name: str, batch: int, length: int) -> Mask:
    """Documents of random lengths with padding at the end; a prefix is the first part of every document."""
    random = np.random.default_rng(1)
    packed, prefix = "packed" in name, "prefix" in name
    segments, flags = np.zeros((batch, length), np.int32), np.zeros((batch, length), bool)
    for row in range(batch):
        cuts = np.sort(random.choice(np.arange(1, length), 5, replace=False)) if packed else np.array([length])
        start = 0
        for i, stop in enumerate(cuts):
            segments[row, start:stop] = i + 1
            flags[row, start : start + random.integers(stop - start + 1)] = True
            start = stop
    return Mask(jnp.asarray(segments) if packed else None, jnp.asarray(flags) if prefix else None)


def inputs(batch: int, length: int, heads: tuple[int, int], head_dim: int, dtype: str) -> list[jax.Array]:
    """Query [B, T, H, D], key and value [B, T, K, D], the output's cotangent [B, T, H, D]."""
    keys = jax.random.split(jax.random.key(0), 4)
    counts = heads[0], heads[1], heads[1], heads[0]
    return [jax.random.normal(k, (batch, length, n, head_dim)).astype(dtype) for k, n in zip(keys, counts, strict=True)]


def expect(arrays: list[jax.Array], mask: Mask, scheme: positions.Position) -> list[np.ndarray]:
    """`run` of plain attention in float32, in one block of queries, which compiles sooner."""
    with mock.patch.object(plain, "QUERY_BLOCK", arrays[0].shape[1]):
        return run("plain", [x.astype(jnp.float32) for x in arrays], mask, scheme)


def run(kernel: str, arrays: list[jax.Array], mask: Mask, scheme: positions.Position) -> list[np.ndarray]:
    """Output and gradients of query, key and value, float32."""

    @jax.jit
    def values(query, key, value, cotangent, mask):
        at = jnp.broadcast_to(jnp.arange(query.shape[1]), query.shape[:2])
        slopes = scheme.slopes(query.shape[2]) if scheme.slopes else None

        def forward(query, key, value):
            if scheme.rotate:
                query, key = scheme.rotate(query, at), scheme.rotate(key, at)
            return attend(query, key, value, mask, slopes, kernel)

        out, pull = jax.vjp(forward, query, key, value)
        return out, *pull(cotangent)

    return [np.asarray(x, np.float32) for x in values(*arrays, mask)]


def worst(values: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Greatest difference of an array to the one expected, over the greatest number expected there."""
    return max(float(np.abs(x - y).max() / np.abs(y).max()) for x, y in zip(values, expected, strict=True))
