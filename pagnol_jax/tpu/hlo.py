"""Reading a compiled program: its instructions, by computation, from the text that XLA prints."""

import functools
import math
import re
from typing import NamedTuple

ITEM = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
ITEM |= {"s64": 8, "u64": 8, "f64": 8, "s4": 1, "u4": 1, "c64": 8}
ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
HEADER = re.compile(r"^(?:ENTRY )?%([\w.\-]+) \(.*\) -> .* \{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = ")
CALLED = re.compile(r"(?:calls|to_apply|body|condition|branch_computations|true_computation|false_computation)=")
NAMES = re.compile(r"%([\w.\-]+)")


class Array(NamedTuple):
    """One array of a type. `bytes`: of its values. `room`: in memory, with what tiles pad. `hbm`: unless the compiler
    placed it in a core's own memory."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int
    room: int
    hbm: bool


class Instruction(NamedTuple):
    """One line of a computation. `arrays`: its result's, in order. `operands`: names. `attributes`: the rest."""

    name: str
    op: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def room(self) -> int:
        """Bytes of memory of the result, wherever it lies."""
        return sum(array.room for array in self.arrays)

    @property
    def hbm_bytes(self) -> int:
        """Bytes of memory of that part of the result that lies in HBM."""
        return sum(array.room for array in self.arrays if array.hbm)

    @functools.cache  # noqa: B019 - as many as a program has instructions
    def called(self, key: str) -> tuple[str, ...]:
        """Names of the computations under an attribute: 'calls', 'body', 'condition', 'branch_computations', .."""
        found = re.search(rf"\b{key}=(?:%([\w.\-]+)|\{{([^}}]*)\}})", self.attributes)
        return tuple(NAMES.findall(f"%{found[1]}" if found[1] else found[2])) if found else ()

    def attribute(self, pattern: str) -> str | None:
        """The first group of a pattern, where the attributes match it."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None


class Computation(NamedTuple):
    """A computation: its instructions in order, and by name."""

    name: str
    instructions: tuple[Instruction, ...]
    by_name: dict[str, Instruction]
    parameters: dict[int, Instruction]
    users: dict[str, list[Instruction]]

    @property
    def root(self) -> Instruction:
        """What it returns."""
        return next(instruction for instruction in self.instructions if instruction.root)

    def __hash__(self) -> int:
        return hash(self.name)


class Program(NamedTuple):
    """All computations by name, and the name of the one that runs."""

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Program:
    """A program from `compiled.as_text()`."""
    computations: dict[str, Computation] = {}
    entry, name = "", None
    lines: list[str] = []
    for line in text.splitlines():
        if name is None:
            header = HEADER.match(line)
            if header:
                name, lines = header[1], []
                entry = name if line.startswith("ENTRY") else entry
        elif line.rstrip() == "}":
            computations[name] = _computation(name, lines)
            name = None
        elif INSTRUCTION.match(line):
            lines.append(line)
        elif lines:  # a kernel's metadata may hold line breaks
            lines[-1] += line
    return Program(computations, entry)


def _computation(name: str, lines: list[str]) -> Computation:
    instructions = tuple(_instruction(line) for line in lines)
    by_name = {instruction.name: instruction for instruction in instructions}
    users: dict[str, list[Instruction]] = {}
    parameters: dict[int, Instruction] = {}
    for instruction in instructions:
        for operand in instruction.operands:
            users.setdefault(operand, []).append(instruction)
        if instruction.op == "parameter":
            parameters[int(instruction.attributes.split(")")[0])] = instruction
    return Computation(name, instructions, by_name, parameters, users)


def _instruction(line: str) -> Instruction:
    head = INSTRUCTION.match(line)
    assert head
    rest = line[head.end() :]
    size = _closing(rest) if rest.startswith("(") else rest.index(" ")
    type_, rest = rest[:size], rest[size:].lstrip()
    op, rest = rest.split("(", 1)
    end = _closing("(" + rest) - 2
    inside, attributes = rest[:end], rest[end + 1 :]
    if op in ("parameter", "constant"):
        return Instruction(head[2], op, arrays(type_), (), f"{inside}){attributes}", bool(head[1]))
    return Instruction(head[2], op, arrays(type_), tuple(NAMES.findall(inside)), attributes, bool(head[1]))


def _closing(text: str) -> int:
    """The length of the bracketed part that `text` begins with."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return i + 1
    raise ValueError(f"no closing bracket in {text[:80]}")


@functools.cache
def arrays(type_: str) -> tuple[Array, ...]:
    """The arrays of a type such as `(bf16[8,128]{1,0:T(8,128)S(1)}, u32[])`."""
    found = []
    for dtype, dims, layout in ARRAY.findall(re.sub(r"/\*.*?\*/", "", type_)):
        shape = tuple(int(d) for d in dims.split(",") if d)
        hbm = not re.search(r"S\([1-9]\)", layout)
        item = ITEM.get(dtype, 0)
        found.append(Array(dtype, shape, math.prod(shape) * item, math.prod(_padded(shape, layout)) * item, hbm))
    return tuple(found)


def _padded(shape: tuple[int, ...], layout: str) -> list[int]:
    """A shape, most minor dimension first, in whole tiles: 64 lanes of `{1,0:T(8,128)}` take the room of 128."""
    tile = re.search(r":T\(([\d,]+)\)", layout)
    if not tile or not shape:
        return list(shape)
    minor_first = [shape[int(dim)] for dim in layout.split(":", maxsplit=1)[0].split(",")]
    sizes = [int(size) for size in reversed(tile[1].split(","))]
    tiled = [-(-size // unit) * unit for size, unit in zip(minor_first, sizes, strict=False)]
    return tiled + minor_first[len(tiled) :]
