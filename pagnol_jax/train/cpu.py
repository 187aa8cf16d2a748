"""What makes steps quick where the host itself computes them."""

import ctypes
import sys

import jax

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep_memory() -> None:
    """On a CPU, lets a step use the memory of the step before. Call it before anything asks for a device.

    XLA takes the temporaries of a step from malloc and frees them after it; glibc gives blocks of that size back to
    the kernel at once, and a tenth of every step goes into page faults. They stay if malloc is told to keep them,
    and if all steps run in one thread (dispatched synchronously), for every thread has an arena of its own.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if sys.platform != "linux" or jax.default_backend() != "cpu":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
