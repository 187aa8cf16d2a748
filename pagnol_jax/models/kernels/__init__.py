"""The kernels behind `attend`. Which one runs is a name in a table, and the platform that is compiled for."""

import functools

import jax

from pagnol_jax.errors import UserError
from pagnol_jax.models.kernels import plain
from pagnol_jax.models.kernels.sharded import Kernel, LocalKernel, sharded
from pagnol_jax.models.masks import Mask

# A block of a fused kernel holds 128 slots: under that, the whole score matrix is smaller than one.
SHORTEST = 128


def platform() -> str:
    """'cpu', 'gpu' or 'tpu': that of the mesh set by `jax.set_mesh` (which may lack devices, when compiling ahead of
    time), else that of this process."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()


def _tpu(interpret: bool) -> LocalKernel:
    from pagnol_jax.models.kernels import tpu  # Pallas takes a second to import

    return functools.partial(tpu.attend, interpret=interpret)


# A CPU interprets the TPU's kernels: exact and slow, for tests.
FUSED = {
    "tpu": functools.partial(_tpu, False),
    "cpu": functools.partial(_tpu, True),
}


def fused(query: jax.Array, key: jax.Array, value: jax.Array, mask: Mask, slopes: jax.Array | None = None) -> jax.Array:
    """`attend` without a [T, T] array, by the kernel of the current platform on every device of the current mesh.

    Prefix masks and ALiBi, which splash attention does not know, go the plain way."""
    short = query.shape[1] < SHORTEST or slopes is not None or mask.bidirectional is not None
    attend = plain.attend if short else sharded(FUSED[platform()]())
    return attend(query, key, value, mask, slopes)


def auto(query: jax.Array, key: jax.Array, value: jax.Array, mask: Mask, slopes: jax.Array | None = None) -> jax.Array:
    """`fused` on accelerators; on a CPU `plain`, which is faster than an interpreter."""
    return (fused if platform() == "tpu" else plain.attend)(query, key, value, mask, slopes)


KERNELS: dict[str, Kernel] = {"auto": auto, "fused": fused, "plain": plain.attend}


def select(name: str) -> Kernel:
    """The kernel of that name. Raises UserError if there is none."""
    if name not in KERNELS:
        raise UserError(f"attention {name!r} is none of {', '.join(KERNELS)}")
    return KERNELS[name]
