"""A compiled step for people and for programs."""

from typing import Any

from pagnol_jax.tpu.compile import Compiled
from pagnol_jax.train.record import versions

WORDS = {"compute": "matrix products", "hbm": "HBM", "ici": "links between chips", "dcn": "network between slices"}


def text(step: Compiled) -> str:
    """What `pagnol tpu compile` prints."""
    topology, line = step.topology, step.roofline
    chip = topology.chip
    slices = f" x {topology.num_slices} slices" if topology.num_slices > 1 else ""
    mesh = " x ".join(f"{axis} {size}" for axis, size in step.mesh.items() if size > 1) or "one chip"
    parts = f" in {step.microbatches} microbatches" if step.microbatches > 1 else ""
    model = step.model_flops + step.attention_flops
    lines = [
        f"{step.parameters / 1e6:,.0f}M parameters on {topology.name}{slices}: {topology.chips} chips, mesh {mesh}",
        f"  batch      {step.batch_size} sequences of {step.length}{parts}, "
        f"{step.tokens_per_chip:,.0f} tokens a chip and microbatch, remat {step.remat or 'none'}",
        f"  memory     {_gb(step.peak_bytes)} of {chip.memory_bytes / 1e9:.0f} GB at the peak: "
        f"arguments {_gb(step.argument_bytes)}, temporaries {_gb(step.temporary_bytes)}",
        f"  FLOPs      {step.cost.flops:.3e} compiled, {model:.3e} of the model "
        f"({step.model_flops:.3e} 6ND + {step.attention_flops:.3e} causal attention): {step.flops_ratio:.2f}",
        f"  HBM        {_gb(step.cost.hbm_bytes)} read and written",
        *_traffic(step),
        "  roofline   " + ", ".join(f"{WORDS[k]} {1e3 * s:,.1f} ms" for k, s in line._asdict().items() if s),
        f"  MFU        at most {step.mfu_bound:.1%}: {WORDS[line.binds]} bind{'s' * (line.binds in ('hbm', 'dcn'))}; "
        f"{step.batch_size * step.length / line.seconds / topology.chips:,.0f} tokens/s a chip",
        f"  compiled   in {step.compile_seconds:.0f} s",
    ]
    if step.cost.unknown:
        lines.append(f"  not counted: FLOPs of {', '.join(sorted(step.cost.unknown))}")
    return "\n".join(lines)


def _traffic(step: Compiled) -> list[str]:
    rows = sorted(step.cost.traffic.items(), key=lambda item: -item[1])
    told = [
        f"{'sent':10} {_gb(size):>9}  {kind} over {'+'.join(axes) or 'nothing'}"
        for (kind, axes), size in rows
        if size >= 1e-3 * rows[0][1]
    ]
    return [f"  {line}" for line in told] or ["  sent       nothing"]


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB"


def to_json(step: Compiled) -> dict[str, Any]:
    """Plain values, units in the names; per device but for what is counted over all."""
    topology = step.topology
    return {
        "topology": topology.name,
        "num_slices": topology.num_slices,
        "chips": topology.chips,
        "mesh": step.mesh,
        "batch_size": step.batch_size,
        "length": step.length,
        "microbatches": step.microbatches,
        "remat": step.remat,
        "parameters": step.parameters,
        "tokens_per_chip": step.tokens_per_chip,
        "memory_bytes": topology.chip.memory_bytes,
        "argument_bytes": step.argument_bytes,
        "temporary_bytes": step.temporary_bytes,
        "peak_bytes": step.peak_bytes,
        "model_flops": step.model_flops,
        "attention_flops": step.attention_flops,
        "compiled_flops": step.cost.flops,
        "kernel_flops": step.cost.kernel_flops,
        "flops_ratio": step.flops_ratio,
        "hbm_bytes": step.cost.hbm_bytes,
        "traffic": [
            {"kind": kind, "axes": list(axes), "bytes": size}
            for (kind, axes), size in sorted(step.cost.traffic.items())
        ],
        "roofline_seconds": step.roofline._asdict(),
        "binds": step.roofline.binds,
        "mfu_bound": step.mfu_bound,
        "compile_seconds": step.compile_seconds,
        "kernels_not_counted": sorted(step.cost.unknown),
        "versions": versions() | libtpu_version(),
    }


def libtpu_version() -> dict[str, str]:
    """{'libtpu': its version}."""
    import importlib.metadata

    return {"libtpu": importlib.metadata.version("libtpu")}
