"""Accelerators as values, and what hours of a slice of them compute.

Peaks, memory and bandwidths: jax-ml/scaling-book, "How to Think About TPUs", as Google Cloud's pages on each version
state them.
Slice names are Google Cloud's accelerator types. On chips of two TensorCores they count cores (cloud.google.com,
"TPU v5p": 4x4x4 is 128 cores and 64 chips; "TPU v4": two TensorCores a chip); v5e and v6e have one core a chip.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pagnol_jax.errors import UserError


class Chip(NamedTuple):
    """Dense bfloat16 peak in FLOP/s, memory in bytes, the TensorCores that a slice's name counts for it, and bytes/s:
    of its memory, of one link to a neighbour in one direction, and of its share of the data-center network (2.5e10 of
    a host with four chips)."""

    name: str
    peak_flops_per_second: float
    memory_bytes: float
    cores: int
    memory_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float = 6.25e9


V4 = Chip("v4", 2.75e14, 32e9, 2, 1.2e12, 4.5e10)
V5E = Chip("v5e", 1.97e14, 16e9, 1, 8.1e11, 5e10)
V5P = Chip("v5p", 4.59e14, 96e9, 2, 2.8e12, 1e11)
V6E = Chip("v6e", 9.2e14, 32e9, 1, 1.6e12, 1e11)
CHIPS = {"v4": V4, "v5e": V5E, "v5litepod": V5E, "v5p": V5P, "v6e": V6E}


class Slice(NamedTuple):
    """Chips that are used together, under the name that they are asked for by."""

    name: str
    chip: Chip
    chips: int

    @property
    def memory_bytes(self) -> float:
        """Of all chips."""
        return self.chips * self.chip.memory_bytes


class Budget(NamedTuple):
    """Hours of a slice at a model FLOP utilisation `mfu`: the share of the peak that the 6 N D of a model get.

    price: of one chip for one hour, in any currency; None where nobody says.
    """

    slice: Slice
    hours: float
    mfu: float
    price: float | None = None

    @property
    def compute_flops(self) -> float:
        """FLOP that go into 6 N D."""
        return self.chip_hours * 3600 * self.slice.chip.peak_flops_per_second * self.mfu

    @property
    def chip_hours(self) -> float:
        """Hours of one chip."""
        return self.slice.chips * self.hours

    @property
    def cost(self) -> float | None:
        """In the currency of the price."""
        return None if self.price is None else self.price * self.chip_hours


def parse_slice(name: str) -> Slice:
    """The slice of a name such as v5p-128 (64 chips) or v5e-16 (16 chips), in small letters or capitals.

    Raises:
      UserError: an unknown chip, or a number that is no number of chips.
    """
    match = re.fullmatch(r"([a-z0-9]+)-([1-9][0-9]*)", name.strip().lower())
    if match is None or match[1] not in CHIPS:
        raise UserError(f"--chips {name}: give a slice such as v5p-128, of {', '.join(CHIPS)}")
    chip, number = CHIPS[match[1]], int(match[2])
    if number % chip.cores:
        raise UserError(f"--chips {name}: {chip.name} slices count TensorCores, {chip.cores} a chip: no odd number")
    return Slice(name.strip().lower(), chip, number // chip.cores)
