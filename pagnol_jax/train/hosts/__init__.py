"""Many hosts as one run: who they are, what they agree on, and how they end together.

`joined` opens it, in the command; the rest of the package asks `first()` and `exchange()`, which also hold for one
process alone. `hub` runs beside process 0, `link` in every process, on one TCP port (the coordinator's).
"""

from pagnol_jax.train.hosts.join import (
    digest,
    exchange,
    first,
    first_before_others,
    joined,
    lost_by_collective,
    on_loss,
    place,
    same,
    several,
)
from pagnol_jax.train.hosts.meet import meet

__all__ = [
    "digest",
    "exchange",
    "first",
    "first_before_others",
    "joined",
    "lost_by_collective",
    "meet",
    "on_loss",
    "place",
    "same",
    "several",
]
