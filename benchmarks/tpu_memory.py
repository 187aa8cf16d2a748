"""Peak HBM of PAGnol-XL's step on v5e:4x4 with and without the chunked cross-entropy and the fused attention.

python -m benchmarks.tpu_memory
"""

import json
from pathlib import Path
from typing import Any
from unittest import mock

from pagnol_jax.tpu.topology import prepare_environment, topology

OUTPUT = Path(__file__).parent / "results" / "tpu" / "xl_fused_parts.json"
FILES, BINDINGS = ["runs/pagnol_xl.gin", "mesh/fsdp.gin"], ["BATCH_SIZE=64"]


def main() -> None:
    prepare_environment()
    rows = []
    for loss in ("chunked", "whole logits"):
        for attention in ("fused", "plain"):
            rows.append({"loss": loss, "attention": attention} | measure(loss, attention))
            print(rows[-1], flush=True)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def measure(loss: str, attention: str) -> dict[str, Any]:
    """Of one combination: bytes at the peak, needed where they do not fit."""
    from pagnol_jax.cli import gin_files
    from pagnol_jax.tpu.compile import TooLargeError, compile_step
    from pagnol_jax.train import step
    from pagnol_jax.train.run import train

    there = topology("v5e:4x4")
    gin_files.parse(FILES, [*BINDINGS, f"config.GPTConfig.attention='{attention}'"])
    used = step.cross_entropy if loss == "chunked" else whole_logits
    with mock.patch.object(step, "cross_entropy", used):
        try:
            compiled = compile_step(there, gin_files.bindings(train))
        except TooLargeError as error:
            return {"peak_bytes": error.needed, "hbm_bytes": None, "fits": False}
    return {"peak_bytes": compiled.peak_bytes, "hbm_bytes": compiled.cost.hbm_bytes, "fits": True}


def whole_logits(
    features: Any, head: Any, targets: Any, weights: Any, z_loss: float = 0.0, vocab_size: int | None = None
) -> Any:
    """The loss as the formula has it, its gradient left to JAX."""
    import jax
    import jax.numpy as jnp

    from pagnol_jax.sharding.rules import constrain
    from pagnol_jax.train.loss import Loss

    logits = jnp.matmul(features, head.astype(features.dtype), preferred_element_type=jnp.float32)
    logits = constrain(logits, "batch", "length", "vocab")
    logits = jnp.where(jnp.arange(logits.shape[-1]) < (vocab_size or logits.shape[-1]), logits, -1e30)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return Loss((weights * (log_z - picked)).sum(), (weights * z_loss * log_z**2).sum(), weights.sum())


if __name__ == "__main__":
    main()
