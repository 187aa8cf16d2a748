"""Collectives of a compiled program: what each device sends, and over which axes of the mesh.

Only the first axis, `data`, crosses slices (`sharding.mesh`).
"""

import math
import re
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from pagnol_jax.tpu.hlo import Instruction

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")


NETWORK = "send between slices"


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
    if instruction.op == "send" and "xla_megascale_runtime" in instruction.attributes:
        # The last leg between slices: each chip hands its part of what its slice has summed to the host's network.
        return Collective(NETWORK, tuple(axis_names[:1]), instruction.arrays[0].bytes)
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


MESH = re.compile(
    r"replica_groups=mesh\[(?P<axes>.*?)\](?:, device_ids=\((?P<ids>\[[\d,]+\](?:T\([\d,]+\))?|[\d,]+)\))?"
    r"(?: \{(?P<chosen>.*?)\})?"
)
IOTA = re.compile(r"\[([\d,]+)\](?:T\(([\d,]+)\))?")


def replica_groups(attributes: str, devices: int) -> list[list[int]]:
    """Groups of devices from any of the forms that XLA prints: listed, iota-transposed, or axes of a mesh.

    Raises ValueError for a form that is none of them.
    """
    if found := MESH.search(attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found["axes"])}
        chosen = re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", found["chosen"] or "")
        order = _iota(found["ids"]) if found["ids"] else np.arange(devices)
        return order[_mesh_groups(sizes, chosen)].tolist()
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", attributes):
        return _iota(found[2]).reshape(_numbers(found[1])).tolist()
    if found := re.search(r"replica_groups=\{(\{.*?\})\}", attributes):
        return [_numbers(group) for group in re.findall(r"\{([\d,]+)\}", found[1])]
    if re.search(r"replica_groups=(?!\{\})", attributes):
        raise ValueError(f"replica groups of another form: {attributes[:200]}")
    return [list(range(devices))]


def _iota(text: str) -> np.ndarray:
    """'[2,4]T(1,0)': 0..7 as 2 x 4, transposed, flat; a list of numbers is itself."""
    found = IOTA.fullmatch(text)
    if not found:
        return np.array(_numbers(text))
    ids = np.arange(math.prod(_numbers(found[1]))).reshape(_numbers(found[1]))
    return (ids.transpose(_numbers(found[2])) if found[2] else ids).ravel()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _mesh_groups(sizes: dict[str, int], chosen: list[tuple[str, str, str]]) -> np.ndarray:
    """Places that differ in the chosen axes alone [groups, members]; an axis may be split: (name, size before it,
    its size)."""
    dims: list[int] = []
    inside: list[bool] = []
    parts = {name: (int(before or 1), int(size or sizes[name])) for name, before, size in chosen}
    for name, size in sizes.items():
        before, own = parts.get(name, (size, 1))
        for part, taken in ((before, False), (own, name in parts), (size // before // own, False)):
            dims.append(part)
            inside.append(taken)
    places = np.arange(math.prod(dims)).reshape(dims)
    order = [i for i, taken in enumerate(inside) if not taken] + [i for i, taken in enumerate(inside) if taken]
    size = math.prod(d for d, taken in zip(dims, inside, strict=True) if taken)
    return places.transpose(order).reshape(-1, size)


def _crossed(groups: list[list[int]], axis_names: Sequence[str], mesh_shape: Sequence[int]) -> tuple[str, ...]:
    """The axes along which the members of a group differ."""
    places = list(product(*(range(size) for size in mesh_shape)))
    crossed = set()
    for group in groups:
        first = places[group[0]]
        for member in group[1:]:
            crossed |= {axis for axis, a, b in zip(axis_names, first, places[member], strict=True) if a != b}
    return tuple(axis for axis in axis_names if axis in crossed)
