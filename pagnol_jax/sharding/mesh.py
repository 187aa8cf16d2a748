"""A mesh of (data, fsdp, tensor, sequence) axes over the devices at hand, and of stages for a pipeline."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils

from pagnol_jax.errors import UserError

AXES = ("data", "fsdp", "tensor", "sequence")
STAGE = "stage"  # of a pipeline: a mesh has this axis where more than one is asked for


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, sequence: int = 1, devices: Sequence | None = None, stage: int = 1
) -> jax.sharding.Mesh:
    """Mesh of the given axis sizes; one axis may be -1 and takes the devices that the others leave.

    Devices of several slices, which only the data-center network joins, are split along `data` alone.
    Raises UserError if the sizes do not multiply to the number of devices, or `data` to that of slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = dict(zip(AXES, (data, fsdp, tensor, sequence), strict=True)) | ({STAGE: stage} if stage != 1 else {})
    for axis in [axis for axis, size in sizes.items() if size == -1][:1]:
        sizes[axis] = len(devices) // abs(math.prod(sizes.values()))
    if math.prod(sizes.values()) != len(devices):
        asked = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
        raise UserError(f"a mesh of {asked} does not divide the {len(devices)} devices at hand")
    slices = by_slice(devices)
    if sizes["data"] % len(slices):
        raise UserError(f"data {sizes['data']} is not a multiple of the {len(slices)} slices: only it may cross them")
    shape = (sizes["data"] // len(slices), *list(sizes.values())[1:])
    return jax.sharding.Mesh(np.concatenate([_arranged(shape, part) for part in slices]), tuple(sizes))


def by_slice(devices: Sequence[Any]) -> list[list[Any]]:
    """Devices in groups that one interconnect joins: TPUs know the slice they are of, all others are together."""
    groups: dict[int, list[Any]] = {}
    for device in devices:
        groups.setdefault(getattr(device, "slice_index", 0), []).append(device)
    return [groups[index] for index in sorted(groups)]


def _arranged(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """Devices of one slice in an array of `shape`, the axes of the mesh along the axes of the torus."""
    if devices[0].platform != "tpu":
        return np.asarray(devices).reshape(shape)
    try:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    except (AssertionError, NotImplementedError, ValueError):  # a shape that it has no arrangement for
        return np.asarray(devices).reshape(shape)
