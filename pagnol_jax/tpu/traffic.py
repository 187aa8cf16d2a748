"""Collectives of a compiled program: what each device sends, and over which axes of the mesh."""

import math
import re
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from pagnol_jax.tpu.hlo import Instruction

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")


class Collective(NamedTuple):
    """kind; axes of the mesh that it crosses; bytes that one device sends each time it runs."""

    kind: str
    axes: tuple[str, ...]
    bytes: float


def collective(
    instruction: Instruction, axis_names: Sequence[str], mesh_shape: Sequence[int], fusion: str = ""
) -> Collective | None:
    """The collective that an instruction starts, or None. `fusion` is the computation that it is part of: a TPU's
    reduce-scatter is an all-reduce in a fusion that keeps a slice of it.

    Bytes are those of a ring: of n devices each sends (n-1)/n of what an all-gather or all-to-all yields or a
    reduce-scatter reads, and twice that for an all-reduce.
    """
    kind = instruction.op.removesuffix("-start")
    if kind not in KINDS or instruction.op.endswith("-done"):
        return None
    pairs = instruction.attribute(r"source_target_pairs=\{(\{.*?\})\}")
    if pairs is not None:
        groups = [[int(d) for d in pair.split(",")] for pair in re.findall(r"\{(\d+,\d+)\}", pairs)]
    else:
        groups = replica_groups(instruction.attributes, math.prod(mesh_shape))
    axes = _crossed(groups, axis_names, mesh_shape)
    if not axes:
        return None
    # The result of an asynchronous start holds its operands too: take the outputs alone.
    outputs = instruction.arrays
    if instruction.op.endswith("-start") and len(outputs) > 1:
        outputs = (max(outputs, key=lambda array: array.bytes),)
    size, n = sum(array.bytes for array in outputs), max(len(group) for group in groups)
    if kind == "collective-permute":
        return Collective(kind, axes, size)
    share = (n - 1) / n
    if kind == "all-reduce" and fusion.startswith("all-reduce-scatter"):
        return Collective("reduce-scatter", axes, size * share)
    factor = {"all-reduce": 2 * share, "reduce-scatter": share * n}.get(kind, share)
    return Collective(kind, axes, size * factor)


def replica_groups(attributes: str, devices: int) -> list[list[int]]:
    """Groups of devices from any of the forms that XLA prints: listed, iota-transposed, or axes of a mesh."""
    if found := re.search(r"replica_groups=mesh\[(.*?)\](?:\s*\{(.*?)\})?", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
        return _mesh_groups(sizes, re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", found[2] or ""))
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        shape, base = ([int(d) for d in found[i].split(",")] for i in (1, 2))
        ids = np.arange(math.prod(base)).reshape(base)
        if found[3]:
            ids = ids.transpose([int(d) for d in found[3].split(",")])
        return ids.reshape(shape).reshape(-1, shape[-1]).tolist()
    if found := re.search(r"replica_groups=\{(\{.*?\})\}", attributes):
        return [[int(d) for d in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", found[1])]
    return [list(range(devices))]


def _mesh_groups(sizes: dict[str, int], chosen: list[tuple[str, str, str]]) -> list[list[int]]:
    """Devices that differ in the chosen axes alone; an axis may be split: (name, size before it, its size)."""
    dims: list[int] = []
    inside: list[bool] = []
    parts = {name: (int(before or 1), int(size or sizes[name])) for name, before, size in chosen}
    for name, size in sizes.items():
        before, own = parts.get(name, (size, 1))
        for part, taken in ((before, False), (own, name in parts), (size // before // own, False)):
            dims.append(part)
            inside.append(taken)
    ids = np.arange(math.prod(dims)).reshape(dims)
    order = [i for i, taken in enumerate(inside) if not taken] + [i for i, taken in enumerate(inside) if taken]
    size = math.prod(d for d, taken in zip(dims, inside, strict=True) if taken)
    return ids.transpose(order).reshape(-1, size).tolist()


def _crossed(groups: list[list[int]], axis_names: Sequence[str], mesh_shape: Sequence[int]) -> tuple[str, ...]:
    """The axes along which the members of a group differ."""
    places = list(product(*(range(size) for size in mesh_shape)))
    crossed = set()
    for group in groups:
        first = places[group[0]]
        for member in group[1:]:
            crossed |= {axis for axis, a, b in zip(axis_names, first, places[member], strict=True) if a != b}
    return tuple(axis for axis in axis_names if axis in crossed)
