"""Beside process 0: knows who is there, hands round what they say, and decides how all end when one is lost."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from pagnol_jax.train.hosts.wire import BEAT, RETRY, SILENCE, Message, Verdict, called, pump, receive, send

GRACE = 2.0  # seconds that process 0 has to fail in the same way as another, and to say so in its own words
FAREWELL = 3.0  # seconds that the others have to end before process 0 does


class Member(NamedTuple):
    """A process that has come. heard: when it last gave a sign of life, in a list of one."""

    process: int
    name: str
    writer: asyncio.StreamWriter
    heard: list[float]


class Hub:
    """Serves `count` processes. service: local port of jax's coordination service, which runs in this process.

    start: seconds that processes have to come.
    """

    def __init__(self, count: int, service: int, start: float) -> None:
        self.count, self.service, self.start = count, service, start
        self.members: dict[int, Member] = {}
        self.gone: set[int] = set()  # ended as they should
        self.said: dict[int, dict[int, str]] = {}
        self.verdict: Verdict | None = None
        self.started = asyncio.Event()
        self.all_gone = asyncio.Event()
        self.tasks: set[asyncio.Task] = set()

    def later(self, coroutine: object) -> None:
        """Runs a coroutine in the background."""
        task = asyncio.ensure_future(coroutine)  # type: ignore[call-overload]
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def watch(self) -> None:
        """Until all have gone: waits for them to come, then for the first that falls silent."""
        try:
            await asyncio.wait_for(self.started.wait(), self.start)
        except TimeoutError:
            missing = [str(index) for index in range(self.count) if index not in self.members]
            who = f"host{'s' if len(missing) > 1 else ''} {', '.join(missing)} of {self.count}"
            await self.decide(Verdict(RETRY, f"{who} did not come within {self.start:.0f} s"))
        while not self.all_gone.is_set():
            now = time.monotonic()
            for member in [m for m in self.members.values() if m.process not in self.gone]:
                send(member.writer, beat=True)
                if now - member.heard[0] > SILENCE:
                    await self.decide(Verdict(RETRY, f"{self.called(member)} does not answer"))
            await asyncio.sleep(BEAT)

    def called(self, member: Member) -> str:
        """A process as people find it."""
        return called(member.process, self.count, member.name)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its first message on."""
        try:
            hello = await receive(reader)
            if hello and hello.get("stream") == "jax":
                await self.relay(reader, writer)
            elif hello:
                await self.attend(hello, reader, writer)
        except ValueError:  # no process of ours
            pass
        finally:
            writer.close()

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Joins a process with jax's coordination service."""
        while True:
            try:
                inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self.service)
                break
            except OSError:  # not started yet; jax's client, told so, would wait for 20 s
                await asyncio.sleep(0.05)
        self.later(pump(inner_reader, writer))
        await pump(reader, inner_writer)
        inner_writer.close()

    async def attend(self, hello: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A process, from its coming to its end."""
        index = hello["process"]
        if hello["of"] != self.count:
            return send(writer, refused=f"--num_processes is {hello['of']} here and {self.count} on host 0")
        if index in self.members or self.verdict:
            return send(writer, busy=f"another process {index} is there already")
        member = self.members[index] = Member(index, hello["name"], writer, [time.monotonic()])
        if len(self.members) == self.count:
            self.started.set()
            for each in self.members.values():
                send(each.writer, go=True)
        while (message := await receive(reader)) is not None:
            member.heard[0] = time.monotonic()
            await self.hear(member, message)
        if index not in self.gone:
            self.leave(index)
            await self.decide(Verdict(RETRY, f"{self.called(member)} is gone"))

    async def hear(self, member: Member, message: Message) -> None:
        """One message of a process: what it says to all, or how it ends."""
        if "say" in message:
            values = self.said.setdefault(message["say"], {})
            values[member.process] = message["value"]
            if len(values) == self.count:
                del self.said[message["say"]]
                for each in self.members.values():
                    send(each.writer, heard=message["say"], values=[values[i] for i in range(self.count)])
        elif "end" in message:
            verdict = Verdict(message["end"], message["line"])
            self.later(self.decide(verdict, GRACE if member.process else 0))
        elif "bye" in message:
            self.leave(member.process)

    def leave(self, index: int) -> None:
        """Counts a process as gone."""
        self.gone.add(index)
        if len(self.gone) == self.count:
            self.all_gone.set()

    async def decide(self, verdict: Verdict, grace: float = 0) -> None:
        """The first verdict stands. The others hear it and end; process 0, which tells it, hears it last."""
        await asyncio.sleep(grace)
        if self.verdict:
            return
        self.verdict = verdict
        others = [m for m in self.members.values() if m.process]
        for member in others:
            send(member.writer, verdict=list(verdict))
        end = time.monotonic() + FAREWELL
        while time.monotonic() < end and not all(m.process in self.gone for m in others):
            await asyncio.sleep(0.02)
        if 0 in self.members:
            send(self.members[0].writer, verdict=list(verdict))
