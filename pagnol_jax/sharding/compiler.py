"""What the compiler is told, per generation of accelerator: the one place for its options.

They reach it with the jitted functions, so that a run on a pod and an ahead-of-time compilation get the same ones.
"""

from typing import Any

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
# By the start of a device's kind. None yet: giving a v6e's kernels 96 of its core's 128 MiB, as is often advised, takes
# that memory from XLA, which then reads and writes more of HBM.
GENERATIONS: dict[str, dict[str, Any]] = {}


def options(mesh: Any) -> dict[str, Any] | None:
    """Compiler options for the devices of a mesh, at hand or not; None where they need none."""
    device = mesh.devices.flat[0]
    if device.platform != "tpu":
        return None
    chosen = dict(TPU)
    for kind, more in GENERATIONS.items():
        chosen |= more if device.device_kind.startswith(kind) else {}
    slices = {getattr(device, "slice_index", 0) for device in mesh.devices.flat}
    return chosen | (SLICES if len(slices) > 1 else {})
