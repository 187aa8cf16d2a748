"""The machine's own speed limit, measured: what large matrix products reach."""

import time

import jax
import jax.numpy as jnp

SIZE = {"cpu": 1024}
SECONDS = 0.3


def matmul_peak_flops(dtype: str) -> float:
    """FLOP/s of the best square product on the default device, measured for a third of a second."""
    size = SIZE.get(jax.default_backend(), 8192)
    with jax.default_device(jax.local_devices()[0]):
        a = jnp.ones((size, size), dtype)
    multiply = jax.jit(lambda x: x @ x)
    multiply(a).block_until_ready()
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        multiply(a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
