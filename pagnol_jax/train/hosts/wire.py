"""What hosts say to each other: a JSON object a line, and raw bytes of jax's own coordination service."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple

BEAT = 2.0  # seconds between two signs of life
SILENCE = 20.0  # seconds without one after which a host is lost
START = 300.0  # seconds that hosts wait for each other at the start
LONGEST = 1 << 26  # bytes of a message: what all hosts say to an exchange
RETRY = 75  # EX_TEMPFAIL of sysexits.h: not the user's fault, try again

Message = dict[str, Any]


class Verdict(NamedTuple):
    """How every process of the run ends. status: of the process; line: for people, without a prefix."""

    status: int
    line: str


def called(index: int, count: int, name: str) -> str:
    """A process in words, so that people find it."""
    return f"host {index} of {count} ({name})"


def send(writer: asyncio.StreamWriter, **message: Any) -> None:
    """One message, without waiting: neither a host that does not read nor one that is gone keeps the others."""
    if not writer.is_closing():
        writer.write(json.dumps(message).encode() + b"\n")


async def receive(reader: asyncio.StreamReader) -> Message | None:
    """The next message; None at the end of the connection. Raises ValueError for what is no message."""
    try:
        line = await reader.readline()
    except OSError:
        return None
    if not line.endswith(b"\n"):
        return None
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("not a message")
    return message


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes from one connection to another, until the first ends."""
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
