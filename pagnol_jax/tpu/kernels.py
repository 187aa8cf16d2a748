"""FLOPs of Pallas kernels, which XLA does not see into."""

import json
import math
import re

from pagnol_jax.tpu.hlo import Computation, Instruction

# Matrix products that splash attention's kernels make of every block that its mask does not drop: scores and output;
# scores, their gradient, and those of values, keys (and queries, where one kernel makes all); the last alone.
SPLASH = {"fwd": 2, "dkv": 4, "dq": 3}


def kernel_flops(call: Instruction, computation: Computation) -> float | None:
    """FLOPs of a `tpu_custom_call`: as its cost estimate says, or for splash attention from its blocks; else None."""
    found = re.search(r'"cost_estimate":(\{[^}]*\})', call.attributes)
    if found:
        return float(json.loads(found[1]).get("flops", 0))
    splash = re.match(r"splash_m[hq]a_(fwd|dkv|dq)", call.name)
    return _splash_flops(call, computation, splash[1]) if splash else None


def _splash_flops(call: Instruction, computation: Computation, kind: str) -> float:
    """Of causal splash attention. Queries that are a part of the whole get their share of its blocks."""
    operands = [computation.by_name[name].arrays[0] for name in call.operands]
    query, key = [array.shape for array in operands if array.dtype in ("bf16", "f32")][:2]
    *heads, length, head_dim = query
    slots = key[-2]
    of = "" if kind == "fwd" else f"_{kind}"
    rows, columns = (int(call.attribute(rf'\\"block_{side}{of}\\": (\d+)') or 0) for side in ("q", "kv"))
    blocks = sum(-(-min(slots, start + rows) // columns) for start in range(0, slots, rows))
    area = blocks * rows * columns * length / slots
    # The kernel that also makes the queries' gradient returns it in parts, one per block of keys.
    fused = kind == "dkv" and any(len(array.shape) == len(query) + 1 for array in call.arrays)
    return 2 * (SPLASH[kind] + fused) * math.prod(heads) * area * head_dim
