"""What a compiled program costs a device: matrix FLOPs, HBM bytes, and bytes on the network.

XLA's own cost analysis counts the body of a loop once; here it counts as often as the loop runs.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Sequence

from pagnol_jax.tpu.hlo import Computation, Instruction, Program
from pagnol_jax.tpu.kernels import kernel_flops
from pagnol_jax.tpu.traffic import Collective, collective

# Instructions that move nothing themselves: they name, group or wait, or their parts are counted.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"}
FREE |= {"partition-id", "replica-id", "opt-barrier", "add-dependency", "iota", "domain"}
SLICES = {"dynamic-slice", "slice", "gather"}


@dataclasses.dataclass
class Cost:
    """Sums over one execution on one device. traffic: {(kind, mesh axes): bytes sent}; `unknown` names custom calls
    whose FLOPs the program does not tell, `loops` those whose trip count it does not."""

    flops: float = 0.0
    kernel_flops: float = 0.0  # of custom calls, as their authors estimate them
    hbm_bytes: float = 0.0
    traffic: dict[tuple[str, tuple[str, ...]], float] = dataclasses.field(default_factory=dict)
    unknown: set[str] = dataclasses.field(default_factory=set)

    def add(self, other: "Cost", times: float = 1) -> None:
        """Adds another cost, `times` over."""
        self.flops += other.flops * times
        self.kernel_flops += other.kernel_flops * times
        self.hbm_bytes += other.hbm_bytes * times
        for key, size in other.traffic.items():
            self.traffic[key] = self.traffic.get(key, 0) + size * times
        self.unknown |= other.unknown

    def send(self, sent: Collective) -> None:
        """Adds a collective."""
        key = sent.kind, sent.axes
        self.traffic[key] = self.traffic.get(key, 0) + sent.bytes


class Accountant:
    """Adds up a program that was compiled for a mesh of these axes."""

    def __init__(self, program: Program, axis_names: Sequence[str], mesh_shape: Sequence[int]) -> None:
        self.program, self.axis_names, self.mesh_shape = program, axis_names, mesh_shape
        self._costs: dict[str, Cost] = {}

    def total(self) -> Cost:
        """Of the whole program."""
        return self._computation(self.program.entry)

    def _computation(self, name: str) -> Cost:
        """Of a computation that runs as it stands (an entry, a loop's body), not of a fusion."""
        if name not in self._costs:
            computation = self.program.computations[name]
            cost, seen = Cost(), set[str]()
            for instruction in computation.instructions:
                self._instruction(cost, computation, instruction, seen)
            self._costs[name] = cost
        return self._costs[name]

    def _instruction(self, cost: Cost, computation: Computation, instruction: Instruction, seen: set[str]) -> None:
        self._collectives(cost, instruction, seen)
        if instruction.op == "while":
            body, condition = instruction.called("body")[0], instruction.called("condition")[0]
            cost.add(self._computation(body), trip_count(self.program, computation, instruction))
            cost.add(self._computation(condition))
            return
        if instruction.op == "conditional":
            branches = [
                self._computation(name)
                for key in ("branch_computations", "true_computation", "false_computation")
                for name in instruction.called(key)
            ]
            cost.add(max(branches, key=lambda branch: (branch.flops, branch.hbm_bytes)))
            return
        if instruction.op == "call":
            cost.add(self._computation(instruction.called("to_apply")[0]))
            return
        cost.flops += self._flops(instruction, computation)
        cost.hbm_bytes += self._moved(instruction, computation)
        if instruction.op == "custom-call" and "tpu_custom_call" in instruction.attributes:
            estimate = kernel_flops(instruction, computation)
            cost.kernel_flops += estimate or 0
            cost.flops += estimate or 0
            if estimate is None:
                cost.unknown.add(instruction.attribute(r'op_name="([^"]*)"') or instruction.name)

    def _collectives(self, cost: Cost, instruction: Instruction, seen: set[str], fusion: str = "") -> None:
        """Of an instruction and of the fusions within it. One that the compiler spreads over several fusions, to
        run beside them, shows in each under the same channel."""
        sent = collective(instruction, self.axis_names, self.mesh_shape, fusion)
        if sent:
            channel = instruction.attribute(r"channel_id=(\d+)") or instruction.name
            if channel not in seen:
                seen.add(channel)
                cost.send(sent)
        for name in instruction.called("calls"):
            for inner in self.program.computations[name].instructions:
                self._collectives(cost, inner, seen, name)

    def _flops(self, instruction: Instruction, computation: Computation) -> float:
        if instruction.op == "convolution":
            return convolution_flops(instruction, computation)
        if instruction.op == "dot":
            return dot_flops(instruction, computation)
        called = instruction.called("calls")
        inner = [self.program.computations[name] for name in called]
        return sum(self._flops(each, fused) for fused in inner for each in fused.instructions)

    def _moved(self, instruction: Instruction, computation: Computation) -> float:
        """HBM bytes that an instruction reads and writes."""
        op = instruction.op
        if op in FREE or op.endswith("-done") or "AllocateBuffer" in instruction.attributes:
            return 0
        if op.endswith("-start"):  # a copy between memories, or a collective: result and source, one of each
            arrays = instruction.arrays[1:2] if op == "slice-start" else instruction.arrays  # (array, piece, flag)
            return max(array.room for array in arrays)
        operands = [computation.by_name[name] for name in instruction.operands]
        if op == "dynamic-update-slice":
            return 2 * operands[1].hbm_bytes
        if op in SLICES:
            return 2 * instruction.hbm_bytes
        if op == "fusion":
            fused = self.program.computations[instruction.called("calls")[0]]
            read = sum(min(self._read(fused, i), x.hbm_bytes) for i, x in enumerate(operands) if x.hbm_bytes)
            return read + min(self._written(fused, fused.root), instruction.hbm_bytes)
        return instruction.hbm_bytes + sum(operand.hbm_bytes for operand in operands)

    def _read(self, fused: Computation, index: int) -> float:
        """Bytes that a fusion reads of one parameter: a slice of it where nothing else is used."""
        return self._used(fused, fused.parameters[index])

    def _used(self, fused: Computation, value: Instruction) -> float:
        size = 0.0
        for user in fused.users.get(value.name, []):
            if user.op in SLICES and user.operands[0] == value.name:
                size += user.room
            elif user.op == "dynamic-update-slice" and user.operands[0] == value.name:
                size += 0
            elif user.op == "bitcast":
                size += self._used(fused, user)
            elif user.op == "fusion":
                inner = self.program.computations[user.called("calls")[0]]
                size += sum(self._read(inner, i) for i, name in enumerate(user.operands) if name == value.name)
            else:
                size += value.room
        return size

    def _written(self, fused: Computation, root: Instruction) -> float:
        """Bytes that a fusion writes: what it puts into an array that it updates in place, not all of that."""
        if root.op == "dynamic-update-slice":
            return fused.by_name[root.operands[1]].room
        if root.op == "bitcast":
            return self._written(fused, fused.by_name[root.operands[0]])
        if root.op == "tuple":
            return sum(self._written(fused, fused.by_name[name]) for name in root.operands)
        if root.op == "fusion":
            inner = self.program.computations[root.called("calls")[0]]
            return self._written(inner, inner.root)
        return root.room


def dot_flops(instruction: Instruction, computation: Computation) -> float:
    """2 x result x contracted sizes."""
    left = computation.by_name[instruction.operands[0]].arrays[0].shape
    dims = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
    return 2 * math.prod(instruction.arrays[0].shape) * math.prod(left[int(d)] for d in dims.split(",") if d)


def convolution_flops(instruction: Instruction, computation: Computation) -> float:
    """2 x result x contracted features x positions of the window that meet data and not its padding.

    TPUs' compilers write every matrix product as a convolution, a batched one as a padded window.
    """
    labels = instruction.attribute(r"dim_labels=(\S+?)(?:,|$)") or ""
    left_labels, right_labels, out_labels = re.split(r"_|->", labels)
    left, right = (computation.by_name[name].arrays[0].shape for name in instruction.operands[:2])
    out = instruction.arrays[0].shape
    products = left[left_labels.index("b")] * right[right_labels.index("o")] * right[right_labels.index("i")]
    groups = int(instruction.attribute(r"batch_group_count=(\d+)") or 1)
    products //= groups
    window = _window(instruction.attribute(r"window=\{([^}]*)\}") or "")
    for dim in range(len(out) - 2):
        label = str(dim)
        sizes = left[left_labels.index(label)], right[right_labels.index(label)], out[out_labels.index(label)]
        options = (window.get(key, {}).get(dim) for key in ("stride", "pad", "lhs_dilate", "rhs_dilate"))
        products *= _meetings(*sizes, *options)
    return 2.0 * products


def _window(text: str) -> dict[str, dict[int, str]]:
    return {key: dict(enumerate(value.split("x"))) for key, value in (item.split("=") for item in text.split())}


def _meetings(
    size: int, kernel: int, out: int, stride: str | None, pad: str | None, spread: str | None, dilation: str | None
) -> int:
    """Pairs of output and kernel positions that read an element of the input (of `size`, `spread` apart)."""
    step, gap, apart = int(stride or 1), int(spread or 1), int(dilation or 1)
    low = int(pad.split("_")[0]) if pad else 0
    count = 0
    for k in range(kernel):
        places = range(k * apart - low, k * apart - low + out * step, step)
        if gap == 1 and step == 1:
            count += max(0, min(places.stop, size) - max(places.start, 0))
        else:
            count += sum(0 <= place <= (size - 1) * gap and place % gap == 0 for place in places)
    return count


def trip_count(program: Program, computation: Computation, loop: Instruction) -> int:
    """How often a loop runs: from its counter's start, its step, and the limit that the condition compares it with.

    Raises ValueError where the program does not tell.
    """
    known = loop.attribute(r'"known_trip_count":\{"n":"(\d+)"')
    if known:
        return int(known)
    condition = program.computations[loop.called("condition")[0]]
    compared = _through_fusions(program, condition, condition.root)
    index, limit, direction = _comparison(program, condition, compared)
    start = _constant(program, computation, _element(computation, loop.operands[0], index))
    body = program.computations[loop.called("body")[0]]
    step = _step(program, body, index)
    if start is None:
        raise ValueError(f"loop {loop.name} starts at no constant")
    inclusive = direction in ("LE", "GE")
    return max(0, -(-(abs(limit - start) + inclusive) // abs(step)))


def _through_fusions(program: Program, computation: Computation, instruction: Instruction):
    """(computation, instruction, arguments) of what an instruction computes, fusions unwrapped."""
    arguments: dict[int, tuple[Computation, Instruction]] = {}
    while instruction.op == "fusion":
        operands = [computation.by_name[name] for name in instruction.operands]
        arguments = {i: arguments_of(computation, operand, arguments) for i, operand in enumerate(operands)}
        computation = program.computations[instruction.called("calls")[0]]
        instruction = computation.root
    return computation, instruction, arguments


def arguments_of(computation: Computation, value: Instruction, outer: dict):
    """What a value stands for: a parameter of a fusion is what the fusion was given."""
    if value.op == "parameter" and outer:
        return outer[next(i for i, p in computation.parameters.items() if p.name == value.name)]
    return computation, value


def _comparison(program: Program, condition: Computation, compared) -> tuple[int, int, str]:
    """(index of the counter in the loop's state, its limit, direction) of a condition."""
    computation, root, arguments = compared
    if root.op != "compare":
        raise ValueError(f"{condition.name} compares no counter")
    sides = [arguments_of(computation, computation.by_name[name], arguments) for name in root.operands]
    index = limit = None
    for where, value in sides:
        if value.op == "get-tuple-element":
            index = int(value.attribute(r"index=(\d+)") or 0)
        elif (constant := _constant(program, where, value)) is not None:
            limit = constant
    if index is None or limit is None:
        raise ValueError(f"{condition.name} compares no counter with a constant")
    return index, limit, root.attribute(r"direction=(\w+)") or "LT"


def _element(computation: Computation, name: str, index: int) -> Instruction:
    """An element of a tuple that a computation makes."""
    value = computation.by_name[name]
    while value.op in ("opt-barrier", "copy"):
        value = computation.by_name[value.operands[0]]
    if value.op == "tuple":
        return computation.by_name[value.operands[index]]
    return value


def _constant(program: Program, computation: Computation, value: Instruction) -> int | None:
    seen = 0
    while value.op in ("copy", "bitcast", "convert") and seen < 8:
        value, seen = computation.by_name[value.operands[0]], seen + 1
    if value.op == "fusion":
        inner = program.computations[value.called("calls")[0]]
        return _constant(program, inner, inner.root)
    found = re.match(r"(-?\d+)\)", value.attributes) if value.op == "constant" else None
    return int(found[1]) if found else None


def _step(program: Program, body: Computation, index: int) -> int:
    """What a loop's body adds to its counter; 1 where that cannot be read."""
    value = _element(body, body.root.name, index)
    computation, root, arguments = _through_fusions(program, body, value)
    if root.op in ("add", "subtract"):
        for name in root.operands:
            where, operand = arguments_of(computation, computation.by_name[name], arguments)
            if (constant := _constant(program, where, operand)) is not None:
                return constant
    return 1


def by_kind(cost: Cost) -> dict[str, float]:
    """Bytes sent, by kind of collective."""
    sums: dict[str, float] = collections.defaultdict(float)
    for (kind, _), size in cost.traffic.items():
        sums[kind] += size
    return dict(sums)
