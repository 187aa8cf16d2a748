"""TPU slices that are not at hand: their chips, as the compiler knows them, and what links these."""

import math
import os
import re
from typing import Any, NamedTuple

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.chips import CHIPS, Chip

# Before jax is imported: no TPU is looked for, none is asked of a metadata server, several processes may compile.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
TORUS = {"v4": 3, "v5p": 3, "v5e": 2, "v6e": 2}  # dimensions


class Topology(NamedTuple):
    """Slices of a kind of chip. shape: chips along each dimension of one slice's torus. devices: as `jax.devices`."""

    name: str
    chip: Chip
    shape: tuple[int, ...]
    num_slices: int
    devices: list[Any]

    @property
    def chips(self) -> int:
        """In all slices."""
        return math.prod(self.shape) * self.num_slices

    def wraps(self, dimension: int) -> bool:
        """Whether a dimension of the torus is a ring: whole v5e and v6e pods' are, and multiples of four on v4, v5p."""
        size = self.shape[dimension]
        return size == 16 if len(self.shape) == 2 else size % 4 == 0


def prepare_environment() -> None:
    """Sets what libtpu reads; call it before jax is imported."""
    os.environ.update({key: value for key, value in ENVIRONMENT.items() if key not in os.environ})


def topology(name: str, num_slices: int = 1) -> Topology:
    """The slice of a name such as v5e:4x4 or v5p:4x4x8, or several of them.

    Raises UserError for a name that is none, a shape that the chip does not come in, or where libtpu is missing.
    """
    found = re.fullmatch(r"(v4|v5e|v5p|v6e):(\d+(?:x\d+)+)", name.strip().lower())
    if not found:
        raise UserError(f"--topology {name}: give a chip and a shape, such as v5e:4x4 or v5p:4x4x8")
    chip, shape = CHIPS[found[1]], tuple(int(size) for size in found[2].split("x"))
    if len(shape) != TORUS[chip.name]:
        raise UserError(f"--topology {name}: {chip.name} slices have {TORUS[chip.name]} dimensions")
    if num_slices < 1:
        raise UserError(f"--num_slices {num_slices}: at least 1")
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": num_slices} if num_slices > 1 else {}
    if chip.name == "v4":
        options["chip_config_name"] = "megacore"  # one device a chip, as everywhere else
    try:
        devices = list(topologies.get_topology_desc(f"{chip.name}:{found[2]}", "tpu", **options).devices)
    except Exception as error:  # jaxlib has its own for a missing plugin and for a shape that there is not
        what = (str(error).splitlines() or [type(error).__name__])[0]
        if "libtpu" in what.lower() and "find" in what.lower():
            raise UserError("the TPU compiler is missing: pip install 'pagnol_jax[tpu]'") from None
        raise UserError(f"--topology {name}: {what}") from None
    return Topology(name.strip().lower(), chip, shape, num_slices, devices)
