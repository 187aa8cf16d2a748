"""A mesh of (data, fsdp, tensor, sequence) axes over the devices at hand."""

import math
from collections.abc import Sequence

import jax
import numpy as np

from pagnol_jax.errors import UserError

AXES = ("data", "fsdp", "tensor", "sequence")


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, sequence: int = 1, devices: Sequence | None = None
) -> jax.sharding.Mesh:
    """Mesh of the given axis sizes; one axis may be -1 and takes the devices that the others leave.

    Raises UserError if the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = dict(zip(AXES, (data, fsdp, tensor, sequence), strict=True))
    for axis in [axis for axis, size in sizes.items() if size == -1][:1]:
        sizes[axis] = len(devices) // abs(math.prod(sizes.values()))
    if math.prod(sizes.values()) != len(devices):
        asked = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
        raise UserError(f"a mesh of {asked} does not divide the {len(devices)} devices at hand")
    return jax.sharding.Mesh(np.asarray(devices).reshape(tuple(sizes.values())), AXES)
