"""What the compiler is told, per kind of accelerator: the one place for its options.

They reach it with the jitted functions, so that a run on a pod and an ahead-of-time compilation get the same ones.
"""

from typing import Any

from pagnol_jax.sharding.mesh import by_slice

# Weights are gathered whole and beside the computation of the layer before. Left alone, XLA turns a gather that feeds
# a product into a loop of permuted pieces: PAGnol-XL's 100 rows a chip fill no 128-wide systolic array, and every
# piece reads and writes the sum so far (about twice the HBM traffic of a step; v5e:4x4, 4 rows a chip).
TPU: dict[str, Any] = {
    "xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000",
    "xla_tpu_enable_latency_hiding_scheduler": "true",
}
# Gradients that cross the data-center network go out while the backward pass still runs.
SLICES: dict[str, Any] = {
    "xla_tpu_enable_data_parallel_all_reduce_opt": "true",
    "xla_tpu_data_parallel_opt_different_sized_ops": "true",
}
# No generation has options of its own: giving a v6e's kernels 96 of its core's 128 MiB, as is often advised, takes that
# memory from XLA, which then reads and writes more of HBM.


def options(mesh: Any) -> dict[str, Any] | None:
    """Compiler options for the devices of a mesh, at hand or not; None where they need none."""
    devices = list(mesh.devices.flat)
    if devices[0].platform != "tpu":
        return None
    return TPU | (SLICES if len(by_slice(devices)) > 1 else {})
