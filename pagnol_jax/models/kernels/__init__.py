"""The kernels behind `attend`. Which one runs is a name in a table, and the platform that is compiled for."""

import functools
from collections.abc import Callable

import jax

from pagnol_jax.errors import UserError
from pagnol_jax.models.kernels import plain
from pagnol_jax.models.kernels.sharded import Kernel, LocalKernel, sharded
from pagnol_jax.models.masks import Mask
from pagnol_jax.sharding.rules import platform


def _tpu(query: jax.Array, interpret: bool = False) -> LocalKernel | None:
    # A block has 128 slots: a shorter sequence would be padded to more than its whole matrix of scores.
    if query.shape[1] < 128:
        return None
    from pagnol_jax.models.kernels import tpu  # Pallas takes a second to import

    return functools.partial(tpu.attend, interpret=interpret)


def _gpu(query: jax.Array) -> LocalKernel | None:
    from pagnol_jax.models.kernels import cudnn

    return cudnn.attend if cudnn.takes(query) else None


# By platform: the kernel for queries [B, T, H, D] of this kind on one device, or None where it takes none such.
# A CPU interprets the TPU's kernels, exact and slow: for tests.
FUSED: dict[str, Callable[[jax.Array], LocalKernel | None]] = {
    "tpu": _tpu,
    "gpu": _gpu,
    "cpu": functools.partial(_tpu, interpret=True),
}


def fused(query: jax.Array, key: jax.Array, value: jax.Array, mask: Mask, slopes: jax.Array | None = None) -> jax.Array:
    """`attend` by the kernel of the current platform on every device of the current mesh; plain where it takes no
    queries of this kind. Raises UserError on a platform without one."""
    if platform() not in FUSED:
        raise UserError(f"no fused attention on {platform()!r}: set attention to 'plain'")
    local = FUSED[platform()](query)
    return (sharded(local) if local else plain.attend)(query, key, value, mask, slopes)


def auto(query: jax.Array, key: jax.Array, value: jax.Array, mask: Mask, slopes: jax.Array | None = None) -> jax.Array:
    """`fused` on TPUs and GPUs, `plain` elsewhere."""
    return (fused if platform() in {"tpu", "gpu"} else plain.attend)(query, key, value, mask, slopes)


KERNELS: dict[str, Kernel] = {"auto": auto, "fused": fused, "plain": plain.attend}


def select(name: str) -> Kernel:
    """The kernel of that name. Raises UserError if there is none."""
    if name not in KERNELS:
        raise UserError(f"attention {name!r} is none of {', '.join(KERNELS)}")
    return KERNELS[name]
