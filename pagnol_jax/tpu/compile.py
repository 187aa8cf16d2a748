"""The training step of a run, compiled for TPUs that are not at hand, and what the compiled program tells."""

import dataclasses
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from pagnol_jax.data.batches import Batch
from pagnol_jax.data.mixture import Mixture
from pagnol_jax.errors import UserError
from pagnol_jax.tpu.cost import Accountant, Cost
from pagnol_jax.tpu.hlo import parse
from pagnol_jax.tpu.roofline import Roofline, mfu, roofline
from pagnol_jax.tpu.topology import Topology
from pagnol_jax.train.run import Built, build

# Of the bindings of `train`, those that decide what its step is.
STEP = ("model", "optimizer", "batch_size", "length", "mesh", "seed", "z_loss", "microbatches", "rule", "batch_loss")


class TooLargeError(UserError):
    """A step that does not fit in the memory of the chip. `needed` bytes, 0 where the compiler does not say."""

    def __init__(self, message: str, needed: float) -> None:
        super().__init__(message)
        self.needed = needed


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One training step on one topology, per device. Bytes, seconds, FLOPs.

    model_flops: 6 N of the matrix weights per token. attention_flops: 6 L d T per token for scores and values over
    the causal half of T keys, and their gradients. cost: of the compiled program, loops multiplied.
    """

    topology: Topology
    mesh: dict[str, int]
    batch_size: int
    length: int
    microbatches: int
    remat: str | None
    parameters: int
    model_flops: float
    attention_flops: float
    argument_bytes: int
    temporary_bytes: int
    peak_bytes: int
    compile_seconds: float
    cost: Cost
    roofline: Roofline

    @property
    def flops_ratio(self) -> float:
        """Compiled matrix FLOPs over the model's, attention included."""
        return self.cost.flops / (self.model_flops + self.attention_flops)

    @property
    def mfu_bound(self) -> float:
        """Model FLOP utilisation, attention included, that the roofline leaves possible."""
        return mfu(self.model_flops + self.attention_flops, self.roofline, self.topology)

    @property
    def tokens_per_chip(self) -> float:
        """In one microbatch."""
        return self.batch_size * self.length / self.topology.chips / self.microbatches


def build_for(topology: Topology, bindings: dict[str, Any], vocab_size: int | None = None) -> Built:
    """What `train` would build of its bindings, were the topology at hand. The vocabulary is the mixture's."""
    mixture: Mixture = bindings["mixture"]
    size = mixture.tokenizer.vocab_size() if vocab_size is None else vocab_size
    return build(size, topology.devices, **{name: bindings[name] for name in STEP if name in bindings})


def compile_step(topology: Topology, bindings: dict[str, Any], vocab_size: int | None = None) -> Compiled:
    """Compiles the step that `train` runs with these bindings. Raises TooLargeError where it does not fit."""
    built = build_for(topology, bindings, vocab_size)
    batch_size, length = bindings["batch_size"], bindings["length"]
    start = time.perf_counter()
    program = _compile(built, batch_size, length)
    seconds = time.perf_counter() - start
    config, mesh = built.config, built.mesh
    cost = Accountant(parse(program.as_text()), mesh.axis_names, mesh.devices.shape).total()
    tokens = batch_size * length / topology.chips
    memory = program.memory_analysis()
    resident = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Compiled(
        topology=topology,
        mesh=dict(mesh.shape),
        batch_size=batch_size,
        length=length,
        microbatches=bindings.get("microbatches", 1),
        remat=config.remat,
        parameters=config.parameters(),
        model_flops=config.flops_per_token() * tokens,
        attention_flops=6 * config.num_layers * config.d_model * length * tokens,
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        peak_bytes=resident + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes,
        compile_seconds=seconds,
        cost=cost,
        roofline=roofline(cost, topology, mesh),
    )


def _compile(built: Built, batch_size: int, length: int) -> Any:
    def rows(dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, length), dtype, sharding=built.steps.batch_sharding)

    batch: Any = Batch(*[rows(np.int32)] * 4, rows(np.float32))  # type: ignore[call-arg, arg-type]
    train: Callable[..., Any] = built.steps.train
    with jax.set_mesh(built.mesh):
        lowered = train.lower(built.steps.abstract_state, batch)  # type: ignore[attr-defined]
        try:
            return lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            raise _told(str(error)) from None


def _told(error: str) -> UserError:
    """The compiler's error in a line."""
    line = error.splitlines()[0]
    if "RESOURCE_EXHAUSTED" not in error:
        return UserError(f"the TPU compiler refuses the step: {line}")
    gibibytes = [float(size) for size in re.findall(r"([\d.]+)G\b", line)]  # needed, there
    if len(gibibytes) != 2:
        return TooLargeError(f"the step does not fit: {line}", 0)
    needed, there = (size * 2**30 for size in gibibytes)
    return TooLargeError(f"the step does not fit: {needed / 1e9:.1f} GB in a chip's {there / 1e9:.1f} GB", needed)
