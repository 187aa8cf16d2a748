"""The best way to lay a training step out on a topology: ranked in closed form, settled by the compiler."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pagnol_jax.errors import UserError
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.sharding.mesh import make_mesh
from pagnol_jax.tpu.compile import Compiled, TooLargeError, compile_step
from pagnol_jax.tpu.estimate import Layout, estimate
from pagnol_jax.tpu.topology import Topology

LONG = 8192  # from this length on sequences may be split
TENSOR = (1, 2, 4, 5, 8, 16, 25, 32)
ROOM = 0.95  # of a chip's memory that a step may fill
# 'dots' makes no product again and keeps less than None: S on v5e reads and writes 20 GB a step with it, 31 without.
REMAT = ("dots", "full")


class Candidates(NamedTuple):
    """Layouts that divide the model, likeliest best first, and why whole families do not: {size and axis: reason}."""

    layouts: list[Layout]
    refused: dict[str, str]


class Plan(NamedTuple):
    """The layout chosen, its compiled step, those that were compiled and why they were not taken, and families of
    layouts refused before."""

    layout: Layout
    compiled: Compiled
    tried: list[tuple[Layout, str]]
    refused: dict[str, str]


def plan(
    topology: Topology,
    bindings: dict[str, Any],
    vocab_size: int,
    compiles: int = 2,
    told: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Compiles the likeliest layouts of a run's step until `compiles` of them fit, and takes the one with the higher
    bound on model FLOP utilisation.

    The run's batch, length and model stay as they are: what is chosen changes its speed, not its losses.
    Raises UserError where no layout divides the model, or none fits.
    """
    config = bindings["model"](vocab_size=vocab_size)
    found = candidates(config, topology, bindings["batch_size"], bindings["length"])
    if not found.layouts:
        raise UserError(f"no layout on {topology.name} fits: {'; '.join(map(': '.join, found.refused.items()))}")
    fitting: list[tuple[Layout, Compiled]] = []
    tried: list[tuple[Layout, str]] = []
    for layout in found.layouts:
        if len(fitting) == compiles or len(tried) == 4 * compiles:
            break
        if any(layout.mesh == other.mesh for other, _ in fitting):  # a mesh's likeliest that fits speaks for it
            continue
        told(f"compiling {describe(layout)}")
        try:
            compiled = compile_step(topology, laid_out(bindings, layout), vocab_size)
        except TooLargeError as error:
            tried.append((layout, str(error)))
            continue
        if compiled.peak_bytes > ROOM * topology.chip.memory_bytes:
            tried.append((layout, f"{compiled.peak_bytes / 1e9:.1f} GB leave too little room"))
            continue
        fitting.append((layout, compiled))
        tried.append((layout, f"MFU bound {compiled.mfu_bound:.0%}, {compiled.peak_bytes / 1e9:.1f} GB"))
    if not fitting:
        raise UserError(f"none of {len(tried)} layouts fits on {topology.name}: {tried[-1][1]}")
    # Bounds that differ by less than a hundredth are equal; the one with more room is safer.
    best, compiled = max(fitting, key=lambda pair: (round(pair[1].mfu_bound, 2), -pair[1].peak_bytes))
    return Plan(best, compiled, tried, found.refused)


def candidates(config: GPTConfig, topology: Topology, batch_size: int, length: int) -> Candidates:
    """Layouts whose axes divide every size, and whose estimate fits, by estimated time."""
    refused: dict[str, str] = {}
    ranked = []
    for layout in _layouts(topology, batch_size, length):
        reason = _misfit(config, layout, topology, batch_size, length)
        if reason:
            refused.setdefault(*reason)
            continue
        guess = estimate(config, topology.chip, layout, batch_size, length)
        if guess.memory <= ROOM * topology.chip.memory_bytes:
            ranked.append((guess.seconds, layout.microbatches, layout.tensor, layout.sequence, layout))
    ranked.sort(key=lambda entry: entry[:4])
    if not ranked:
        refused["memory"] = f"no layout leaves room in the {topology.chip.memory_bytes / 1e9:.0f} GB of a chip"
    return Candidates([entry[-1] for entry in ranked], refused)


def _layouts(topology: Topology, batch_size: int, length: int) -> Iterator[Layout]:
    """Every factorisation of the chips, with `data` over the slices, times remat times microbatches."""
    chips = topology.chips
    divisors = [size for size in range(1, chips + 1) if chips % size == 0]
    sequences = divisors if length >= LONG else [1]
    for tensor, sequence in itertools.product(TENSOR, sequences):
        for fsdp in divisors:
            data, rest = divmod(chips, tensor * sequence * fsdp)
            if rest or data == 0 or data % topology.num_slices:
                continue
            rows = max(1, batch_size // (data * fsdp))
            for microbatches in (part for part in range(1, rows + 1) if rows % part == 0):
                for remat in REMAT:
                    yield Layout(data, fsdp, tensor, sequence, remat, microbatches)


def _misfit(
    config: GPTConfig, layout: Layout, topology: Topology, batch_size: int, length: int
) -> tuple[str, str] | None:
    """(axis and size, the size of the model that it does not divide), or None."""
    if batch_size % (layout.microbatches * layout.data * layout.fsdp):
        return f"data x fsdp {layout.data * layout.fsdp}", f"does not divide batch_size {batch_size}"
    axes = [(name, layout.tensor) for name in ("vocab", "mlp", "heads")]
    axes.append(("embed", layout.fsdp * layout.sequence))
    for logical, parts in axes:
        name, size = config.sharded_sizes()[logical]
        if size % parts:
            axis = "tensor" if logical != "embed" else "fsdp x sequence" if layout.sequence > 1 else "fsdp"
            return f"{axis} {parts}", f"does not divide {name} {size}"
    if length % (128 * layout.sequence):
        return f"sequence {layout.sequence}", f"does not divide length {length} into multiples of 128"
    return None


def laid_out(bindings: dict[str, Any], layout: Layout) -> dict[str, Any]:
    """The bindings of a run with a layout in place of its own."""
    return bindings | {
        "mesh": functools.partial(make_mesh, layout.data, layout.fsdp, layout.tensor, layout.sequence),
        "model": functools.partial(bindings["model"], remat=layout.remat),
        "microbatches": layout.microbatches,
    }


def describe(layout: Layout) -> str:
    """A layout in words: its axes above 1, remat, microbatches."""
    axes = " x ".join(f"{axis} {size}" for axis, size in layout.mesh.items() if size > 1) or "one chip"
    parts = f", {layout.microbatches} microbatches" if layout.microbatches > 1 else ""
    return f"{axes}, remat {layout.remat or 'none'}{parts}"


GIN = """\
# Planned by `pagnol tpu plan` for {topology}: {chips} chips, {tokens:,.0f} tokens a chip and microbatch.
# Compiled: {peak:.1f} of {memory:.0f} GB, {ratio:.2f} of the model's FLOPs, MFU of at most {bound:.0%} ({binds} binds).
from __gin__ import dynamic_registration

{imports}

{includes}

mesh.make_mesh:
    data = {data}
    fsdp = {fsdp}
    tensor = {tensor}
    sequence = {sequence}
config.GPTConfig.remat = {remat!r}
run.train.microbatches = {microbatches}
"""


NEEDED = {
    "config": "from pagnol_jax.models import config",
    "mesh": "from pagnol_jax.sharding import mesh",
    "run": "from pagnol_jax.train import run",
}


def gin_text(chosen: Plan, files: list[str], overrides: list[str], imports: dict[str, str]) -> str:
    """A gin file that trains the run of `files` with the chosen layout. `imports` are those of the files, by name."""
    compiled = chosen.compiled
    topology = compiled.topology
    used = {*NEEDED, *(name for name in imports if any(line.startswith(f"{name}.") for line in overrides))}
    slices = f"{topology.num_slices} slices of " if topology.num_slices > 1 else ""
    return GIN.format(
        topology=slices + topology.name,
        chips=topology.chips,
        tokens=compiled.tokens_per_chip,
        peak=compiled.peak_bytes / 1e9,
        memory=topology.chip.memory_bytes / 1e9,
        ratio=compiled.flops_ratio,
        bound=compiled.mfu_bound,
        binds=compiled.roofline.binds,
        imports="\n".join(sorted({line for name, line in (imports | NEEDED).items() if name in used})),
        includes="\n".join([*(f"include '{file}'" for file in files), *overrides]),
        remat=chosen.layout.remat,
        microbatches=chosen.layout.microbatches,
        **chosen.layout.mesh,
    )
