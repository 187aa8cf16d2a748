"""Least times of a step on its hardware: of its products, its memory traffic and its messages."""

from typing import Any, NamedTuple

import numpy as np

from pagnol_jax.sharding.mesh import by_slice
from pagnol_jax.tpu.cost import Cost
from pagnol_jax.tpu.topology import Topology
from pagnol_jax.tpu.traffic import NETWORK

Axes = tuple[str, ...]


class Roofline(NamedTuple):
    """Seconds that a step takes at least, each as if all else were free: matrix products, HBM, links between chips
    (ICI), network between slices (DCN)."""

    compute: float
    hbm: float
    ici: float
    dcn: float

    @property
    def seconds(self) -> float:
        """With everything overlapped: the longest."""
        return max(self)

    @property
    def binds(self) -> str:
        """What that is."""
        return self._fields[self.index(self.seconds)]


def roofline(cost: Cost, topology: Topology, mesh: Any) -> Roofline:
    """Of what one device does in a step."""
    chip = topology.chip
    ici = dcn = 0.0
    for (kind, axes), size in cost.traffic.items():
        if kind == NETWORK:
            dcn += size / chip.network_bandwidth
        else:
            ici += size / bandwidth(axes, topology, mesh)
    return Roofline(cost.flops / chip.peak_flops_per_second, cost.hbm_bytes / chip.memory_bandwidth, ici, dcn)


def bandwidth(axes: Axes, topology: Topology, mesh: Any) -> float:
    """Bytes/s at which a chip sends to those of its slice along axes of the mesh, over the links of all dimensions of
    the torus that these run through (both ways round where it is a ring)."""
    index = tuple(slice(None) if axis in axes else 0 for axis in mesh.axis_names)
    line = by_slice(list(mesh.devices[index].flat))[0]
    coords = np.array([device.coords[: len(topology.shape)] for device in line])
    links = 0
    for dimension in range(len(topology.shape)):
        if len(set(coords[:, dimension].tolist())) > 1:
            links += 2 if topology.wraps(dimension) else 1
    return links * topology.chip.link_bandwidth


def mfu(model_flops: float, line: Roofline, topology: Topology) -> float:
    """The share of the peak that `model_flops` per device reach if a step takes no longer than the roofline."""
    return model_flops / topology.chip.peak_flops_per_second / line.seconds
