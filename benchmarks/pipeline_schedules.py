"""Compiled schedules of a pipeline of four stages: backpropagation beside DFA, PAGnol-M on four v5p chips.

    python -m benchmarks.pipeline_schedules

Every chip runs the whole compiled program, its bubbles too, so that the matrix FLOPs and HBM bytes of that program,
loops multiplied, are those of the critical path; its least time is the roofline's.
"""

import json
from pathlib import Path
from typing import Any

from pagnol_jax.tpu.topology import prepare_environment, topology

OUTPUT = Path(__file__).parent / "results" / "tpu" / "pipeline_schedules.json"
TOPOLOGY = "v5p:2x2x1"
FILES = ["runs/pagnol_m.gin", "mesh/stages.gin"]
ROWS = 8  # of a microbatch
ARMS = {
    "backprop": [],
    "dfa macro": ["dfa/gpt/macro.gin"],
    "dfa micro": ["dfa/gpt/micro.gin"],
}


def main() -> None:
    prepare_environment()
    rows = []
    for microbatches in (4, 8, 16):
        for arm, files in ARMS.items():
            rows.append({"arm": arm, "microbatches": microbatches} | measure(files, microbatches))
            print(rows[-1], flush=True)
            OUTPUT.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def measure(files: list[str], microbatches: int) -> dict[str, Any]:
    """Of one compiled step, per chip."""
    from pagnol_jax.cli import gin_files
    from pagnol_jax.tpu.compile import compile_step
    from pagnol_jax.train.run import train

    there = topology(TOPOLOGY)
    bindings = [f"run.train.microbatches={microbatches}", f"BATCH_SIZE={ROWS * microbatches}"]
    gin_files.parse([*FILES, *files], bindings)
    step = compile_step(there, gin_files.bindings(train))
    return {
        "flops": step.cost.flops,
        "model_flops": step.model_flops + step.attention_flops,
        "hbm_bytes": step.cost.hbm_bytes,
        "sent_bytes": {f"{kind} over {'+'.join(axes)}": size for (kind, axes), size in step.cost.traffic.items()},
        "least_seconds": step.roofline._asdict(),
        "peak_bytes": step.peak_bytes,
        "compile_seconds": step.compile_seconds,
    }


if __name__ == "__main__":
    main()
