"""The first talk of devices of different hosts."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

import numpy as np

from pagnol_jax.train.hosts.join import exchange, several

if TYPE_CHECKING:  # this package is there before jax, whose logs and flags it sets
    from jax.sharding import Mesh


def meet(mesh: Mesh) -> None:
    """On CPUs, has every group of devices along axes of the mesh sum something, once all hosts are here.

    Gloo makes a group's connections when it first has something to do, and gives up after half a minute, which no
    option changes: a host that compiles the training step for longer than another would be the end of the run.
    """
    import jax
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    if not several() or jax.default_backend() != "cpu":
        return
    exchange()
    spec = P(mesh.axis_names)  # one number a device
    ones = jax.make_array_from_callback((mesh.size,), NamedSharding(mesh, spec), lambda _: np.ones(1, np.float32))
    axes = [axis for axis in mesh.axis_names if mesh.shape[axis] > 1]
    for count in range(1, len(axes) + 1):
        for group in itertools.combinations(axes, count):
            total = functools.partial(jax.lax.psum, axis_name=group)
            summed = jax.shard_map(total, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
            jax.jit(summed)(ones).block_until_ready()
