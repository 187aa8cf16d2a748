"""SIGTERM and SIGINT as a flag that the loop reads between two steps, the same on every host."""

import signal
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


class Interrupt:
    """While open, the first SIGTERM or SIGINT is noted in `signal`; a second one acts as it always does."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> "Interrupt":
        self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        self._restore()


class Ballot:
    """A signal to one host as a signal to all, at the same step of each.

    Every step a host hands over a vote, the largest of which comes back with the metrics of that step: a program of
    its own on the devices, for which no host waits.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.votes = NamedSharding(mesh, P(mesh.axis_names))  # one a device
        self.largest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))

    def cast(self, received: signal.Signals | None) -> jax.Array:
        """Hands over this host's vote."""
        vote = np.full(1, received or 0, np.int32)
        return self.largest(jax.make_array_from_callback((self.votes.mesh.size,), self.votes, lambda _: vote))

    @staticmethod
    def count(votes: Any) -> signal.Signals | None:
        """What the hosts decided."""
        return signal.Signals(number) if (number := int(votes)) else None
