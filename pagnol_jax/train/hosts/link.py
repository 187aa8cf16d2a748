"""In every process: its line to the hub, signs of life both ways, and the end that the hub decides."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from pagnol_jax.train.hosts.hub import FAREWELL, Hub
from pagnol_jax.train.hosts.wire import BEAT, LONGEST, RETRY, SILENCE, Message, Verdict, called, pump, receive, send

ADVICE = 3.0  # seconds to look up what there is to go on from
PATIENCE = 30.0  # seconds that an earlier run has to give up the port
LONGEST_LINE = 200  # characters of another host's error
BAD_INPUT = 2
REFUSED = -2  # bad input that process 0 does not know of


class Link:
    """A process's line to the hub, served by a thread of its own; process 0 runs the hub in that thread.

    index, count: this process and all. host, port: of process 0. start: seconds to find each other in.
    """

    def __init__(self, host: str, port: int, index: int, count: int, start: float) -> None:
        self.host, self.port, self.index, self.count, self.start = host, port, index, count, start
        self.name = socket.gethostname()
        self.called = called(index, count, self.name)
        self.advice: Callable[[], str] = str
        self.hub: Hub | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.joined: Future[int] = Future()  # the local port at which jax's coordination service is reached
        self.ended = threading.Event()
        self.leaving = self.failing = self.bar = False
        self.answers: dict[int, Future[list[str]]] = {}
        self.asked = 0
        self.heard = time.monotonic()
        self.loop = asyncio.new_event_loop()
        self.tasks: set[asyncio.Task] = set()
        threading.Thread(target=self._serve, name="hosts", daemon=True).start()

    def exchange(self, value: str) -> list[str]:
        """What every process says at this point, by index; returns once all have."""
        self.asked += 1
        answer = self.answers[self.asked] = Future()
        self._do(self._send(say=self.asked, value=value))
        return answer.result()

    def end(self, status: int, line: str) -> None:
        """Ends the run for all with an error of this process. Does not return: the hub's verdict ends it too."""
        self._do(self._send(end=status, line=line))
        time.sleep(SILENCE)
        self._exit(Verdict(status, line))

    def fail(self, error: BaseException) -> None:
        """Ends the run for the others; returns when they know, so that this process can say more."""
        self.failing = True
        what = " ".join(str(error).split())[:LONGEST_LINE]
        line = f"{self.called} failed: {type(error).__name__}: {what}"
        self._do(self._send(end=RETRY, line=line))
        self.ended.wait(SILENCE)

    def leave(self) -> None:
        """The end as it should be; process 0 stays until all have gone."""
        said = asyncio.run_coroutine_threadsafe(self._leave(), self.loop)
        with contextlib.suppress(TimeoutError):
            said.result(SILENCE)

    async def _leave(self) -> None:
        await self._send(bye=True)
        if self.hub:
            await self.hub.all_gone.wait()

    def _do(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    async def _send(self, **message: Any) -> None:
        if self.writer:
            send(self.writer, **message)

    def _later(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._open())
            self.loop.run_until_complete(self._listen())
        except Exception as error:
            self._exit(Verdict(RETRY, f"{self.called}: {error}"))

    async def _open(self) -> None:
        """Returns once all processes have come, in time or never: else the process ends here."""
        end = time.monotonic() + self.start
        why = await self._open_hub(end) if self.index == 0 else ""
        first: Message = {}
        while not why and "go" not in first and time.monotonic() < end:
            first = await self._greet(end)
            if "refused" in first:
                self._exit(Verdict(REFUSED, first["refused"]))
            if "verdict" in first:
                self._exit(Verdict(*first["verdict"]))
            await asyncio.sleep(0 if "go" in first else 0.5)
        if "go" not in first:
            why = why or first.get("busy", f"no answer within {self.start:.0f} s")
            self._exit(Verdict(RETRY, f"the coordinator {self.host}:{self.port}: {why}"))
        if self.hub:
            self.joined.set_result(self.hub.service)
        else:
            relay = await asyncio.start_server(self._relay, "127.0.0.1", 0)
            self.joined.set_result(relay.sockets[0].getsockname()[1])

    async def _open_hub(self, end: float) -> str:
        """Starts the hub, once the port is free: an earlier run may be about to end. Returns what is in its way."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            hub = Hub(self.count, free.getsockname()[1], self.start)
        while True:
            try:
                await asyncio.start_server(hub.serve, None, self.port, limit=LONGEST)
                break
            except OSError as error:
                if time.monotonic() > end - self.start + PATIENCE or error.errno != errno.EADDRINUSE:
                    return error.strerror or str(error)
                await asyncio.sleep(0.5)
        self.hub = hub
        self._later(hub.watch())
        return ""

    async def _greet(self, end: float) -> Message:
        """The hub's first answer; empty where there is none."""
        try:
            seconds = end - time.monotonic()
            self.reader, self.writer = await asyncio.wait_for(
                asyncio.open_connection(self.host, self.port, limit=LONGEST), seconds
            )
            await self._send(stream="watch", process=self.index, of=self.count, name=self.name)
            return await asyncio.wait_for(receive(self.reader), end + FAREWELL - time.monotonic()) or {}
        except (OSError, ValueError, TimeoutError):
            return {}

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of jax's client to its coordination service, by way of the hub.

        Where the hub's side ends this one stays open: jax's client would abort the process, with a page of C++ stack.
        """
        try:
            hub_reader, hub_writer = await asyncio.open_connection(self.host, self.port)
        except OSError:
            return writer.close()
        send(hub_writer, stream="jax")
        self._later(pump(hub_reader, writer))
        await pump(reader, hub_writer)
        hub_writer.close()

    async def _listen(self) -> None:
        """Signs of life, answers, and the verdict, until the end."""
        self.heard = time.monotonic()
        self._later(self._beat())
        while (message := await receive(self.reader)) is not None:
            self.heard = time.monotonic()
            if "heard" in message:
                self.answers.pop(message["heard"]).set_result(message["values"])
            elif "verdict" in message:
                self._exit(Verdict(*message["verdict"]))
        self._exit(Verdict(RETRY, f"host 0 of {self.count} ({self.host}) is gone"))
        await asyncio.Event().wait()  # failing or leaving: the main thread ends the process

    async def _beat(self) -> None:
        while True:
            await self._send(beat=True)
            await asyncio.sleep(BEAT)
            if time.monotonic() - self.heard > SILENCE:
                self._exit(Verdict(RETRY, f"host 0 of {self.count} ({self.host}) does not answer"))

    def _exit(self, verdict: Verdict) -> None:
        """Ends the process, whatever its main thread waits for, unless that is at its end itself.

        A lost host is told by every process, which may be all that its log says; bad input by process 0.
        """
        self.ended.set()
        if self.leaving or self.failing:
            return
        if self.index == 0 or verdict.status != BAD_INPUT:
            line = f"pagnol: error: {verdict.line}"
            if verdict.status == RETRY:
                line += self._advised()
            print(f"\n{line}" if self.bar else line, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(BAD_INPUT if verdict.status == REFUSED else verdict.status)

    def _advised(self) -> str:
        """What to do, looked up in a thread: storage that hangs must not keep this process from its end."""
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(self.advice()), daemon=True)
        thread.start()
        thread.join(ADVICE)
        return "".join(f"; {advice}" for advice in found if advice)
