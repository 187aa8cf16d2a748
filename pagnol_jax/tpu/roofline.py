"""Least times of a step on its hardware: of its products, its memory traffic and its messages."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pagnol_jax.tpu.cost import Cost
from pagnol_jax.tpu.topology import Topology

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
    for (_, axes), size in cost.traffic.items():
        inside, across = bandwidth(axes, topology, mesh)
        ici += size / inside if inside else 0
        # A message between slices is first summed inside one: every chip then sends its own part of the sum.
        dcn += size / _group_in_slice(axes, mesh) / chip.network_bandwidth if across else 0
    return Roofline(cost.flops / chip.peak_flops_per_second, cost.hbm_bytes / chip.memory_bandwidth, ici, dcn)


def bandwidth(axes: Axes, topology: Topology, mesh: Any) -> tuple[float, bool]:
    """Bytes/s at which a chip sends along axes of the mesh, over the links of all dimensions of the torus that these
    run through (both ways round where it is a ring), and whether they leave the slice."""
    line = _line(axes, mesh)
    slices = {getattr(device, "slice_index", 0) for device in line}
    coords = np.array([device.coords[: len(topology.shape)] for device in line])
    links = 0
    for dimension in range(len(topology.shape)):
        if len(set(coords[:, dimension].tolist())) > 1:
            links += 2 if topology.wraps(dimension) else 1
    return links * topology.chip.link_bandwidth, len(slices) > 1


def _line(axes: Axes, mesh: Any) -> list[Any]:
    """The devices that one device meets along axes of the mesh, itself among them."""
    index = tuple(slice(None) if axis in axes else 0 for axis in mesh.axis_names)
    return list(mesh.devices[index].flat)


def _group_in_slice(axes: Axes, mesh: Any) -> int:
    line = _line(axes, mesh)
    return len(line) // len({getattr(device, "slice_index", 0) for device in line})


def mfu(model_flops: float, line: Roofline, topology: Topology) -> float:
    """The share of the peak that `model_flops` per device reach if a step takes no longer than the roofline."""
    return model_flops / topology.chip.peak_flops_per_second / line.seconds


def by_axes(cost: Cost) -> Mapping[Axes, float]:
    """Bytes sent, by the axes of the mesh that they cross."""
    sums: dict[Axes, float] = {}
    for (_, axes), size in cost.traffic.items():
        sums[axes] = sums.get(axes, 0) + size
    return sums
