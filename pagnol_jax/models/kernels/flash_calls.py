"""The grids of the flash kernels: which block of every array meets which, and what it costs."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pagnol_jax.models.kernels import flash_kernels as kernels
from pagnol_jax.models.kernels.blocks import LANES, Spans, sizes, spans

Semantics = Literal["parallel", "arbitrary"]
Tags = tuple[jax.Array | None, jax.Array | None]


def forward(query, key, value, tags: Tags, slopes, offset, interpret: bool) -> tuple[jax.Array, jax.Array]:
    """query [B, H, T, D], key and value [B, K, S, D] -> output [B, H, T, D] and logsumexp [B, H, 1, T] float32."""
    grid = _Grid(query, key)
    near, _ = spans(*tags, offset, grid.shape, grid.sizes)
    rows, specs = grid.queries, grid.specs(grid.by_query)
    statistic = pltpu.VMEM((1, rows), jnp.float32)
    return _call(
        kernels.forward,
        grid,
        (grid.batch, grid.heads, grid.query_blocks, grid.key_blocks),
        [specs["query"], specs["statistic"]],
        [jax.ShapeDtypeStruct(query.shape, query.dtype), grid.statistic],
        [statistic, statistic, pltpu.VMEM((grid.head_dim, rows), jnp.float32)],
        products=2,
        interpret=interpret,
    )(near, slopes, specs, query, key, value, tags)


def backward(query, key, value, tags: Tags, slopes, offset, rows, interpret: bool) -> tuple[Any, Any, Any]:
    """Gradients of query, key and value; `rows` are the output's cotangent [B, H, T, D], and logsumexp and what
    softmax subtracts [B, H, 1, T] float32."""
    grid = _Grid(query, key)
    near_keys, near_queries = spans(*tags, offset, grid.shape, grid.sizes)
    specs = grid.specs(grid.by_query)
    (dq,) = _call(
        kernels.backward_query,
        grid,
        (grid.batch, grid.heads, grid.query_blocks, grid.key_blocks),
        [specs["query"]],
        [jax.ShapeDtypeStruct(query.shape, query.dtype)],
        [pltpu.VMEM((grid.head_dim, grid.queries), jnp.float32)],
        products=3,
        interpret=interpret,
    )(near_keys, slopes, specs, query, key, value, tags, *rows)
    specs = grid.specs(grid.by_key)
    dk, dv = _call(
        kernels.backward_keys,
        grid,
        (grid.batch, grid.kv_heads, grid.key_blocks, grid.groups, grid.query_blocks),
        [specs["key"], specs["key"]],
        [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (key, value)],
        [pltpu.VMEM((grid.keys, grid.head_dim), jnp.float32)] * 2,
        products=4,
        interpret=interpret,
    )(near_queries, slopes, specs, query, key, value, tags, *rows)
    return dq, dk, dv


class _Grid:
    """Sizes of arrays and blocks, and the block of each array at a step of a grid."""

    def __init__(self, query: jax.Array, key: jax.Array) -> None:
        self.batch, self.heads, self.length, self.head_dim = query.shape
        self.kv_heads, self.slots = key.shape[1:3]
        self.groups = self.heads // self.kv_heads
        self.queries, self.keys = self.sizes = sizes(self.length, self.slots)
        self.query_blocks, self.key_blocks = self.length // self.queries, self.slots // self.keys

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.batch, self.length, self.slots

    @property
    def statistic(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.batch, self.heads, 1, self.length), jnp.float32)

    def by_query(self, b, h, i, j, offset, low, high, *_):
        """(sequence, head, block of queries, block of keys) of a grid that ends in keys. Blocks that the kernel
        skips repeat the nearest one that it does not: nothing is fetched for them."""
        row = b * self.query_blocks + i
        return b, h, i, jnp.clip(j, low[row], high[row])

    def by_key(self, b, kv_head, j, shared, i, offset, low, high, *_):
        """As `by_query`, of a grid that ends in queries."""
        row = b * self.key_blocks + j
        return b, kv_head * self.groups + shared, jnp.clip(i, low[row], high[row]), j

    def specs(self, where: Callable[..., tuple]) -> dict[str, pl.BlockSpec]:
        """Blocks of query-like [B, H, T, D], key-like [B, K, S, D], statistics [B, H, 1, T] and tags, each at the
        block that `where` gives."""

        def at(shape: tuple[int | None, ...], index: Callable[..., tuple]) -> pl.BlockSpec:
            return pl.BlockSpec(shape, lambda *ids: index(*where(*ids)))

        return {
            "query": at((None, None, self.queries, self.head_dim), lambda b, h, i, j: (b, h, i, 0)),
            "key": at((None, None, self.keys, self.head_dim), lambda b, h, i, j: (b, lax.div(h, self.groups), j, 0)),
            "statistic": at((None, None, 1, self.queries), lambda b, h, i, j: (b, h, 0, i)),
            "query_tags": at((None, 1, self.queries), lambda b, h, i, j: (b, 0, i)),
            "key_tags": at((None, self.keys, LANES), lambda b, h, i, j: (b, j, 0)),
        }

    def cost(self, products: int, itemsize: int) -> pl.CostEstimate:
        """Of `products` matrix products over the causal blocks, half of all and half of the diagonal; what segments
        skip and prefixes add is not known. Keys are read once for each block of queries."""
        pairs = self.batch * self.heads * self.length * (self.slots + self.keys) // 2
        passes = self.heads * self.query_blocks / 2 + self.kv_heads
        rows = 2 * self.heads * self.length + 2 * passes * self.slots
        return pl.CostEstimate(
            flops=2 * products * pairs * self.head_dim,
            transcendentals=pairs,
            bytes_accessed=int(self.batch * self.head_dim * itemsize * rows),
        )


def _call(kernel, grid: _Grid, steps, out_specs, out_shape, scratch, products: int, interpret: bool):
    """A function of (spans, slopes, specs, query, key, value, tags, rows...) that runs `kernel` over `steps`."""

    def run(near: Spans, slopes, specs, query, key, value, tags: Tags, *rows):
        in_specs = [specs[name] for name in ("query", "key", "key", "query_tags", "key_tags")]
        wide: Tags = (None, None)
        if tags[0] is None or tags[1] is None:
            in_specs[3:] = [None, None]
        else:
            # Rows for queries, columns for keys, as they meet the scores; a column fills whole tiles anyway.
            wide = tags[0][:, None, :], jnp.broadcast_to(tags[1][:, :, None], (*tags[1].shape, LANES))
        if rows:
            in_specs += [specs["query"], specs["statistic"], specs["statistic"]]
        # Sums go on over what follows a block of queries (4 steps) or of keys (5): the rest may be shared by cores.
        shared: list[Semantics] = ["parallel"] * 3
        summed: list[Semantics] = ["arbitrary"] * (len(steps) - 3)
        name = f"flash_{kernel.__name__}"
        call = pl.pallas_call(
            kernel,
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=4, grid=steps, in_specs=in_specs, out_specs=out_specs, scratch_shapes=scratch
            ),
            out_shape=out_shape,
            compiler_params=pltpu.CompilerParams(dimension_semantics=(*shared, *summed)),
            cost_estimate=grid.cost(products, query.dtype.itemsize),
            name=name,
            interpret=interpret,
        )
        with jax.named_scope(name):
            return call(*near, slopes, query, key, value, *wide, *rows)

    return run
