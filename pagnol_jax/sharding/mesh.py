"""A mesh of (data, fsdp, tensor, sequence) axes over the devices at hand."""

from collections.abc import Sequence

import jax
import numpy as np

from pagnol_jax.errors import UserError

AXES = ("data", "fsdp", "tensor", "sequence")


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, sequence: int = 1, devices: Sequence | None = None
) -> jax.sharding.Mesh:
    """Mesh of the given axis sizes; `data` -1 takes the devices that the other axes leave.

    Raises UserError if the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    rest = fsdp * tensor * sequence
    data = max(len(devices) // rest, 1) if data == -1 else data
    if data * rest != len(devices):
        sizes = f"data {data} x fsdp {fsdp} x tensor {tensor} x sequence {sequence}"
        raise UserError(
            f"mesh {sizes} = {data * rest} does not divide into the {len(devices)} devices at hand"
        )
    return jax.sharding.Mesh(np.asarray(devices).reshape(data, fsdp, tensor, sequence), AXES)
