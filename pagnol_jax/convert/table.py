"""A format is a table: a row says which of their tensors holds which of ours, and how it is laid out.

Both directions of a conversion read the same rows, and every layout is a permutation of elements, so a
round trip gives back the same bits. Our arrays are stacked over layers ([L, ...]); theirs are one a layer.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from pagnol_jax.errors import UserError
from pagnol_jax.models import store
from pagnol_jax.models.config import GPTConfig

LAYER = "{layer}"


class Layout(NamedTuple):
    """`split`: their array -> ours, one or several; `join`: the exact inverse."""

    split: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    join: Callable[..., np.ndarray]


class Row(NamedTuple):
    """`theirs`: a tensor name, '{layer}' standing for the layer's index; `ours`: one or several paths."""

    theirs: str
    ours: tuple[str, ...]
    layout: Layout


SAME = Layout(lambda a: (a,), lambda a: a)


def transposed(layout: Layout) -> Layout:
    """For a torch Linear, whose weight is [out, in]; a bias [out] stays as it is."""
    return Layout(lambda a: layout.split(a.T), lambda *parts: layout.join(*parts).T)


def heads_in(config: GPTConfig) -> Layout:
    """[H * D, d_model] <-> [H, D, d_model]: what reads the concatenated heads."""
    heads, dim = config.num_heads, config.head_dim
    return Layout(lambda a: (a.reshape(heads, dim, *a.shape[1:]),), lambda a: a.reshape(heads * dim, *a.shape[2:]))


def qkv_blocks(config: GPTConfig) -> Layout:
    """[..., (H + 2 K) D] <-> query [..., H, D], key and value [..., K, D], one block after the other
    (GPT-2's c_attn, torch's MultiheadAttention)."""
    heads, kv_heads, dim = config.num_heads, config.kv_heads, config.head_dim

    def split(a: np.ndarray) -> tuple[np.ndarray, ...]:
        a = a.reshape(*a.shape[:-1], heads + 2 * kv_heads, dim)
        return tuple(np.split(a, [heads, heads + kv_heads], axis=-2))

    def join(*parts: np.ndarray) -> np.ndarray:
        return _merge_last(np.concatenate(parts, axis=-2), 2)

    return Layout(split, join)


def qkv_groups(config: GPTConfig) -> Layout:
    """[..., K (G + 2) D] <-> query [..., H, D], key and value [..., K, D], H = K G: each group's queries,
    then its key, then its value (Falcon; with G = 1 GPT-NeoX and BLOOM, with K = 1 multi-query)."""
    kv_heads, dim = config.kv_heads, config.head_dim
    group = config.num_heads // kv_heads

    def split(a: np.ndarray) -> tuple[np.ndarray, ...]:
        lead = a.shape[:-1]
        a = a.reshape(*lead, kv_heads, group + 2, dim)
        query, key, value = np.split(a, [group, group + 1], axis=-2)
        return query.reshape(*lead, kv_heads * group, dim), key[..., 0, :], value[..., 0, :]

    def join(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
        query = query.reshape(*query.shape[:-2], kv_heads, group, dim)
        parts = [query, key[..., None, :], value[..., None, :]]
        return _merge_last(np.concatenate(parts, axis=-2), 3)

    return Layout(split, join)


def _merge_last(a: np.ndarray, count: int) -> np.ndarray:
    return a.reshape(*a.shape[:-count], -1)


def norm(theirs: str, ours: str) -> list[Row]:
    """A LayerNorm with scale and bias."""
    return [Row(f"{theirs}.weight", (f"{ours}/scale",), SAME), Row(f"{theirs}.bias", (f"{ours}/bias",), SAME)]


def linear(
    theirs: tuple[str, str],
    ours: tuple[str, ...],
    kernel: Layout = SAME,
    bias: Layout | None = SAME,
    weight_order: Callable[[Layout], Layout] = transposed,
) -> list[Row]:
    """A projection: `theirs` names weight and bias, `ours` the paths it is split into; no bias where None."""
    rows = [Row(theirs[0], tuple(f"{path}/kernel" for path in ours), weight_order(kernel))]
    if bias is not None:
        rows.append(Row(theirs[1], tuple(f"{path}/bias" for path in ours), bias))
    return rows


def weight_and_bias(name: str) -> tuple[str, str]:
    return f"{name}.weight", f"{name}.bias"


def to_ours(rows: Iterable[Row], theirs: Mapping[str, np.ndarray], config: GPTConfig) -> store.Params:
    """Their tensors -> our parameters. Raises UserError for missing or unknown names and wrong shapes."""
    rows = list(rows)
    names = [name for row in rows for name in _names(row, config)]
    if missing := [name for name in names if name not in theirs]:
        raise UserError(f"{store.some(missing)} missing from the weights")
    if unknown := sorted(theirs.keys() - set(names)):
        raise UserError(f"the weights hold {store.some(unknown)}, which this architecture has not")
    expected, flat = store.shapes(config), {}
    for row in rows:
        shape = _their_shape(row, expected)
        layers = [row.layout.split(_take(theirs, name, shape)) for name in _names(row, config)]
        for path, *arrays in zip(row.ours, *layers, strict=True):
            flat[path] = np.stack(arrays) if LAYER in row.theirs else np.ascontiguousarray(arrays[0])
    store.check_shapes(flat, config, "the converted weights")
    return store.unflatten(flat)


def to_theirs(rows: Iterable[Row], params: store.Params, config: GPTConfig) -> store.Flat:
    """Our parameters -> their tensors, C-contiguous. Raises UserError where they do not fit `config`."""
    flat, theirs = store.flatten(params), {}
    store.check_shapes(flat, config, "the parameters")
    for row in rows:
        for layer, name in enumerate(_names(row, config)):
            arrays = [flat[path][layer] if LAYER in row.theirs else flat[path] for path in row.ours]
            theirs[name] = np.ascontiguousarray(row.layout.join(*arrays))
    return theirs


def _names(row: Row, config: GPTConfig) -> list[str]:
    if LAYER not in row.theirs:
        return [row.theirs]
    return [row.theirs.replace(LAYER, str(layer)) for layer in range(config.num_layers)]


def _their_shape(row: Row, ours: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """What `join` makes of arrays of our shapes."""
    skip = LAYER in row.theirs
    return row.layout.join(*[np.empty(ours[path][skip:], np.int8) for path in row.ours]).shape


def _take(theirs: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    array = theirs[name]
    if array.shape != shape:
        raise UserError(f"{name} has shape {array.shape}, its configuration asks for {shape}")
    return array
